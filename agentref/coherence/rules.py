"""The one set of rules: from a row, what is asked of it and the time, to the row that follows or a refusal.

Pure. The tables of a coordinator only keep rows and swap them; whatever is decided is decided here. A row
that comes back as it is, the same object, does not change.
"""

from typing import Final, NamedTuple

from agentref.coherence.rows import MAX_LEASES, Held, LeaseMode, Row
from agentref.errors import FutureVersionError, Reason
from agentref.refs import ContentRef

__all__ = [
    "Asked",
    "Base",
    "Refusal",
    "Token",
    "Wanted",
    "acquire",
    "commit",
    "current",
    "evict",
    "gate",
    "lives",
    "release",
    "renew",
    "settle",
    "withdraw",
]


PLACE_SECONDS: Final = 1.0
"""How long a place in the queue is kept for who does not ask again: he may have died, or given up."""


class Base(NamedTuple):
    """The view that a writer started from."""

    version: int
    ref: ContentRef | None
    epoch: int


class Token(NamedTuple):
    """The right that a lease gives: whoever shows a fence that is still in the row, has it."""

    holder: str
    fence: int


class Asked(NamedTuple):
    """A commit of one artifact: `ref` (None: nothing, it is deleted) is to follow what `base` saw (None:
    nothing was there)."""

    agent: str
    ref: ContentRef | None
    base: Base | None
    lease: Token | None


class Wanted(NamedTuple):
    """A lease of `ttl` seconds, for which its holder waits another `wait` seconds.

    `promised` is as of `Held`.
    """

    agent: str
    mode: LeaseMode
    ttl: float
    wait: float
    promised: bool = False


class Refusal(NamedTuple):
    """Why a row does not change. `holder` and `until` name who is in the way, and for how long at most."""

    reason: Reason
    holder: str | None = None
    until: float | None = None


def lives(held: Held, now: float) -> bool:
    """Whether its time is not over. More than twice its length cannot be left of a lease: the clock was set
    back, and nobody is kept waiting."""
    return 0 < held.until - now <= 2 * held.ttl


def settle(row: Row, now: float) -> Row:
    """The row without the leases that have ended. An exclusive one that ended takes the epoch with it:
    whoever held it, or read under it, is refused from then on, though the version may never have moved."""
    if not row.leases:
        return row
    alive = tuple(held for held in row.leases if lives(held, now))
    if len(alive) == len(row.leases):
        return row
    return _with_leases(row, alive)


def commit(row: Row, asked: Asked, now: float) -> Row | Refusal:
    """Let another content follow.

    The row itself is returned if that is what stands there already. Raises `FutureVersionError` for a base
    that this row cannot have shown yet.
    """
    row = settle(row, now)
    ref = asked.ref
    if refusal := _refused(row, asked.base, asked.lease):
        return refusal
    if (row.ref is None) if ref is None else _same(row.ref, ref):
        return row
    return Row(row.revision, row.version + 1, row.epoch, row.fence, ref, asked.agent, now, row.leases)


def gate(row: Row, base: Base, lease: Token | None, now: float) -> Refusal | None:
    """Whether a commit from `base` would be refused at this moment."""
    return _refused(settle(row, now), base, lease)


def current(row: Row, base: Base, now: float) -> Refusal | None:
    """Whether what `base` saw still stands there, whoever holds a lease on it."""
    return _moved(settle(row, now), base)


def acquire(row: Row, wanted: Wanted, now: float) -> tuple[Row, Held | Refusal]:
    """A lease, or who is in the way. Who waits is noted in the row: until his time is over, nobody who is
    not there already gets a lease, so that readers who come and go do not keep a writer out."""
    row = settle(row, now)
    agent, mode, ttl, wait, promised = wanted
    others = [held for held in row.leases if not (held.waits and held.holder == agent)]
    blocking = next((h for h in others if h.waits or LeaseMode.EXCLUSIVE in {mode, h.mode}), None)
    if blocking is None and len(others) < MAX_LEASES:
        granted = Held(agent, mode, row.fence + 1, now + ttl, ttl, promised=promised)
        return row._replace(fence=granted.fence, leases=(*others, granted)), granted
    if wait > 0 and not any(held.waits for held in others):
        while_alive = min(wait, PLACE_SECONDS)
        place = Held(agent, mode, 0, now + while_alive, while_alive, waits=True)
        row = row._replace(leases=(*others, place))
    return row, _held_by(blocking or others[0])


def renew(row: Row, token: Token, ttl: float, now: float) -> tuple[Row, Held | Refusal]:
    """The lease, which ends `ttl` seconds from now or when it did, whichever is later."""
    row = settle(row, now)
    held = _find(row, token)
    if held is None:
        return row, Refusal(Reason.LEASE_LOST)
    longer = held._replace(until=max(held.until, now + ttl), ttl=max(held.ttl, ttl))
    return row._replace(leases=tuple(longer if each is held else each for each in row.leases)), longer


def release(row: Row, token: Token, now: float) -> Row:
    """The row without this lease; as it is if the lease has ended already."""
    row = settle(row, now)
    return _with_leases(row, tuple(held for held in row.leases if not _is(held, token)))


def evict(row: Row, agent: str, now: float) -> Row:
    """The row without any lease of this agent's that was not promised to it: it may still read under such
    a one, without asking, until it ends."""
    row = settle(row, now)
    return _with_leases(row, tuple(h for h in row.leases if h.holder != agent or h.promised))


def withdraw(row: Row, agent: str, now: float) -> Row:
    """The row without this agent's place in the queue."""
    row = settle(row, now)
    return _with_leases(row, tuple(h for h in row.leases if h.holder != agent or not h.waits))


def _refused(row: Row, base: Base | None, lease: Token | None) -> Refusal | None:
    if lease is not None and _find(row, lease) is None:
        return Refusal(Reason.LEASE_LOST)
    if refusal := _moved(row, base, epochs=False):
        return refusal
    for held in row.leases:
        if not held.waits and (lease is None or held.fence != lease.fence):
            return _held_by(held)
    if base is not None and base.epoch != row.epoch:
        return Refusal(Reason.STALE_EPOCH, row.writer or None)
    return None


def _moved(row: Row, base: Base | None, *, epochs: bool = True) -> Refusal | None:
    if base is None:
        return None if row.ref is None else Refusal(Reason.EXISTS, row.writer)
    if base.version > row.version or base.epoch > row.epoch:
        raise FutureVersionError(
            f"The view is of version {base.version}, epoch {base.epoch}, but the coordinator is at version "
            f"{row.version}, epoch {row.epoch}: it was restored from an older copy, or the view is none of "
            f"its own. Read again; if the database was restored, start its readers afresh."
        )
    if base.version < row.version:
        return Refusal(Reason.DELETED if row.ref is None else Reason.VERSION_MISMATCH, row.writer)
    if not (base.ref is None if row.ref is None else _same(base.ref, row.ref)):
        return Refusal(Reason.CONTENT_MISMATCH, row.writer)
    return Refusal(Reason.STALE_EPOCH, row.writer or None) if epochs and base.epoch < row.epoch else None


def _held_by(held: Held) -> Refusal:
    return Refusal(Reason.HELD_BY_OTHER, held.holder, held.until)


def _find(row: Row, token: Token) -> Held | None:
    return next((held for held in row.leases if _is(held, token)), None)


def _is(held: Held, token: Token) -> bool:
    return held.fence == token.fence and held.holder == token.holder and not held.waits


def _same(one: ContentRef | None, other: ContentRef | None) -> bool:
    return one is not None and other is not None and one.digest == other.digest and one.codec == other.codec


def _with_leases(row: Row, leases: tuple[Held, ...]) -> Row:
    """The row with fewer leases: an exclusive one that is gone bumps the epoch."""
    if len(leases) == len(row.leases):
        return row
    exclusive = any(
        held.mode is LeaseMode.EXCLUSIVE and not held.waits and held not in leases for held in row.leases
    )
    return row._replace(epoch=row.epoch + exclusive, leases=leases)
