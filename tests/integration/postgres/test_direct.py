"""Small statements by libpq alone."""

import signal
import threading
import time
from contextlib import closing, suppress

import psycopg
import pytest

from agentref.errors import StoreVersionError
from agentref.postgres.direct import value_of
from agentref.refs import Digest
from agentref.storage.postgres import PostgresBlobStore
from agentref.storage.protocol import FOREVER, PinRow

ONE = Digest(bytes(32))


@pytest.fixture(name="connection")
def a_connection(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def test_a_value_comes_back_in_binary(connection):
    assert (
        value_of(connection, b"SELECT $1::text || $2::text", [b"a", "\u00e9".encode()])
        == "a\u00e9".encode()
    )
    assert value_of(connection, b"SELECT 7", []) == b"\0\0\0\7"


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
def test_what_is_sent_may_be_large(connection, size):
    assert value_of(connection, b"SELECT $1::bytea", [b"x" * size]) == b"x" * size


@pytest.mark.parametrize("statement", [b"", b"SELECT 1 WHERE false", b"SELECT NULL", b"CHECKPOINT"])
def test_what_finds_nothing_is_none_and_the_connection_goes_on(connection, statement):
    assert value_of(connection, statement, []) is None
    assert value_of(connection, b"SELECT 7", []) == b"\0\0\0\7"
    assert connection.execute("SELECT 8").fetchone() == (8,)


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        (b"SELECT 1 / 0", psycopg.errors.DivisionByZero),
        (b"SELECT nothing", psycopg.errors.UndefinedColumn),
        (b"SELECT 1; SELECT 2", psycopg.errors.SyntaxError),
        (b"DO $$ BEGIN RAISE SQLSTATE 'XX123'; END $$", psycopg.OperationalError),
    ],
)
def test_what_the_server_refuses_is_an_error_and_the_connection_goes_on(connection, statement, kind):
    with pytest.raises(kind) as caught:
        value_of(connection, statement, [])
    assert type(caught.value) is kind
    assert value_of(connection, b"SELECT 7", []) == b"\0\0\0\7"
    assert connection.execute("SELECT 8").fetchone() == (8,)


def test_what_fails_when_it_is_committed_has_failed(connection):
    connection.execute("CREATE TABLE item(value int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    insert = b"INSERT INTO item VALUES (1) RETURNING value"
    assert value_of(connection, insert, []) == b"\0\0\0\1"
    with pytest.raises(psycopg.errors.UniqueViolation):
        value_of(connection, insert, [])
    assert connection.execute("SELECT count(*) FROM item").fetchone() == (1,)


def test_within_a_transaction_nothing_is_sent(connection):
    with connection.transaction():
        connection.execute("SELECT 1")
        assert value_of(connection, b"SELECT 1 / 0", []) is None
        assert connection.execute("SELECT 8").fetchone() == (8,)


def test_what_would_begin_a_transaction_is_not_sent(dsn):
    with psycopg.connect(dsn) as connection:
        assert value_of(connection, b"SELECT 7", []) is None


def test_on_a_connection_that_is_gone_it_is_none(connection, observer):
    observer.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with suppress(psycopg.OperationalError):
        assert value_of(connection, b"SELECT 7", []) is None
    assert value_of(connection, b"SELECT 7", []) is None
    assert connection.closed


def test_who_inherits_over_a_connection_that_was_killed_has_a_new_one(store, observer):
    store.store({ONE: b"one"})
    store.pin([PinRow("parent", ONE, FOREVER)])
    observer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert store.inherit_pins("heir", [ONE], parent="parent")
    assert [row.owner for row in store.scan_pins()] == ["heir", "parent"]


def test_an_inheritance_without_its_function_says_what_to_do(store, observer):
    store.store({ONE: b"one"})
    observer.execute("DROP FUNCTION agentref_inherit")
    with pytest.raises(StoreVersionError, match="agentref db upgrade"):
        store.inherit_pins("heir", [ONE], parent="parent")


def test_ctrl_c_ends_a_wait_for_another_and_the_store_goes_on(dsn, observer):
    class Interrupted(Exception):  # noqa: N818
        pass

    def interrupt(*_):
        raise Interrupted

    with closing(PostgresBlobStore(dsn, max_size=1)) as store:
        store.store({ONE: b"one"})
        store.pin([PinRow("parent", ONE, FOREVER)])
        before = signal.signal(signal.SIGUSR1, interrupt)
        try:
            with psycopg.connect(dsn) as other:
                other.execute("SELECT * FROM agentref_pin FOR UPDATE")
                thread = threading.Thread(target=strike_once_it_waits, args=(observer,))
                thread.start()
                with pytest.raises(Interrupted):
                    store.inherit_pins("heir", [ONE], parent="parent")
                thread.join()
                assert observer.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() == (
                    0,
                )
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert store.inherit_pins("other heir", [ONE], parent="parent")
        assert [row.owner for row in store.scan_pins()] == ["other heir", "parent"]


def strike_once_it_waits(observer):
    deadline = time.monotonic() + 20
    while not observer.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
