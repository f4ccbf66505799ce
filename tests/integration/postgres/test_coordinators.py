"""Coordinators in PostgreSQL: the caller's transactions, the server's clock, a feed under slow commits."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import chain

import psycopg
import pytest

from agentref.coherence import Conflict, Reason, Write
from agentref.coherence.postgres import PostgresCoordinator
from agentref.errors import ConfigurationError, CursorTooOldError
from agentref.postgres.clock import Clock, elapsed
from agentref.storage import PostgresCAS
from tests.integration.postgres.coordinating import (
    KEY,
    Child,
    children_end,
    content,
    follow,
    increment,
    put,
    see,
)

__all__ = ["children_end"]


@pytest.fixture
def coordinator(dsn):
    with PostgresCoordinator(dsn) as coordinator:
        yield coordinator


@pytest.fixture
def connection(dsn):
    with psycopg.connect(dsn) as connection:
        yield connection
        connection.rollback()


def refused(verb):
    with pytest.raises(Conflict) as caught:
        verb()
    return caught.value.reason


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_content_and_its_version_are_there_together_or_not_at_all(dsn, coordinator, connection, end):
    since = coordinator.head()
    joined, cas = PostgresCoordinator(connection=connection), PostgresCAS(connection=connection)
    ref = cas.dump({"plan": "b" * 1000})
    joined.commit([Write(KEY, ref), Write(("other",), ref)], agent="a")
    assert see(joined).ref == ref
    assert not see(coordinator).exists
    assert coordinator.changes(since=since).changes == []
    getattr(connection, end)()
    with PostgresCAS(dsn) as outside:
        if end == "commit":
            assert outside.load(see(coordinator).ref) == {"plan": "b" * 1000}
            assert len(coordinator.changes(since=since).changes) == 2
        else:
            assert not outside.exists(ref.hash)
            assert see(coordinator).version == 0
            assert coordinator.changes(since=since).changes == []
            assert increment(joined) == 1


def test_what_was_rolled_back_takes_no_content_with_it(dsn, coordinator, connection):
    """The pin of a version goes when another one follows it; if that is rolled back, it never did."""
    with PostgresCAS(dsn) as cas, coordinator.peer("reads", backend=cas) as peer:
        view = peer.commit(KEY, "current", base=None)
        joined = PostgresCoordinator(connection=connection)
        with joined.peer("joined", backend=PostgresCAS(connection=connection)) as writes:
            for number in range(40):
                writes.commit(KEY, number, base=view)
                connection.rollback()
        connection.rollback()
        owners = {pin.owner.rsplit("/", 1)[1] for pin in cas.iter_pins("agentref.coherence/")}
        assert owners == {"1"}
        assert peer.read(KEY).copy() == "current"


def test_a_hold_that_was_rolled_back_is_not_believed_in(dsn, coordinator, connection):
    with PostgresCAS(dsn) as cas, coordinator.peer("other", backend=cas) as other:
        other.commit(KEY, 1, base=None)
        joined = PostgresCoordinator(connection=connection)
        reads = joined.peer("reads", backend=PostgresCAS(connection=connection), strategy="lease")
        assert reads.value(KEY) == 1
        connection.rollback()
        other.commit(KEY, 2, base=other.read(KEY))
        assert reads.value(KEY) == 2
        connection.rollback()


def test_what_was_rolled_back_fools_nobody(dsn, coordinator, connection):
    """Neither who wrote it nor who follows, though the version that comes instead has the same number."""
    first = put(coordinator, 1)
    joined = PostgresCoordinator(connection=connection)
    with PostgresCAS(dsn) as cas:
        peer = coordinator.peer("reads", backend=cas)
        writes = coordinator.peer("writes", backend=cas)
        writes.commit(("shared",), "old", base=None)
        assert peer.read(("shared",)).value == "old"
        base = see(joined, ("shared",))
        lost = put(joined, 50, base, key=("shared",))
        mine = put(joined, 2, first)
        assert peer.read(("shared",)).value == "old"
        connection.rollback()
        view = peer.read(("shared",))
        writes.commit(("shared",), "new", base=view)
        assert peer.read(("shared",)).value == "new"
        assert see(coordinator, ("shared",)).version == lost.version
    theirs = put(coordinator, 3, first)
    assert (theirs.version, mine.version) == (2, 2)
    assert refused(lambda: put(joined, 4, mine)) is Reason.CONTENT_MISMATCH
    assert put(joined, 5, theirs).version == 3


def test_a_transaction_that_has_written_does_not_read_the_feed(coordinator, connection):
    assert coordinator.changes(since=coordinator.head()).changes == []
    joined = PostgresCoordinator(connection=connection)
    since = joined.head()
    put(joined, 1)
    for verb in (joined.head, lambda: joined.changes(since=since), lambda: joined.wait(since, timeout=0)):
        with pytest.raises(ConfigurationError, match="coordinator of its own"):
            verb()
    connection.commit()
    assert [change.version for change in joined.changes(since=since).changes] == [1]


def test_a_snapshot_that_does_not_move_is_refused(connection):
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with pytest.raises(ConfigurationError, match="READ COMMITTED"):
        put(PostgresCoordinator(connection=connection), 1)


@pytest.mark.parametrize("many", [False, True])
def test_who_is_late_is_refused_though_nobody_touched_the_row(dsn, coordinator, connection, many):
    view = put(coordinator, 1)
    lease = coordinator.acquire(KEY, holder="a", ttl=0.5)
    writes = [Write(KEY, content(2), view, lease), *([Write(("more",), content(2))] if many else [])]
    outcome = []
    connection.execute("SELECT FROM agentref_artifact FOR UPDATE")  # he decides, and then has to wait
    late = threading.Thread(
        target=lambda: outcome.append(refused(lambda: coordinator.commit(writes, agent="a")))
    )
    late.start()
    with PostgresCoordinator(dsn) as other:
        while other.table.clock() <= lease.until:
            time.sleep(0.02)
    connection.rollback()
    late.join()
    assert outcome == [Reason.LEASE_LOST]
    assert see(coordinator).version == 1
    assert not see(coordinator, ("more",)).exists


@pytest.mark.parametrize("off", [-7.0, 7.0])
def test_a_clock_that_is_off_by_seconds_breaks_no_lease(dsn, coordinator, off):
    view = put(coordinator, 1)
    wrong = PostgresCoordinator(dsn)
    real = wrong.table.clock()

    def lead_astray():
        real = coordinator.table.clock()
        wrong.table._clock = Clock(real + off, time.time(), elapsed())

    see(wrong)
    lead_astray()
    lease = wrong.acquire(KEY, holder="wrong", ttl=1.5)
    assert real <= lease.until - 1.5 <= coordinator.table.clock() + 0.2
    assert refused(lambda: coordinator.acquire(KEY, holder="b", ttl=1)) is Reason.HELD_BY_OTHER
    assert refused(lambda: put(coordinator, 2, view)) is Reason.HELD_BY_OTHER
    lead_astray()
    assert put(wrong, 3, view, lease=lease).version == 2
    mine = see(coordinator)
    while coordinator.table.clock() <= lease.until:
        time.sleep(0.02)
    lead_astray()
    assert refused(lambda: put(wrong, 4, mine, lease=lease)) in {Reason.LEASE_LOST, Reason.STALE_EPOCH}
    assert coordinator.acquire(KEY, holder="b", ttl=60).fence > lease.fence
    wrong.close()


def write_slowly(dsn, number, keys, done):
    """Transactions that begin early and end late, are rolled back, or write twice."""
    chance = random.Random(number)
    with psycopg.connect(dsn) as connection:
        joined = PostgresCoordinator(connection=connection)
        for _ in range(25):
            mode = chance.random()
            if mode < 0.3:
                connection.execute("SELECT pg_current_xact_id()")  # a number drawn long before the change
                time.sleep(0.1 * chance.random())
            chosen = sorted(chance.sample(keys, 1 if mode > 0.15 else 2))
            mine = [(key, increment(joined, key)) for key in chosen]
            if mode > 0.9:
                time.sleep(0.1 * chance.random())
            if 0.6 < mode < 0.7:
                connection.rollback()
            else:
                connection.commit()
                done += mine


def read_all(dsn, since, way, stop):
    limit, pause, seen = way
    with PostgresCoordinator(dsn) as reader:
        last = False
        while not last:
            last = stop.is_set()
            page, since = follow(reader, since, limit)
            seen += page
            time.sleep(pause)


def test_each_reader_sees_each_change_once_though_commits_are_slow(dsn, coordinator):
    since, stop = coordinator.head(), threading.Event()
    keys = [(name,) for name in "abcde"]
    done, seen = [[] for _ in range(6)], [[] for _ in range(4)]
    ways = zip((1, 3, 50, 1000), (0.0, 0.001, 0.3, 0.01), seen, strict=True)
    with ThreadPoolExecutor(10) as threads:
        reading = [threads.submit(read_all, dsn, since, way, stop) for way in ways]
        writing = [threads.submit(write_slowly, dsn, n, keys, mine) for n, mine in enumerate(done)]
        wait(writing)
        stop.set()
        for thread in writing + reading:
            thread.result()
    committed = Counter(chain(*done))
    assert max(committed.values()) == 1
    for changes in seen:
        assert Counter((change.key, change.version) for change in changes) == committed
        for key in keys:
            versions = [change.version for change in changes if change.key == key]
            assert versions == list(range(1, len(versions) + 1))


def test_what_is_dropped_of_a_slow_commit_is_told_to_who_did_not_see_it(dsn, coordinator, connection):
    put(coordinator, 1)
    joined = PostgresCoordinator(connection=connection)
    put(joined, 1, key=("slow",))
    increment(coordinator)
    seen = coordinator.head()  # of the second, and not of the slow one before it
    now = coordinator.table.clock()
    assert coordinator.table.compact(now) == 2
    connection.commit()
    assert [change.key for change in follow(coordinator, seen)[0]] == [("slow",)]
    assert coordinator.table.compact(coordinator.table.clock()) == 1
    with pytest.raises(CursorTooOldError):
        coordinator.changes(since=seen)
    assert coordinator.changes(since=coordinator.head()).changes == []


def test_a_database_that_was_copied_is_another_coordinator(dsn, coordinator, observer):
    put(coordinator, 1)
    since, name = coordinator.head(), coordinator.coordinator_id
    observer.execute("UPDATE agentref_feed SET timeline = timeline + 1")  # another replica took over since
    with pytest.raises(CursorTooOldError):
        coordinator.changes(since=since)
    assert put(coordinator, 2, see(coordinator)).version == 2
    assert len(coordinator.changes(since=coordinator.head()).changes) == 0
    observer.execute("UPDATE agentref_feed SET system = system + 1")
    with PostgresCoordinator(dsn) as copy:
        assert copy.coordinator_id != name
        assert see(copy).version == 2
        with pytest.raises(CursorTooOldError):
            copy.changes(since=since)


def test_a_cursor_that_is_ahead_is_of_another_time(coordinator):
    name, _, place = coordinator.head().partition("/")
    with pytest.raises(CursorTooOldError, match="ahead"):
        coordinator.changes(since=f"{name}/{place.partition('.')[0]}.fffffffffff")


def test_processes_that_begin_at_once_on_an_empty_database(dsn):
    def work():
        with PostgresCoordinator(dsn) as coordinator:
            increment(coordinator)

    children = [Child(work) for _ in range(16)]
    assert [child.wait() for child in children] == [0] * 16
    with PostgresCoordinator(dsn) as coordinator:
        assert see(coordinator).version == 16


def test_a_forked_child_waits_and_commits_on_its_own(dsn, coordinator, observer):
    since = coordinator.head()
    waiting = threading.Thread(target=coordinator.wait, args=(since,), kwargs={"timeout": 60})
    waiting.start()
    listens = "SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    until = time.monotonic() + 30
    while not observer.execute(listens).fetchall():
        assert time.monotonic() < until
        time.sleep(0.01)

    def work():
        put(coordinator, 1)
        coordinator.wait(since, timeout=60)
        coordinator.wait(coordinator.head(), timeout=0.1)
        coordinator.close()

    assert Child(work).wait() == 0
    waiting.join()
    assert see(coordinator).version == 1
    assert increment(coordinator) == 2
