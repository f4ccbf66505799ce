"""Whatever the strategy: what is shown is a base."""

import random
import threading

import pytest

from agentref.coherence import Conflict, Reason, Strategy
from agentref.coherence.strategies import Strategies
from agentref.errors import InvalidInputError, InvalidKeyError
from agentref.storage import InMemoryCAS

KEY, OTHER = ("proj", "plan"), ("proj", "budget")
ALL = [
    Strategy.lazy(),
    Strategy.eager(),
    Strategy.broadcast(),
    Strategy.lease(10),
    Strategy.access_count(7, ttl=10),
]
HOLDING = ALL[3:]
every = pytest.mark.parametrize("strategy", ALL, ids=lambda each: each.name)
holding = pytest.mark.parametrize("strategy", HOLDING, ids=lambda each: each.name)


class World:
    """A reader with some strategy, and a writer, beside a clock."""

    def __init__(self, coordinator, clock, strategy):
        self.coordinator, self.clock = coordinator, clock
        self.cas = InMemoryCAS()
        self.reader = coordinator.peer("reader", backend=self.cas, strategy=strategy)
        self.writer = coordinator.peer("writer", backend=self.cas)

    def put(self, value):
        view = self.writer.read(KEY)
        return self.writer.commit(KEY, value, base=view if view.exists else None)

    def delete(self):
        self.writer.delete(KEY, base=self.writer.read(KEY))

    def sleep(self, seconds=1000.0):
        self.clock.now += seconds

    def other(self, ttl=10):
        return self.coordinator.acquire(KEY, holder="other", ttl=ttl)

    def check(self):
        """What the reader is shown can be a base at this moment, by the coordinator's own word."""
        shown = self.reader.read(KEY)
        try:
            self.reader.gate(shown)
        except Conflict as error:
            assert error.reason is Reason.HELD_BY_OTHER  # noqa: PT017  (it need not be refused)
            assert error.holder != "reader"  # noqa: PT017
        assert shown.versioned == self.coordinator.read([KEY])[KEY]
        if shown.exists:
            assert shown.value == self.cas.load(shown.ref)
        return shown


@pytest.fixture
def world(clocked, clock, strategy):
    world = World(clocked, clock, strategy)
    yield world
    world.reader.close()


EVENTS = {
    "a commit": lambda w: w.put("B"),
    "content that went and came back": lambda w: (w.put("B"), w.put("A")),
    "a delete": lambda w: w.delete(),
    "a delete, and the same again": lambda w: (w.delete(), w.put("A")),
    "a lease that is released": lambda w: w.coordinator.release(w.other()),
    "a lease that has expired": lambda w: (w.other(), w.sleep(10)),
    "a lease that has expired, and was swept": lambda w: (w.other(), w.sleep(10), w.coordinator.sweep()),
    "a lease that was taken away": lambda w: (w.other(), w.coordinator.recover("other")),
    "a lease that lives": lambda w: w.other(),
    "two leases, one after the other": lambda w: (w.other(), w.sleep(10), w.other(), w.sleep(9.99)),
    "a clock set forward": lambda w: (w.other(), w.sleep(1e6)),
    "a clock set back": lambda w: (w.other(), w.reader.read(KEY), w.sleep(-1e5)),
    "a commit, and a clock set forward": lambda w: (w.put("B"), w.sleep(1e6)),
}


@every
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("active", [False, True], ids=["idle", "active"])
def test_who_comes_back_past_its_reclaim_is_shown_a_base(world, event, active):
    world.put("A")
    world.reader.read(KEY)
    world.sleep(5 if active else 1000)
    if active:
        world.check()
        world.sleep(8)  # by now what was held from the first read on has ended, whatever was read since
    EVENTS[event](world)
    shown = world.check()
    world.sleep()
    world.check()
    after = world.reader.read(KEY)
    assert world.reader.commit(KEY, "mine", base=after).version == shown.version + 1
    assert world.check().value == "mine"


@every
def test_what_others_take_away_from_a_reader_that_lives_makes_nothing_stale(world):
    """Another process of the same agent starts, and recovers; the first one lives on."""
    world.put("A")
    world.check()
    world.coordinator.recover("reader")
    try:
        world.put("B")
    except Conflict as error:
        assert error.reason is Reason.HELD_BY_OTHER  # noqa: PT017  (it need not be refused)
    world.check()
    world.sleep(10)
    world.put("C")
    assert world.check().value == "C"


@every
def test_a_peer_that_recovers_keeps_nobody_out(world):
    world.put("A")
    world.check()
    world.reader.recover()
    world.put("B")
    assert world.check().value == "B"


@every
@pytest.mark.parametrize("seed", range(4))
def test_a_walk_at_random(clocked, clock, strategy, seed):  # noqa: C901
    """Everything there is, in any order: no peer is ever shown what is no base."""
    draw = random.Random(seed)
    cas = InMemoryCAS()
    peers = [
        clocked.peer(f"p{n}", backend=cas, strategy=s) for n, s in enumerate([strategy, strategy, "lazy"])
    ]
    keys = [KEY, OTHER]
    blocks = {}

    def commit(peer, key):
        view = peer.read(key)
        peer.commit(key, draw.randrange(3), base=view if draw.random() < 0.9 or view.exists else None)

    def leave(peer, key):
        if block := blocks.pop((peer.name, key), None):
            block.__exit__(None, None, None)

    def lease(peer, key):
        if (peer.name, key) not in blocks:
            # A heart that beats once an hour: the clock is what it may run out by.
            block = peer.lease(key, ttl=10_000, mode=draw.choice(["shared", "exclusive"]))
            block.__enter__()
            blocks[peer.name, key] = block

    def take(peer, key):
        clocked.acquire(key, holder=draw.choice([peer.name, "x"]), ttl=draw.choice([5, 15]))

    steps = [
        commit, commit, commit, leave, lease, take,
        lambda peer, key: peer.read(key),
        lambda peer, key: peer.read_many(keys),
        lambda peer, key: peer.snapshot(keys).close(),
        lambda peer, key: peer.delete(key, base=peer.read(key)),
        lambda peer, key: peer.commit_many([(k, draw.randrange(3), peer.read(k)) for k in keys]),
        lambda peer, key: peer.update(key, lambda n: n + 1, initial=0, timeout=0),
        lambda peer, key: clocked.recover(draw.choice([peer.name, "x"])),
        lambda peer, key: clocked.sweep(),
        lambda peer, key: setattr(clock, "now", clock.now + draw.choice([0.5, 4, 9.5, 11, 40, 1e5])),
    ]  # fmt: skip
    happened = set()
    for _ in range(250):
        step, peer, key = draw.choice(steps), draw.choice(peers), draw.choice(keys)
        try:
            step(peer, key)
        except Conflict as error:
            happened.add(error.reason)
        except TimeoutError:
            happened.add("exhausted")
        for each in peers:
            for k in draw.sample(keys, draw.randrange(3)):
                shown = each.read(k)
                assert shown.versioned == clocked.read([k])[k]
                if shown.exists:
                    assert shown.value == cas.load(shown.ref)
                try:
                    each.gate(shown)
                except Conflict as error:
                    assert error.reason in {Reason.HELD_BY_OTHER, Reason.LEASE_LOST}  # noqa: PT017
                    if error.reason is Reason.LEASE_LOST:
                        assert (each.name, k) in blocks
    assert len(happened) >= 2
    for peer in peers:
        peer.close()


# What the last two cost others


@holding
def test_nobody_commits_what_is_held(world):
    world.put("A")
    view = world.reader.read(KEY)
    for _ in range(3):
        with pytest.raises(Conflict) as refused:
            world.put("B")
        assert (refused.value.reason, refused.value.holder) == (Reason.HELD_BY_OTHER, "reader")
        assert world.reader.read(KEY) is view
    world.sleep(10)
    world.put("B")
    assert world.check().value == "B"


@holding
def test_what_is_held_is_read_without_a_question(world, monkeypatch):
    world.put("A")
    view = world.reader.read(KEY)
    table = world.coordinator.table

    def asked(*_, **__):
        raise AssertionError("it asked")

    for verb in ("probe", "load", "transact"):
        monkeypatch.setattr(table, verb, asked)
    assert world.reader.read(KEY) is view
    world.sleep(9.5)  # nearly over: clocks differ
    with pytest.raises(AssertionError, match="asked"):
        world.reader.read(KEY)


@holding
@pytest.mark.parametrize("before", ["commit", "read_many"])
def test_a_read_takes_its_hold_whatever_it_was_shown_before(world, before):
    world.put("A")
    if before == "commit":
        world.reader.commit(KEY, "mine", base=world.reader.read_many([KEY])[KEY])
    world.reader.read_many([KEY])
    assert world.coordinator.leases(KEY) == []
    world.reader.read(KEY)
    assert [lease.holder for lease in world.coordinator.leases(KEY)] == ["reader"]
    world.reader.read_many([KEY])
    world.reader.commit(KEY, "again", base=world.reader.read(KEY))
    assert [lease.holder for lease in world.coordinator.leases(KEY)] == ["reader"]


@holding
@pytest.mark.parametrize("end", ["close", "recover", "own lease"])
def test_a_hold_is_given_back(world, end):
    world.put("A")
    world.reader.read(KEY)
    match end:
        case "close":
            world.reader.close()
            world.reader.close()
        case "recover":
            world.reader.recover()
        case "own lease":
            with world.reader.lease(KEY, ttl=1000):
                world.reader.read(KEY)
    assert world.coordinator.leases(KEY) == []
    assert world.put("B").version == 2


@pytest.mark.parametrize("reads", [1, 2, 3, 10])
def test_a_hold_ends_with_the_last_of_its_reads(clocked, clock, reads):
    world = World(clocked, clock, Strategy.access_count(reads, ttl=1000))
    world.put("A")
    for number in range(1, reads + 1):
        world.reader.read(KEY)
        assert bool(world.coordinator.leases(KEY)) is (number < reads)
    world.put("B")
    assert world.reader.read(KEY).version == 2


@holding
def test_a_reader_that_cannot_hold_reads_as_lazy_does(world):
    world.put("A")
    lease = world.other(ttl=1000)
    assert world.check().version == 1
    assert world.check().version == 1
    base = world.writer.read(KEY)
    world.writer.commit(KEY, "B", base=base, lease=lease)
    assert world.check().value == "B"


@holding
def test_a_holder_commits_and_passes_its_own_gate(world):
    world.put("A")
    view = world.reader.read(KEY)
    world.reader.gate(view)
    world.reader.commit(KEY, "B", base=view)
    assert world.reader.read(KEY).value == "B"
    world.reader.update(KEY, str.lower)
    world.reader.delete(KEY, base=world.reader.read(KEY))
    world.reader.read(KEY)
    assert world.reader.commit(KEY, "C", base=None).version == 5
    world.reader.gate(world.reader.read(KEY))


@holding
def test_a_hold_that_ran_out_is_no_reason_to_refuse(world):
    world.put("A")
    view = world.reader.read(KEY)
    world.sleep(11)
    world.reader.gate(view)
    assert world.reader.commit(KEY, "B", base=view).version == 2
    view = world.reader.read(KEY)
    world.sleep(11)
    assert world.reader.commit(KEY, "C", base=view).version == 3


def test_an_update_gets_through_beside_readers_that_hold_all_the_time(coordinator, store, peer):
    writer = peer("writer")
    writer.commit(KEY, 0, base=None)
    readers = [peer(f"r{n}", strategy=Strategy.lease(0.1)) for n in range(3)]
    done = threading.Event()
    backwards = []

    def keep_reading(reader):
        last = 0
        while not done.is_set():
            view = reader.read(KEY)
            if view.version < last:
                backwards.append((last, view.version))
            last = view.version
            done.wait(0.001)

    threads = [threading.Thread(target=keep_reading, args=(reader,), daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        for n in range(5):
            assert writer.update(KEY, lambda v: v + 1).value == n + 1
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert not backwards


@pytest.mark.parametrize("seconds", [0.3])
def test_an_update_gets_through_beside_readers_of_its_own_peer(coordinator, store, peer, seconds):
    """A thread of the peer reads all the time under a long hold, which must not keep the other one out."""
    other, both = (
        peer("other", strategy=Strategy.lease(seconds)),
        peer("both", strategy=Strategy.lease(600)),
    )
    both.commit(KEY, 0, base=None)
    done = threading.Event()

    def keep_reading():
        while not done.is_set():
            both.read(KEY)

    thread = threading.Thread(target=keep_reading, daemon=True)
    thread.start()
    try:
        for n in range(3):
            other.read(KEY)
            assert both.update(KEY, lambda v: v + 1, timeout=20).value == n + 1
    finally:
        done.set()
        thread.join(20)


@holding
def test_threads_that_read_leave_no_hold_behind(clocked, clock, strategy, together):
    world = World(clocked, clock, strategy)
    world.put("A")
    for _ in range(20):
        together(*[lambda: [world.reader.read(KEY) for _ in range(2)]] * 4)
        assert len(world.coordinator.leases(KEY)) <= 1
        view = world.reader.read(KEY)
        world.reader.commit(KEY, view.version, base=view)
    world.reader.close()
    assert world.coordinator.leases(KEY) == []


# Fetching ahead


@pytest.mark.parametrize(("strategy", "unread"), [("eager", False), ("broadcast", True)])
def test_what_moves_is_fetched_before_it_is_asked_for(peer, eventually, strategy, unread):
    writer, reader = peer("writer"), peer("reader", strategy=strategy)
    writer.commit(KEY, [1], base=None)
    reader.read(KEY)
    writer.commit(KEY, [2], base=writer.read(KEY))
    writer.commit(OTHER, [3], base=None)
    eventually(lambda: reader.read(KEY).is_loaded)
    assert reader.read(KEY).value == [2]
    if unread:
        eventually(lambda: reader.read(OTHER).is_loaded)
    else:
        assert not reader.read(OTHER).is_loaded


def test_a_content_that_cannot_be_fetched_ahead_fails_when_it_is_read(peer, watched, eventually):
    writer, reader = peer("writer"), peer("reader", backend=watched, strategy="broadcast")

    def fail(verb):
        if verb == "load":
            raise OSError("no disk")

    watched.before = fail
    writer.commit(KEY, [1], base=None)
    eventually(lambda: "load" in watched.calls)
    with pytest.raises(OSError, match="no disk"):
        reader.value(KEY)
    watched.before = lambda verb: None
    writer.commit(OTHER, [2], base=None)
    eventually(lambda: reader.read(OTHER).is_loaded)
    assert reader.value(KEY) == [1]


# Which one


def test_the_longest_beginning_counts():
    chosen = Strategies("lazy", {("a",): "eager", ("a", "b"): Strategy.lease(5), ("a", "b", "c"): "lazy"})
    names = {
        ("x",): "lazy", ("ab",): "lazy", ("a",): "eager", ("a", "x"): "eager", ("a", "b"): "lease",
        ("a", "b", "x"): "lease", ("a", "b", "c"): "lazy", ("a", "b", "c", "d"): "lazy",
    }  # fmt: skip
    assert {key: chosen.of(key).name for key in names} == names


@pytest.mark.parametrize("bad", ["Lazy", "", None, 3, "of", "NAMES", "lease(5)", b"lazy", Strategy])
def test_what_is_no_strategy_is_refused(bad, coordinator, store):
    for options in ({"strategy": bad}, {"strategies": {KEY: bad}}):
        with pytest.raises(InvalidInputError, match="strategy must be"):
            coordinator.peer("p", backend=store, **options)


@pytest.mark.parametrize(
    "make",
    [
        Strategy.lease,
        lambda bad: Strategy.access_count(5, ttl=bad),
        lambda bad: Strategy.lease(ttl=bad),
    ],
)
@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "5", None, True, 10**400])
def test_what_is_no_time_is_refused(make, bad):
    with pytest.raises(InvalidInputError, match="ttl"):
        make(bad)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, None, 2**31])
def test_what_is_no_count_is_refused(bad):
    with pytest.raises(InvalidInputError):
        Strategy.access_count(bad)


def test_a_prefix_must_be_a_key(coordinator, store):
    with pytest.raises(InvalidKeyError):
        coordinator.peer("p", backend=store, strategies={(): "lazy"})
