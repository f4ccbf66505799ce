"""How long what typed state stores lives before a checkpoint pins it."""

import math
import time
from typing import Any, Final

from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._constants import CONFIG_KEY_CHECKPOINTER
from langgraph.checkpoint.base import BaseCheckpointSaver

from agentref.adapters.langgraph.saver import ExternalizingSaver
from agentref.errors import ConfigurationError
from agentref.refs import ContentRef
from agentref.runtime import Runtime

__all__ = ["Held", "Life"]

# A ref may wait in a graph for its checkpoint for as long as one step takes, if only the end is saved.
_LEASES: Final = 24


class Life:
    """The life of what nodes, reducers and `externalize` store: without end, until the adapter makes a
    checkpointer that pins; from then on a lease of a day. Thread-safe.

    Attributes:
        seconds: how long what is stored now lives unless it is pinned; None: as the store would have it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.seconds: float | None = None
        self._runtime = runtime
        self._trusted: object = None  # the last saver that was found to pin

    def lease(self) -> None:
        """From now on checkpoints pin."""
        self.seconds = _LEASES * self._runtime.lease_seconds

    def check(self) -> None:
        """Raises `ConfigurationError` where a graph runs that saves refs and would not pin them."""
        config = var_child_runnable_config.get() if self.seconds is not None else None
        if config is None:  # or called outside of a graph
            return
        saver = config["configurable"].get(CONFIG_KEY_CHECKPOINTER)
        if saver is self._trusted or not isinstance(saver, BaseCheckpointSaver):
            return
        if self._is_pinned_by(saver):
            self._trusted = saver
            return
        raise ConfigurationError(
            f"This graph saves refs with {type(saver).__qualname__}, which does not pin them, and its "
            f"adapter has made a checkpointer that pins: what the graph stores would go after a day. "
            f"Compile it with adapter.checkpointer(saver), or give it an adapter of its own."
        )

    def _is_pinned_by(self, saver: BaseCheckpointSaver[Any]) -> bool:
        return isinstance(saver, ExternalizingSaver) and saver.pins_refs_to(
            self._runtime.backend.backend_id
        )


class Held:
    """A ref in a channel, which no checkpoint pins where only the end of a run is saved.

    Attributes:
        due: when half of its lease is over, on the clock of `time.monotonic`.
    """

    def __init__(self, life: Life, runtime: Runtime) -> None:
        self._lease = life.seconds
        self._runtime = runtime
        self.due = math.inf if self._lease is None else time.monotonic() + self._lease / 2

    def renew(self, value: Any) -> None:
        """Lengthen the lease."""
        if self._lease is None:
            return
        if type(value) is ContentRef:
            self._runtime.renew(value, self._lease)
        self.due = time.monotonic() + self._lease / 2
