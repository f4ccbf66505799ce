"""What is said of coherence in one line each: transitions of rows, deliveries, refusals. Pure."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeAlias

from agentref.coherence.keys import Key
from agentref.coherence.observer import RowChange
from agentref.coherence.rows import Held, Row, Versioned
from agentref.coherence.rules import lives
from agentref.errors import Conflict
from agentref.refs import ContentRef

__all__ = [
    "ENDS",
    "Event",
    "EventKind",
    "Happened",
    "of_change",
    "of_delivery",
    "of_refusal",
    "transitions",
]


class EventKind(StrEnum):
    """What happened. Members are only ever added."""

    COMMIT = "commit"
    """Another content follows."""
    DELETE = "delete"
    """Nothing follows."""
    GRANT = "grant"
    """A lease is given."""
    RENEW = "renew"
    """A lease ends later than it did."""
    RELEASE = "release"
    """A lease is ended by its holder."""
    EXPIRE = "expire"
    """A lease whose time was over is taken back."""
    EVICT = "evict"
    """A lease is taken away by `recover`."""
    QUEUE = "queue"
    """An agent begins to wait for a lease, or waits longer."""
    LEAVE = "leave"
    """An agent no longer waits."""
    TOUCH = "touch"
    """A row was written, and says what it said."""
    DELIVERY = "delivery"
    """An agent was shown a version."""
    REFUSAL = "refusal"
    """An agent was refused something."""
    TORN = "torn"
    """No event: here a log has a line that was not written to its end."""


ENDS: Final = frozenset({EventKind.RELEASE, EventKind.EXPIRE, EventKind.EVICT})
"""How leases end."""


class Event(NamedTuple):
    """One line of a history. What does not apply is 0, empty or None; a payload is never in it.

    Attributes:
        sequence: 1 for the first event of an instance, one more with each, without gaps.
        instance: the `History` that noted it, a name drawn by chance.
        kind: what happened.
        time: seconds since the epoch, for transitions by the coordinator's clock, else by this machine's.
        origin: the coordinator.
        agent: who did it, was shown it, or was refused.
        key: the artifact.
        version, epoch, content_hash, writer: as of `Versioned`, after a transition, or as shown. Of a
            refusal: as they stood.
        fence: how many leases were granted on the key until then.
        source: of a delivery: `hit`, `fetch`, `prefetch`, `commit` or `snapshot`.
        began: of a delivery: the sequence number that had been reached when the read began.
        before, revision: of a transition: the names of the row before and after it. They put the changes
            of a key into their order, whoever noted them.
        parts: how many events the one change of the row is told by.
        holding: how many leases there are on the key after a transition.
        lease: the fence of the lease that was granted, renewed or ended, or which a commit showed.
        holder, mode, until: of that lease; of a refusal: who is in the way.
        base: of a commit or a refusal: version, epoch and content hash of the view that it started from.
        reason: of a refusal.
    """

    sequence: int
    instance: str
    kind: EventKind
    time: float = 0.0
    origin: str = ""
    agent: str = ""
    key: Key = ()
    version: int = 0
    epoch: int = 0
    content_hash: str | None = None
    writer: str = ""
    fence: int = 0
    source: str = ""
    began: int = 0
    before: int = 0
    revision: int = 0
    parts: int = 0
    holding: int = 0
    lease: int = 0
    holder: str = ""
    mode: str = ""
    until: float = 0.0
    base: tuple[int, int, str | None] | None = None
    reason: str = ""


Fields: TypeAlias = tuple[Any, ...]
"""All of an event but its sequence number and instance, which are given when it is noted."""


class Happened(NamedTuple):
    """One thing that a row went through, and the lease that it is about, if it is about one."""

    kind: EventKind
    held: Held | None = None


def transitions(old: Row, new: Row, now: float, *, evicts: bool = False) -> list[Happened]:
    """What made the one row from the other: the leases that ended, then the rest. Never empty.

    `evicts` tells a lease that was taken away from one that was given back: the rows look alike.
    """
    found: list[Happened] = []
    if old.leases != new.leases:
        found = _of_leases(old.leases, new.leases, now, EventKind.EVICT if evicts else EventKind.RELEASE)
    if new.version != old.version:
        found.append(Happened(EventKind.DELETE if new.ref is None else EventKind.COMMIT))
    return found or [Happened(EventKind.TOUCH)]


def _of_leases(old: Sequence[Held], new: Sequence[Held], now: float, ended: EventKind) -> list[Happened]:
    before = {held.fence: held for held in old if not held.waits}
    after = {held.fence: held for held in new if not held.waits}
    found = [
        Happened(ended if lives(held, now) else EventKind.EXPIRE, held)
        for fence, held in before.items()
        if fence not in after
    ]
    waiting = {held.holder: held for held in new if held.waits}
    waited = {held.holder: held for held in old if held.waits}
    found += [Happened(EventKind.LEAVE, held) for name, held in waited.items() if name not in waiting]
    found += [Happened(EventKind.QUEUE, h) for name, h in waiting.items() if waited.get(name) != h]
    for fence, held in after.items():
        if fence not in before:
            found.append(Happened(EventKind.GRANT, held))
        elif held != before[fence]:
            found.append(Happened(EventKind.RENEW, held))
    return found


def of_change(change: RowChange) -> list[Fields]:
    """The events of a change of a row."""
    origin, key, agent, old, new, now, asked, evicts = change
    happened = transitions(old, new, now, evicts=evicts)
    holding = sum([not held.waits for held in new.leases]) if new.leases else 0
    common = (now, origin, agent, key, new.version, new.epoch, _hash(new.ref), new.writer, new.fence)
    chain = ("", 0, old.revision, new.revision, len(happened), holding)
    found = []
    for kind, held in happened:
        base = None
        lease: tuple[int, str, str, float] = (0, "", "", 0.0)
        if held is not None:
            lease = held.fence, held.holder, held.mode.value, held.until
        elif asked is not None:
            if asked.lease is not None:
                lease = asked.lease.fence, asked.lease.holder, "", 0.0
            if asked.base is not None:
                base = asked.base.version, asked.base.epoch, _hash(asked.base.ref)
        found.append((kind, *common, *chain, *lease, base, ""))
    return found


def of_delivery(agent: str, view: Versioned, source: str, began: int, now: float) -> Fields:
    """The event of a delivery."""
    origin, key, ref, version, epoch, writer, _ = view
    shown = (version, epoch, _hash(ref), writer, 0, source, began)
    return EventKind.DELIVERY, now, origin, agent, key, *shown, *_NO_CHAIN, *_NO_LEASE, None, ""


def of_refusal(agent: str, conflict: Conflict, now: float) -> Fields:
    """The event of a refusal."""
    current, base = conflict.current, conflict.base
    row = current if isinstance(current, Versioned) else Versioned("", conflict.key, None, 0, 0)
    seen = (base.version, base.epoch, _hash(base.ref)) if isinstance(base, Versioned) else None
    stood = (row.origin, agent, conflict.key, row.version, row.epoch, _hash(row.ref), row.writer, 0, "", 0)
    lease = (0, conflict.holder or "", "", conflict.until or 0.0)
    return EventKind.REFUSAL, now, *stood, *_NO_CHAIN, *lease, seen, conflict.reason.value


_NO_CHAIN: Final = (0, 0, 0, 0)
_NO_LEASE: Final = (0, "", "", 0.0)


def _hash(ref: ContentRef | None) -> str | None:
    return None if ref is None else ref.digest.hex()
