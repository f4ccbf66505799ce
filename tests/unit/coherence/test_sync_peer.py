"""What a peer follows, and what it leaves behind when it ends."""

import math
import sys
import threading
import time

import pytest

from agentref.coherence import Coordinator, MemoryCoordinator
from agentref.coherence.memory import MemoryTable
from agentref.errors import CursorTooOldError, InvalidInputError
from agentref.storage import InMemoryCAS

KEY, OTHER = ("proj", "plan"), ("proj", "budget")


@pytest.fixture
def store():
    """One will do: what is tested here is not about contents."""
    with InMemoryCAS() as store:
        yield store


def names():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("agentref-")]


def seen(changes):
    return [(change.key, change.version) for change in changes]


@pytest.fixture
def write(peer):
    writer = peer("writer")

    def write(key=KEY, times=1):
        for _ in range(times):
            writer.update(key, lambda n: n + 1, initial=0)

    return write


# Changes


def test_changes_come_in_order_and_once(peer, write):
    before = peer("before")
    write(times=1500)  # more than a page
    after = peer("after")
    write(OTHER)
    assert seen(before.changes()) == [*((KEY, n) for n in range(1, 1501)), (OTHER, 1)]
    assert seen(after.changes()) == [(OTHER, 1)]
    assert seen(before.changes()) == seen(after.changes()) == []
    change = None
    write(OTHER)
    for change in before.changes():
        assert (change.writer, change.ref, change.epoch) == ("writer", after.read(OTHER).ref, 0)
    assert change is not None


def test_who_stops_in_the_middle_goes_on_from_there(peer, write):
    """In the middle of a page, and of a commit."""
    reader, writer = peer("reader"), peer("writer")
    keys = [("k", str(n)) for n in range(5)]
    writer.commit_many([(key, 0, None) for key in keys])
    writer.commit_many([(key, 1, writer.read(key)) for key in keys])
    taken = []
    while True:
        for change in reader.changes():
            taken.append(change)
            break
        else:
            break
    assert seen(taken) == [(key, version) for version in (1, 2) for key in keys]


def test_threads_share_the_changes_of_a_peer(peer, write, together):
    reader = peer("reader")
    write(times=400)
    shares = together(*[lambda: seen(reader.changes())] * 4)
    assert sorted(change for share in shares for change in share) == [(KEY, n) for n in range(1, 401)]
    assert all(share == sorted(share) for share in shares)


@pytest.mark.parametrize("timeout", [20, math.inf])
def test_what_comes_is_waited_for(peer, write, together, timeout):
    reader = peer("reader")

    def read():
        taken = []
        for change in reader.changes(timeout=timeout):
            taken.append(change)
            if len(taken) == 3:
                return seen(taken)
        return None

    def commit():
        for _ in range(3):
            time.sleep(0.05)
            write()

    assert together(read, commit)[0] == [(KEY, 1), (KEY, 2), (KEY, 3)]


def test_quiet_is_waited_for(peer, write, monkeypatch, coordinator):
    """However often it is woken up for nothing."""
    reader = peer("reader")
    real, woken = coordinator.table.wait, []

    def woken_early(since, *, timeout):
        woken.append(timeout)
        real(since, timeout=min(timeout, 0.02))

    monkeypatch.setattr(coordinator.table, "wait", woken_early)
    began = time.monotonic()
    assert seen(reader.changes(timeout=0.3)) == []
    assert time.monotonic() - began >= 0.3
    assert len(woken) > 3


@pytest.mark.parametrize("bad", [-1, math.nan, "5", None, -math.inf])
def test_what_is_no_time_to_wait_is_refused(peer, bad):
    with pytest.raises(InvalidInputError, match="timeout"):
        peer("p").changes(timeout=bad)


def test_who_comes_too_late_is_told_and_goes_on_from_the_head(peer, write, coordinator):
    reader, beside = peer("reader"), peer("beside")
    write(times=3)
    assert seen(beside.changes()) == [(KEY, n) for n in (1, 2, 3)]
    time.sleep(0.002)
    coordinator.sweep(feed_seconds=0)
    with pytest.raises(CursorTooOldError, match="begin"):
        list(reader.changes())
    assert seen(reader.changes()) == seen(beside.changes()) == []
    write()
    assert seen(reader.changes()) == seen(beside.changes()) == [(KEY, 4)]


# The end


def test_a_peer_that_is_closed_leaves_no_thread(coordinator, store, eventually):
    eventually(lambda: not names())
    peers = [coordinator.peer(f"p{n}", backend=store, strategy="eager") for n in range(5)]
    for n, each in enumerate(peers):
        each.commit((str(n),), n, base=None)
        with each.lease((str(n),), ttl=3600), each.snapshot([(str(n),)], ttl=3600):
            pass
        with each.lease((str(n),), ttl=3600):
            each.close()
            each.close()
    eventually(lambda: not names())


def test_a_heartbeat_runs_only_while_there_is_something_to_renew(peer, eventually):
    agent = peer("agent")
    eventually(lambda: not names())
    agent.read(KEY)
    assert not names()
    with agent.lease(KEY, ttl=3600):
        assert names() == ["agentref-agent"]
        with agent.lease(OTHER, ttl=3600), agent.snapshot([KEY], ttl=3600):
            assert sorted(names()) == ["agentref-agent", "agentref-agent-pins"]
    eventually(lambda: not names())
    with agent.lease(KEY, ttl=3600):
        assert names() == ["agentref-agent"]


def test_it_ends_with_its_block(coordinator, store):
    with coordinator.peer("p", backend=store, strategy="lease") as agent:
        agent.commit(KEY, 1, base=None)
        agent.read(KEY)
        agent.commit(KEY, 2, base=agent.read(KEY))
        assert coordinator.leases(KEY)
    assert coordinator.leases(KEY) == []
    assert len([pin for pin in store.iter_pins() if pin.owner.endswith(("/1", "/2"))]) == 1


@pytest.mark.parametrize("bad", ["", None, 3, "x" * 257, "a\0b", "\ud800", b"bytes", ("a",)], ids=repr)
def test_an_agent_has_a_name(coordinator, store, bad):
    with pytest.raises(InvalidInputError, match="name"):
        coordinator.peer(bad, backend=store)


# The cache


def test_the_cache_is_bounded_and_what_it_forgot_is_read_again(peer, store):
    agent = peer("agent", cache_bytes=20_000)
    keys = [("k", str(n)) for n in range(50)]
    for n, key in enumerate(keys):
        agent.commit(key, f"{n}" * 5000, base=None)
    assert 1 <= len(agent._cache._entries) <= 20
    for n, key in enumerate(keys):
        assert agent.value(key) == f"{n}" * 5000
    assert len(agent._cache._entries) <= 20
    tiny = peer("tiny", cache_bytes=1)
    for key in keys[:3]:
        view = tiny.read(key)
        assert tiny.read(key) is view
    assert len(tiny._cache._entries) == 1


def test_threads_read_what_others_write(peer, together):
    """Nobody is shown an older version after a newer one, whatever the cache is doing meanwhile."""
    writer, readers = peer("writer"), [peer("r1", cache_bytes=2500), peer("r2", strategy="eager")]
    keys = [("k", str(n)) for n in range(4)]
    for key in keys:
        writer.commit(key, [0], base=None)
    done = threading.Event()

    def write():
        try:
            for n in range(1, 40):
                for key in keys:
                    writer.commit(key, [n], base=writer.read(key))
        finally:
            done.set()

    def read(reader):
        last = dict.fromkeys(keys, 0)
        while not done.is_set():
            for key in keys:
                view = reader.read(key)
                assert view.version >= last[key]
                assert view.value == [view.version - 1]
                last[key] = view.version
        return last

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        together(write, *[lambda reader=reader: read(reader) for reader in readers for _ in range(2)])
    finally:
        sys.setswitchinterval(interval)
    for reader in readers:
        assert [reader.read(key).version for key in keys] == [40] * 4


def test_keys_are_data(peer):
    one, two = peer("one"), peer("two")
    one.commit(("user1", "memories"), 1, base=None)
    assert not two.read(("user2", "memories")).exists
    two.commit(("user1/memories",), 2, base=None)
    two.commit(("user1", "", "memories"), 3, base=None)
    assert [
        one.value(k) for k in (("user1", "memories"), ("user1/memories",), ("user1", "", "memories"))
    ] == [1, 2, 3]


def test_two_coordinators_over_one_store_know_nothing_of_each_other(store):
    with MemoryCoordinator() as first, Coordinator(MemoryTable()) as second:
        one, two = first.peer("p", backend=store), second.peer("p", backend=store)
        one.commit(KEY, [1], base=None)
        assert not two.read(KEY).exists
        two.commit(KEY, [1], base=None)
        two.delete(KEY, base=two.read(KEY))
        two.close()
        two.tidy()
        store.prune_expired(grace=0)
        assert one.value(KEY) == [1]
        one.close()


def test_the_state_of_each_peer_is_derived(peer, coordinator):
    one, two = peer("one"), peer("two")
    assert one.state(KEY) == "invalid"
    one.commit(KEY, 1, base=None)
    assert coordinator.states(KEY) == {"one": "shared", "two": "invalid"}
    two.read(KEY)
    with two.lease(KEY, ttl=30):
        assert coordinator.states(KEY) == {"one": "shared", "two": "exclusive"}
        two.commit(KEY, 2, base=two.read(KEY))
        assert coordinator.states(KEY) == {"one": "invalid", "two": "modified"}
    assert coordinator.states(KEY) == {"one": "invalid", "two": "invalid"}  # the epoch moved on
    assert [peer.read(KEY).value for peer in (one, two)] == [2, 2]
    assert coordinator.states(KEY) == {"one": "shared", "two": "shared"}


def test_of_two_peers_that_are_one_agent_the_valid_copy_counts(peer, coordinator):
    one, same = peer("one"), peer("one")
    one.commit(KEY, 1, base=None)
    same.read(KEY)
    one.commit(KEY, 2, base=one.read(KEY))
    assert same.state(KEY) == "invalid"
    assert coordinator.states(KEY) == {"one": "shared"}
