"""The check confirms what real runs noted, and for each guarantee refutes a log in which it is broken."""

import random
import threading
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from agentref.coherence import rules
from agentref.coherence.checking import Guarantee, Verdict, check_history
from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.history import History
from agentref.coherence.memory import MemoryTable
from agentref.errors import Conflict
from agentref.refs import ContentRef, Digest

KEY = ("proj", "plan")
ALL = set(Guarantee)
BY_CHAIN = {
    Guarantee.NO_LOST_UPDATE,
    Guarantee.SINGLE_WRITER,
    Guarantee.FENCES_GROW,
    Guarantee.EPOCHS_GROW,
    Guarantee.LATE_WRITERS_REFUSED,
}


def ref(n):
    return ContentRef(Digest(n.to_bytes(32, "big")), "agentref-1", n)


@dataclass
class Process:
    """A coordinator with its history, on a table that others may use too."""

    table: MemoryTable
    history: History = field(default_factory=History)

    def __post_init__(self):
        self.coordinator = Coordinator(self.table, observers=[self.history])

    def read(self, agent, key=KEY):
        began = self.history.began()
        view = self.coordinator.read([key])[key]
        self.history.delivered(agent, view, "fetch", began)
        return view

    def put(self, agent, n, base=None, lease=None, key=KEY):
        began = self.history.began()
        view = self.coordinator.commit([Write(key, ref(n), base, lease)], agent=agent)[key]
        self.history.delivered(agent, view, "commit", began)
        return view


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def tell():
    """A history with a bit of everything, of two processes: (events of one, events of the other)."""
    clock = Clock()
    table = MemoryTable(clock=clock)
    here, there = Process(table), Process(table)
    here.put("a", 1)
    here.put("b", 2, here.read("b"))
    seen = here.read("a")
    lease = here.coordinator.acquire(KEY, holder="a", ttl=10)
    here.put("a", 3, seen, lease)
    here.coordinator.release(lease)
    here.read("b")
    here.coordinator.acquire(KEY, holder="b", ttl=10)
    clock.now += 11
    lease = here.coordinator.acquire(KEY, holder="a", ttl=10)
    here.put("a", 4, here.read("a"), lease)
    here.coordinator.release(lease)
    here.read("b")
    there.put("c", 5, there.read("c"))
    here.read("a")
    here.read("a")
    return here.history.events(), there.history.events()


HERE = [
    *["commit", "delivery", "delivery", "commit", "delivery", "delivery"],
    *["grant", "commit", "delivery", "release", "delivery"],
    *["grant", "expire", "grant", "delivery", "commit", "delivery", "release", "delivery"],
    *["delivery", "delivery"],
]


def refuted(report):
    return {name for name, f in report.guarantees.items() if f.verdict is Verdict.REFUTED}


def of(report, verdict):
    return {name for name, finding in report.guarantees.items() if finding.verdict is verdict}


def test_what_was_kept_is_confirmed():
    here, there = tell()
    assert [event.kind for event in here] == HERE
    assert [event.kind for event in there] == ["delivery", "commit", "delivery"]
    report = check_history(here, there)
    assert report.ok
    assert of(report, Verdict.CONFIRMED) == ALL
    assert all(finding.checked for finding in report.guarantees.values())
    assert (report.events, report.instances, report.keys) == (24, 2, 1)


def test_the_order_of_logs_and_a_log_given_twice_say_nothing():
    here, there = tell()
    assert check_history(there, here, here) == check_history(here, there)


def change(events, *places, **fields):
    for place in places:
        events[place] = events[place]._replace(**fields)


def gap(here, there):
    del here[5]


def two_forms(here, there):
    here.append(here[5]._replace(agent="z"))


def lost_base(here, there):
    change(here, 3, base=(0, 0, None))


def lost_fork(here, there):
    change(there, 1, before=here[3].before, version=2, epoch=0, fence=0, base=(1, 0, ref(1).hash))
    del there[2], here[-2:]  # in which version 5 is shown


def two_writers(here, there):
    change(here, 7, lease=0)  # which is in time, but without the lease


def fence_again(here, there):
    change(here, 13, 15, 17, lease=2, fence=2)
    change(here, 12, fence=2)
    change(there, 1, fence=2)


def epoch_stays(here, there):
    for events in (here[9:], there):
        for event in events:
            base = event.base and (event.base[0], event.base[1] - 1, event.base[2])
            log = here if events is not there else there
            log[event.sequence - 1] = event._replace(epoch=event.epoch - 1, base=base)


def late_lease(here, there):
    change(there, 1, lease=3, holder="a")


def late_epoch(here, there):
    content = there[1].base[2]
    change(there, 1, base=(4, 2, content))


def late_in_time(here, there):
    change(here, 15, time=here[15].time + 60)


def stale(here, there):
    change(here, 18, version=3, epoch=1, content_hash=ref(3).hash, writer="a")


def stale_epoch(here, there):
    change(here, 18, epoch=2)


def stale_by_others(here, there):
    change(here, 20, version=4, epoch=3, content_hash=ref(4).hash, writer="a", agent="z")


def back(here, there):
    change(here, 20, version=4, epoch=3, content_hash=ref(4).hash, writer="a")


def other_content(here, there):
    change(here, 19, content_hash=ref(9).hash)


def other_writer(here, there):
    change(here, 19, writer="z")


def from_nowhere(here, there):
    change(here, 1, version=0, content_hash=ref(1).hash, writer="")


MUTANTS = {
    gap: Guarantee.GAP_FREE,
    two_forms: Guarantee.GAP_FREE,
    lost_base: Guarantee.NO_LOST_UPDATE,
    lost_fork: Guarantee.NO_LOST_UPDATE,
    two_writers: Guarantee.SINGLE_WRITER,
    fence_again: Guarantee.FENCES_GROW,
    epoch_stays: Guarantee.EPOCHS_GROW,
    late_lease: Guarantee.LATE_WRITERS_REFUSED,
    late_epoch: Guarantee.LATE_WRITERS_REFUSED,
    late_in_time: Guarantee.LATE_WRITERS_REFUSED,
    stale: Guarantee.NO_STALE_DELIVERY,
    stale_epoch: Guarantee.NO_STALE_DELIVERY,
    stale_by_others: Guarantee.NO_STALE_DELIVERY,
    back: Guarantee.READS_NEVER_GO_BACK,
    other_content: Guarantee.DELIVERED_AS_COMMITTED,
    other_writer: Guarantee.DELIVERED_AS_COMMITTED,
    from_nowhere: Guarantee.DELIVERED_AS_COMMITTED,
}


def test_every_guarantee_has_a_mutant():
    assert set(MUTANTS.values()) == ALL


@pytest.mark.parametrize("mutate", MUTANTS, ids=lambda mutate: mutate.__name__)
def test_a_broken_guarantee_is_refuted_and_no_other(mutate):
    here, there = tell()
    mutate(here, there)
    report = check_history(here, there)
    assert refuted(report) == {MUTANTS[mutate]}
    assert not report.ok
    finding = report.guarantees[MUTANTS[mutate]]
    assert finding.fault_count >= 1
    assert finding.faults[0].message and finding.faults[0].events


def test_events_that_are_missing_decide_nothing():
    here, there = tell()
    alone = check_history(here)
    assert alone.ok
    assert of(alone, Verdict.UNDECIDED) == {Guarantee.DELIVERED_AS_COMMITTED}
    later = check_history(here[8:], there)
    assert later.ok
    assert Guarantee.GAP_FREE in of(later, Verdict.UNDECIDED)
    for place in range(len(here) - 1):
        without = check_history(here[:place] + here[place + 1 :], there)
        assert refuted(without) <= {Guarantee.GAP_FREE}, here[place]


def test_without_a_process_in_the_middle_its_changes_are_missed():
    table = MemoryTable()
    here, there = Process(table), Process(table)
    view = here.put("a", 1)
    view = there.put("b", 2, view)
    here.put("a", 3, view)
    report = check_history(here.history.events())
    assert report.ok
    assert of(report, Verdict.UNDECIDED) == BY_CHAIN


def test_a_history_that_begins_late_is_decided_as_soon_as_leases_are_known():
    table = MemoryTable()
    before, now = Process(table), Process(table)
    view = before.put("a", 1)
    lease = before.coordinator.acquire(KEY, holder="a", ttl=60)
    view = now.put("a", 2, view, lease)
    assert of(check_history(now.history.events()), Verdict.UNDECIDED) == {
        Guarantee.SINGLE_WRITER,
        Guarantee.LATE_WRITERS_REFUSED,
    }
    before.coordinator.release(lease)
    later = Process(table)
    later.put("b", 3, later.read("b"))
    report = check_history(later.history.events())
    assert of(report, Verdict.UNDECIDED) == {Guarantee.DELIVERED_AS_COMMITTED}
    assert of(report, Verdict.CONFIRMED) == ALL - {Guarantee.DELIVERED_AS_COMMITTED}


def test_two_coordinators_with_a_key_in_common_are_two():
    one, two = Process(MemoryTable()), Process(MemoryTable())
    for n, process in enumerate((one, two), 1):
        process.put("a", n)
        process.read("b")
    report = check_history(one.history.events(), two.history.events())
    assert of(report, Verdict.CONFIRMED) == ALL
    assert report.keys == 2


def test_the_order_in_which_threads_noted_changes_says_nothing():
    process = Process(MemoryTable())
    view = None
    for n in range(1, 7):
        view = process.coordinator.commit([Write(KEY, ref(n), view)], agent=f"agent{n}")[KEY]
    noted = random.Random(4).sample(process.history.events(), 6)
    renumbered = [event._replace(sequence=n) for n, event in enumerate(noted, 1)]
    report = check_history(renumbered)
    assert [event.version for event in renumbered] != sorted(event.version for event in renumbered)
    assert of(report, Verdict.CONFIRMED) == ALL


def test_histories_in_a_circle_end():
    here, _ = tell()
    first, last = here[0], here[17]
    change(here, 0, before=last.revision)
    change(here, 17, revision=last.revision)
    assert refuted(check_history(here)) == {Guarantee.NO_LOST_UPDATE}
    assert first.before == 0


def test_nothing_is_ok():
    assert check_history().ok
    assert check_history([], iter(())).events == 0


def bumps_nothing(row, leases):
    return row._replace(leases=leases)


def accepts_all(row, base, lease):
    return None


def grants_all(row, wanted, now, acquire=rules.acquire):
    alone, held = acquire(row._replace(leases=()), wanted, now)
    return alone._replace(leases=(*row.leases, *alone.leases)), held


RULES = {
    "commits are not compared": ("_moved", lambda *_, **__: None, Guarantee.NO_LOST_UPDATE),
    "nothing is refused": ("_refused", accepts_all, Guarantee.SINGLE_WRITER),
    "an ended lease is good": ("_refused", accepts_all, Guarantee.LATE_WRITERS_REFUSED),
    "leases exclude nothing": ("acquire", grants_all, Guarantee.SINGLE_WRITER),
    "epochs stay": ("_with_leases", bumps_nothing, Guarantee.EPOCHS_GROW),
}


@pytest.mark.parametrize("name", RULES)
def test_faulty_rules_are_found(monkeypatch, name):
    where, fault, guarantee = RULES[name]
    monkeypatch.setattr(rules, where, fault)
    process = Process(MemoryTable())
    old = process.put("a", 1)
    with suppress(Conflict):
        process.put("b", 2, old)
        process.put("a", 3, old)
    lease = process.coordinator.acquire(KEY, holder="a", ttl=60)
    with suppress(Conflict):
        process.coordinator.acquire(KEY, holder="b", ttl=60)
    with suppress(Conflict):
        process.put("b", 4, process.read("b"))
    process.coordinator.release(lease)
    with suppress(Conflict):
        process.put("a", 5, process.read("a"), lease)
    assert guarantee in refuted(check_history(process.history.events()))


def work(process, seed, agent, keys):
    chance = random.Random(seed)
    coordinator = process.coordinator
    held = {}
    for n in range(150):
        key = chance.choice(keys)
        with suppress(Conflict):
            match chance.randrange(6):
                case 0:
                    held[key] = coordinator.acquire(key, holder=agent, ttl=chance.choice([0.0001, 9.0]))
                case 1 if key in held:
                    coordinator.release(held.pop(key))
                case 2 if key in held:
                    held[key] = coordinator.renew(held[key])
                case 3:
                    mode = chance.choice(["shared", "exclusive"])
                    coordinator.acquire(key, holder=agent, ttl=0.0001, mode=mode, wait=0.001)
                case _:
                    view = process.read(agent, key)
                    process.put(agent, seed * 1000 + n, view, held.get(key), key=key)
    coordinator.recover(agent)


@pytest.mark.parametrize("seed", range(3))
def test_threads_and_processes_that_race_raise_no_false_alarm(seed):
    table = MemoryTable()
    processes = [Process(table), Process(table)]
    keys = [("k1",), ("k2",)]
    threads = [
        threading.Thread(target=work, args=(processes[n % 2], seed * 10 + n, f"agent{n}", keys))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = check_history(*(process.history.events() for process in processes))
    assert {name: f.faults for name, f in report.guarantees.items() if f.faults} == {}
    assert of(report, Verdict.CONFIRMED) == ALL
    assert report.guarantees[Guarantee.NO_LOST_UPDATE].checked > 100
