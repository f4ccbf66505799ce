"""Metrics and spans of a coordinator and its peers, for OpenTelemetry.

Needs the `otel` extra; importing this module without it raises `MissingExtraError`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from agentref.coherence.events import EventKind, transitions
from agentref.coherence.keys import Key
from agentref.coherence.observer import RowChange
from agentref.coherence.rows import Versioned
from agentref.errors import Conflict, MissingExtraError

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Status, StatusCode, TracerProvider
except ImportError as error:
    raise MissingExtraError(
        f"Telemetry needs opentelemetry-api, which cannot be imported: {error}. "
        f"pip install 'agentref-checkpoint[otel]'"
    ) from error

__all__ = ["Telemetry"]

_SCOPE: Final = "agentref.coherence"
_WRITES: Final = frozenset({EventKind.COMMIT, EventKind.DELETE})
_OF_LEASES: Final = frozenset(
    {EventKind.GRANT, EventKind.RENEW, EventKind.RELEASE, EventKind.EXPIRE, EventKind.EVICT}
)


class Telemetry:
    """An observer that counts, and times commits and leases.

    Counters, each with one attribute of few values, never a key or an agent:

    - `agentref.coherence.commits` by `kind`: `commit`, `delete`
    - `agentref.coherence.conflicts` by `reason`
    - `agentref.coherence.deliveries` by `source`: `hit`, `fetch`, `prefetch`, `commit`, `snapshot`
    - `agentref.coherence.leases` by `event`: `grant`, `renew`, `release`, `expire`, `evict`
    - `agentref.coherence.bytes_avoided`: the logical size of what hits did not read again

    Spans `agentref.coherence.commit` and `agentref.coherence.acquire`, the time that it waited included,
    have the attributes `agentref.agent` and `agentref.keys` (parts joined by `/`), and after a conflict
    `agentref.conflict`, which is no failure; what else was raised is. They are children of the span that is
    current when the verb is called, and not current themselves.

    Without providers it uses those of the process. Safe for threads.
    """

    def __init__(
        self, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
    ) -> None:
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        self._commits = meter.create_counter(f"{_SCOPE}.commits", "{commit}", "Versions that were made")
        self._conflicts = meter.create_counter(f"{_SCOPE}.conflicts", "{conflict}", "What was refused")
        self._deliveries = meter.create_counter(
            f"{_SCOPE}.deliveries", "{delivery}", "Versions that agents were shown"
        )
        self._leases = meter.create_counter(f"{_SCOPE}.leases", "{event}", "What happened to leases")
        self._bytes = meter.create_counter(
            f"{_SCOPE}.bytes_avoided", "By", "Logical bytes that hits did not read again"
        )

    def began(self) -> int:
        """See `Observer`. It numbers nothing."""
        return 0

    def changed(self, change: RowChange) -> None:
        """See `Observer`."""
        for kind, _ in transitions(change.old, change.new, change.now, evicts=change.evicts):
            if kind in _WRITES:
                self._commits.add(1, {"kind": kind.value})
            elif kind in _OF_LEASES:
                self._leases.add(1, {"event": kind.value})

    def delivered(self, agent: str, view: Versioned, source: str, began: int) -> None:  # noqa: ARG002
        """See `Observer`."""
        self._deliveries.add(1, {"source": source})
        if source == "hit" and view.ref is not None:
            self._bytes.add(view.ref.size)

    def refused(self, agent: str, conflict: Conflict) -> None:  # noqa: ARG002
        """See `Observer`."""
        self._conflicts.add(1, {"reason": conflict.reason.value})

    @contextmanager
    def spanning(self, verb: str, agent: str, keys: Sequence[Key]) -> Iterator[None]:
        """See `Spanning`."""
        span = self._tracer.start_span(
            f"{_SCOPE}.{verb}",
            attributes={"agentref.agent": agent, "agentref.keys": ["/".join(key) for key in keys]},
        )
        try:
            yield
        except Conflict as error:
            span.set_attribute("agentref.conflict", error.reason.value)
            raise
        except Exception as error:
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            # Not made current: the steps of acquire() may run in several threads, and a context may not.
            span.end()
