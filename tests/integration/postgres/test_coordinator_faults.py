"""Servers, connections and processes die in the middle of commits: nothing is lost or done twice."""

import os
import signal
import threading
import time

import psycopg
import pytest

from agentref.coherence.postgres import PostgresCoordinator
from agentref.errors import StorageError, StoreUnavailableError
from tests.conftest import Given, Server
from tests.integration.postgres.coordinating import (
    KEY,
    Child,
    children_end,
    content,
    follow,
    increment,
    keep_incrementing,
    put,
    see,
)

__all__ = ["children_end"]

WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
def coordinator(dsn):
    with PostgresCoordinator(dsn) as coordinator:
        yield coordinator


def waiting(observer):
    until = time.monotonic() + 30
    while not (found := observer.execute(WAITING).fetchall()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found[0][0]


def in_thread(work):
    """Its result or its error, once it is joined."""
    outcome = []

    def run():
        try:
            outcome.append(work())
        except StorageError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result():
        thread.join(60)
        return outcome[0]

    return result


def test_every_verb_outlives_a_restart_of_the_server(own_server, coordinator):
    since = coordinator.head()
    view = put(coordinator, 1)
    lease = coordinator.acquire(KEY, holder="a", ttl=600)
    for verb in (
        lambda: see(coordinator) == view,
        lambda: put(coordinator, 2, view, lease=lease).version == 2,
        lambda: coordinator.renew(lease).fence == lease.fence,
        lambda: coordinator.release(lease) is None,
        lambda: len(coordinator.changes(since=since).changes) == 2,
        lambda: coordinator.wait(since, timeout=60) is None,
        lambda: [found.version for found in iter(coordinator.keys())] == [2],
        lambda: coordinator.table.probe(b"nothing") == 0,
        lambda: coordinator.sweep() == [],
        lambda: increment(coordinator) == 3,
    ):
        own_server.stop()
        own_server.start()
        assert verb()


def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged(postgres_server):
    if isinstance(postgres_server, Given):
        pytest.skip("the server that AGENTREF_TEST_DSN names is not ours to kill")
    server = Server(synchronous_commit="on")
    read, write = os.pipe()
    try:
        coordinator = PostgresCoordinator(server.dsn)
        put(coordinator, 1)
        cursor, seen = coordinator.head(), []
        children = [Child(lambda: keep_incrementing(server.dsn, write)) for _ in range(4)]
        for _ in range(3):
            before = len(seen)
            while len(seen) < before + 100:
                page, cursor = follow(coordinator, cursor, limit=7)
                seen += page
            server.crash()
            server.start()
        for child in children:
            child.kill()
            child.wait()
        page, _ = follow(coordinator, cursor)
        seen += page
        os.close(write)
        with os.fdopen(read, "rb") as log:
            said = log.read()
        version = see(coordinator).version
        assert [change.version for change in seen] == list(range(2, version + 1))
        # One more of each process, which was killed before it could say so.
        assert said.count(b"+") <= version - 1 <= said.count(b"+") + said.count(b"?") + len(children)
        coordinator.close()
    finally:
        server.remove()


def test_no_increment_of_eight_processes_is_lost(coordinator, dsn):
    since = coordinator.head()
    read, write = os.pipe()
    children = [Child(lambda: keep_incrementing(dsn, write, each=50)) for _ in range(8)]
    assert [child.wait() for child in children] == [0] * 8
    os.close(write)
    with os.fdopen(read, "rb") as log:
        assert log.read() == b"+" * 400
    assert see(coordinator).version == 400
    assert [change.version for change in follow(coordinator, since)[0]] == list(range(1, 401))


def test_a_committer_that_is_killed_stands_in_nobodys_way(coordinator, dsn):
    read, write = os.pipe()
    expected = 0
    for turn in range(10):
        children = [Child(lambda: keep_incrementing(dsn, write)) for _ in range(2)]
        while os.read(read, 1) != b"+":
            pass
        time.sleep(0.01 * turn)
        for child in children:
            child.kill()
            child.wait()
        os.write(write, b".")
        said = b"+"
        while not said.endswith(b"."):
            said += os.read(read, 1000)
        version = increment(coordinator)
        assert expected + said.count(b"+") < version <= expected + said.count(b"+") + len(children) + 1
        expected = version


def test_who_is_stopped_while_he_holds_the_row_is_cut_off(coordinator, dsn, observer):
    """Who lost a race decides under a lock."""
    put(coordinator, 1)
    other = PostgresCoordinator(dsn)
    see(other)
    put(coordinator, 2, see(coordinator))  # the other one has an old row now

    def stop_in_the_middle():
        calls = []

        def decide(rows, now):
            calls.append(now)
            if len(calls) == 3:  # of an old row, of the one that came back, and of the one that is locked
                os.kill(os.getpid(), signal.SIGSTOP)
            return real(rows, now)

        code = next(iter(coordinator.table.scan(b"", b"\xff" * 1025, limit=1)))[0]
        real = put_anyway(code)
        with pytest.raises(StoreUnavailableError, match="not known"):
            other.table.transact([code], decide)

    child = Child(stop_in_the_middle)
    os.waitpid(child.pid, os.WUNTRACED)
    assert observer.execute(
        "SELECT state FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    ).fetchall()
    assert increment(coordinator) == 3
    os.kill(child.pid, signal.SIGCONT)
    assert child.wait() == 0
    assert see(coordinator).version == 3
    other.close()


def put_anyway(code):
    from agentref.coherence.table import Decision, Transition

    def decide(rows, now):
        row = rows[code]
        new = row._replace(revision=row.revision ^ 1 or 2, version=row.version + 1, ref=content(99), at=now)
        return Decision(Transition({code: new}, None), None)

    return decide


@pytest.mark.parametrize("other", ["rolls back", "commits"])
def test_a_connection_that_is_killed_in_the_middle_of_a_commit(coordinator, dsn, observer, other):
    view = put(coordinator, 1)
    with psycopg.connect(dsn) as blocker:
        joined = PostgresCoordinator(connection=blocker)
        put(joined, 50, view)
        result = in_thread(lambda: put(coordinator, 2, view))
        observer.execute("SELECT pg_terminate_backend(%s)", [waiting(observer)])
        waiting(observer)
        blocker.rollback() if other == "rolls back" else blocker.commit()
    outcome = result()
    if other == "rolls back":
        assert (outcome.version, see(coordinator)) == (2, outcome)
    else:
        assert isinstance(outcome, StoreUnavailableError)
        assert "not known" in str(outcome)
        assert see(coordinator).ref == content(50)


@pytest.mark.parametrize("way", ["seen before", "lost a race"])
@pytest.mark.parametrize("follows", [False, True])
def test_a_commit_whose_answer_is_lost_is_done_once(dsn, mute, way, follows):
    through, proxy = mute
    with PostgresCoordinator(through) as coordinator, PostgresCoordinator(dsn) as other:
        since = other.head()
        view = put(coordinator, 1)
        if way == "lost a race":
            view = put(other, 2, view)  # but refused only on rows as they are: it reads, and is right
        proxy.swallow(
            on=b"INSERT INTO agentref_change", then=(lambda: increment(other)) if follows else None
        )
        if follows:
            with pytest.raises(StoreUnavailableError, match="not known"):
                put(coordinator, 7, view)
        else:
            mine = put(coordinator, 7, view)
            assert see(other) == mine
        assert proxy.swallowed
        versions = [change.version for change in follow(other, since)[0]]
        assert versions == list(range(1, see(other).version + 1))
        assert [change.ref for change in follow(other, since)[0]].count(content(7)) == 1
