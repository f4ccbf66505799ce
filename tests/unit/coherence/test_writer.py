"""Commits: what is refused, what is checked before anything is stored, and updates."""

import threading
import time

import pytest

from agentref.coherence import Conflict, LeaseMode, MemoryCoordinator, Put, Reason, Strategy, writer
from agentref.errors import (
    BlobNotFoundError,
    ForeignViewError,
    InvalidInputError,
    InvalidKeyError,
    RetriesExhaustedError,
    StoreUnavailableError,
    UnsupportedTypeError,
)
from agentref.refs import ContentRef, Digest

KEY, OTHER, THIRD = ("proj", "plan"), ("proj", "budget"), ("proj", "votes")
NOWHERE = ContentRef(Digest(bytes(32)), "agr1", 5)


@pytest.fixture
def agent(peer):
    return peer("agent")


@pytest.fixture
def nothing_happens(coordinator, watched):
    """Neither to the rows, nor to the feed, nor to the store."""
    since, keys = coordinator.head(), [KEY, OTHER, THIRD]
    before = []

    def begin():
        before.append(coordinator.read(keys))
        before.append(coordinator.head())
        before.append(sorted(pin.owner for pin in watched.inner.iter_pins()))
        before.append(sorted(watched.inner.iter_hashes()))

    def check():
        assert before == [
            coordinator.read(keys),
            coordinator.head(),
            sorted(pin.owner for pin in watched.inner.iter_pins()),
            sorted(watched.inner.iter_hashes()),
        ]

    assert since == coordinator.head()
    return begin, check


def refused(call, reason):
    with pytest.raises(Conflict) as caught:
        call()
    assert caught.value.reason is reason
    return caught.value


# One


def test_a_commit_follows_what_its_base_shows(agent, peer):
    other = peer("other")
    first = agent.commit(KEY, "A", base=None)
    second = other.commit(KEY, "B", base=first)  # a view of another peer of the same coordinator
    third = agent.commit(KEY, "C", base=second.versioned)
    assert [first.version, second.version, third.version] == [1, 2, 3]
    assert (third.writer, agent.read(KEY), agent.value(KEY)) == ("agent", third, "C")
    error = refused(lambda: other.commit(KEY, "D", base=second), Reason.VERSION_MISMATCH)
    assert error.base == second.versioned
    assert error.current == third.versioned
    refused(lambda: agent.commit(KEY, "D", base=None), Reason.EXISTS)
    assert agent.commit(KEY, "D", base=error.current).version == 4


def test_a_commit_of_what_stands_there_changes_nothing(agent, coordinator):
    view = agent.commit(KEY, [1], base=None)
    since = coordinator.head()
    again = agent.commit(KEY, [1], base=view)
    assert (again.version, again.versioned) == (1, view.versioned)
    assert agent.commit_ref(KEY, view.ref, base=view).version == 1
    assert coordinator.head() == since


def test_versions_go_on_over_a_delete(agent, peer):
    other = peer("other")
    view = agent.commit(KEY, 1, base=None)
    seen = other.read(KEY)
    gone = agent.delete(KEY, base=view)
    assert (gone.version, gone.exists, gone.writer) == (2, False, "agent")
    assert agent.delete(KEY, base=gone).version == 2
    refused(lambda: other.commit(KEY, 2, base=seen), Reason.DELETED)
    assert other.commit(KEY, 1, base=None).version == 3
    refused(lambda: agent.commit(KEY, 2, base=gone), Reason.VERSION_MISMATCH)
    assert agent.commit(KEY, 2, base=agent.read(KEY)).version == 4


def test_content_that_came_back_is_no_base_of_before(agent):
    first = agent.commit(KEY, "A", base=None)
    agent.commit(KEY, "B", base=first)
    third = agent.commit(KEY, "A", base=agent.read(KEY))
    assert third.ref == first.ref
    refused(lambda: agent.commit(KEY, "C", base=first), Reason.VERSION_MISMATCH)
    refused(lambda: agent.gate(first), Reason.VERSION_MISMATCH)


def test_a_commit_rests_on_what_was_read(agent, peer):
    other = peer("other")
    agent.commit_many([(KEY, 1, None), (OTHER, 1, None)])
    read, absent = agent.read(OTHER), agent.read(THIRD)
    assert agent.commit(KEY, 2, base=agent.read(KEY), reads=[read, absent.versioned]).version == 2
    other.commit(THIRD, "there now", base=None)
    error = refused(
        lambda: agent.commit(KEY, 3, base=agent.read(KEY), reads=[read, absent]), Reason.VERSION_MISMATCH
    )
    assert (error.key, error.current.version) == (THIRD, 1)
    assert agent.read(KEY).version == 2


def test_a_ref_that_was_handed_over(agent, peer, store):
    ref = store.dump({"big": "x" * 10_000})
    assert agent.commit_ref(KEY, ref, base=None).value == {"big": "x" * 10_000}
    assert agent.read(KEY).ref == ref


# What is wrong is told before anything happens

WRONG = {
    "no key": (InvalidKeyError, lambda a, v, x: a.commit("plan", 1, base=None)),
    "a list as key": (InvalidKeyError, lambda a, v, x: a.commit(["plan"], 1, base=None)),
    "a base of another key": (ForeignViewError, lambda a, v, x: a.commit(OTHER, 1, base=v)),
    "a base of another coordinator": (ForeignViewError, lambda a, v, x: a.commit(KEY, 1, base=x)),
    "a bare base of another one": (ForeignViewError, lambda a, v, x: a.commit(KEY, 1, base=x.versioned)),
    "a version as base": (InvalidInputError, lambda a, v, x: a.commit(KEY, 1, base=1)),
    "a value as base": (InvalidInputError, lambda a, v, x: a.commit(KEY, 1, base=v.value)),
    "a ref as base": (InvalidInputError, lambda a, v, x: a.commit(KEY, 1, base=v.ref)),
    "a read of another coordinator": (
        ForeignViewError,
        lambda a, v, x: a.commit(KEY, 1, base=v, reads=[x]),
    ),
    "a key as read": (InvalidInputError, lambda a, v, x: a.commit(KEY, 1, base=v, reads=[KEY])),
    "a fence as lease": (InvalidInputError, lambda a, v, x: a.commit(KEY, 1, base=v, lease=7)),
    "a lease on another key": (
        ForeignViewError,
        lambda a, v, x: a.commit(
            KEY, 1, base=v, lease=a.coordinator.acquire(("z",), holder="agent", ttl=9)
        ),
    ),
    "a lease of no block": (
        InvalidInputError,
        lambda a, v, x: a.commit(KEY, 1, base=v, lease=a.lease(KEY, ttl=9)),
    ),
    "no value": (UnsupportedTypeError, lambda a, v, x: a.commit(KEY, {"deep": [object()]}, base=v)),
    "a view as value": (UnsupportedTypeError, lambda a, v, x: a.commit(KEY, v, base=v)),
    "one bad value of two": (
        UnsupportedTypeError,
        lambda a, v, x: a.commit_many([(OTHER, 1, None), (KEY, object(), v)]),
    ),
    "one bad key of two": (
        InvalidKeyError,
        lambda a, v, x: a.commit_many([(OTHER, 1, None), ((), 1, None)]),
    ),
    "a key twice": (
        InvalidInputError,
        lambda a, v, x: a.commit_many([(KEY, 1, v), (OTHER, 1, None), (KEY, 2, v)]),
    ),
    "a write of two": (InvalidInputError, lambda a, v, x: a.commit_many([(KEY, 1)])),
    "a write of nothing": (InvalidInputError, lambda a, v, x: a.commit_many([None])),
    "a ref that is nowhere": (BlobNotFoundError, lambda a, v, x: a.commit_ref(KEY, NOWHERE, base=v)),
    "a new ref that is nowhere": (
        BlobNotFoundError,
        lambda a, v, x: a.commit_ref(OTHER, NOWHERE, base=None),
    ),
    "a text as ref": (InvalidInputError, lambda a, v, x: a.commit_ref(KEY, str(v.ref), base=v)),
    "nothing as ref": (InvalidInputError, lambda a, v, x: a.commit_ref(KEY, None, base=v)),
    "a delete of another key": (ForeignViewError, lambda a, v, x: a.delete(OTHER, base=v)),
    "an update of nothing": (BlobNotFoundError, lambda a, v, x: a.update(OTHER, lambda n: n + 1)),
    "an update of no key": (InvalidKeyError, lambda a, v, x: a.update(["plan"], lambda n: n)),
    "an update without time": (InvalidInputError, lambda a, v, x: a.update(KEY, lambda n: n, timeout=-1)),
    "an update for ever": (
        InvalidInputError,
        lambda a, v, x: a.update(KEY, lambda n: n, timeout=float("inf")),
    ),
    "an update to no value": (UnsupportedTypeError, lambda a, v, x: a.update(KEY, lambda n: object())),
    "an update by no function": (InvalidInputError, lambda a, v, x: a.update(KEY, None)),
    "a lease on no key": (InvalidKeyError, lambda a, v, x: a.lease(["plan"], ttl=9)),
    "a lease without time": (InvalidInputError, lambda a, v, x: a.lease(KEY, ttl=-1)),
    "a lease of some mode": (InvalidInputError, lambda a, v, x: a.lease(KEY, ttl=1, mode="write")),
    "a lease that waits back": (InvalidInputError, lambda a, v, x: a.lease(KEY, ttl=1, wait=-1)),
    "a gate for a key": (InvalidInputError, lambda a, v, x: a.gate(KEY)),
    "a gate for another coordinator's": (ForeignViewError, lambda a, v, x: a.gate(x)),
    "a read of no key": (InvalidKeyError, lambda a, v, x: a.read(["plan"])),
    "a read of a text": (InvalidKeyError, lambda a, v, x: a.read("plan")),
    "a read of no keys": (InvalidKeyError, lambda a, v, x: a.read_many([KEY, ["plan"]])),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_and_nothing_happens(peer, watched, nothing_happens, what):
    begin, check = nothing_happens
    agent = peer("agent", backend=watched)
    view = agent.commit(KEY, [1], base=None)
    kind, wrong = WRONG[what]
    with MemoryCoordinator() as second:
        foreign = peer("agent", at=second).commit(KEY, [1], base=None)
        begin()
        with pytest.raises(kind):
            wrong(agent, view, foreign)
        check()
    assert agent.value(KEY) == [1]
    assert agent.commit(KEY, 2, base=view).version == 2


def test_an_unsupported_value_is_named(agent):
    class Plan:
        pass

    with pytest.raises(UnsupportedTypeError, match="Plan"):
        agent.commit(KEY, {"plans": [Plan()]}, base=None)


# Many


def test_many_are_one_entry_of_the_feed(agent, coordinator):
    since = coordinator.head()
    views = agent.commit_many([Put(KEY, 1, None), (OTHER, 2, None)])
    assert [(view.key, view.value) for view in views] == [(KEY, 1), (OTHER, 2)]
    changes = coordinator.changes(since=since).changes
    assert len({change.cursor for change in changes}) == 1 and len(changes) == 2
    assert agent.commit_many([]) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_many_are_all_or_nothing(agent, peer, coordinator, place):
    keys = [KEY, OTHER, THIRD]
    agent.commit_many([(key, 0, None) for key in keys])
    views = agent.read_many(keys)
    peer("other").commit(keys[place], "moved", base=views[keys[place]])
    since = coordinator.head()
    error = refused(lambda: agent.commit_many([(k, 1, views[k]) for k in keys]), Reason.VERSION_MISMATCH)
    assert error.key == keys[place]
    assert coordinator.changes(since=since).changes == []
    assert [agent.value(key) for key in keys] == ["moved" if n == place else 0 for n in range(3)]


# When the coordinator is gone


def test_a_closed_coordinator_is_told_and_the_contents_stay(store):
    coordinator = MemoryCoordinator()
    agent = coordinator.peer("agent", backend=store)
    view = agent.commit(KEY, [1], base=None)
    coordinator.close()
    for call in (
        lambda: agent.commit(KEY, 2, base=view),
        lambda: agent.update(KEY, lambda n: n),
        lambda: agent.read_many([KEY]),
        lambda: list(agent.changes()),
        agent.tidy,
        agent.recover,
    ):
        with pytest.raises(StoreUnavailableError):
            call()
    agent.close()
    assert view.value == [1]


# Updates


def test_threads_lose_no_increment(peer, together):
    agents = [
        peer(f"a{n}", strategy=s) for n, s in enumerate(["lazy", "eager", Strategy.lease(0.05), "lazy"])
    ]
    agents[0].commit(KEY, 0, base=None)

    def work(agent):
        for _ in range(15):
            agent.update(KEY, lambda n: n + 1)

    together(*[lambda agent=agent: work(agent) for agent in agents for _ in range(2)])
    assert agents[0].value(KEY) == 8 * 15
    assert agents[0].read(KEY).version == 8 * 15 + 1


def test_threads_of_one_peer_that_holds_lose_no_increment(peer, together):
    agent = peer("agent", strategy=Strategy.lease(600))
    agent.commit(KEY, 0, base=None)

    def work():
        for _ in range(20):
            agent.update(KEY, lambda n: n + 1)
            agent.read(KEY)

    together(*[work] * 4)
    assert agent.value(KEY) == 80


def test_a_commit_by_hand_meets_no_hold_of_its_own_peer(peer, together):
    """Threads of one peer read under holds that come and go, and one of them commits."""
    agent = peer("agent", strategy=Strategy.access_count(3, ttl=600))
    agent.commit(KEY, 0, base=None)
    done = threading.Event()

    def read():
        while not done.is_set():
            agent.read(KEY)
            agent.read_many([KEY, OTHER])

    def commit():
        try:
            for n in range(1, 300):
                agent.gate(agent.read(KEY))
                agent.commit(KEY, n, base=agent.read(KEY))
        finally:
            done.set()

    together(read, read, commit)
    assert agent.value(KEY) == 299


def test_a_start_is_as_good_as_new_each_time(agent, coordinator):
    initial = []
    lease = coordinator.acquire(KEY, holder="x", ttl=1000)
    calls = []

    def append(value):
        calls.append(list(value))
        if len(calls) == 1:  # refused, and once more under a lease of its own
            threading.Timer(0.05, coordinator.release, [lease]).start()
        value.append("me")
        return value

    assert agent.update(KEY, append, initial=initial).value == ["me"]
    assert calls == [[], []]
    assert initial == []


def test_the_errors_of_a_function_are_its_callers(agent, coordinator):
    agent.commit_many([(KEY, 1, None), (OTHER, 1, None)])
    stale = agent.read(OTHER)
    agent.commit(OTHER, 2, base=stale)
    calls = []

    def fail(error):
        calls.append(error)
        raise error

    for error in (ValueError("no"), KeyboardInterrupt(), TimeoutError()):
        with pytest.raises(type(error)):
            agent.update(KEY, lambda _, error=error: fail(error))
    assert len(calls) == 3

    def commit_elsewhere(value):
        calls.append(value)
        agent.commit(OTHER, value, base=stale)

    with pytest.raises(Conflict) as refusal:
        agent.update(KEY, commit_elsewhere, timeout=5)
    assert refusal.value.key == OTHER
    assert len(calls) == 4
    assert coordinator.table.turn(b"proj\xffplan\xff", timeout=0) is not None  # nobody's turn any more


def test_updates_within_updates_of_other_keys(peer, together):
    one, two = peer("one"), peer("two")
    one.commit_many([(KEY, 0, None), (OTHER, 0, None)])

    def cross(agent, outer, inner):
        def change(value):
            agent.update(inner, lambda n: n + 1)
            return value + 1

        for _ in range(3):
            agent.update(outer, change)

    one.commit(THIRD, 0, base=None)
    together(lambda: cross(one, KEY, OTHER), lambda: cross(two, OTHER, THIRD))
    assert one.value(KEY) == 3
    assert one.value(OTHER) >= 6  # the inner ones stand, though an outer one was done again


def test_a_function_that_commits_the_key_itself_loses_to_itself_and_tries_again(agent, monkeypatch):
    monkeypatch.setattr(writer, "TURN_SECONDS", 0.05)
    agent.commit(KEY, 0, base=None)
    calls = []

    def once(value):
        calls.append(value)
        if len(calls) == 1:
            agent.commit(KEY, 100, base=agent.read(KEY))
        return value + 1

    assert agent.update(KEY, once).value == 101
    assert calls == [0, 100]

    def always(value):
        agent.update(KEY, lambda n: n + 1)
        return value + 1

    with pytest.raises(RetriesExhaustedError, match=r"proj/plan.*0\.2 seconds"):
        agent.update(KEY, always, timeout=0.2)


@pytest.mark.parametrize("mode", LeaseMode)
def test_who_never_gets_through_is_told(agent, coordinator, mode):
    agent.commit(KEY, 0, base=None)
    coordinator.acquire(KEY, holder="x", ttl=1000, mode=mode)
    with pytest.raises(RetriesExhaustedError):
        agent.update(KEY, lambda n: n + 1, timeout=0.1)
    with pytest.raises(RetriesExhaustedError):
        agent.update(KEY, lambda n: n + 1, timeout=0)
    assert agent.value(KEY) == 0
    assert isinstance(RetriesExhaustedError("x"), TimeoutError)


def test_a_slow_function_keeps_its_lease_beside_readers_that_hold(peer, monkeypatch, coordinator):
    """It takes longer than the lease that it needs to get through: that is renewed."""
    monkeypatch.setattr(writer, "WRITE_LEASE", 0.3)
    agent, reader = peer("agent"), peer("reader", strategy=Strategy.lease(0.2))
    agent.commit(KEY, 0, base=None)
    done, calls = threading.Event(), []

    def keep_reading():
        while not done.is_set():
            reader.read(KEY)
            done.wait(0.001)

    def slow(value):
        calls.append(value)
        time.sleep(0.8)
        return value + 1

    thread = threading.Thread(target=keep_reading, daemon=True)
    thread.start()
    try:
        assert agent.update(KEY, slow, timeout=20).value == 1
    finally:
        done.set()
        thread.join(20)
    assert len(calls) <= 3
    assert all(lease.mode is LeaseMode.SHARED for lease in coordinator.leases(KEY))


def test_an_update_within_ones_own_lease(agent, coordinator):
    agent.commit(KEY, 0, base=None)
    with agent.lease(KEY, ttl=1000):
        assert agent.update(KEY, lambda n: n + 1).value == 1
        coordinator.recover("agent")
        refused(lambda: agent.update(KEY, lambda n: n + 1), Reason.LEASE_LOST)
    assert agent.value(KEY) == 1
