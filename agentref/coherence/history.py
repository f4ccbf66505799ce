"""Who saw what: a log of every transition of a row and every delivery, for those who want proof."""

import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self
from weakref import WeakSet

from agentref.coherence._arguments import check_limit
from agentref.coherence._history_file import HistoryFile, read_history
from agentref.coherence.events import Event, Fields, of_change, of_delivery, of_refusal
from agentref.coherence.observer import RowChange
from agentref.coherence.rows import Versioned
from agentref.errors import Conflict

__all__ = ["History", "read_history"]


class History:
    """An observer that notes every event, in the order in which it was told of them.

    `path` names a file to which each event is appended as a line of JSON before the verb that it is of
    returns; it is made with mode 0600, survives a crash of the process though not of the machine, and may
    be shared: what another `History` wrote stays. The last `capacity` events are in memory as well. Neither
    has a payload in it, but keys and the names of agents.

    Safe for threads. A forked child begins a history of its own, in the same file. A file that cannot be
    written raises `StorageError` from the verb, which has taken effect, and leaves a gap that a check
    finds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._recent: deque[Event] = deque(maxlen=check_limit(capacity))
        self._clock = clock
        self._file = None if path is None else HistoryFile(path)
        self._begin()
        _all.add(self)

    @property
    def instance(self) -> str:
        """The name of this history, drawn by chance."""
        return self._instance

    @property
    def dropped(self) -> int:
        """How many events are no longer in memory."""
        with self._lock:
            return self._last - len(self._recent)

    def events(self) -> list[Event]:
        """The events that are in memory, the oldest first."""
        with self._lock:
            return list(self._recent)

    def began(self) -> int:
        """The number of the last event. As cheap as an attribute."""
        return self._last

    def changed(self, change: RowChange) -> None:
        """See `Observer`."""
        self._note(of_change(change))

    def delivered(self, agent: str, view: Versioned, source: str, began: int) -> None:
        """See `Observer`."""
        self._note((of_delivery(agent, view, source, began, self._clock()),))

    def refused(self, agent: str, conflict: Conflict) -> None:
        """See `Observer`."""
        self._note((of_refusal(agent, conflict, self._clock()),))

    def close(self) -> None:
        """Close the file. What is in memory stays. Idempotent."""
        with self._lock:
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        # Of a forked child: what it would hold of its parent is in the history of its parent.
        self._lock = threading.Lock()
        self._recent.clear()
        self._instance = uuid.uuid4().hex[:16]
        self._last = 0

    def _note(self, happened: Sequence[Fields]) -> None:
        with self._lock:
            first = self._last + 1
            for fields in happened:
                self._last += 1
                self._recent.append(Event._make((self._last, self._instance, *fields)))
            if self._file is not None:
                events = [
                    Event._make((first + n, self._instance, *fields)) for n, fields in enumerate(happened)
                ]
                self._file.append(events)


_all: WeakSet[History] = WeakSet()


def _after_in_child() -> None:
    for history in _all:
        history._begin()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_in_child)
