"""What a peer leaves in its store: never a pin too few, and after a while none too many."""

import time

import pytest

from agentref.coherence import Conflict, MemoryCoordinator
from agentref.errors import InvalidInputError, StorageError, StoreFullError

KEY, OTHER, THIRD = ("proj", "plan"), ("proj", "budget"), ("proj", "votes")


def big(n):
    """Of a size that needs several blobs."""
    return {"n": n, "texts": [f"{n}:{i}" * 200 for i in range(50)]}


def prune(store):
    return store.prune_expired(grace=0)


def pins(store):
    return len(list(store.iter_pins("agentref.coherence/")))


def current_is_there(coordinator, store):
    return [store.load(view.ref) for view in coordinator.keys()]  # noqa: SIM118  (it is no dict)


# Too few


def test_a_prune_between_any_two_steps_takes_nothing_that_is_current(peer, coordinator, watched, store):
    """Lives end at once here, and there is no time of grace: only pins keep what is current."""
    agent, rival = peer("agent", backend=watched), peer("rival")
    states = []

    def sweep(verb):
        time.sleep(0.002)
        prune(store)
        states.append(current_is_there(coordinator, store))

    watched.before = watched.after = sweep
    agent.commit(KEY, big(0), base=None)
    for n in range(1, 40):
        agent.commit(KEY, big(n % 3), base=agent.read(KEY))
        if n % 5 == 0:
            agent.delete(KEY, base=agent.read(KEY))
            agent.commit(KEY, big(n), base=None)
        if n % 7 == 0:
            stale = agent.read(KEY)
            rival.commit(KEY, [n], base=rival.read(KEY))
            with pytest.raises(Conflict):
                agent.commit(KEY, big(-n), base=stale)
        if n % 11 == 0:
            agent.tidy()
            peer("third", backend=watched).tidy()
    agent.close()
    time.sleep(0.01)
    prune(store)
    assert len(states) > 100
    assert agent.value(KEY) == big(0)
    assert current_is_there(coordinator, store) == [big(0)]


@pytest.mark.parametrize("tidy", [False, True])
def test_what_others_followed_stays_for_so_long_however_old_it_is(peer, store, tidy):
    agent = peer("agent", retain_seconds=0.6)
    reader = peer("reader")
    agent.commit(KEY, big(1), base=None)
    view = reader.read(KEY)
    time.sleep(0.9)  # by now its own life is over
    prune(store)
    agent.commit(KEY, big(2), base=agent.read(KEY))
    if tidy:
        peer("other", retain_seconds=0.6).tidy()
    agent.close()
    prune(store)
    assert view.copy() == big(1)
    retained = [pin for pin in store.iter_pins() if "/retired/" in pin.owner]
    assert retained
    assert all(pin.expires_at <= time.time() + 0.7 for pin in retained)
    assert reader.value(KEY) == big(2)


def test_what_others_stored_for_a_moment_stays_as_well(peer, store):
    agent, reader = peer("agent", retain_seconds=100), peer("reader")
    agent.commit_ref(KEY, store.dump(big(1), ttl=0.01), base=None)
    time.sleep(0.02)
    prune(store)
    view = reader.read(KEY)
    agent.commit(KEY, big(2), base=agent.read(KEY))
    agent.close()
    prune(store)
    assert view.value == big(1)


def test_a_tidy_long_ago_makes_no_later_prune_fail(peer, store, coordinator):
    """A peer still knows of an old version that another one let go of: it must not pin what is gone."""
    agent, other = peer("agent", retain_seconds=0.05), peer("other", retain_seconds=0.05)
    agent.commit_many([(KEY, big(1), None), (OTHER, big(11), None)])
    time.sleep(0.1)
    agent.commit_many([(key, big(2), agent.read(key)) for key in (KEY, OTHER)])
    other.tidy()
    time.sleep(0.1)
    prune(store)
    agent.close()
    prune(store)
    assert current_is_there(coordinator, store) == [big(2), big(2)]


# Too many


def test_one_pin_for_what_is_current_when_all_is_done(peer, store, versions_pinned):
    agent = peer("agent")
    agent.commit(KEY, 0, base=None)
    for n in range(1, 101):
        agent.commit(KEY, n, base=agent.read(KEY))
        assert len(versions_pinned(store)) <= 33
    agent.close()
    assert versions_pinned(store) == [101]
    assert pins(store) == 1  # none of the young ones needed to be retained


def test_losers_of_a_race_leave_no_pin_behind_once_it_moves_on(peer, store, versions_pinned):
    agents = [peer(f"a{n}") for n in range(4)]
    agents[0].commit(KEY, [], base=None)
    for n in range(10):
        views = [agent.read(KEY) for agent in agents]
        refused = 0
        for agent, view in zip(agents, views, strict=True):
            try:
                agent.commit(KEY, [n, agent.name], base=view)
            except Conflict:
                refused += 1
        assert refused == 3
    agents[0].commit(KEY, "end", base=agents[0].read(KEY))
    for agent in agents:
        agent.close()
    assert versions_pinned(store) == [12]


def test_a_race_against_a_delete_leaves_no_pin_behind(peer, store, versions_pinned):
    one, two = peer("one"), peer("two")
    one.commit(KEY, 1, base=None)
    base = two.read(KEY)
    one.delete(KEY, base=one.read(KEY))
    with pytest.raises(Conflict, match="deleted"):
        two.commit(KEY, "lost", base=base)
    one.commit(KEY, "again", base=None)
    for each in (one, two):
        each.close()
    assert versions_pinned(store) == [3]


def test_who_is_passed_twice_takes_its_own_pin_away(peer, store, versions_pinned):
    slow, fast = peer("slow"), peer("fast")
    fast.commit(KEY, 0, base=None)
    view = slow.read(KEY)
    for n in (1, 2, 3):
        fast.commit(KEY, n, base=fast.read(KEY))
    fast.close()
    with pytest.raises(Conflict):
        slow.commit(KEY, "late", base=view)
    assert versions_pinned(store) == [2, 4]
    slow.close()
    assert versions_pinned(store) == [4]


def test_a_commit_that_changes_nothing_pins_nothing(peer, watched, versions_pinned):
    agent = peer("agent", backend=watched)
    agent.commit(KEY, [1], base=None)
    watched.calls.clear()
    watched.pinned.clear()
    assert agent.commit(KEY, [1], base=agent.read(KEY)).version == 1
    assert watched.calls == ["store"]
    assert watched.pinned == []
    agent.close()
    assert versions_pinned(watched) == [1]


@pytest.mark.parametrize("crash", ["before store", "after store", "commit", "before unpin"])
def test_what_a_crash_leaves_is_tidied_up_and_nothing_else(  # noqa: PLR0917
    peer, coordinator, watched, store, versions_pinned, crash
):
    class Killed(BaseException):
        pass

    agent, other = peer("agent", backend=watched), peer("other")
    agent.commit_many([(KEY, big(0), None), (OTHER, big(10), None)])
    when, _, verb = crash.partition(" ")

    def die(called):
        if called == verb:
            raise Killed

    if verb:
        setattr(watched, when, die)
        with pytest.raises(Killed):  # noqa: PT012  (in one of the two)
            agent.commit(KEY, big(1), base=agent.read(KEY))
            agent._contents.flush()
    else:
        agent.commit(KEY, big(1), base=agent.read(KEY))
    committed = coordinator.read([KEY])[KEY].version
    watched.before = watched.after = lambda verb: None
    agent._contents._superseded.clear()  # what it knew went with it
    assert other.tidy() == (1 if committed == 2 else 0)
    while other.read(KEY).version < 4:
        other.commit(KEY, big(other.read(KEY).version + 1), base=other.read(KEY))
    other.close()
    assert other.tidy() == 0
    assert versions_pinned(store) == [1, 4]
    prune(store)
    assert current_is_there(coordinator, store) == [big(10), big(4)]


def test_tidy_leaves_alone_what_is_not_its_own(peer, store, coordinator, versions_pinned):
    agent = peer("agent")
    ref = agent.commit(KEY, 1, base=None).ref
    prefix = f"agentref.coherence/{coordinator.coordinator_id}/"
    ours = [f"{prefix}{name}" for name in ("snapshot/1", "x", "y/z", "unknown/5")]
    foreign = ["somebody", "agentref.coherence/another/abc/1", *ours]
    for owner in foreign:
        store.pin(owner, [ref])
    with MemoryCoordinator() as second:
        beside = peer("beside", at=second)
        beside.commit(KEY, 1, base=None)
        assert agent.tidy() == beside.tidy() == 0
    agent.commit(KEY, 2, base=agent.read(KEY))
    assert agent.tidy() == 0  # it has taken away its own before
    assert {pin.owner for pin in store.iter_pins()} >= set(foreign)
    assert versions_pinned(store, second.coordinator_id) == [1]


# A store that fails


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "commit",
    [
        lambda agent, base: agent.commit(KEY, big(1), base=base),
        lambda agent, base: agent.commit_many([(KEY, big(1), base), (OTHER, big(2), None)]),
        lambda agent, base: agent.update(KEY, lambda v: big(1)),
    ],
    ids=["commit", "commit_many", "update"],
)
def test_a_store_that_fails_leaves_everything_as_it_was(  # noqa: PLR0917
    peer, coordinator, watched, store, when, commit
):
    agent = peer("agent", backend=watched)
    base = agent.commit(KEY, big(0), base=None)
    since, rows = coordinator.head(), coordinator.read([KEY, OTHER])

    def fail(called):
        if called == "store":
            raise StoreFullError("no room")

    setattr(watched, when, fail)
    for _ in range(2):
        with pytest.raises(StoreFullError):
            commit(agent, base)
    watched.before = watched.after = lambda verb: None
    assert coordinator.read([KEY, OTHER]) == rows
    assert coordinator.changes(since=since).changes == []
    prune(store)
    assert agent.value(KEY) == big(0)
    commit(agent, agent.read(KEY))
    assert agent.value(KEY) == big(1)


def test_a_store_that_cannot_take_pins_away_takes_no_commit_back(peer, watched, versions_pinned):
    agent = peer("agent", backend=watched)
    agent.commit(KEY, 0, base=None)

    def fail(verb):
        if verb == "unpin":
            raise StorageError("no")

    watched.before = fail
    for n in range(1, 70):
        assert agent.commit(KEY, n, base=agent.read(KEY)).version == n + 1
    agent.close()
    assert len(versions_pinned(watched)) == 70
    watched.before = lambda verb: None
    agent.close()
    assert versions_pinned(watched) == [70]


def test_pins_are_taken_away_in_batches(peer, watched):
    agent = peer("agent", backend=watched)
    agent.commit(KEY, 0, base=None)
    for n in range(1, 65):
        agent.commit(KEY, n, base=agent.read(KEY))
    assert watched.calls.count("unpin") == 2


@pytest.mark.parametrize("bad", [None, "store", object(), dict, 5])
def test_a_backend_must_be_a_store(coordinator, bad):
    with pytest.raises(InvalidInputError, match="backend"):
        coordinator.peer("p", backend=bad)


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "5", None, True])
def test_what_is_retained_is_so_for_some_time(coordinator, store, bad):
    with pytest.raises(InvalidInputError, match="retain_seconds"):
        coordinator.peer("p", backend=store, retain_seconds=bad)


def test_names_of_artifacts_of_any_length_and_kind_can_be_pinned(peer, store, versions_pinned):
    agent = peer("agent")
    keys = [("x" * 1000,), ("a/b", "c"), ("a", "b/c"), ("", "a"), ("a", ""), ("\0", "\n"), ("é" * 300,)]
    for n, key in enumerate(keys):
        agent.commit(key, n, base=None)
    assert [agent.value(key) for key in keys] == list(range(len(keys)))
    assert versions_pinned(store) == [1] * len(keys)
