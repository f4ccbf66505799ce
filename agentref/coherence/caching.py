"""What a peer has read, and when it may show that again. The decisions are pure; the cache is bounded."""

import threading
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from agentref.coherence.keys import Key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import Held, Row
from agentref.coherence.rules import lives
from agentref.coherence.views import View

__all__ = ["Cache", "Cached", "may_show", "still_holds", "was_set_back"]

_MARGIN: Final = 0.1  # of a lease: clocks are read at different moments, and drift
_OVERHEAD: Final = 1000  # bytes of an entry without its value


class Cached:
    """A view, and what its row was when it was read."""

    __slots__ = ("ahead", "code", "hold", "leases", "reads", "revision", "view")

    def __init__(
        self, code: bytes, row: Row, view: View, hold: Lease | None = None, reads: int = 0
    ) -> None:
        self.code = code
        self.revision = row.revision
        self.leases = row.leases
        self.view = view
        self.hold = hold
        self.reads = reads  # that are left under the hold; less than 0: as many as there will be
        self.ahead = (
            0.0  # of the time that has passed on this machine, the clock was at the hold's beginning
        )


def may_show(leases: tuple[Held, ...], now: float) -> bool:
    """Whether a view, whose row is still the one that stands there, is still what the rules would say: not
    if a lease on it has ended since, which takes the epoch with it as soon as anybody looks. Pure."""
    return all(lives(held, now) for held in leases)


def still_holds(hold: Lease, reads: int, now: float) -> bool:
    """Whether nobody else can have committed, because the lease that keeps them from it lives. Pure."""
    return reads != 0 and hold.ttl * _MARGIN < hold.until - now <= hold.ttl * 2


def was_set_back(hold: Lease, ahead: float, now: float, passed: float) -> bool:
    """Whether the clock was set back since a hold began. Others may have seen the hold as one that cannot
    be that long, and taken it back, and it would seem to live again as soon as time has gone by. Pure."""
    return now - passed < ahead - hold.ttl * _MARGIN


class Cache:
    """The views that were read last, up to so many bytes of encoded content. Safe for threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[Key, Cached] = OrderedDict()
        self._lock = threading.Lock()
        self.find = self._entries.get

    def emptied(self) -> "Cache":
        """A cache of the same size with nothing in it."""
        return Cache(self._limit)

    def get(self, key: Key) -> Cached | None:
        """What is kept of an artifact, which is used by that."""
        entry = self.find(key)
        if entry is not None:
            with suppress(KeyError):  # another thread has dropped it meanwhile
                self._entries.move_to_end(key)
        return entry

    def put(self, key: Key, entry: Cached) -> list[Lease]:
        """Keep this instead of what was kept, and let go of what was used longest ago. Returns the holds
        that went with it, to be given back."""
        with self._lock:
            gone = [self._drop(key)]
            self._entries[key] = entry
            self._size += _weight(entry)
            while self._size > self._limit and len(self._entries) > 1:
                gone.append(self._pop())
        return [hold for each in gone if each and (hold := each.hold) and hold is not entry.hold]

    def drop(self, key: Key) -> None:
        """Keep nothing of this artifact."""
        with self._lock:
            self._drop(key)

    def clear(self) -> list[Cached]:
        """Keep nothing. Returns what was there."""
        with self._lock:
            return [self._pop() for _ in range(len(self._entries))]

    def _pop(self) -> Cached:
        # In one step, not by iterating: `get` moves entries without the lock.
        _, entry = self._entries.popitem(last=False)
        self._size -= _weight(entry)
        return entry

    def _drop(self, key: Key) -> Cached | None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= _weight(entry)
        return entry


def _weight(entry: Cached) -> int:
    ref = entry.view.ref
    return _OVERHEAD + (0 if ref is None else ref.size)
