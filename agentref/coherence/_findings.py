"""What a check of a history found, guarantee by guarantee."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from agentref.coherence.events import Event

__all__ = ["Fault", "Finding", "Findings", "Guarantee", "HistoryReport", "Verdict"]

_KEPT: Final = 20


class Guarantee(StrEnum):
    """What a history is held against. Members are only ever added."""

    GAP_FREE = "gap_free"
    """Every instance numbered its events 1, 2, 3 and so on."""
    NO_LOST_UPDATE = "no_lost_update"
    """Every change followed the one before it: each commit has the next version, was made from a view of
    what stood there, and no two made the same one."""
    SINGLE_WRITER = "single_writer"
    """While a lease lived, nobody committed without it, and no lease was granted that it excludes."""
    FENCES_GROW = "fences_grow"
    """Every lease has a fence that is greater than those before."""
    EPOCHS_GROW = "epochs_grow"
    """The epoch grew when an exclusive lease ended, and only then."""
    LATE_WRITERS_REFUSED = "late_writers_refused"
    """Nothing was committed or renewed under a lease that had ended, or from a view of an epoch before."""
    NO_STALE_DELIVERY = "no_stale_delivery"
    """Nobody was shown less than what his process had noted of others before the read began."""
    READS_NEVER_GO_BACK = "reads_never_go_back"
    """No agent was shown less than what he had been shown before the read began."""
    DELIVERED_AS_COMMITTED = "delivered_as_committed"
    """Whatever was shown as a version was committed as that version, by that writer."""


class Verdict(StrEnum):
    """`undecided`: nothing speaks against it, but the logs do not tell all."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


class Fault(NamedTuple):
    """One thing that should not have been, in words, and the events that show it."""

    message: str
    events: tuple[Event, ...]


class Finding(NamedTuple):
    """What was found of one guarantee.

    Attributes:
        verdict: refuted if there is a fault, else undecided if there is a doubt, else confirmed.
        checked: how many cases were looked at; confirmed with 0 says nothing.
        faults: the first 20.
        fault_count: how many there are.
        doubts: why it cannot be decided, and how often each reason occurred.
    """

    verdict: Verdict
    checked: int
    faults: tuple[Fault, ...]
    fault_count: int
    doubts: Mapping[str, int]


class HistoryReport(NamedTuple):
    """What logs say of each guarantee.

    Attributes:
        guarantees: all of them.
        events: how many different events were read.
        instances: how many histories they are of.
        keys: how many artifacts they are about.
    """

    guarantees: Mapping[Guarantee, Finding]
    events: int
    instances: int
    keys: int

    @property
    def ok(self) -> bool:
        """Whether nothing is refuted."""
        return all(finding.verdict is not Verdict.REFUTED for finding in self.guarantees.values())


class Findings:
    """Collects them."""

    def __init__(self) -> None:
        self._checked: Counter[Guarantee] = Counter()
        self._faults: dict[Guarantee, list[Fault]] = {guarantee: [] for guarantee in Guarantee}
        self._count: Counter[Guarantee] = Counter()
        self._doubts: dict[Guarantee, Counter[str]] = {guarantee: Counter() for guarantee in Guarantee}

    def check(self, guarantee: Guarantee, wrong: str | None, *events: Event | None) -> None:
        """One case: what is wrong with it, or None."""
        self._checked[guarantee] += 1
        if wrong is not None:
            self._count[guarantee] += 1
            if len(self._faults[guarantee]) < _KEPT:
                self._faults[guarantee].append(Fault(wrong, tuple(e for e in events if e is not None)))

    def doubt(self, reason: str, *guarantees: Guarantee) -> None:
        """One case that cannot be decided."""
        for guarantee in guarantees:
            self._doubts[guarantee][reason] += 1

    def report(self, *, events: int, instances: int, keys: int) -> HistoryReport:
        """All that was found."""
        return HistoryReport({each: self._finding(each) for each in Guarantee}, events, instances, keys)

    def _finding(self, guarantee: Guarantee) -> Finding:
        faults, doubts = self._faults[guarantee], self._doubts[guarantee]
        verdict = Verdict.REFUTED if faults else Verdict.UNDECIDED if doubts else Verdict.CONFIRMED
        return Finding(
            verdict, self._checked[guarantee], tuple(faults), self._count[guarantee], dict(doubts)
        )
