"""A store on the caller's connection takes part in the caller's transaction, and never ends it."""

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from agentref.errors import ConfigurationError, InvalidInputError, StoreUnavailableError
from agentref.refs import Digest
from agentref.storage import FOREVER, PostgresCAS
from agentref.storage.postgres import PostgresBlobStore
from agentref.storage.protocol import AliasRow, PinRow

ONE, TWO = Digest(bytes(32)), Digest(b"\x01" * 32)


@pytest.fixture
def rows(observer, store):
    """A table of the caller's, beside the store's own."""
    assert store.store_id
    observer.execute("CREATE TABLE mine (name text)")
    return lambda: [name for (name,) in observer.execute("SELECT name FROM mine").fetchall()]


@pytest.fixture(params=["plain", "as the caller likes it"])
def connection(request, dsn, rows):
    options = {} if request.param == "plain" else {"row_factory": dict_row, "prepare_threshold": 0}
    cursors = {} if request.param == "plain" else {"cursor_factory": psycopg.ClientCursor}
    with psycopg.connect(dsn, **options, **cursors) as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize("first", ["blobs", "rows"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_blobs_and_rows_are_there_together_or_not_at_all(connection, store, rows, first, end):
    joined = PostgresBlobStore(connection=connection)
    steps = [
        lambda: joined.store({ONE: b"one"}),
        lambda: connection.execute("INSERT INTO mine VALUES ('row')"),
    ]
    for step in steps if first == "blobs" else reversed(steps):
        step()
    assert connection.info.transaction_status == TransactionStatus.INTRANS
    assert joined.fetch([ONE]) == {ONE: b"one"}
    assert (store.fetch([ONE]), rows()) == ({}, [])
    getattr(connection, end)()
    there = end == "commit"
    assert (store.fetch([ONE]), rows()) == (({ONE: b"one"}, ["row"]) if there else ({}, []))


@pytest.mark.parametrize("scope", ["transaction", "savepoint"])
def test_what_was_rolled_back_is_stored_when_it_is_put_again(connection, scope):
    """A client remembers what it has put, until something may have taken it away."""
    cas = PostgresCAS(connection=connection)
    for _ in range(2):
        cas.dump(["old"])
    connection.commit()
    if scope == "savepoint":
        with connection.transaction(force_rollback=True):
            cas.dump(["new"])
    else:
        cas.dump(["new"])
        connection.rollback()
    ref = cas.dump(["new"])
    connection.commit()
    assert cas.load(ref) == ["new"]


def test_the_first_put_is_stored_again_after_a_rollback(connection):
    cas = PostgresCAS(connection=connection)
    for end in (connection.rollback, connection.commit):
        ref = cas.dump(["new"])
        end()
    assert cas.load(ref) == ["new"]


def test_nothing_is_acknowledged_on_a_connection_that_is_closed(dsn, store):
    assert store.store_id
    connection = psycopg.connect(dsn)
    cas = PostgresCAS(connection=connection)
    cas.dump(["new"])
    connection.close()
    with pytest.raises(StoreUnavailableError):
        cas.dump(["new"])


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_a_transaction_that_sees_an_old_state_is_refused(dsn, store, level):
    assert store.store_id
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = level
        joined = PostgresBlobStore(connection=connection)
        with pytest.raises(ConfigurationError, match="READ COMMITTED"):
            joined.store({ONE: b"one"})
        connection.rollback()
        connection.isolation_level = IsolationLevel.READ_COMMITTED
        joined.store({ONE: b"one"})
    assert set(store.fetch([ONE])) == {ONE}


def test_two_puts_and_a_rollback_at_the_very_first_leave_a_store_that_works(dsn):
    with psycopg.connect(dsn) as connection:
        cas = PostgresCAS(connection=connection)
        for end in (connection.rollback, connection.commit, connection.commit):
            for value in (["one"], ["two"]):
                ref = cas.dump(value)
            end()
        assert cas.load(ref) == ["two"]


def test_every_verb_leaves_the_transaction_open(connection, store):
    store.store({ONE: b"one", TWO: b"two"}, expires_at=5e9)
    joined = PostgresBlobStore(connection=connection)
    alias = AliasRow("name", ONE, "raw", 3, 0, FOREVER)
    for verb in (
        lambda: joined.fetch([ONE]),
        lambda: joined.touch([ONE], expires_at=6e9),
        lambda: joined.condemn([ONE], expires_by=FOREVER),
        lambda: joined.remove([TWO]),
        lambda: joined.set_alias(alias),
        lambda: joined.pin(PinRow.each("me", [ONE])),
        lambda: joined.forget(expires_by=FOREVER),
        joined.scan,
        joined.epoch,
        joined.clock,
    ):
        verb()
        assert connection.info.transaction_status == TransactionStatus.INTRANS
    connection.rollback()
    assert set(store.fetch([ONE, TWO])) == {ONE, TWO}
    assert store.alias("name") is None
    assert store.stat([ONE])[ONE].expires_at == 5e9


def test_a_verb_that_fails_leaves_what_the_caller_wrote(connection, rows, observer):
    joined = PostgresBlobStore(connection=connection)
    connection.execute("INSERT INTO mine VALUES ('row')")
    observer.execute("ALTER TABLE agentref_pin RENAME TO elsewhere")
    with pytest.raises(OSError, match="agentref db upgrade"):
        joined.pin(PinRow.each("me", [ONE]))
    connection.commit()
    assert rows() == ["row"]


def test_a_transaction_that_failed_says_so(connection):
    joined = PostgresBlobStore(connection=connection)
    joined.fetch([ONE])
    with pytest.raises(psycopg.Error):
        connection.execute("SELECT 1/0")
    with pytest.raises(StoreUnavailableError, match="roll it back"):
        joined.fetch([ONE])
    connection.rollback()
    assert joined.fetch([ONE]) == {}


def test_in_autocommit_each_verb_is_a_transaction(dsn, store):
    with psycopg.connect(dsn, autocommit=True) as connection:
        joined = PostgresBlobStore(connection=connection)
        joined.store({ONE: b"one"})
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert store.fetch([ONE]) == {ONE: b"one"}
        with connection.transaction(force_rollback=True):
            joined.store({TWO: b"two"})
    assert store.fetch([TWO]) == {}


def test_closing_leaves_the_connection_open(connection):
    with PostgresCAS(connection=connection) as cas:
        ref = cas.dump(["a value"])
    connection.commit()
    assert PostgresCAS(connection=connection).load(ref) == ["a value"]


def test_tables_that_were_rolled_back_are_made_again(databases):
    with psycopg.connect(databases.dsn("empty")) as connection:
        joined = PostgresBlobStore(connection=connection)
        joined.store({ONE: b"one"})
        connection.rollback()
        joined.store({TWO: b"two"})
        connection.commit()
        assert set(joined.fetch([ONE, TWO])) == {TWO}


@pytest.mark.parametrize("given", [{}, {"dsn": "host=a", "connection": object()}, {"connection": "host=a"}])
def test_it_is_a_dsn_or_a_connection(given):
    with pytest.raises(InvalidInputError) as caught:
        PostgresCAS(**given)
    assert "PostgresBlobStore" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_connection_in_another_encoding_is_refused_until_it_speaks_utf_8(connection, encoding):
    joined = PostgresCAS(connection=connection)
    connection.execute(f"SET client_encoding TO '{encoding}'")
    for verb in (lambda: list(joined.iter_aliases()), lambda: PostgresCAS(connection=connection)):
        with pytest.raises(ConfigurationError, match=f"{encoding}.*SET client_encoding TO 'UTF8'"):
            verb()
    connection.execute("SET client_encoding TO 'UTF8'")
    joined.set_alias("план", joined.dump("value"))
    assert [alias.name for alias in joined.iter_aliases()] == ["план"]
