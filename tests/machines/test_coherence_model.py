"""Every state of a small world, and in each of them what coherence promises; real rules, caches and peers.

What must hold is said in `coherence_steps.py`, in words of its own. Mutants, one at least for each
promise, show that the search would notice.
"""

from typing import NamedTuple

import pytest

from agentref.coherence import LeaseMode, Strategy, caching, reader, rules
from agentref.coherence.reader import Reader
from agentref.coherence.rows import Held
from agentref.coherence.rules import Refusal
from agentref.coherence.sync_coordinator import SyncCoordinator
from agentref.errors import Reason
from tests.machines.coherence_search import Search
from tests.machines.coherence_steps import INVARIANTS, ViolationError
from tests.machines.coherence_world import TTL, Config

LAZY, EAGER = Strategy.lazy(), Strategy.eager()
LEASE, COUNT = Strategy.lease(TTL), Strategy.access_count(2, ttl=TTL)
EXCLUSIVE, SHARED = LeaseMode.EXCLUSIVE, LeaseMode.SHARED


class Case(NamedTuple):
    """A world, and how many states it has at least: a search that ends early has not searched."""

    config: Config
    states: int


def case(states, *strategies, versions=1, **options):
    return Case(Config(strategies, versions=versions, **options), states)


# Two agents and one key, unless it says so.
CASES = {
    "late writers": case(7_900, LAZY, LAZY, fences=1, modes=(EXCLUSIVE,), sleepers=True, crashes=True),
    "leases": case(34_000, LAZY, LAZY, fences=2, modes=(EXCLUSIVE, SHARED)),
    "those who wait": case(16_000, LAZY, LAZY, fences=2, modes=(EXCLUSIVE,), waits=True),
    "leases in turn": case(10_000, LAZY, LAZY, fences=2, modes=(EXCLUSIVE,), crashes=True),
    "holds": case(3_000, COUNT, LAZY, versions=2, fences=2, crashes=True),
    "holds of two": case(1_000, LEASE, LEASE, fences=2, crashes=True),
    "holds and leases": case(17_000, LEASE, LAZY, fences=2, modes=(EXCLUSIVE,), waits=True),
    "signals": case(2_000, EAGER, LAZY, versions=2, sleepers=True),
    "signals and leases": case(8_000, EAGER, LAZY, fences=1, modes=(EXCLUSIVE,)),
    "deletes": case(130, LAZY, LAZY, versions=4),
    "two keys": case(88_000, LAZY, LEASE, keys=2, fences=1, together=True),
    "a clock that is set": case(22_000, LAZY, LAZY, fences=1, modes=(EXCLUSIVE,), steps_back=1),
    "three agents": case(34_000, LAZY, EAGER, COUNT, fences=1, modes=(EXCLUSIVE,)),
    "a backup": case(480, LAZY, LAZY, versions=2, backups=True),
}
TWO_LEASED = Config((LAZY, LAZY), keys=2, versions=1, fences=1, modes=(EXCLUSIVE,), together=True)


@pytest.fixture(autouse=True)
def one_clock(monkeypatch):
    """In the worlds time passes by their own clock alone."""
    monkeypatch.setattr(reader, "elapsed", lambda: 0.0)


@pytest.mark.parametrize("name", CASES)
def test_what_coherence_promises_holds_in_every_state(name):
    config, states = CASES[name]
    search = Search(config)
    found = search.run()
    print(f"{name}: {found:,} states, {search.count:,} steps")
    assert found >= states


@pytest.mark.xfail(raises=ViolationError, reason="this world has one clock, and a peer two", strict=True)
def test_a_hold_ends_when_the_clock_is_set_back():
    Search(Config((LEASE, LAZY), versions=2, fences=1, steps_back=1), watched={"NoStaleShow"}).run()


def without(function, reason):
    """A rule that does not know this reason to refuse."""

    def deaf(*args, **kwargs):
        refusal = function(*args, **kwargs)
        return None if refusal is not None and refusal.reason is reason else refusal

    return deaf


def shows_without_asking(self, cached):
    return cached.hold is not None or caching.may_show(cached.leases, self._table.clock())


def shows_until_its_end(leases, now):
    return all(now < held.until for held in leases)


original = {
    name: getattr(rules, name) for name in ("acquire", "commit", "renew", "release", "_moved", "_refused")
}
keep, commit_rows = Reader._keep, SyncCoordinator.commit_rows


def keep_as_current(self, key, code, row, *args):
    return keep(self, key, code, row._replace(revision=self._table.probe(code)), *args)


def keep_and_forget_the_hold(self, key, code, row, *args):
    if (known := self._cache.get(key)) is not None:
        known.hold = None
    return keep(self, key, code, row, *args)


def settle_nothing_bumped(row, leases):
    return row._replace(leases=leases)


def settle_always_bumped(row, leases):
    return row if leases == row.leases else row._replace(epoch=row.epoch + 1, leases=leases)


def acquire_shared_beside_others(row, wanted, now):
    if wanted.mode is EXCLUSIVE:
        return original["acquire"](row, wanted, now)
    row = rules.settle(row, now)
    held = Held(wanted.agent, wanted.mode, row.fence + 1, now + wanted.ttl, wanted.ttl)
    return row._replace(fence=held.fence, leases=(*row.leases, held)), held


def acquire_before_those_who_wait(row, wanted, now):
    alone = row._replace(leases=tuple(held for held in row.leases if not held.waits))
    return original["acquire"](alone, wanted, now)


def release_its_fence(row, token, now):
    after = original["release"](row, token, now)
    return after if after is row else after._replace(fence=token.fence - 1)


def release_without_the_epoch(row, token, now):
    return original["release"](row, token, now)._replace(epoch=row.epoch)


def renew_what_has_ended(row, token, ttl, now):
    held = rules._find(row, token)
    return (
        original["renew"](row, token, ttl, now) if held is None else (row, held._replace(until=now + ttl))
    )


def commit_a_first_version_again(row, asked, now):
    after = original["commit"](row, asked, now)
    return after if isinstance(after, Refusal) or asked.ref else after._replace(version=0)


def commit_what_is_there_already(row, asked, now):
    after = original["commit"](row, asked, now)
    if isinstance(after, Refusal) or after.version != row.version:
        return after
    return after._replace(version=row.version + 1)


def refused_beside_shared_leases(row, base, lease):
    alone = row._replace(leases=tuple(held for held in row.leases if held.mode is EXCLUSIVE))
    kept = alone if lease is None or rules._find(alone, lease) else row
    return original["_refused"](kept, base, lease)


def one_by_one(self, writes, *, agent, reads=()):
    rows = {}
    for write in writes:
        rows.update(commit_rows(self, [write], agent=agent, reads=reads))
    return rows


MOVED, REFUSED = original["_moved"], original["_refused"]
MUTANTS = {
    "a cache that is not compared with the revision": (
        "NoStaleShow", "signals", (Reader, "_shows", shows_without_asking)),
    "a prefetch that comes late is taken for what stands there": (
        "NoStaleShow", "signals", (Reader, "_keep", keep_as_current)),
    "a view is shown whatever became of the lease on it": (
        "NoStaleShow", "leases", (reader, "may_show", lambda leases, now: True)),
    "a view is shown though the clock was set back": (
        "NoStaleShow", "a clock that is set",
        (reader, "may_show", shows_until_its_end)),
    "a hold that ignores the time shows": (
        "NoStaleShow", "holds of two", (reader, "still_holds", lambda hold, reads, now: reads != 0)),
    "commit does not compare the version": (
        "NoLostUpdate", "signals", (rules, "_moved", without(MOVED, Reason.VERSION_MISMATCH))),
    "commit does not compare the content": (
        "NoLostUpdate", "a backup", (rules, "_moved", without(MOVED, Reason.CONTENT_MISMATCH))),
    "commit creates what is there": (
        "NoLostUpdate", "signals", (rules, "_moved", without(MOVED, Reason.EXISTS))),
    "commit goes on from what was deleted": (
        "NoLostUpdate", "deletes", (rules, "_moved", without(MOVED, Reason.DELETED))),
    "acquire grants a shared lease beside an exclusive one": (
        "SingleWriter", "leases", (rules, "acquire", acquire_shared_beside_others)),
    "commit does not mind leases": (
        "SingleWriter", "leases", (rules, "_refused", without(REFUSED, Reason.HELD_BY_OTHER))),
    "settle forgets the epoch": (
        "LateWriterFenced", "late writers", (rules, "_with_leases", settle_nothing_bumped)),
    "commit does not compare the epoch": (
        "LateWriterFenced", "late writers", (rules, "_refused", without(REFUSED, Reason.STALE_EPOCH))),
    "commit does not ask whether the lease lives": (
        "LateWriterFenced", "late writers", (rules, "_refused", without(REFUSED, Reason.LEASE_LOST))),
    "release does not bump the epoch": (
        "LateWriterFenced", "late writers", (rules, "release", release_without_the_epoch)),
    "renew revives what has ended": (
        "LateWriterFenced", "late writers", (rules, "renew", renew_what_has_ended)),
    "release gives its fence back": (
        "NothingGoesBack", "late writers", (rules, "release", release_its_fence)),
    "versions begin again after a delete": (
        "NothingGoesBack", "signals", (rules, "commit", commit_a_first_version_again)),
    "a commit of two keys is two commits": (
        "AllOrNothing", "two keys", (SyncCoordinator, "commit_rows", one_by_one)),
    "a cut is not compared": (
        "NoReadSkew", "two keys", (rules, "current", lambda row, base, now: None)),
    "a cut is compared without its epochs": (
        "NoReadSkew", TWO_LEASED,
        (rules, "current", lambda row, base, now: MOVED(rules.settle(row, now), base, epochs=False))),
    "a hold that ignores the time": (
        "HoldKeepsOthersOut", "holds", (caching, "still_holds", lambda hold, reads, now: reads != 0)),
    "shared leases keep nobody from committing": (
        "HoldKeepsOthersOut", "holds", (rules, "_refused", refused_beside_shared_leases)),
    "a commit of what is there already bumps the version": (
        "NoOpBumpsNothing", "signals", (rules, "commit", commit_what_is_there_already)),
    "leases do not end by themselves": (
        "CrashedOwnerYields", "leases", (rules, "lives", lambda held, now: True)),
    "a clock that is set back makes leases longer": (
        "CrashedOwnerYields", "a clock that is set",
        (rules, "lives", lambda held, now: held.until - now > 0)),
    "recover ends nothing": (
        "CrashedOwnerYields", "late writers", (rules, "evict", lambda row, agent, now: row)),
    "those who wait are overtaken": (
        "WaiterNotOvertaken", "those who wait", (rules, "acquire", acquire_before_those_who_wait)),
    "gate does not mind leases": (
        "GateAgrees", "leases",
        (rules, "gate", lambda row, base, lease, now: rules.current(row, base, now))),
    "gate does not mind that its lease was lost": (
        "GateAgrees", "leases", (rules, "gate", lambda row, base, lease, now: REFUSED(row, base, None))),
    "a look at a cut forgets the hold": (
        "NeverKeepsItselfOut", "two keys", (Reader, "_keep", keep_and_forget_the_hold)),
    "a shared lease that ends bumps the epoch": (
        "RefusedForCause", "leases", (rules, "_with_leases", settle_always_bumped)),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name, monkeypatch):
    invariant, world, (where, what, mutant) = MUTANTS[name]
    config = CASES[world].config if isinstance(world, str) else world
    monkeypatch.setattr(where, what, mutant)
    search = Search(config, watched={invariant})
    with pytest.raises(ViolationError, match=invariant) as caught:
        search.run()
    print(f"{name}: {search.count:,} steps\n{caught.value.__notes__[0]}")


def test_there_is_a_mutant_for_every_promise():
    assert {invariant for invariant, *_ in MUTANTS.values()} == set(INVARIANTS)
