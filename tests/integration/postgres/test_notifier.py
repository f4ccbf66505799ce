"""Telling others of commits is a hint: it keeps nobody from committing, and nothing from ending."""

import os
import signal
import threading
import time

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agentref.coherence import PostgresCoordinator
from agentref.coherence.coordinator import Write
from agentref.errors import StoreUnavailableError
from agentref.postgres.channels import listen
from agentref.storage import InMemoryCAS

STORE = InMemoryCAS()
REFS = [STORE.dump(str(parity)) for parity in range(2)]
APPLICATION = "agentref-notifier-test"


def commit(coordinator, key, view):
    ref = REFS[0 if view is None else view.version % 2]
    return coordinator.commit([Write(key, ref, view)], agent="one")[key]


@pytest.fixture(name="listener")
def a_listener(dsn):
    with PostgresCoordinator(dsn) as coordinator:
        channel = f"agentref-{coordinator.coordinator_id}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        listen(connection, channel)
        yield connection


def hears(connection):
    return next(connection.notifies(timeout=20, stop_after=1), None) is not None


def notifiers():
    return [thread for thread in threading.enumerate() if thread.name == "agentref-notifier"]


def test_a_commit_is_done_or_refused_when_another_thread_closes(dsn):
    def work(coordinator, key):
        view = None
        try:
            while True:
                view = commit(coordinator, key, view)
        except StoreUnavailableError as error:
            ended[key] = (0 if view is None else view.version), str(error)

    for turn in range(10):
        ended = {}
        coordinator = PostgresCoordinator(dsn)
        keys = [(str(turn), str(number)) for number in range(3)]
        threads = [threading.Thread(target=work, args=(coordinator, key)) for key in keys]
        for thread in threads:
            thread.start()
        time.sleep(0.02 * turn)
        coordinator.close()
        for thread in threads:
            thread.join()
        with PostgresCoordinator(dsn) as again:
            stands = again.read(keys)
        for key, (version, said) in ended.items():
            assert stands[key].version == version
            assert "closed" in said


def test_what_was_committed_before_the_end_is_told_and_no_thread_is_left(dsn, listener):
    for turn in range(3):
        with PostgresCoordinator(dsn) as coordinator:
            commit(coordinator, ("last", str(turn)), None)
        assert hears(listener)
    assert notifiers() == []


def test_where_there_is_no_room_for_one_more_connection_one_of_the_pool_tells(dsn, observer, listener):
    role = f"agentref_narrow_{os.getpid()}_{time.monotonic_ns()}"
    observer.execute(f"CREATE ROLE {role} LOGIN SUPERUSER CONNECTION LIMIT 1")
    try:
        observer.execute(f"ALTER ROLE {role} NOSUPERUSER")  # whom no limit holds
        observer.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        observer.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        narrow = make_conninfo(dsn, user=role)
        with PostgresCoordinator(narrow, create=False, max_size=1, timeout=20) as coordinator:
            view = None
            for _ in range(3):
                view = commit(coordinator, ("narrow",), view)
                assert hears(listener)
    finally:
        observer.execute(f"DROP OWNED BY {role}")
        observer.execute(f"DROP ROLE {role}")


def test_a_thread_that_cannot_start_costs_no_commit_and_the_next_tries_again(dsn, listener, monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "agentref-notifier":
            raise RuntimeError("can't start new thread")
        start(thread)

    with PostgresCoordinator(dsn) as coordinator:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        view = commit(coordinator, ("one",), None)
        assert view.version == 1
        monkeypatch.undo()
        assert commit(coordinator, ("one",), view).version == 2
        assert hears(listener)


def test_a_session_that_hangs_does_not_keep_a_coordinator_from_closing(dsn, observer, listener):
    coordinator = PostgresCoordinator(make_conninfo(dsn, application_name=APPLICATION))
    view = commit(coordinator, ("one",), None)
    assert hears(listener)
    tells = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND query LIKE '%%notify%%'"
    (pid,) = observer.execute(tells, [APPLICATION]).fetchone()
    try:
        os.kill(pid, signal.SIGSTOP)
    except (ProcessLookupError, PermissionError):
        coordinator.close()
        pytest.skip("the server is not on this machine")
    closing = threading.Thread(target=coordinator.close)
    try:
        commit(coordinator, ("one",), view)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()
    finally:
        os.kill(pid, signal.SIGCONT)
        closing.join()
