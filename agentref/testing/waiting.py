# ruff: noqa: S101
"""The promises of a coordinator about waiting: for a lease, and for the feed."""

from functools import partial

from agentref.coherence.coordinator import Coordinator
from agentref.coherence.keys import encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import LeaseMode
from agentref.errors import Conflict, Reason
from agentref.testing._coherence import (
    KEY,
    LONG,
    OTHER,
    Clauses,
    SettableClock,
    commits_of,
    put,
    refusal,
    see,
    spawn,
    until,
)

__all__ = ["WaitingClauses"]

EXCLUSIVE, SHARED = LeaseMode


class WaitingClauses(Clauses):
    """The clauses of `CoordinatorContract` about waiting, which gives each of them its coordinator."""

    def _waits(self, coordinator: Coordinator, mode: LeaseMode = EXCLUSIVE) -> partial[Lease]:
        return partial(coordinator.acquire, KEY, holder="waits", ttl=LONG, mode=mode, wait=self.patience)

    def _queued(self, coordinator: Coordinator) -> None:
        """Let the one who waits be noted in the row."""
        code = encode_key(KEY)

        def is_noted() -> bool:
            return any(held.waits for held in coordinator.table.load([code])[code].leases)

        until(is_noted, self.patience)

    def test_who_waits_gets_what_is_released(self, coordinator: Coordinator) -> None:
        first = coordinator.acquire(KEY, holder="a", ttl=LONG)
        waiting = spawn(self._waits(coordinator))
        self._queued(coordinator)
        assert coordinator.leases(KEY) == [first]
        coordinator.release(first)
        lease = waiting.result(self.patience)
        assert lease.fence > first.fence
        assert coordinator.leases(KEY) == [lease]

    def test_who_waits_gets_what_expires(self, coordinator: Coordinator, clock: SettableClock) -> None:
        first = coordinator.acquire(KEY, holder="a", ttl=clock.brief(coordinator.table))
        waiting = spawn(self._waits(coordinator))
        self._queued(coordinator)
        clock.let(coordinator.table, first.until)
        lease = waiting.result(self.patience)
        assert lease.fence > first.fence
        assert see(coordinator, KEY).epoch == 1

    def test_who_waits_gets_what_is_recovered(self, coordinator: Coordinator) -> None:
        first = coordinator.acquire(KEY, holder="a", ttl=LONG)
        waiting = spawn(self._waits(coordinator, SHARED))
        self._queued(coordinator)
        assert coordinator.recover("a") == [KEY]
        assert waiting.result(self.patience).fence > first.fence

    def test_a_stream_of_readers_does_not_keep_a_writer_out(self, coordinator: Coordinator) -> None:
        """Each of whom comes before the last one goes."""
        reader = coordinator.acquire(KEY, holder="reader", ttl=LONG, mode=SHARED)
        waiting = spawn(self._waits(coordinator))
        came: list[Lease] = [reader]

        def is_the_next_one_refused() -> bool:
            try:
                came.append(coordinator.acquire(KEY, holder="reader", ttl=LONG, mode=SHARED))
            except Conflict as conflict:
                return conflict.reason is Reason.HELD_BY_OTHER
            coordinator.release(came[-2])
            return False

        until(is_the_next_one_refused, self.patience)
        coordinator.release(came[-1])
        lease = waiting.result(self.patience)
        assert lease.holder == "waits"
        assert lease.fence > came[-1].fence

    def test_who_waits_keeps_no_commit_out(self, coordinator: Coordinator) -> None:
        reader = coordinator.acquire(KEY, holder="reader", ttl=LONG, mode=SHARED)
        waiting = spawn(self._waits(coordinator))
        self._queued(coordinator)
        assert put(coordinator, KEY, 1, lease=reader).version == 1
        coordinator.release(reader)
        waiting.result(self.patience)

    def test_who_waited_in_vain_is_in_nobodys_way(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        first = coordinator.acquire(KEY, holder="a", ttl=LONG)
        asked = coordinator.table.clock()
        conflict = refusal(lambda: coordinator.acquire(KEY, holder="b", ttl=LONG, wait=0.05))
        assert (conflict.reason, conflict.holder, conflict.until) == (
            Reason.HELD_BY_OTHER,
            "a",
            first.until,
        )
        coordinator.release(first)
        clock.let(coordinator.table, max(coordinator.table.clock(), asked + 0.05))
        assert coordinator.acquire(KEY, holder="c", ttl=LONG).fence > first.fence

    # The feed

    def test_who_waits_for_the_feed_is_told_of_a_commit(self, coordinator: Coordinator) -> None:
        since = coordinator.head()
        waiting = spawn(lambda: coordinator.wait(since, timeout=4 * self.patience))
        put(coordinator, KEY, 1)
        waiting.result(self.patience)
        assert len(commits_of(coordinator, since)) == 1

    def test_what_was_committed_before_the_wait_is_not_waited_for(self, coordinator: Coordinator) -> None:
        since = coordinator.head()
        put(coordinator, KEY, 1)
        spawn(lambda: coordinator.wait(since, timeout=4 * self.patience)).result(self.patience)

    def test_a_wait_for_the_feed_ends_by_itself(self, coordinator: Coordinator) -> None:
        put(coordinator, OTHER, 1)
        since = coordinator.head()
        for timeout in (0, 0.01):
            coordinator.wait(since, timeout=timeout)
        assert commits_of(coordinator, since) == []
