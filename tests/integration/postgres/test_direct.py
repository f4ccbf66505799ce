"""Small statements by libpq alone."""

import gc
import math
import signal
import threading
import time
import weakref
from contextlib import closing, suppress

import psycopg
import pytest

from agentref.errors import StoreVersionError
from agentref.postgres.direct import Statement
from agentref.refs import Digest
from agentref.storage.postgres import PostgresBlobStore
from agentref.storage.protocol import FOREVER, PinRow

ONE = Digest(bytes(32))
OFTEN = 8  # by then it is prepared


@pytest.fixture(name="connection")
def a_connection(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def row(connection, text, types="", values=()):
    return Statement(text, types).row(connection, values)


def test_values_go_and_come_as_they_are(connection):
    values = [b"\0a", -0.1, -5, 2**62, "\u00e9"]
    statement = Statement("SELECT $1, $2, $3, $4, $5, $1 = $1, NULL", "bytea float8 int4 int8 text")
    for _ in range(OFTEN):
        assert statement.row(connection, values) == (*values, True, None)
    assert statement.row(connection, [None] * 5) == (None,) * 7
    assert statement.row(connection, [b"", math.inf, 0, 0, ""]) == (b"", math.inf, 0, 0, "", True, None)


@pytest.mark.parametrize("size", [0, 1, 100_000, 20_000_000])
def test_what_is_sent_may_be_large(connection, size):
    assert row(connection, "SELECT $1", "bytea", [b"x" * size]) == (b"x" * size,)


@pytest.mark.parametrize("statement", ["", "SELECT 1 WHERE false", "CHECKPOINT"])
def test_what_finds_nothing_is_none_and_the_connection_goes_on(connection, statement):
    assert row(connection, statement) is None
    assert row(connection, "SELECT 7") == (7,)
    assert connection.execute("SELECT 8").fetchone() == (8,)


@pytest.mark.parametrize("times", [1, OFTEN])
@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("SELECT 1 / 0", psycopg.errors.DivisionByZero),
        ("SELECT nothing", psycopg.errors.UndefinedColumn),
        ("SELECT 1; SELECT 2", psycopg.errors.SyntaxError),
        ("DO $$ BEGIN RAISE SQLSTATE 'XX123'; END $$", psycopg.OperationalError),
        ("DO $$ BEGIN RAISE SQLSTATE '0A000'; END $$", psycopg.errors.FeatureNotSupported),
        ("DO $$ BEGIN RAISE SQLSTATE '26000'; END $$", psycopg.errors.InvalidSqlStatementName),
    ],
)
def test_what_the_server_refuses_is_an_error_and_the_connection_goes_on(connection, statement, kind, times):
    refused = Statement(statement, "")
    for _ in range(times):
        with pytest.raises(kind) as caught:
            refused.row(connection, [])
        assert type(caught.value) is kind
    assert row(connection, "SELECT 7") == (7,)
    assert connection.execute("SELECT 8").fetchone() == (8,)


@pytest.mark.parametrize("times", [1, OFTEN])
def test_what_fails_when_it_is_committed_has_failed(connection, times):
    connection.execute("CREATE TABLE item(value int8 UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    insert = Statement("INSERT INTO item VALUES ($1) RETURNING value", "int8")
    for value in range(times):
        assert insert.row(connection, [value]) == (value,)
    with pytest.raises(psycopg.errors.UniqueViolation):
        insert.row(connection, [0])
    assert connection.execute("SELECT count(*) FROM item").fetchone() == (times,)


def test_within_a_transaction_nothing_is_sent(connection):
    with connection.transaction():
        connection.execute("SELECT 1")
        assert row(connection, "SELECT 1 / 0") is None
        assert connection.execute("SELECT 8").fetchone() == (8,)


def test_what_would_begin_a_transaction_is_not_sent(dsn):
    with psycopg.connect(dsn) as connection:
        assert row(connection, "SELECT 7") is None


def test_on_a_connection_that_is_gone_it_is_none(connection, observer):
    observer.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with suppress(psycopg.OperationalError):
        assert row(connection, "SELECT 7") is None
    assert row(connection, "SELECT 7") is None
    assert connection.closed


def prepared(connection):
    return [name for (name,) in connection.execute("SELECT statement FROM pg_prepared_statements")]


def test_what_is_said_often_is_prepared_in_each_session(connection, dsn):
    statement = Statement("SELECT $1 AS of_its_own", "int8")
    with psycopg.connect(dsn, autocommit=True) as other:
        for number in range(OFTEN):
            assert statement.row(connection, [number]) == (number,)
            assert statement.row(connection, [number]) == (number,)
        assert prepared(connection) == ["SELECT $1 AS of_its_own"]
        assert prepared(other) == []
        assert statement.row(other, [1]) == (1,)


@pytest.mark.parametrize("spoil", ["DEALLOCATE ALL", "DISCARD ALL"])
def test_a_session_that_forgets_it_goes_on_without(connection, spoil):
    statement = Statement("SELECT $1", "int8")
    for number in range(OFTEN):
        assert statement.row(connection, [number]) == (number,)
    connection.execute(spoil)
    for number in range(OFTEN):
        assert statement.row(connection, [number]) == (number,)
    assert prepared(connection) == []


def test_a_name_that_somebody_else_took_is_left_to_him(connection):
    for number in range(OFTEN):
        assert Statement("SELECT $1", "int8").row(connection, [number]) == (number,)
    again = Statement("SELECT $1", "int8")
    for number in range(OFTEN):
        assert again.row(connection, [number]) == (number,)


def test_a_prepared_statement_whose_result_changes_goes_on(connection):
    connection.execute("CREATE TABLE item(value int8)")
    connection.execute("INSERT INTO item VALUES (7)")
    statement = Statement("SELECT * FROM item", "")
    for _ in range(OFTEN):
        assert statement.row(connection, []) == (7,)
    connection.execute("ALTER TABLE item ADD COLUMN name text DEFAULT 'a'")
    assert statement.row(connection, []) == (7, "a")
    assert statement.row(connection, []) == (7, "a")


def test_sessions_that_are_over_are_not_remembered(dsn):
    statement = Statement("SELECT 7", "")
    with psycopg.connect(dsn, autocommit=True) as connection:
        statement.row(connection, [])
    gone = weakref.ref(connection)
    del connection
    gc.collect()
    assert gone() is None


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
                assert comes_to(observer, is_waiting=False)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert store.inherit_pins("other heir", [ONE], parent="parent")
        assert [row.owner for row in store.scan_pins()] == ["other heir", "parent"]


def comes_to(observer, *, is_waiting):
    """Whether somebody, or nobody, waits for a lock in a moment: the server has to hear of it first."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        (found,) = observer.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
        if bool(found) == is_waiting:
            return True
        time.sleep(0.01)
    return False


def strike_once_it_waits(observer):
    comes_to(observer, is_waiting=True)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)


def test_a_row_within_a_value_comes_as_a_tuple(connection):
    statement = Statement("SELECT ($1, $2, NULL::text, true, ROW($3))", "int8 bytea text")
    for _ in range(8):
        assert statement.row(connection, [7, b"seven", "vii"]) == ((7, b"seven", None, True, ("vii",)),)


def test_within_a_pipeline_nothing_is_sent(connection):
    statement = Statement("SELECT 1", "")
    with connection.pipeline():
        assert statement.row(connection, []) is None
    assert statement.row(connection, []) == (1,)
