"""What the table in memory keeps beyond the contract: its own size."""

import math
import threading

import pytest

from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.keys import encode_key
from agentref.coherence.memory import _SLACK, MemoryTable
from agentref.errors import CursorTooOldError, StoreUnavailableError
from agentref.refs import ContentRef

KEY = ("a",)
REF = ContentRef(b"x" * 32, "json", 1)


class Counting(MemoryTable):
    """Counts the rows that are asked for."""

    looked = 0

    def load(self, keys, /):
        self.looked += len(keys)
        return super().load(keys)

    def transact(self, keys, decide, /):
        self.looked += len(keys)
        return super().transact(keys, decide)


def test_leases_that_come_and_go_leave_nothing_behind():
    """Though nobody sweeps."""
    table = MemoryTable()
    with Coordinator(table) as coordinator:
        coordinator.acquire(("b",), holder="b", ttl=1000)
        for n in range(3 * _SLACK):
            lease = coordinator.acquire(KEY, holder="a", ttl=1000 + n)
            coordinator.release(coordinator.renew(lease, ttl=2000 + n))
        assert len(table._by_end) <= _SLACK + 4
        assert table.leased(math.inf) == [encode_key(("b",))]


def test_a_lease_that_is_renewed_for_long_is_still_found():
    table = MemoryTable()
    with Coordinator(table) as coordinator:
        lease = coordinator.acquire(KEY, holder="a", ttl=1000)
        for n in range(2 * _SLACK):
            lease = coordinator.renew(lease, ttl=1001 + n)
        assert table.leased(math.inf) == [encode_key(KEY)]
        assert table.leased(lease.until) == [encode_key(KEY)]
        assert table.leased(lease.until - 1) == []


@pytest.mark.parametrize("others", [10, 5000])
def test_a_sweep_looks_only_at_what_has_expired(others):
    now = [1000.0]
    table = Counting(clock=lambda: now[0])
    coordinator = Coordinator(table)
    coordinator.commit([Write((str(n),), REF) for n in range(others)], agent="a")
    for n in range(others):
        coordinator.acquire(("leased", str(n)), holder="a", ttl=1000)
    for n in range(3):
        coordinator.acquire(("ended", str(n)), holder="a", ttl=1)
    now[0] += 2
    table.looked = 0
    assert len(coordinator.sweep()) == 3
    assert table.looked == 6
    assert coordinator.sweep() == []
    assert table.looked == 6


def test_the_feed_is_bounded(monkeypatch):
    monkeypatch.setattr("agentref.coherence.memory.FEED_LIMIT", 10)
    with Coordinator(MemoryTable()) as coordinator:
        since, view = coordinator.head(), None
        for n in range(45):
            ref = ContentRef(n.to_bytes(32), "json", 1)
            view = coordinator.commit([Write(KEY, ref, view)], agent="a")[KEY]
            assert len(coordinator.table._entries) < 20
            if n == 35:
                later = coordinator.head()
        with pytest.raises(CursorTooOldError):
            coordinator.changes(since=since)
        assert [change.version for change in coordinator.changes(since=later).changes] == list(
            range(37, 46)
        )


@pytest.mark.parametrize("timeout", [math.inf, 1e300])
def test_who_waits_for_ever_is_told_of_the_end(timeout):
    table = MemoryTable()
    closing = threading.Timer(0.02, table.close)
    closing.start()
    with pytest.raises(StoreUnavailableError):
        table.wait(table.head(), timeout=timeout)
    closing.join()
