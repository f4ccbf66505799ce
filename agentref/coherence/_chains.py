"""The changes of one artifact, put into the order in which they happened, and each held against the last.

Changes are noted after they happened, perhaps by several threads and processes, so the order of notes says
nothing. Every row has a revision drawn by chance, and every change names the one that it followed.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from agentref.coherence._findings import Findings, Guarantee
from agentref.coherence.events import ENDS, Event, EventKind
from agentref.coherence.rows import LeaseMode

__all__ = ["Chain", "check_chain"]

_WRITES: Final = (EventKind.COMMIT, EventKind.DELETE)
_BY_ORDER: Final = (Guarantee.NO_LOST_UPDATE, Guarantee.FENCES_GROW, Guarantee.EPOCHS_GROW)
_BY_LEASES: Final = (Guarantee.SINGLE_WRITER, Guarantee.LATE_WRITERS_REFUSED)

_MISSING: Final = "a change of a row is in none of these logs"
_UNKNOWN: Final = "leases were granted before these logs begin"

_Change = tuple[Event, ...]
"""The events of one change of a row. All say what the row was after it."""


class Chain(NamedTuple):
    """What is known of an artifact.

    Attributes:
        commits: who wrote what as which version: (writer, content hash).
        places: every (version, epoch) that the row had.
        whole: whether all changes are known, from the first one.
        last: the (version, epoch) that is known last.
    """

    commits: dict[int, list[Event]]
    places: set[tuple[int, int]]
    whole: bool
    last: tuple[int, int]


class _Known(NamedTuple):
    """A row as its last change left it. `leases` is by fence. `all_leases`: there are no others; if not,
    those with a fence over `since` are known nevertheless."""

    row: Event
    leases: dict[int, Event]
    all_leases: bool
    since: int


_FIRST: Final = _Known(Event(0, "", EventKind.TOUCH), {}, all_leases=True, since=0)


def check_chain(events: Iterable[Event], findings: Findings) -> Chain:
    """Check the transitions of one artifact."""
    changes = list(_changes(events, findings))
    commits: dict[int, list[Event]] = defaultdict(list)
    _check_unique(changes, commits, findings)
    places = {(change[-1].version, change[-1].epoch) for change in changes}
    runs = list(_runs(changes, findings))
    whole = not runs
    for n, (run, forks) in enumerate(runs):
        from_start = run[0][0].before == 0
        whole = whole or (from_start and len(runs) == 1)
        if n and not forks:
            findings.doubt(_MISSING, *_BY_ORDER, *_BY_LEASES)
        _walk(run, _FIRST if from_start and not forks else None, findings)
    return Chain(commits, places | {(0, 0)}, whole, max(places, default=(0, 0)))


def _changes(events: Iterable[Event], findings: Findings) -> Iterator[_Change]:
    grouped: dict[tuple[str, int, int], list[Event]] = defaultdict(list)
    for event in events:
        grouped[event.instance, event.before, event.revision].append(event)
    for change in grouped.values():
        if len(change) == change[0].parts:
            yield tuple(change)
        else:
            findings.doubt("part of a change is missing", *_BY_ORDER, *_BY_LEASES)


def _check_unique(changes: Sequence[_Change], commits: dict[int, list[Event]], findings: Findings) -> None:
    """What can be told without an order."""
    fences: dict[int, Event] = {}
    for event in (event for change in changes for event in change):
        if event.kind in _WRITES:
            wrong = f"version {event.version} was made twice" if event.version in commits else None
            findings.check(Guarantee.NO_LOST_UPDATE, wrong, *commits[event.version][:1], event)
            commits[event.version].append(event)
        elif event.kind is EventKind.GRANT:
            wrong = f"fence {event.lease} was granted twice" if event.lease in fences else None
            findings.check(Guarantee.FENCES_GROW, wrong, fences.get(event.lease), event)
            fences[event.lease] = event


def _runs(changes: Sequence[_Change], findings: Findings) -> Iterator[tuple[list[_Change], bool]]:
    """Changes that follow one another, the earliest first; and whether they part from another run."""
    following: dict[int, list[_Change]] = defaultdict(list)
    for change in changes:
        following[change[0].before].append(change)
    revisions = {change[0].revision for change in changes}
    starts = [(change, n > 0) for each in following.values() for n, change in enumerate(each)]
    starts = [(c, forks) for c, forks in starts if forks or c[0].before not in revisions]
    for change, forks in starts:
        if forks:
            first = following[change[0].before][0]
            wrong = f"two changes followed revision {change[0].before:x}: one of them is lost"
            findings.check(Guarantee.NO_LOST_UPDATE, wrong, first[-1], change[-1])
    seen: set[int] = set()
    for start, forks in sorted(starts, key=lambda each: _place(each[0])):
        run: list[_Change] = []
        change = start
        while id(change) not in seen:
            seen.add(id(change))
            run.append(change)
            after = following.get(change[0].revision)
            if not after:
                break
            change = after[0]
        yield run, forks
    if len(seen) < len(changes):
        circle = next(change for change in changes if id(change) not in seen)
        findings.check(Guarantee.NO_LOST_UPDATE, "changes follow one another in a circle", *circle)


def _place(change: _Change) -> tuple[int, int, int]:
    return change[-1].version, change[-1].epoch, change[-1].fence


def _walk(run: Sequence[_Change], known: _Known | None, findings: Findings) -> None:
    for change in run:
        row = change[-1]
        if known is None:
            granted = sum(event.kind is EventKind.GRANT for event in change)
            known = _Known(row, {}, row.holding == granted, row.fence - granted)
        else:
            _check_order(change, known.row, findings)
        leases = {fence: lease for fence, lease in known.leases.items() if not _ends(change, fence)}
        current = known._replace(leases=leases)
        for event in change:
            if event.kind in _WRITES:
                _check_write(event, current, findings)
            elif event.kind in {EventKind.GRANT, EventKind.RENEW}:
                _check_lease(event, current, findings)
                leases[event.lease] = event
        alone = len(leases) == row.holding
        known = _Known(row, leases, alone, row.fence if alone else known.since)


def _ends(change: _Change, fence: int) -> bool:
    return any(event.kind in ENDS and event.lease == fence for event in change)


def _check_order(change: _Change, old: Event, findings: Findings) -> None:
    """What does not depend on leases."""
    row = change[-1]
    write = next((event for event in change if event.kind in _WRITES), None)
    findings.check(Guarantee.NO_LOST_UPDATE, _lost(write or row, old, written=write is not None), old, row)
    grant = next((event for event in change if event.kind is EventKind.GRANT), None)
    fence = None
    if grant is not None and not old.fence < grant.lease == row.fence:
        fence = f"fence {grant.lease} was granted after fence {old.fence}"
    elif grant is None and row.fence != old.fence:
        fence = f"the fence went from {old.fence} to {row.fence} without a lease"
    findings.check(Guarantee.FENCES_GROW, fence, old, grant or row)
    ended = [event for event in change if event.kind in ENDS and event.mode == LeaseMode.EXCLUSIVE]
    epoch = None
    if row.epoch != old.epoch + len(ended):
        epoch = f"the epoch went from {old.epoch} to {row.epoch}, and {len(ended)} exclusive leases ended"
    findings.check(Guarantee.EPOCHS_GROW, epoch, old, *(ended or [row]))


def _lost(new: Event, old: Event, *, written: bool) -> str | None:
    if not written:
        same = (new.version, new.content_hash, new.writer) == (old.version, old.content_hash, old.writer)
        return None if same else f"version {old.version} became another without a commit"
    if new.version != old.version + 1:
        return f"version {new.version} followed version {old.version}"
    if new.writer != new.agent:
        return f"version {new.version} was written by {new.agent!r} as {new.writer!r}"
    if new.base is None:
        return None if old.content_hash is None else f"version {new.version} was made from nothing"
    if (new.base[0], new.base[2]) != (old.version, old.content_hash):
        return f"version {new.version} was made from another version {new.base[0]} than what stood there"
    return None


def _check_write(event: Event, known: _Known, findings: Findings) -> None:
    others = [lease for fence, lease in known.leases.items() if fence != event.lease]
    blocking = next((lease for lease in others if lease.until > event.time), None)
    wrong = blocking and f"{event.agent!r} committed while {blocking.holder!r} held a lease"
    findings.check(Guarantee.SINGLE_WRITER, wrong, blocking, event)
    late = None
    if event.base is not None and event.base[1] != event.epoch:
        late = f"a commit from a view of epoch {event.base[1]} was accepted at epoch {event.epoch}"
    elif event.lease and event.lease in known.leases:
        if known.leases[event.lease].until <= event.time:
            late = f"a commit under fence {event.lease} was accepted after its time"
    elif event.lease and (known.all_leases or event.lease > known.since):
        late = f"a commit under fence {event.lease} was accepted, which had ended"
    findings.check(Guarantee.LATE_WRITERS_REFUSED, late, known.leases.get(event.lease), event)
    if not known.all_leases:
        findings.doubt(_UNKNOWN, *_BY_LEASES)


def _check_lease(event: Event, known: _Known, findings: Findings) -> None:
    if event.kind is EventKind.RENEW:
        lost = event.lease not in known.leases and (known.all_leases or event.lease > known.since)
        wrong = f"the lease of fence {event.lease} was renewed, which had ended" if lost else None
        findings.check(Guarantee.LATE_WRITERS_REFUSED, wrong, event)
        return
    excluding = next(
        (
            lease
            for lease in known.leases.values()
            if lease.until > event.time and LeaseMode.EXCLUSIVE in {lease.mode, event.mode}
        ),
        None,
    )
    wrong = excluding and f"{event.holder!r} was granted a lease that {excluding.holder!r}'s excludes"
    findings.check(Guarantee.SINGLE_WRITER, wrong, excluding, event)
    if not known.all_leases:
        findings.doubt(_UNKNOWN, Guarantee.SINGLE_WRITER)
