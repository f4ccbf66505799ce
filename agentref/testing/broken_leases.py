"""Tables that break one promise each about leases."""

import math
from collections.abc import Sequence

from agentref.coherence.memory import MemoryTable
from agentref.coherence.rows import Held, Row
from agentref.testing.broken_rows import Altering


class ForgetsEpochs(Altering):
    """Has no column for the epoch."""

    def _kept(self, _key: bytes, _old: Row, new: Row, /) -> Row:
        return new._replace(epoch=0)


class ForgetsFences(Altering):
    """Counts the leases that there are."""

    def _kept(self, _key: bytes, _old: Row, new: Row, /) -> Row:
        return new if new.leases else new._replace(fence=0)


class DropsLeases(Altering):
    """Keeps none."""

    def _kept(self, _key: bytes, _old: Row, new: Row, /) -> Row:
        return new._replace(leases=())


class KeepsLeases(Altering):
    """Only adds."""

    def _kept(self, _key: bytes, old: Row, new: Row, /) -> Row:
        return new._replace(leases=max(old.leases, new.leases, key=len))


class EpochAtEveryEnd(Altering):
    """Makes no difference between leases."""

    def _kept(self, _key: bytes, old: Row, new: Row, /) -> Row:
        return new._replace(epoch=new.epoch + (len(new.leases) < len(old.leases)))


class _OtherLeases(Altering):
    """Keeps each in another form."""

    def _kept(self, _key: bytes, old: Row, new: Row, /) -> Row:
        leases = [self._lease(held, old) for held in new.leases]
        return new._replace(leases=tuple(held for held in leases if held))

    def _lease(self, held: Held, old: Row, /) -> Held | None:
        raise NotImplementedError


class ForgetsRenewals(_OtherLeases):
    """Inserts, and does nothing on conflict."""

    def _lease(self, held: Held, old: Row, /) -> Held | None:
        return next((each for each in old.leases if each.fence == held.fence), held)


class EternalLeases(_OtherLeases):
    """Knows no time."""

    def _lease(self, held: Held, _old: Row, /) -> Held | None:
        return held._replace(until=math.inf, ttl=math.inf)


class ForgetsTtl(_OtherLeases):
    """Keeps only the end of a lease."""

    def _lease(self, held: Held, _old: Row, /) -> Held | None:
        return held._replace(ttl=math.inf)


class WholeSeconds(_OtherLeases):
    """Has a column of whole seconds."""

    def _lease(self, held: Held, _old: Row, /) -> Held | None:
        return held._replace(until=float(math.ceil(held.until)))


class ForgetsWaiters(_OtherLeases):
    """Keeps no queue."""

    def _lease(self, held: Held, _old: Row, /) -> Held | None:
        return None if held.waits else held


class EternalWaiters(_OtherLeases):
    """Keeps a queue in which everybody stays."""

    def _lease(self, held: Held, _old: Row, /) -> Held | None:
        return held._replace(until=math.inf, ttl=math.inf) if held.waits else held


class WaitersHold(_OtherLeases):
    """Has no column for who only waits."""

    def _lease(self, held: Held, _old: Row, /) -> Held | None:
        return held._replace(waits=False)


class FindsOneLease(MemoryTable):
    """Stops at the first."""

    def leased(self, until: float, /, *, limit: int | None = None) -> Sequence[bytes]:
        """Of all that end."""
        return super().leased(until, limit=limit)[:1]


class FindsNoLease(MemoryTable):
    """Has an index that nobody fills."""

    def leased(self, until: float, /, *, limit: int | None = None) -> Sequence[bytes]:
        """Nothing."""
        return super().leased(until, limit=limit)[:0]


class FindsAllLeases(MemoryTable):
    """Looks whether there is something, and then at everything."""

    def leased(self, until: float, /, *, limit: int | None = None) -> Sequence[bytes]:
        """If one has ended, all rows."""
        found = super().leased(until, limit=limit)
        return list(self._rows) if found else found


class FindsLeasesByKey(MemoryTable):
    """Has the wrong index."""

    def leased(self, until: float, /, *, limit: int | None = None) -> Sequence[bytes]:
        """In the order of keys."""
        return sorted(super().leased(until))[:limit]
