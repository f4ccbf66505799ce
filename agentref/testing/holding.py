# ruff: noqa: S101
"""The promises of a coordinator about leases."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from agentref.coherence.coordinator import Coordinator
from agentref.coherence.keys import Key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import LeaseMode, Versioned
from agentref.errors import Reason
from agentref.testing._coherence import (
    KEY,
    LONG,
    OTHER,
    Clauses,
    SettableClock,
    commits_of,
    delete,
    put,
    race,
    refusal,
    revision,
    see,
)

__all__ = ["LeaseClauses"]

EXCLUSIVE, SHARED = LeaseMode


def _take(coordinator: Coordinator, holder: str, mode: LeaseMode = EXCLUSIVE, **changed: Any) -> Lease:
    return coordinator.acquire(**{"key": KEY, "holder": holder, "mode": mode, "ttl": LONG, **changed})


class LeaseClauses(Clauses):
    """The clauses of `CoordinatorContract` about leases, which gives each of them its coordinator."""

    def test_a_lease_is_as_it_was_granted(self, coordinator: Coordinator) -> None:
        before = coordinator.table.clock()
        lease = _take(coordinator, "a", SHARED)
        assert (lease.key, lease.holder, lease.mode, lease.ttl) == (KEY, "a", SHARED, LONG)
        assert before + LONG <= lease.until <= coordinator.table.clock() + LONG
        other = _take(coordinator, "b", SHARED, ttl=10)
        assert coordinator.leases(KEY) == [lease, other]
        assert coordinator.leases(OTHER) == []

    def test_only_shared_leases_stand_beside_each_other(self, coordinator: Coordinator) -> None:
        for held in LeaseMode:
            for asked in LeaseMode:
                for holder in ("a", "b"):
                    key = (held, asked, holder)
                    first = _take(coordinator, "a", held, key=key)
                    if held is asked is SHARED:
                        second = _take(coordinator, holder, asked, key=key)
                        assert coordinator.leases(key) == [first, second]
                        continue
                    conflict = refusal(partial(_take, coordinator, holder, asked, key=key))
                    assert (conflict.reason, conflict.key) == (Reason.HELD_BY_OTHER, key)
                    assert (conflict.holder, conflict.until) == ("a", first.until)
                    assert coordinator.leases(key) == [first]

    def test_of_agents_that_want_it_exactly_one_gets_it(self, coordinator: Coordinator) -> None:
        for racers in (2, 5, 16):
            key = (*KEY, str(racers))
            won, lost = race([partial(_take, coordinator, str(n), key=key) for n in range(racers)])
            assert won == coordinator.leases(key)
            assert len(won) == 1
            assert {each.reason for each in lost} == {Reason.HELD_BY_OTHER}
            assert {(each.holder, each.until) for each in lost} == {(won[0].holder, won[0].until)}

    def test_fences_only_grow(self, coordinator: Coordinator, clock: SettableClock) -> None:
        fences = []
        for end in ("release", "expiry", "recover", "sweep"):
            for mode in LeaseMode:
                lease = _take(coordinator, "a", mode, ttl=clock.brief(coordinator.table))
                fences.append(lease.fence)
                if end == "release":
                    coordinator.release(lease)
                elif end == "recover":
                    coordinator.recover("a")
                else:
                    clock.let(coordinator.table, lease.until)
                    assert end == "expiry" or coordinator.sweep() == [KEY]
        fences += [_take(coordinator, name, SHARED).fence for name in ("a", "b", "c")]
        assert fences == sorted(set(fences))
        assert fences[0] > 0

    def test_a_renewed_lease_outlives_its_first_end(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        first = _take(coordinator, "a", ttl=clock.brief(coordinator.table))
        renewed = coordinator.renew(first, ttl=2 * LONG)
        assert renewed.until > first.until
        assert renewed.fence == first.fence
        clock.let(coordinator.table, first.until)
        assert coordinator.sweep() == []
        assert coordinator.leases(KEY) == [renewed]
        assert refusal(lambda: _take(coordinator, "b")).until == renewed.until
        assert coordinator.renew(first, ttl=1).until == renewed.until
        assert put(coordinator, KEY, 1, lease=first).version == 1

    def test_a_lease_that_ended_is_taken_back_by_whoever_comes_across_it(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        ways: dict[str, Callable[[Key, Versioned], object]] = {
            "read": lambda key, _: see(coordinator, key),
            "commit": lambda key, view: refusal(lambda: put(coordinator, key, 2, view)),
            "acquire": lambda key, _: coordinator.release(_take(coordinator, "b", SHARED, key=key)),
            "leases": lambda key, _: coordinator.leases(key),
            "sweep": lambda *_: coordinator.sweep(),
        }
        ttl = clock.brief(coordinator.table)
        views = {way: put(coordinator, (way,), 1) for way in ways}
        leases = {way: _take(coordinator, "a", key=(way,), ttl=ttl) for way in ways}
        clock.let(coordinator.table, max(lease.until for lease in leases.values()))
        for way, come_across in ways.items():
            come_across((way,), views[way])
            row = coordinator.table.load([encode_key((way,))])[encode_key((way,))]
            assert (way, row.epoch, row.leases) == (way, 1, ())
            assert see(coordinator, (way,)) == views[way]._replace(epoch=1)
            assert coordinator.leases((way,)) == []

    def test_a_late_writer_is_fenced_though_the_version_never_moved(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        put(coordinator, KEY, 1)
        lease = _take(coordinator, "a", ttl=clock.brief(coordinator.table))
        view = see(coordinator, KEY)
        clock.let(coordinator.table, lease.until)
        with_it = refusal(lambda: put(coordinator, KEY, 2, view, lease=lease))
        without = refusal(lambda: put(coordinator, KEY, 2, view))
        resting = refusal(lambda: coordinator.commit([], agent="a", reads=[view]))
        gated = refusal(lambda: coordinator.gate(view))
        assert with_it.reason is Reason.LEASE_LOST
        assert {each.reason for each in (without, resting, gated)} == {Reason.STALE_EPOCH}
        now = see(coordinator, KEY)
        assert now == view._replace(epoch=1)
        assert [each.current for each in (with_it, without, resting, gated)] == [now] * 4
        assert put(coordinator, KEY, 2, now).version == 2

    def test_a_refusal_by_what_has_just_ended_carries_the_next_base(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        ttl, views = clock.brief(coordinator.table), [put(coordinator, (str(n),), 1) for n in range(3)]
        ends = [_take(coordinator, "a", key=view.key, ttl=ttl).until for view in views]
        clock.let(coordinator.table, max(ends))
        conflicts = [
            refusal(lambda: put(coordinator, views[0].key, 2, views[0])),
            refusal(lambda: coordinator.commit([], agent="a", reads=[views[1]])),
            refusal(lambda: coordinator.gate(views[2])),
        ]
        for conflict in conflicts:
            current: Any = conflict.current
            assert (conflict.reason, current.epoch) == (Reason.STALE_EPOCH, 1)
            assert put(coordinator, conflict.key, 2, current).version == 2

    def test_a_release_fences_the_late_writes_of_the_releaser(self, coordinator: Coordinator) -> None:
        lease = _take(coordinator, "a")
        nothing = see(coordinator, KEY)
        view = put(coordinator, KEY, 1, nothing, lease=lease)
        coordinator.release(lease)
        assert refusal(lambda: put(coordinator, KEY, 2, view)).reason is Reason.STALE_EPOCH
        assert refusal(lambda: delete(coordinator, KEY, view)).reason is Reason.STALE_EPOCH
        assert refusal(lambda: put(coordinator, KEY, 2, view, lease=lease)).reason is Reason.LEASE_LOST
        assert see(coordinator, KEY) == view._replace(epoch=1)

    def test_the_end_of_a_shared_lease_fences_nobody(self, coordinator: Coordinator) -> None:
        view = put(coordinator, KEY, 1)
        coordinator.release(_take(coordinator, "a", SHARED))
        assert see(coordinator, KEY) == view
        assert put(coordinator, KEY, 2, view).version == 2

    def test_a_commit_under_the_lease_of_another_is_refused(self, coordinator: Coordinator) -> None:
        for mode in LeaseMode:
            key = (*KEY, mode)
            view = put(coordinator, key, 1)
            lease = _take(coordinator, "a", mode, key=key)
            for agent in ("a", "b"):  # without the lease, its holder is like anyone
                for verb in (
                    partial(put, coordinator, key, 2, view, agent=agent),
                    partial(delete, coordinator, key, view, agent=agent),
                    partial(coordinator.gate, view, agent=agent),
                ):
                    conflict = refusal(verb)
                    assert (conflict.reason, conflict.current) == (Reason.HELD_BY_OTHER, view)
                    assert (conflict.holder, conflict.until) == ("a", lease.until)
            coordinator.gate(view, lease=lease)
            assert put(coordinator, key, 2, view, agent="b", lease=lease).version == 2

    def test_leases_are_not_in_the_feed(self, coordinator: Coordinator) -> None:
        since = coordinator.head()
        lease = coordinator.renew(_take(coordinator, "a"))
        coordinator.release(lease)
        assert commits_of(coordinator, since) == []

    # The end of a lease

    def test_a_lease_that_has_ended_is_of_no_use(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        brief = clock.brief(coordinator.table)
        expired, released, recovered = (
            _take(coordinator, name, key=(name,), ttl=brief if name == "expired" else LONG)
            for name in ("expired", "released", "recovered")
        )
        coordinator.release(released)
        coordinator.recover("recovered")
        clock.let(coordinator.table, expired.until)
        for lease in (expired, released, recovered):
            view = see(coordinator, lease.key)
            for verb in (
                partial(coordinator.renew, lease),
                partial(put, coordinator, lease.key, 1, view, lease=lease),
                partial(coordinator.gate, view, lease=lease),
            ):
                assert refusal(verb).reason is Reason.LEASE_LOST
            assert see(coordinator, lease.key) == view
            assert view.version == 0

    def test_a_lease_is_released_once(self, coordinator: Coordinator) -> None:
        lease = _take(coordinator, "a")
        coordinator.release(lease)
        before = revision(coordinator, KEY)
        coordinator.release(lease)
        assert revision(coordinator, KEY) == before
        assert see(coordinator, KEY).epoch == 1
        new = _take(coordinator, "a")
        coordinator.release(lease)
        assert coordinator.leases(KEY) == [new]

    def test_recover_ends_what_an_agent_held_and_nothing_else(self, coordinator: Coordinator) -> None:
        mine = [_take(coordinator, "a", SHARED, key=("shared",)), *self._held(coordinator, "a", 3)]
        others = [_take(coordinator, "b", SHARED, key=("shared",)), *self._held(coordinator, "b", 3)]
        views = coordinator.read([lease.key for lease in [*mine, *others]])
        assert sorted(coordinator.recover("a")) == sorted(lease.key for lease in mine)
        for lease in mine[1:]:
            conflict = refusal(partial(put, coordinator, lease.key, 1, views[lease.key]))
            assert conflict.reason is Reason.STALE_EPOCH
        for lease in others:
            assert coordinator.leases(lease.key) == [lease]
            assert see(coordinator, lease.key).epoch == 0
        assert coordinator.recover("a") == []

    def _held(self, coordinator: Coordinator, holder: str, count: int) -> list[Lease]:
        return [_take(coordinator, holder, key=(holder, str(n))) for n in range(count)]

    def test_a_sweep_takes_back_what_has_expired_and_nothing_else(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        ttl = clock.brief(coordinator.table)
        put(coordinator, OTHER, 1)
        ended = [_take(coordinator, "a", key=("ended", str(n)), ttl=ttl) for n in range(3)]
        alive = [coordinator.renew(lease, ttl=2 * LONG) for lease in self._held(coordinator, "b", 3)]
        clock.let(coordinator.table, max(lease.until for lease in ended))
        assert sorted(coordinator.sweep()) == [lease.key for lease in ended]
        assert [see(coordinator, lease.key).epoch for lease in [*ended, *alive]] == [1] * 3 + [0] * 3
        assert [coordinator.leases(lease.key) for lease in alive] == [[lease] for lease in alive]
        assert coordinator.sweep() == []

    def test_leases_are_found_by_when_they_end(self, coordinator: Coordinator) -> None:
        """By the table, and without those rows that have none."""
        put(coordinator, ("none",), 1)
        coordinator.release(_take(coordinator, "a", key=("released",)))
        _take(coordinator, "a", SHARED, key=("c",), ttl=3 * LONG)
        leases = [
            _take(coordinator, "a", SHARED, key=(name,), ttl=n * LONG) for n, name in enumerate("azb", 1)
        ]
        leases.append(_take(coordinator, "b", SHARED, key=("c",), ttl=4 * LONG))
        leases[0] = coordinator.renew(leases[0], ttl=5 * LONG)
        table, codes = coordinator.table, [encode_key((name,)) for name in "abcz"]
        assert sorted(table.leased(math.inf)) == sorted(codes)
        found = list(table.leased(math.inf))
        assert (found[0], found[-1]) == (encode_key(("z",)), encode_key(("a",)))
        assert list(table.leased(leases[1].until)) == [encode_key(("z",))]
        assert list(table.leased(math.inf, limit=1)) == [encode_key(("z",))]
        assert list(table.leased(table.clock())) == []

    # Clocks that jump

    def test_a_clock_that_jumps_ahead_ends_leases_for_good(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        self._needs(coordinator, clock)
        put(coordinator, KEY, 1)
        lease = _take(coordinator, "a")
        view = see(coordinator, KEY)
        clock.now += 10 * LONG
        assert see(coordinator, KEY).epoch == 1
        clock.now -= 10 * LONG
        assert refusal(lambda: put(coordinator, KEY, 2, view, lease=lease)).reason is Reason.LEASE_LOST
        assert refusal(lambda: put(coordinator, KEY, 2, view)).reason is Reason.STALE_EPOCH
        assert _take(coordinator, "b").fence > lease.fence

    def test_a_clock_that_is_set_back_keeps_nobody_waiting(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        self._needs(coordinator, clock)
        first = _take(coordinator, "a")
        view = put(coordinator, KEY, 1, lease=first)
        clock.now -= LONG / 2
        assert refusal(lambda: _take(coordinator, "b")).until == first.until  # no harm yet
        assert put(coordinator, KEY, 2, view, lease=first).version == 2
        clock.now -= 10 * LONG
        second = _take(coordinator, "b")
        assert second.fence > first.fence
        assert see(coordinator, KEY)[3:5] == (2, 1)
        clock.now += 10 * LONG
        assert refusal(lambda: coordinator.renew(first)).reason is Reason.LEASE_LOST

    def _needs(self, coordinator: Coordinator, clock: SettableClock) -> None:
        if not clock.leads(coordinator.table):
            pytest.skip("the table goes by a clock of its own")
