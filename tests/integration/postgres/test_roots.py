"""What two who change the same roots at the same time are told, and what others see of it."""

import threading
import time

import psycopg

from agentref.postgres import roots as root_table
from agentref.refs import Digest
from agentref.storage import FOREVER
from agentref.storage.postgres import PostgresBlobStore
from agentref.storage.protocol import AliasRow, PinRow

ONE, TWO = Digest(bytes(32)), Digest(b"\x01" * 32)
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""
HELD = 77

# The version of a row that is to be inserted is known before its triggers run.
HOLD = f"""
CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.codec = 'slow' THEN PERFORM pg_advisory_xact_lock_shared({HELD}); END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER hold BEFORE INSERT ON agentref_alias FOR EACH ROW EXECUTE FUNCTION hold();
"""


def waiting(observer):
    return observer.execute(WAITING).fetchone()[0]


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_version_of_a_name_grows_though_one_who_sets_it_is_held_up(dsn, store, observer):
    assert store.store_id
    observer.execute(HOLD)
    observer.execute("SELECT pg_advisory_lock(%s)", [HELD])
    rows = {}

    def set_alias(codec):
        rows[codec] = store.set_alias(AliasRow("name", ONE, codec, 1, 0, FOREVER))

    slow, fast = (threading.Thread(target=set_alias, args=(codec,)) for codec in ("slow", "fast"))
    slow.start()
    until(lambda: waiting(observer) == 1)
    fast.start()
    until(lambda: rows or waiting(observer) == 2)
    order = ["fast", "slow"] if rows else ["slow", "fast"]
    if rows:
        store.delete_alias("name")
    observer.execute("SELECT pg_advisory_unlock(%s)", [HELD])
    slow.join()
    fast.join()
    assert [rows[codec].version for codec in order] == sorted(row.version for row in rows.values())
    assert store.alias("name") == rows[order[-1]]


def test_unpin_counts_what_was_pinned_while_it_waited(dsn, store, observer):
    store.pin(PinRow.each("me", [ONE], expires_at=store.clock() + 1000))
    counted = []
    with psycopg.connect(dsn) as connection:
        PostgresBlobStore(connection=connection).pin(PinRow.each("me", [ONE, TWO]))
        unpinning = threading.Thread(target=lambda: counted.append(store.unpin(["me"])))
        unpinning.start()
        until(lambda: waiting(observer) == 1)
    unpinning.join()
    assert counted == [2]
    assert store.scan_pins() == []


def test_each_pin_of_a_large_owner_is_read_once(dsn, store, observer):
    """Not all that are left, at each page."""
    for turn in range(4):
        store.pin(
            PinRow.each(
                f"owner {turn % 2}", [Digest(n.to_bytes(32, "big")) for n in range(turn, 40_000, 4)]
            )
        )
    store.close()
    before = rows_read(observer)
    reader = PostgresBlobStore(dsn)
    after = None
    while page := reader.scan_pins(after=after, limit=500):
        after = page[-1].owner, page[-1].digest
    assert after == ("owner 1", Digest((39_999).to_bytes(32, "big")))
    reader.close()
    assert rows_read(observer) - before < 3 * 40_000


def rows_read(observer):
    """Once the connections of the store are gone: then the server has counted."""
    others = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    """
    until(lambda: observer.execute(others).fetchone()[0] == 0)
    observer.execute("SELECT pg_stat_clear_snapshot()")
    counted = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'agentref_pin'"
    return observer.execute(counted).fetchone()[0]


def test_only_the_commit_of_an_inherited_pin_does_not_wait_for_the_disk(dsn, store):
    store.pin(PinRow.each("parent", [ONE]))
    with psycopg.connect(dsn, autocommit=True) as connection:

        def waits():
            return connection.execute("SHOW synchronous_commit").fetchone() == ("on",)

        connection.execute("SET synchronous_commit = on")
        with connection.transaction():
            assert root_table.inherit_pins(connection, "heir", [ONE], "parent")
            assert not waits()
        assert waits()
        with connection.transaction():
            assert not root_table.inherit_pins(connection, "heir", [TWO], "parent")
            assert waits()
        with connection.transaction():
            root_table.unpin(connection, ["parent"])
            assert waits()


def test_a_parents_pins_are_not_taken_away_before_their_heir_has_his(dsn, store, observer):
    store.pin(PinRow.each("parent", [ONE]))
    with psycopg.connect(dsn) as connection:
        assert root_table.inherit_pins(connection, "heir", [ONE], "parent")
        unpinned = threading.Thread(target=store.unpin, args=(["parent"],))
        unpinned.start()
        until(lambda: waiting(observer) == 1)
        assert [row.owner for row in store.scan_pins()] == ["parent"]
    unpinned.join()
    assert [row.owner for row in store.scan_pins()] == ["heir"]


def test_whoever_comes_after_the_end_of_a_pin_inherits_nothing(dsn, store, observer):
    store.pin(PinRow.each("parent", [ONE]))
    told = []
    with psycopg.connect(dsn) as connection:
        root_table.unpin(connection, ["parent"])
        heir = threading.Thread(
            target=lambda: told.append(store.inherit_pins("heir", [ONE], parent="parent"))
        )
        heir.start()
        until(lambda: waiting(observer) == 1)
    heir.join()
    assert told == [False]
    assert list(store.scan_pins()) == []


def test_nothing_is_inherited_in_a_transaction_of_the_callers(dsn, store):
    store.pin(PinRow.each("parent", [ONE]))
    with psycopg.connect(dsn) as connection:
        joined = PostgresBlobStore(connection=connection, create=False)
        connection.execute("SET LOCAL synchronous_commit = on")
        assert not joined.inherit_pins("heir", [ONE], parent="parent")
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    assert [row.owner for row in store.scan_pins()] == ["parent"]
