"""Peers that are forked, interrupted, stopped or forgotten."""

import asyncio
import gc
import os
import threading

import pytest

from agentref.coherence import SqliteCoordinator
from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    Conflict,
    InvalidInputError,
    StoreFullError,
)
from agentref.storage import InMemoryCAS
from tests.forking import fork, statuses

KEY = ("proj", "plan")


def in_child(work):
    """What a forked child makes of it: 0 if it is true."""

    def task():
        assert work()

    return statuses([fork(task)])[0]


@pytest.fixture
def shared(tmp_path):
    with SqliteCoordinator(tmp_path / "coherence.db") as coordinator:
        yield coordinator


@pytest.mark.parametrize("strategy", ["lease", "access_count"])
def test_a_forked_child_reads_under_nothing_of_its_parents(shared, store, strategy):
    holder = shared.peer("holder", backend=store, strategy=strategy)
    view = holder.commit(KEY, 1, base=None)
    assert holder.read(KEY).version == 1
    ready, done = os.pipe(), os.pipe()

    def child():
        os.read(ready[0], 1)
        version = holder.read(KEY).version
        holder.close()
        os.write(done[1], b"x")
        return version == 2

    pid = os.fork()
    if pid == 0:
        os._exit(int(not child()))
    view = holder.commit(KEY, 2, base=view)
    os.write(ready[1], b"x")
    os.read(done[0], 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(Conflict):  # the child has given nothing back that the parent still relies upon
        shared.peer("other", backend=store).commit(KEY, 3, base=view)
    assert holder.read(KEY).version == 2
    holder.close()


def test_a_forked_child_leaves_its_parents_lease_alone(shared, store):
    with shared.peer("holder", backend=store) as peer, peer.lease(KEY, ttl=30) as lease:
        assert in_child(lambda: lease.__exit__(None, None, None) is None) == 0
        lease.check()


def test_a_forked_child_waits_for_no_lock_of_its_parents_threads(shared, store):
    with shared.peer("holder", backend=store) as peer:
        stop = threading.Event()

        def look():
            while not stop.is_set():
                list(peer.changes())
                peer.read(KEY)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for _ in range(10):
                assert in_child(lambda: list(peer.changes()) == [] and peer.read(KEY).version == 0) == 0
        finally:
            stop.set()
            thread.join()


class Watching:
    """An observer that has no room left for what was committed."""

    def began(self):
        return 0

    def changed(self, change):
        if change.old.version < change.new.version == 2:
            raise StoreFullError("no room")

    def delivered(self, agent, view, source, began):
        pass

    refused = delivered


@pytest.mark.parametrize("strategy", ["lazy", "lease", "access_count"])
def test_what_took_effect_and_was_reported_as_an_error_is_shown(tmp_path, store, strategy):
    with (
        SqliteCoordinator(tmp_path / "coherence.db", observers=[Watching()]) as coordinator,
        coordinator.peer("a", backend=store, strategy=strategy) as peer,
    ):
        peer.commit(KEY, 1, base=None)
        view = peer.read(KEY)
        with pytest.raises(StoreFullError):
            peer.commit(KEY, 2, base=view)
        assert peer.read(KEY).version == 2


def test_a_content_that_went_while_its_committer_was_stopped_is_not_committed(coordinator, monkeypatch):
    store = InMemoryCAS()
    peer = coordinator.peer("slow", backend=store, retain_seconds=1000)
    base = peer.commit(KEY, 1, base=None)
    passed = [0.0]
    monkeypatch.setattr("agentref.coherence.writer.elapsed", lambda: passed[0])
    store_it = store.store

    def stopped(encoded, **options):
        store_it(encoded, **options)
        passed[0] += 2000
        for ref in encoded.refs:
            store.delete(ref.hash)

    monkeypatch.setattr(store, "store", stopped)
    with pytest.raises(BlobNotFoundError):
        peer.commit(KEY, 2, base=base)
    assert peer.read(KEY).value == 1


def test_who_is_cancelled_while_a_lease_is_granted_leaves_none(shared, store):
    async def run():
        with shared.peer("hasty", backend=store) as peer:
            for number in range(60):
                try:
                    async with asyncio.timeout(number * 0.00005), peer.lease(KEY, ttl=600):
                        pass
                except (TimeoutError, Conflict):
                    pass
            await asyncio.sleep(0.05)

    asyncio.run(run())
    assert shared.leases(KEY) == []


def test_a_lease_of_a_thousand_years_keeps_no_other_from_being_renewed(coordinator, store, eventually):
    with (
        coordinator.peer("a", backend=store) as peer,
        peer.lease(("long",), ttl=1e11),
        peer.lease(KEY, ttl=0.3) as lease,
    ):
        first = lease.until
        eventually(lambda: lease.until > first + 0.3)
        lease.check()


def test_a_peer_that_nobody_closes_takes_the_pins_away_with_it(coordinator, store):
    peer = coordinator.peer("a", backend=store)
    view = None
    for number in range(5):
        view = peer.commit(KEY, number, base=view)
    assert len(list(store.iter_pins())) == 5
    del peer, view
    gc.collect()
    assert len(list(store.iter_pins())) == 1


def test_a_follower_ends_with_those_whom_it_tells(coordinator, store, eventually):
    peer = coordinator.peer("a", backend=store, strategy="eager")
    assert any(thread.name == "agentref-follower" for thread in threading.enumerate())
    del peer
    gc.collect()
    eventually(lambda: all(thread.name != "agentref-follower" for thread in threading.enumerate()))


def test_nobody_follows_the_feed_on_a_connection_of_the_callers(coordinator, store, monkeypatch):
    monkeypatch.setattr(type(coordinator.table), "is_joined", True)
    with pytest.raises(ConfigurationError, match="connections of its own"):
        coordinator.subscribe(print)
    with pytest.raises(ConfigurationError):
        coordinator.peer("a", backend=store, strategy="eager")
    with coordinator.peer("a", backend=store, strategy="lease") as peer:
        peer.commit(KEY, 1, base=None)
        peer.read(KEY)
        assert coordinator.leases(KEY) == []  # it might be rolled back, and believed in
        with peer.lease(KEY, ttl=0.01):
            assert all(thread.name != "agentref-a" for thread in threading.enumerate())


def test_one_thing_where_several_are_taken_is_refused_before_anything_happens(coordinator, store):
    with coordinator.peer("a", backend=store) as peer:
        view = peer.commit(KEY, 1, base=None)
        pins = list(store.iter_pins())
        for call in (
            lambda: peer.commit(KEY, 2, base=view, reads=view),
            lambda: peer.commit(KEY, 2, base=view, reads=view.versioned),
            lambda: peer.commit_many(5),
            lambda: peer.commit_many([(KEY, 2, view)], leases=5),
            lambda: peer.read_many(5),
            lambda: peer.snapshot("key"),
            lambda: peer.update(KEY, 5),
        ):
            with pytest.raises(InvalidInputError):
                call()
        assert peer.read(KEY).version == 1
        assert list(store.iter_pins()) == pins


def test_many_who_wait_for_a_change_do_not_keep_it_from_coming(shared, store):
    """They outnumber the threads of the event loop by far."""

    async def run():
        async with shared.peer("a", backend=store) as peer:
            since = await shared.ahead()
            waiting = [asyncio.create_task(shared.await_change(since, timeout=30)) for _ in range(100)]
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in waiting)
            await peer.acommit(KEY, 1, base=None)
            async with asyncio.timeout(10):
                await asyncio.gather(*waiting)

    asyncio.run(run())
