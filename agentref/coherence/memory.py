"""Rows in the memory of one process."""

import heapq
import threading
import time
import uuid
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

from agentref.coherence.coordinator import Coordinator
from agentref.coherence.cursors import check_position, place_in, written
from agentref.coherence.observer import Observer
from agentref.coherence.rows import ABSENT, Row
from agentref.coherence.table import Decide
from agentref.coherence.turns import Turns
from agentref.errors import StoreUnavailableError
from agentref.forks import watch_forks

__all__ = ["MemoryCoordinator", "MemoryTable"]

FEED_LIMIT: Final = 100_000
_SLACK: Final = 1000


class MemoryTable:
    """See `Table`. For the threads and event loops of one process; gone when it ends.

    Keeps the last 100,000 entries of the feed at least, and at most twice as many: about 40 MB.
    """

    is_local = True
    is_joined = False

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.table_id = f"mem-{uuid.uuid4().hex[:12]}"
        self._rows: dict[bytes, Row] = {}
        self._keys: list[bytes] = []  # of all rows, in order: no row ever goes
        self._ends: dict[bytes, float] = {}  # of leases, for the rows that have some
        self._by_end: list[tuple[float, bytes]] = []  # a heap; only what `_ends` says too is true
        self._entries: list[tuple[float, bytes]] = []
        self._dropped = 0
        self._lock = (
            threading.Lock()
        )  # a condition as a block is Python code, which Ctrl-C may leave locked
        self._committed = threading.Condition(self._lock)
        self._turns = Turns()
        self._closed = False
        self._is_mine = False
        watch_forks(self)

    def _unlock(self) -> None:
        # A condition as a block is Python code, which Ctrl-C may leave with its lock taken.
        self._lock = threading.Lock()
        self._committed = threading.Condition(self._lock)

    def before_fork(self) -> None:
        """Let no thread be half-way through a change."""
        self._is_mine = self._lock.acquire(timeout=1.0)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._is_mine:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Go on with a copy."""
        self._unlock()
        self._turns = Turns()

    def probe(self, key: bytes, /) -> int:
        """See `Table`. One look into a dictionary."""
        if self._closed:
            self._check_open()
        row = self._rows.get(key)
        return 0 if row is None else row.revision

    def load(self, keys: Sequence[bytes], /) -> Mapping[bytes, Row]:
        """See `Table`."""
        with self._lock:
            self._check_open()
            return {key: self._rows[key] for key in keys if key in self._rows}

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """See `Table`."""
        with self._lock:
            self._check_open()
            now = self.clock()
            transition, result = decide({key: self._rows.get(key, ABSENT) for key in keys}, now)
            if transition is not None:
                for key, row in transition.rows.items():
                    if key not in self._rows:
                        insort(self._keys, key)
                    self._rows[key] = row
                    self._note_end(key, row.until)
                if transition.entry is not None:
                    self._append(now, transition.entry)
        return result

    def scan(self, first: bytes, stop: bytes, /, *, limit: int) -> Sequence[tuple[bytes, Row]]:
        """See `Table`."""
        with self._lock:
            self._check_open()
            begin = bisect_left(self._keys, first)
            keys = self._keys[begin : min(begin + limit, bisect_left(self._keys, stop, begin))]
            return [(key, self._rows[key]) for key in keys]

    def leased(self, until: float, /, *, limit: int | None = None) -> Sequence[bytes]:
        """See `Table`."""
        with self._lock:
            self._check_open()
            found: list[tuple[float, bytes]] = []
            while self._by_end and self._by_end[0][0] <= until and (limit is None or len(found) < limit):
                end, key = heapq.heappop(self._by_end)
                if self._ends.get(key) == end and (end, key) not in found[-1:]:
                    found.append((end, key))
            for item in found:
                heapq.heappush(self._by_end, item)
            return [key for _, key in found]

    def turn(self, key: bytes, /, *, timeout: float) -> Callable[[], None] | None:
        """See `Table`."""
        return self._turns.take(key, timeout=timeout)

    def head(self) -> str:
        """See `Table`."""
        with self._lock:
            self._check_open()
            return written(self.table_id, self._dropped + len(self._entries))

    def entries(self, since: str, /, *, limit: int) -> tuple[Sequence[tuple[bytes, str]], str]:
        """See `Table`."""
        place = place_in(since, self.table_id)
        with self._lock:
            self._check_open()
            last = self._dropped + len(self._entries)
            position = check_position(place, first=self._dropped, last=last)
            page = self._entries[position - self._dropped : position - self._dropped + limit]
        numbered = [(entry, written(self.table_id, position + n)) for n, (_, entry) in enumerate(page, 1)]
        return numbered, numbered[-1][1] if numbered else since

    def wait(self, since: str, /, *, timeout: float) -> None:
        """See `Table`."""
        place = place_in(since, self.table_id)
        with self._lock:
            self._committed.wait_for(
                lambda: self._closed or place != str(self._dropped + len(self._entries)),
                min(timeout, threading.TIMEOUT_MAX),
            )
            self._check_open()

    def compact(self, before: float, /) -> int:
        """See `Table`."""
        with self._lock:
            self._check_open()
            return self._drop(sum(1 for _ in takewhile(lambda entry: entry[0] < before, self._entries)))

    def close(self) -> None:
        """See `Table`."""
        with self._lock:
            self._closed = True
            self._committed.notify_all()

    def _append(self, now: float, entry: bytes) -> None:
        self._entries.append((now, entry))
        if len(self._entries) >= 2 * FEED_LIMIT:
            self._drop(FEED_LIMIT)
        self._committed.notify_all()

    def _drop(self, number: int) -> int:
        del self._entries[:number]
        self._dropped += number
        return number

    def _note_end(self, key: bytes, end: float | None) -> None:
        if end is None:
            if self._ends:
                self._ends.pop(key, None)
        elif self._ends.get(key) != end:
            self._ends[key] = end
            heapq.heappush(self._by_end, (end, key))
            # What was renewed or released stays in the heap until its first end, which may be far away.
            if len(self._by_end) > 2 * len(self._ends) + _SLACK:
                self._by_end = [(end, key) for key, end in self._ends.items()]
                heapq.heapify(self._by_end)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError("The coordinator in memory is closed.")


class MemoryCoordinator(Coordinator):
    """A coordinator for the threads and event loops of one process. Nothing of it outlives the process."""

    def __init__(self, *, observers: Iterable[Observer] = ()) -> None:
        super().__init__(MemoryTable(), observers=observers)
