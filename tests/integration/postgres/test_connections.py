"""Connections are lost, killed, forbidden and shared; a verb either does its work or says why not."""

import io
import logging
import os
import threading
import time
import traceback
import warnings

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agentref.errors import InvalidInputError, StorageError, StoreBusyError, StoreUnavailableError
from agentref.refs import Digest
from agentref.storage import CAS, FOREVER, PostgresCAS
from agentref.storage.postgres import PostgresBlobStore
from agentref.storage.protocol import AliasRow, BlobStore, RootStore

ONE, TWO = Digest(bytes(32)), Digest(b"\x01" * 32)
SECRET = "s3cr3tpassw0rd"


def kill_all_others(observer):
    observer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def states(observer):
    return observer.execute(
        "SELECT state, count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY state"
    ).fetchall()


def test_it_is_a_store_of_blobs_and_of_roots(store):
    assert isinstance(store, BlobStore)
    assert isinstance(store, RootStore)


def test_values_come_back(dsn):
    with PostgresCAS(dsn) as cas:
        assert isinstance(cas, CAS)
        value = {"text": "a" * 1_000_000, "list": list(range(1000))}
        ref = cas.dump(value)
        assert ref.backend_id.startswith("pg-")
        assert cas.load(ref) == value


def test_a_verb_outlives_a_restart_of_the_server(own_server, store):
    store.store({ONE: b"one"})
    for verb in (
        lambda: store.fetch([ONE]) == {ONE: b"one"},
        lambda: store.store({TWO: b"two"}) is None,
        lambda: store.set_alias(AliasRow("name", ONE, "raw", 3, 0, FOREVER), expect=0) is not None,
        lambda: store.delete_alias("name"),
    ):
        own_server.stop()
        own_server.start()
        assert verb()


def test_a_verb_waits_for_a_server_that_starts(own_server, dsn):
    store = PostgresBlobStore(dsn, timeout=60)
    store.store({ONE: b"one"})
    own_server.stop()
    later = threading.Timer(1.0, own_server.start)
    later.start()
    try:
        assert store.fetch([ONE]) == {ONE: b"one"}
    finally:
        later.join()
        store.close()


def test_a_server_that_is_away_is_named_with_the_reason(own_server, dsn):
    store = PostgresBlobStore(dsn, timeout=0.3)
    store.store({ONE: b"one"})
    own_server.stop()
    with pytest.raises(StoreUnavailableError, match=r"agentref_test_\w+\) cannot be used: connection"):
        store.fetch([ONE])
    own_server.start()
    assert store.fetch([ONE]) == {ONE: b"one"}
    store.close()


def test_killed_connections_are_replaced(store, observer):
    store.store({ONE: b"one"})
    for _ in range(5):
        kill_all_others(observer)
        assert store.fetch([ONE]) == {ONE: b"one"}
        kill_all_others(observer)
        assert store.touch([ONE], expires_at=FOREVER) == [ONE]


def test_a_connection_killed_in_the_middle_of_a_verb_is_replaced(store, observer, dsn):
    store.store({ONE: b"one"}, expires_at=1.0)
    with psycopg.connect(dsn) as blocker:
        blocker.execute("SELECT FROM agentref_blob FOR UPDATE")
        blocked = threading.Thread(target=store.store, args=({ONE: b"one"},))
        blocked.start()
        waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while not observer.execute(waiting).fetchall():
            time.sleep(0.01)
    blocked.join()
    assert store.stat([ONE])[ONE].expires_at == FOREVER


def test_a_name_that_was_perhaps_set_is_an_error(store, observer, dsn):
    row = store.set_alias(AliasRow("name", ONE, "raw", 3, 0, FOREVER))
    raised = []

    def change():
        try:
            store.set_alias(row, expect=row.version)
        except StorageError as error:
            raised.append(error)

    with psycopg.connect(dsn) as blocker:
        blocker.execute("SELECT FROM agentref_alias FOR UPDATE")
        blocked = threading.Thread(target=change)
        blocked.start()
        waiting = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while not observer.execute(waiting).fetchall():
            time.sleep(0.01)
        blocked.join()
    assert [type(error) for error in raised] == [StoreUnavailableError]


def test_no_transaction_is_left_open(store, observer):
    store.store({ONE: b"one", TWO: b"two"})
    store.touch([ONE], expires_at=FOREVER)
    store.forget(expires_by=FOREVER)
    store.remove([ONE])
    with pytest.raises(InvalidInputError):
        store.store({ONE: "text"})
    observer.execute("ALTER TABLE agentref_blob RENAME TO elsewhere")
    with pytest.raises(StorageError, match="agentref db upgrade"):
        store.fetch([TWO])
    assert {state for state, _ in states(observer)} == {"idle"}


def test_one_verb_is_one_transaction_and_nothing_is_written_of_what_is_fresh(store, observer, dsn):
    digests = [Digest(n.to_bytes(32, "big")) for n in range(2000)]
    store.store(dict.fromkeys(digests, b"x"))
    flushed = "SELECT pg_current_wal_insert_lsn()"
    observer.execute("CHECKPOINT")
    before = observer.execute(flushed).fetchone()
    assert len(store.touch(digests, expires_at=FOREVER)) == 2000
    after = observer.execute(flushed).fetchone()
    written = observer.execute("SELECT %s::pg_lsn - %s::pg_lsn", [after[0], before[0]]).fetchone()[0]
    assert written < 8192  # what the server writes of itself; 2000 rows would be more than 100 kB


def test_too_few_connections_say_so(dsn, observer):
    store = PostgresBlobStore(dsn, max_size=1, timeout=0.3)
    store.store({ONE: b"one"})
    with psycopg.connect(dsn) as blocker:
        blocker.execute("SELECT FROM agentref_blob FOR UPDATE")
        blocked = threading.Thread(target=store.remove, args=([ONE],))
        blocked.start()
        try:
            while not [count for state, count in states(observer) if state == "active"]:
                time.sleep(0.01)
            with pytest.raises(StoreBusyError, match="max_size"):
                store.fetch([ONE])
        finally:
            blocker.rollback()
            blocked.join()
    store.close()


@pytest.mark.parametrize(
    "dsn",
    [
        None,
        "",
        b"host=a",
        "no connection string",
        f"postgresql://u:p@{SECRET}:{SECRET}@host/db",
        f"postgresql://u:{SECRET}@{SECRET}@host/db",
        f"postgresql://u:a/{SECRET}@host/db",
        f"host=h passwort={SECRET}",
    ],
)
def test_what_is_no_connection_string_is_refused_and_not_repeated(dsn):
    with pytest.raises(InvalidInputError) as caught:
        PostgresBlobStore(dsn)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_password_is_in_no_error_and_no_log(dsn, caplog):
    caplog.set_level(logging.DEBUG)
    seen = io.StringIO()
    for changed in (
        {"dbname": "missing"},
        {"user": "missing"},
        {"host": "/nowhere"},
        {"host": "192.0.2.1.invalid"},
        {"sslmode": SECRET},
    ):
        store = PostgresBlobStore(make_conninfo(dsn, **{"password": SECRET, **changed}), timeout=0.5)
        with pytest.raises(StoreUnavailableError) as caught:
            store.fetch([ONE])
        traceback.print_exception(caught.value, file=seen)
        seen.write(repr(store) + repr(caught.value))
        store.close()
    assert SECRET not in seen.getvalue()
    assert SECRET not in caplog.text


def test_a_forked_child_leaves_the_connections_of_its_parent_alone(store, observer):
    store.store({ONE: b"one"})
    begin = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE datname = current_database()"
    pids = observer.execute(begin).fetchone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            assert store.fetch([ONE]) == {ONE: b"one"}
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert store.fetch([ONE]) == {ONE: b"one"}
    until = time.monotonic() + 30
    while observer.execute(begin).fetchone() != pids:  # the child's own go when the server has noticed
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize("encoding", ["latin1", "sql_ascii", "utf8"])
def test_its_own_connections_speak_utf_8_whatever_the_address_says(dsn, encoding):
    with PostgresCAS(make_conninfo(dsn, client_encoding=encoding)) as cas:
        ref = cas.dump("value")
        cas.set_alias("план", ref)
        assert [alias.name for alias in cas.iter_aliases()] == ["план"]
        assert cas.resolve_alias("план") == ref


@pytest.mark.parametrize("host", ["no-such-host.invalid", "invalid.no-such-host.test"])
def test_a_host_that_cannot_be_resolved_is_said_to_be_that(dsn, host):
    store = PostgresBlobStore(make_conninfo(dsn, host=host), timeout=0.5)
    with pytest.raises(StoreUnavailableError, match=f"{host}.* cannot be resolved"):
        store.fetch([ONE])
    store.close()


def test_what_a_time_limit_for_transactions_cuts_off_is_busy(dsn, store, observer):
    if observer.info.server_version < 170000:
        pytest.skip("PostgreSQL 17 was the first to have such a limit")
    store.store({ONE: b"one"})
    short = PostgresBlobStore(make_conninfo(dsn, options="-c transaction_timeout=100ms"))
    assert short.fetch([ONE]) == {ONE: b"one"}
    with psycopg.connect(dsn) as blocker:
        blocker.execute("SELECT FROM agentref_blob FOR UPDATE")
        with pytest.raises(StoreBusyError):
            short.remove([ONE])
    assert short.remove([ONE]) == 1
    short.close()


def test_an_address_with_a_nul_is_not_called_empty():
    with pytest.raises(InvalidInputError, match="NUL"):
        PostgresBlobStore("host=a\0b")
