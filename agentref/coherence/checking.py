"""A judge of histories: reads what was noted, and says of each guarantee whether it was kept. Pure."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from agentref.coherence._chains import Chain, check_chain
from agentref.coherence._findings import (
    Fault,
    Finding,
    Findings,
    Guarantee,
    HistoryReport,
    Verdict,
)
from agentref.coherence.events import Event, EventKind
from agentref.coherence.keys import Key

__all__ = ["Fault", "Finding", "Guarantee", "HistoryReport", "Verdict", "check_history"]

_Artifact = tuple[str, Key]  # of which coordinator, and its key
_READS: Final = (Guarantee.NO_STALE_DELIVERY, Guarantee.READS_NEVER_GO_BACK)


def check_history(*logs: Iterable[Event]) -> HistoryReport:
    """What these logs, one of each process, say of each `Guarantee`.

    An event that several logs have counts once. What is refuted did happen, in whatever order threads and
    processes noted it; what is confirmed is so for what was noted: a process that died may have committed
    something that it never noted, and its last events leave no gap. Between processes no delivery is called
    stale, since nothing says which came first. Costs memory for all events.
    """
    findings = Findings()
    instances = _gathered(logs, findings)
    transitions: dict[_Artifact, list[Event]] = defaultdict(list)
    reading: dict[_Artifact, list[Event]] = defaultdict(list)
    for events in instances.values():
        for event in events:
            if event.revision:
                transitions[event.origin, event.key].append(event)
            elif event.kind is EventKind.DELIVERY:
                reading[event.origin, event.key].append(event)
    chains = {artifact: check_chain(events, findings) for artifact, events in transitions.items()}
    for artifact, deliveries in reading.items():
        chain = chains.get(artifact, _NOTHING)
        for event in deliveries:
            _check_content(event, chain, findings)
    for events in instances.values():
        _check_reads(events, findings)
    return findings.report(
        events=sum(map(len, instances.values())),
        instances=len(instances),
        keys=len(transitions.keys() | reading.keys()),
    )


_NOTHING: Final = Chain({}, {(0, 0)}, whole=False, last=(0, 0))


def _gathered(logs: Iterable[Iterable[Event]], findings: Findings) -> Mapping[str, list[Event]]:
    """The events of each instance, in their order."""
    gathered: dict[str, dict[int, Event]] = defaultdict(dict)
    for log in logs:
        last: dict[str, int] = {}
        for event in log:
            if event.kind is EventKind.TORN:
                findings.doubt("a process died while it wrote", *Guarantee)
                continue
            known = gathered[event.instance].setdefault(event.sequence, event)
            if known != event:
                wrong = f"event {event.sequence} of {event.instance} is there in two forms"
                findings.check(Guarantee.GAP_FREE, wrong, known, event)
            if event.sequence <= last.get(event.instance, 0):
                wrong = f"event {event.sequence} of {event.instance} came after {last[event.instance]}"
                findings.check(Guarantee.GAP_FREE, wrong, event)
            last[event.instance] = event.sequence
    return {instance: _numbered(events, findings) for instance, events in gathered.items()}


def _numbered(events: Mapping[int, Event], findings: Findings) -> list[Event]:
    ordered = [events[number] for number in sorted(events)]
    if ordered[0].sequence != 1:
        findings.doubt("the beginning of a log is missing", *Guarantee)
    before: Event | None = None
    for event in ordered:
        wrong = None
        if before is not None and event.sequence != before.sequence + 1:
            wrong = f"{event.sequence - before.sequence - 1} events of {event.instance} are missing"
            findings.doubt("a log has a gap", *Guarantee)
        findings.check(Guarantee.GAP_FREE, wrong, before, event)
        before = event
    return ordered


def _check_content(event: Event, chain: Chain, findings: Findings) -> None:
    wrong = None
    place = (event.version, event.epoch)
    if event.version == 0:
        if event.content_hash is not None:
            wrong = "a content was shown as version 0"
    elif commits := chain.commits.get(event.version):
        if all((c.content_hash, c.writer) != (event.content_hash, event.writer) for c in commits):
            wrong = f"what was shown as version {event.version} is not what was committed"
        elif chain.whole and place not in chain.places and place < chain.last:
            wrong = f"version {event.version} was shown with epoch {event.epoch}, which it never had"
    elif chain.whole and place <= chain.last:
        wrong = f"version {event.version} was shown, which nobody committed"
    else:
        findings.doubt("the commit of a version is in none of these logs", Guarantee.DELIVERED_AS_COMMITTED)
        return
    findings.check(Guarantee.DELIVERED_AS_COMMITTED, wrong, *chain.commits.get(event.version, ()), event)


class _Mark:
    """The newest version, and the newest epoch, of an artifact that had been noted by some number."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._newest: list[tuple[Event, Event]] = []

    def note(self, event: Event) -> None:
        versions, epochs = self._newest[-1] if self._newest else (event, event)
        if event.version > versions.version or event.epoch > epochs.epoch or not self._newest:
            self._numbers.append(event.sequence)
            self._newest.append((_newer(versions, event, "version"), _newer(epochs, event, "epoch")))

    def newer(self, event: Event) -> Event | None:
        """What had been noted when this read began, and is newer than what it showed."""
        place = bisect_right(self._numbers, event.began)
        if place:
            versions, epochs = self._newest[place - 1]
            if versions.version > event.version:
                return versions
            if epochs.epoch > event.epoch:
                return epochs
        return None


def _newer(one: Event, other: Event, what: str) -> Event:
    return other if getattr(other, what) > getattr(one, what) else one


def _check_reads(events: Iterable[Event], findings: Findings) -> None:
    """What one process noted, in the order in which it did."""
    changed: dict[_Artifact, _Mark] = defaultdict(_Mark)
    shown: dict[_Artifact, _Mark] = defaultdict(_Mark)
    shown_to: dict[tuple[_Artifact, str], _Mark] = defaultdict(_Mark)
    for event in events:
        artifact = (event.origin, event.key)
        if event.revision:
            changed[artifact].note(event)
        elif event.kind is EventKind.DELIVERY:
            if event.began >= event.sequence:
                findings.doubt("a read began after it ended", *_READS)
                continue
            newer = changed[artifact].newer(event)
            if newer is None:
                newer = shown[artifact].newer(event)
                if newer is not None and newer.agent == event.agent:
                    newer = None
            _judge(event, newer, Guarantee.NO_STALE_DELIVERY, findings)
            own = shown_to[artifact, event.agent]
            _judge(event, own.newer(event), Guarantee.READS_NEVER_GO_BACK, findings)
            shown[artifact].note(event)
            own.note(event)


def _judge(event: Event, newer: Event | None, guarantee: Guarantee, findings: Findings) -> None:
    wrong = None
    if newer is not None:
        wrong = (
            f"{event.agent!r} was shown version {event.version}, epoch {event.epoch}, after version "
            f"{newer.version}, epoch {newer.epoch} had been noted"
        )
    findings.check(guarantee, wrong, newer, event)
