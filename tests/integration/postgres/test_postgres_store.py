"""What a store in PostgreSQL promises beside the contracts: beginnings, crashes, transactions."""

import multiprocessing
import random
import subprocess
import sys
import threading
import time

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentref.errors import (
    InvalidInputError,
    StorageError,
    StoreUnavailableError,
    StoreVersionError,
)
from agentref.postgres import status, upgrade
from agentref.refs import Digest
from agentref.storage import FOREVER, AliasRow, PostgresCAS
from agentref.storage.postgres import PostgresBlobStore

NAMES = [Digest(bytes([n]) * 32) for n in range(1, 101)]
ONE, TWO = NAMES[:2]
DOCS = [{"id": n, "text": f"document {n} " * 300} for n in range(60)]


@pytest.fixture
def dsn(databases):
    return databases.dsn()


@pytest.fixture
def store(dsn):
    store = PostgresBlobStore(dsn)
    yield store
    store.close()


def rows(dsn, query, *values):
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(query, values).fetchall()


def others_idle_in_transaction(dsn):
    return rows(
        dsn,
        "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%%'",
    )


# Opening


def start_and_put(dsn, number, barrier, results):
    barrier.wait()
    try:
        with PostgresCAS(dsn) as cas:
            results.put((cas.backend_id, cas.put(b"%d" % number)))
    except BaseException as error:
        results.put(repr(error))
        raise


def test_a_hundred_processes_may_start_at_once_on_an_empty_database(dsn):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(100), context.Queue()
    processes = [
        context.Process(target=start_and_put, args=(dsn, number, barrier, results)) for number in range(100)
    ]
    for process in processes:
        process.start()
    seen = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert {type(one) for one in seen} == {tuple}, [one for one in seen if isinstance(one, str)][:3]
    assert len({store_id for store_id, _ in seen}) == 1
    with PostgresCAS(dsn) as cas:
        assert sorted(cas.iter_hashes()) == sorted(name for _, name in seen)


def test_a_store_that_is_not_there_is_not_made_if_that_is_not_wanted(dsn):
    with pytest.raises(StoreVersionError):
        PostgresCAS(dsn, create=False)
    assert rows(dsn, "SELECT relname FROM pg_class WHERE relname LIKE 'agentref%%'") == []


@pytest.mark.parametrize(
    "changed", [{"dbname": "no_such_database"}, {"host": "/no/such/place"}, {"user": "nobody_of_that_name"}]
)
def test_a_wrong_address_is_a_typed_error_without_the_password(dsn, changed):
    wrong = make_conninfo(dsn, **{"password": "s3cret", "connect_timeout": "2", **changed})
    with pytest.raises(StoreUnavailableError) as caught:
        PostgresCAS(wrong, timeout=2.0)
    assert "s3cret" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("wrong", ["no connection string", "postgresql://[", 5, "", "a\0b"])
def test_what_is_no_address_is_refused(wrong):
    with pytest.raises((InvalidInputError, StoreUnavailableError)):
        PostgresCAS(wrong, timeout=1.0)


def test_a_database_of_a_newer_release_is_left_alone(dsn):
    upgrade(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO agentref_migration (number, name, checksum) VALUES (9999, 'post_new', 'x')"
        )
    with pytest.raises(StoreVersionError, match="9999"):
        PostgresCAS(dsn)


def test_migrations_are_applied_once_and_told(dsn):
    upgrade(dsn)
    applied = status(dsn)
    assert [number for number, _ in applied.applied] == list(range(1, len(applied.applied) + 1))
    assert applied.pending == []
    upgrade(dsn)
    assert status(dsn) == applied


def test_a_role_without_rights_on_the_schema_works_where_the_tables_are_there(databases):
    dsn = databases.dsn("least")
    upgrade(dsn)
    role = f"agentref_worker_{random.getrandbits(40):x}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (
            "CREATE ROLE {role} LOGIN PASSWORD 'x'",
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            "GRANT USAGE ON SCHEMA public TO {role}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON agentref_blob, agentref_alias TO {role}",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON agentref_owner, agentref_pin TO {role}",
            "GRANT SELECT, UPDATE ON agentref_meta TO {role}",
            "GRANT SELECT ON agentref_migration TO {role}",
            "GRANT USAGE ON SEQUENCE agentref_alias_version, agentref_owner_id TO {role}",
        ):
            connection.execute(sql.SQL(statement).format(role=sql.Identifier(role)))
    try:
        with PostgresCAS(make_conninfo(dsn, user=role, password="x")) as cas:
            ref = cas.dump(DOCS, ttl=0.01)
            cas.set_alias("a", ref)
            cas.pin("o", [ref])
            assert cas.load(cas.resolve_alias("a")) == DOCS
            assert cas.unpin("o") == 1
            cas.delete_alias("a")
            cas.dump("a short life", ttl=0.01)
            time.sleep(0.05)
            assert cas.prune_expired(grace=0).removed == 1
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in ("DROP OWNED BY {role}", "DROP ROLE {role}"):
                connection.execute(sql.SQL(statement).format(role=sql.Identifier(role)))


def test_a_role_that_may_not_write_is_told_what_it_lacks(databases):
    dsn = databases.dsn("reader")
    with PostgresCAS(dsn) as cas:
        ref = cas.dump(DOCS)
    role = f"agentref_reader_{random.getrandbits(40):x}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (
            "CREATE ROLE {role} LOGIN PASSWORD 'x'",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        ):
            connection.execute(sql.SQL(statement).format(role=sql.Identifier(role)))
    try:
        with PostgresCAS(make_conninfo(dsn, user=role, password="x")) as cas:
            assert cas.load(ref) == DOCS
            with pytest.raises(StoreUnavailableError, match=r"(?i)grant|permission"):
                cas.dump("something new")
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in ("DROP OWNED BY {role}", "DROP ROLE {role}"):
                connection.execute(sql.SQL(statement).format(role=sql.Identifier(role)))


def test_importing_the_stores_does_not_import_psycopg():
    code = "import sys, agentref.storage; assert not any(m.startswith('psycopg') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_psycopg_the_error_names_the_extra():
    code = """
import sys
sys.modules["psycopg"] = None
from agentref.errors import MissingExtraError
try:
    from agentref.storage import PostgresCAS
except MissingExtraError as error:
    assert "pip install 'agentref-checkpoint[postgres]'" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Crashes


def test_a_connection_that_is_cut_is_made_anew(dsn, store):
    store.store({ONE: b"1"})
    cut = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = %s AND pid <> pg_backend_pid()
    """
    name = conninfo_to_dict(dsn)["dbname"]
    for verb in (
        lambda: store.fetch([ONE]),
        lambda: store.store({TWO: b"2"}),
        lambda: store.touch([ONE], expires_at=5.0),
        lambda: store.pin("o", [ONE]),
        lambda: store.set_alias(AliasRow("a", ONE, "raw", 1, 0, FOREVER)),
    ):
        rows(dsn, cut, name)
        verb()
    assert store.fetch([ONE, TWO]) == {ONE: b"1", TWO: b"2"}


def test_a_server_that_was_restarted_is_found_again(own_server, dsn, store):
    store.store({ONE: b"1"})
    own_server.stop()
    own_server.start()
    assert store.fetch([ONE]) == {ONE: b"1"}


def test_a_server_that_is_gone_is_a_typed_error_and_no_end(own_server, dsn):
    store = PostgresBlobStore(dsn, timeout=1.0)
    store.store({ONE: b"1"})
    own_server.stop()
    with pytest.raises(StorageError):
        store.fetch([ONE])
    own_server.start()
    assert store.fetch([ONE]) == {ONE: b"1"}
    store.close()


def test_a_batch_that_fails_in_the_middle_leaves_nothing(dsn, store):
    """More than one statement's worth, and the last of it refused by the server."""
    store.store({ONE: b"1"})
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE agentref_blob ADD CONSTRAINT no_x CHECK (stored_size <> 3)")
    large = {name: random.Random(0).randbytes(12 * 1024 * 1024) for name in NAMES[1:5]}
    with pytest.raises(StorageError):
        store.store({**large, NAMES[6]: b"xxx"})
    assert list(store.stat(NAMES)) == [ONE]
    assert others_idle_in_transaction(dsn) == []


# Transactions


def test_blobs_and_rows_of_the_callers_commit_together_or_not_at_all(dsn):
    PostgresBlobStore(dsn).store({})
    PostgresCAS(dsn).close()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE mine (ref text)")
        connection.commit()
        cas = PostgresCAS(connection=connection)
        ref = cas.dump(DOCS)
        connection.execute("INSERT INTO mine VALUES (%s)", [ref.hash])
        assert cas.load(ref) == DOCS
        connection.rollback()
        assert cas.exists(ref.hash) is False
        assert connection.execute("SELECT * FROM mine").fetchall() == []
        ref = cas.repair(DOCS)
        cas.pin("o", [ref])
        connection.execute("INSERT INTO mine VALUES (%s)", [ref.hash])
        assert rows(dsn, "SELECT count(*) FROM agentref_blob") == [(0,)]
        connection.commit()
    with PostgresCAS(dsn) as other:
        assert other.load(ref) == DOCS
        assert [pin.owner for pin in other.iter_pins()] == ["o"]


def test_no_verb_leaves_a_transaction_open(dsn, store):
    store.store({ONE: b"1"}, expires_at=5.0)
    for verb in (
        lambda: store.fetch([ONE]),
        lambda: store.stat([ONE]),
        lambda: store.touch([ONE], expires_at=6.0),
        lambda: store.peek([ONE]),
        store.scan,
        store.epoch,
        store.clock,
        lambda: store.condemn([ONE], expires_by=6.0),
        lambda: store.pin("o", [ONE]),
        store.scan_pins,
        store.scan_aliases,
        lambda: store.unpin(["o"]),
        lambda: store.remove([ONE]),
    ):
        verb()
        assert others_idle_in_transaction(dsn) == []


# Concurrency


def test_writers_of_the_same_blobs_in_other_orders_never_deadlock(dsn):
    stores = [PostgresBlobStore(dsn, max_size=3) for _ in range(4)]
    stores[0].store({})
    end, failures = time.monotonic() + 5, []
    stored: set[Digest] = set()

    def work(number):
        draw, store = random.Random(number), stores[number % 4]
        while time.monotonic() < end:
            few = draw.sample(NAMES, 40)
            until = time.time() + draw.random() * 100
            try:
                here = set(store.touch(few, expires_at=until))
                missing = {name: name * 10 for name in few if name not in here}
                if missing:
                    store.store(missing, expires_at=until)
                stored.update(few)
            except Exception as error:  # noqa: BLE001
                failures.append(error)
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stores[0].fetch(list(stored)) == {name: name * 10 for name in stored}
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert rows(dsn, deadlocks) == [(0,)]
    for store in stores:
        store.close()


def test_writers_lose_nothing_beside_processes_that_prune(dsn):
    """Short lives, no grace: whatever is put with a life to come is here for as long."""
    end, lost = time.monotonic() + 5, []

    def write(seed):
        with PostgresCAS(dsn) as cas:
            turn = 0
            while time.monotonic() < end:
                turn += 1
                value = [f"{(seed + turn) % 4} {n} " * 200 for n in range(40)]
                cas.dump(value, ttl=0.005)
                time.sleep(0.006)
                ref = cas.dump(value, ttl=30)
                if cas.load(ref) != value:
                    lost.append(ref)

    def sweep():
        with PostgresCAS(dsn) as cas:
            while time.monotonic() < end:
                cas.prune_expired(grace=0)

    failures = []

    def checked(work, *args):
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=checked, args=(write, seed)) for seed in range(3)]
    threads += [threading.Thread(target=checked, args=(sweep,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert lost == []


def test_what_is_fresh_is_asked_for_in_one_round_trip_and_writes_no_log(dsn, store):
    blobs = {name: name * 100 for name in NAMES}
    store.store(blobs)
    before = rows(dsn, "SELECT pg_current_wal_insert_lsn()")
    assert len(store.touch(list(blobs), expires_at=time.time() + 10)) == len(blobs)
    assert rows(dsn, "SELECT pg_current_wal_insert_lsn()") == before


def test_values_of_every_size_and_nul_come_back(dsn):
    with PostgresCAS(dsn) as cas:
        for value in ("a\0b", "", b"", "x" * 5_000_000, random.Random(1).randbytes(3_000_000), DOCS):
            assert cas.load(cas.dump(value)) == value
        assert cas.verify().ok
