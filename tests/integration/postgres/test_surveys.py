"""A survey of a whole table: on a connection of its own, for as long as it takes."""

import os
import threading
import time
from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agentref.errors import ConfigurationError, StoreUnavailableError
from agentref.refs import Digest
from agentref.storage import PostgresCAS
from agentref.storage.postgres import PostgresBlobStore

FAR = 4e9
BLOBS = {Digest(n.to_bytes(32, "big")): b"%d" % n for n in range(3000)}


def names_shown(store, see=lambda _: None):
    shown = []

    def note(page, _):
        shown.extend(info.digest for info in page)
        see(page)

    store.survey(note, expires_by=FAR)
    return shown


def test_who_may_have_but_one_connection_may_use_the_store_meanwhile(dsn):
    with PostgresCAS(dsn, max_size=1, timeout=2) as cas:
        cas.put_many([b"%d" % n for n in range(50)], ttl=0.001)
        time.sleep(0.01)
        counts = []
        report = cas.prune_expired(grace=0, progress=lambda _: counts.append(cas.stats().blobs))
        assert report.removed == 50
        assert counts[0] == 50


def test_what_is_not_wanted_any_more_is_let_go_of(dsn, observer):
    with closing(PostgresBlobStore(dsn, max_size=1)) as store:
        store.store(BLOBS, expires_at=FAR)
        before = sessions(observer)
        for _ in range(20):
            with pytest.raises(psycopg.OperationalError, match="a server of mine"):
                names_shown(store, fail)
        assert sessions(observer) == before
        assert sorted(names_shown(store)) == sorted(BLOBS)


def fail(_):
    raise psycopg.OperationalError("a server of mine")


def sessions(observer):
    deadline = time.monotonic() + 10
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    while (count := observer.execute(query).fetchone()[0]) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)  # a session ends a moment after its connection
    return count


def test_what_a_statement_may_take_is_not_what_a_survey_may_take(dsn, observer):
    with closing(PostgresBlobStore(dsn)) as store:
        store.store(BLOBS, expires_at=FAR)
    with closing(PostgresBlobStore(make_conninfo(dsn, options="-c statement_timeout=200ms"))) as store:
        shown = []
        with psycopg.connect(dsn) as other:
            other.execute("LOCK TABLE agentref_blob")
            thread = threading.Thread(target=lambda: shown.extend(names_shown(store)))
            thread.start()
            wait_for_a_waiting_one(observer)
            time.sleep(0.5)
            other.rollback()
        thread.join(20)
        assert sorted(shown) == sorted(BLOBS)


def wait_for_a_waiting_one(observer):
    deadline = time.monotonic() + 10
    while not observer.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_survey_whose_session_is_killed_fails_and_the_store_goes_on(dsn, observer):
    with closing(PostgresBlobStore(dsn)) as store:
        store.store(BLOBS, expires_at=FAR)

        def kill(_):
            observer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        with pytest.raises(StoreUnavailableError):
            names_shown(store, kill)
        assert sorted(names_shown(store)) == sorted(BLOBS)


def test_what_is_shown_is_as_of_one_moment(store):
    store.store(BLOBS, expires_at=FAR)
    late = Digest(b"\xff" * 32)
    assert late not in names_shown(store, lambda _: store.store({late: b"late"}, expires_at=FAR))
    assert late in names_shown(store)


def test_in_a_transaction_of_the_callers_it_cannot_be_ended_meanwhile(dsn):
    with closing(PostgresBlobStore(dsn)) as store:
        store.store(BLOBS, expires_at=FAR)
    with psycopg.connect(dsn) as connection:
        joined = PostgresBlobStore(connection=connection)
        with pytest.raises(psycopg.ProgrammingError):
            names_shown(joined, lambda _: connection.commit())
        assert sorted(names_shown(joined, lambda page: joined.stat([page[0].digest]))) == sorted(BLOBS)
        connection.commit()


def test_surveys_may_be_within_surveys_also_in_a_transaction_of_the_callers(dsn):
    with psycopg.connect(dsn) as connection:
        for store in (PostgresBlobStore(dsn), PostgresBlobStore(connection=connection)):
            store.store(BLOBS, expires_at=FAR)
            inner = []
            shown = names_shown(store, lambda _: inner.append(names_shown(store)))  # noqa: B023
            assert sorted(shown) == sorted(BLOBS)
            assert all(sorted(names) == sorted(BLOBS) for names in inner)
            connection.commit()
            store.close()


def test_in_a_pipeline_of_the_callers_it_is_refused(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        joined = PostgresBlobStore(connection=connection)
        joined.store(BLOBS, expires_at=FAR)
        with connection.pipeline(), pytest.raises(ConfigurationError, match="pipeline"):
            names_shown(joined)
        assert sorted(names_shown(joined)) == sorted(BLOBS)


def test_whoever_is_slow_to_look_is_not_cut_off(dsn):
    with closing(PostgresBlobStore(dsn)) as store:
        store.store(BLOBS, expires_at=FAR)
    options = "-c idle_in_transaction_session_timeout=100ms"
    with closing(PostgresBlobStore(make_conninfo(dsn, options=options))) as store:
        assert sorted(names_shown(store, lambda _: time.sleep(0.3))) == sorted(BLOBS)


def test_a_transaction_may_take_its_time(dsn, observer):
    if observer.info.server_version < 170000:
        pytest.skip("PostgreSQL 17 has the setting")
    with closing(PostgresBlobStore(dsn)) as store:
        store.store(BLOBS, expires_at=FAR)
    with closing(PostgresBlobStore(make_conninfo(dsn, options="-c transaction_timeout=200ms"))) as store:
        assert sorted(names_shown(store, lambda _: time.sleep(0.3))) == sorted(BLOBS)


@pytest.mark.parametrize("child", ["goes on", "raises"])
def test_a_forked_child_that_looks_on_harms_no_parent(dsn, child):
    with closing(PostgresBlobStore(dsn, max_size=1)) as store:
        store.store(BLOBS, expires_at=FAR)
        parent, pids = os.getpid(), []

        def fork(_):
            if not pids:
                pids.append(os.fork())
            if os.getpid() != parent and child == "raises":
                raise ZeroDivisionError

        try:
            shown = names_shown(store, fork)
        except BaseException as error:
            if os.getpid() == parent:
                raise
            fine = type(error) is (ZeroDivisionError if child == "raises" else StoreUnavailableError)
            os._exit(0 if fine and store.fetch(list(BLOBS)[:1]) else 1)
        if os.getpid() != parent:
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
        assert sorted(shown) == sorted(BLOBS)
        assert sorted(names_shown(store)) == sorted(BLOBS)
