"""What an SDK collects is what happened."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.memory import MemoryTable
from agentref.coherence.telemetry import Telemetry
from agentref.errors import Conflict, StoreUnavailableError
from agentref.refs import ContentRef, Digest

KEY = ("proj", "plan")


def ref(n):
    return ContentRef(Digest(n.to_bytes(32, "big")), "agentref-1", 100 * n)


class Watched:
    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.exporter = InMemorySpanExporter()
        self.tracing = TracerProvider()
        self.tracing.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = Telemetry(MeterProvider([self.reader]), self.tracing)
        self.coordinator = Coordinator(MemoryTable(), observers=[self.telemetry])

    def counts(self):
        data = self.reader.get_metrics_data()
        return {
            (metric.name.removeprefix("agentref.coherence."), *point.attributes.values()): point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        }

    def spans(self):
        return [
            (span.name.removeprefix("agentref.coherence."), span.attributes.get("agentref.conflict"))
            for span in self.exporter.get_finished_spans()
        ]

    def put(self, n, base=None, agent="a"):
        return self.coordinator.commit([Write(KEY, n and ref(n), base)], agent=agent)[KEY]


@pytest.fixture
def watched():
    return Watched()


def test_counters(watched):
    view = watched.put(1)
    second = watched.put(2, view)
    with pytest.raises(Conflict):
        watched.put(3, view)
    with pytest.raises(Conflict):
        watched.put(3)
    for source in ("hit", "hit", "fetch"):
        watched.telemetry.delivered("b", second, source, watched.telemetry.began())
    lease = watched.coordinator.acquire(KEY, holder="a", ttl=60)
    watched.coordinator.renew(lease, ttl=90)
    watched.coordinator.release(lease)
    view = watched.coordinator.read([KEY])[KEY]
    gone = watched.put(None, view)
    watched.telemetry.delivered("b", gone, "hit", 0)
    assert watched.counts() == {
        ("commits", "commit"): 2,
        ("commits", "delete"): 1,
        ("conflicts", "version_mismatch"): 1,
        ("conflicts", "exists"): 1,
        ("deliveries", "hit"): 3,
        ("deliveries", "fetch"): 1,
        ("bytes_avoided",): 400,
        ("leases", "grant"): 1,
        ("leases", "renew"): 1,
        ("leases", "release"): 1,
    }


def test_spans(watched):
    watched.put(1)
    with pytest.raises(Conflict):
        watched.put(2)
    watched.coordinator.acquire(KEY, holder="a", ttl=60)
    with pytest.raises(Conflict):
        watched.coordinator.acquire(KEY, holder="b", ttl=60, wait=0.01)
    assert watched.spans() == [
        ("commit", None),
        ("commit", "exists"),
        ("acquire", None),
        ("acquire", "held_by_other"),
    ]
    spans = watched.exporter.get_finished_spans()
    assert all(span.status.is_unset for span in spans)
    assert dict(spans[0].attributes) == {"agentref.agent": "a", "agentref.keys": ("proj/plan",)}
    assert spans[3].end_time - spans[3].start_time >= 10_000_000


def test_a_failure_is_an_error_and_a_span_has_the_parent_of_its_caller(watched):
    watched.coordinator.read([KEY])
    watched.coordinator.close()
    with (
        watched.tracing.get_tracer("t").start_as_current_span("outer"),
        pytest.raises(StoreUnavailableError),
    ):
        watched.put(1)
    inner, outer = watched.exporter.get_finished_spans()
    assert inner.parent.span_id == outer.context.span_id
    assert not inner.status.is_ok and inner.events[0].name == "exception"


async def _acquire(coordinator):
    await coordinator.aacquire(KEY, holder="b", ttl=60, wait=0.01)


def test_the_event_loop_is_spanned_too(watched):
    import asyncio

    watched.coordinator.acquire(KEY, holder="a", ttl=60)
    with pytest.raises(Conflict):
        asyncio.run(_acquire(watched.coordinator))
    assert watched.spans() == [("acquire", None), ("acquire", "held_by_other")]


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
from agentref.errors import MissingExtraError
import agentref.coherence.coordinator, agentref.coherence.history, agentref.coherence.checking
try:
    import agentref.coherence.telemetry
except MissingExtraError as error:
    assert "agentref-checkpoint[otel]" in str(error), error
else:
    sys.exit(1)
"""


def test_without_the_extra_nothing_else_is_missing():
    subprocess.run([sys.executable, "-c", WITHOUT], check=True)
