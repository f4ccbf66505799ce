"""Cuts: of one moment, pinned while they are used, and refused once they are not."""

import asyncio
import gc
import threading
import time

import pytest

from agentref.coherence import Conflict, Reason, Strategy
from agentref.errors import BlobNotFoundError, InvalidInputError, SnapshotLapsedError, StorageError

KEYS = [("left",), ("right",)]
LEFT, RIGHT = KEYS


def snapshot_pins(store):
    return [pin for pin in store.iter_pins() if "/snapshot/" in pin.owner]


@pytest.fixture
def agent(peer):
    agent = peer("agent", retain_seconds=0.01)
    agent.commit_many([(key, ["x" * 300, 0], None) for key in KEYS])
    return agent


def move(agent):
    agent.commit_many([(k, [v.value[0], v.value[1] + 1], v) for k, v in agent.read_many(KEYS).items()])


@pytest.mark.parametrize("strategy", ["lazy", "eager", Strategy.lease(0.02)], ids=str)
def test_no_cut_is_torn(agent, peer, strategy):
    """A writer moves two keys at once, all the time."""
    reader = peer("reader", strategy=strategy)
    done = threading.Event()
    failures = []

    def write():
        while not done.is_set():
            try:
                move(agent)
            except Conflict as error:
                if error.reason is not Reason.HELD_BY_OTHER:
                    failures.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    moved, seen = 0, set()
    until = time.monotonic() + 10
    try:
        while (moved < 50 or len(seen) < 10) and time.monotonic() < until:
            with reader.snapshot(KEYS) as cut:
                assert cut[LEFT].version == cut[RIGHT].version
                assert cut[LEFT].value == cut[RIGHT].value
                seen.add(cut[LEFT].version)
            views = reader.read_many(KEYS)
            assert len({view.version for view in views.values()}) == 1
            reader.read(LEFT)
            moved += 1
    finally:
        done.set()
        thread.join(20)
    assert not failures
    assert len(seen) >= 10


def test_what_it_shows_stays_while_it_is_used(agent, store):
    with agent.snapshot(KEYS) as cut:
        assert len(snapshot_pins(store)) == 1  # one content, though two keys
        for _ in range(40):
            move(agent)
        agent.close()
        time.sleep(0.05)
        store.prune_expired(grace=0)
        assert [cut[key].value for key in KEYS] == [["x" * 300, 0]] * 2
        assert (len(cut), list(cut), dict(cut).keys()) == (2, KEYS, set(KEYS))
        assert not cut.lapsed
    assert snapshot_pins(store) == []


def test_every_use_after_the_end_is_refused(agent, store):
    cut = agent.snapshot(KEYS)
    view = cut[LEFT]
    for _ in range(2):
        cut.close()
        assert cut.lapsed
    for use in (
        lambda: cut[LEFT],
        cut.views,
        lambda: dict(cut),
        lambda: cut.get(LEFT),
        lambda: LEFT in cut,
    ):
        with pytest.raises(SnapshotLapsedError, match="Take a new one"):
            use()
    assert view.value[1] == 0
    assert snapshot_pins(store) == []


def test_one_that_is_forgotten_is_not_renewed(agent, store, eventually):
    cut = agent.snapshot(KEYS, ttl=0.2)
    until = max(pin.expires_at for pin in snapshot_pins(store))
    eventually(lambda: max(pin.expires_at for pin in snapshot_pins(store)) > until)
    del cut
    gc.collect()
    eventually(lambda: all(pin.expires_at <= time.time() for pin in snapshot_pins(store)))
    time.sleep(0.3)
    store.prune_expired(grace=0)
    assert all(pin.expires_at <= time.time() for pin in snapshot_pins(store))


def test_it_is_renewed_for_many_times_its_length(agent, store):
    with agent.snapshot(KEYS, ttl=0.2) as cut:
        move(agent)
        agent.close()
        until = time.monotonic() + 1
        while time.monotonic() < until:
            store.prune_expired(grace=0)
            assert cut[LEFT].copy()[1] == 0
            time.sleep(0.02)


@pytest.mark.parametrize(
    "error", [StorageError("no"), BlobNotFoundError("gone"), RuntimeError("a bug")], ids=repr
)
def test_one_that_cannot_be_renewed_lapses(peer, watched, eventually, error, caplog):
    agent = peer("agent", backend=watched)
    agent.commit_many([(key, [1], None) for key in KEYS])
    with agent.snapshot(KEYS, ttl=0.2) as cut:
        views = cut.views()

        def fail(verb):
            if verb == "pin":
                raise error

        watched.before = fail
        eventually(lambda: cut.lapsed)
        for use in (cut.views, lambda: cut[LEFT]):
            with pytest.raises(SnapshotLapsedError):
                use()
        watched.before = lambda verb: None
        time.sleep(0.2)  # that it could be renewed again does not bring it back
        assert cut.lapsed
        assert views[0].value == [1]


def test_one_failure_is_made_good_by_the_next_beat(peer, watched, eventually):
    agent = peer("agent", backend=watched)
    agent.commit_many([(key, [1], None) for key in KEYS])
    failed = []

    def fail_once(verb):
        if verb == "pin" and not failed:
            failed.append(verb)
            raise StorageError("no")

    with agent.snapshot(KEYS, ttl=0.9) as cut:
        watched.before = fail_once
        watched.calls.clear()
        eventually(lambda: watched.calls.count("pin") >= 3)
        assert failed and not cut.lapsed


def test_a_commit_that_rests_on_a_cut(agent, peer):
    other = peer("other")
    with agent.snapshot([*KEYS, ("absent",)]) as cut:
        assert agent.commit(("sum",), 0, base=None, reads=cut.views()).version == 1
        other.commit(LEFT, "moved", base=other.read(LEFT))
        with pytest.raises(Conflict) as refused:
            agent.commit(("sum",), 1, base=agent.read(("sum",)), reads=cut.views())
        assert (refused.value.key, refused.value.reason) == (LEFT, Reason.VERSION_MISMATCH)
        assert agent.value(("sum",)) == 0
    with agent.snapshot([("absent",)]) as cut:
        other.commit(("absent",), 1, base=None)
        with pytest.raises(Conflict):
            agent.commit(("sum",), 1, base=agent.read(("sum",)), reads=cut.views())


def test_a_cut_with_a_hole_is_none(agent, store):
    store.delete(agent.read(RIGHT).ref.hash)
    with pytest.raises(BlobNotFoundError):
        agent.snapshot(KEYS)
    assert snapshot_pins(store) == []


def test_a_cut_of_nothing(agent, store):
    with agent.snapshot([]) as nothing, agent.snapshot([("absent",)]) as absent:
        assert (len(nothing), nothing.views()) == (0, [])
        assert not absent["absent",].exists
        with pytest.raises(KeyError):
            nothing[LEFT]
        assert snapshot_pins(store) == []


@pytest.mark.parametrize("bad", [0, -1, float("nan"), "5", None])
def test_it_lasts_for_some_time(agent, bad):
    with pytest.raises(InvalidInputError, match="ttl"):
        agent.snapshot(KEYS, ttl=bad)


def test_in_an_event_loop(agent):
    async def run():
        cut = await agent.asnapshot(iter(KEYS), ttl=5)
        with cut:
            return await cut[LEFT].avalue()

    assert asyncio.run(run())[1] == 0
