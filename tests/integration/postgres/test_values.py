"""What a store in PostgreSQL promises beside the contracts: beginnings, crashes, transactions."""

import random
import threading
import time

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from agentref.errors import (
    StorageError,
    StoreUnavailableError,
)
from agentref.refs import Digest
from agentref.storage import PostgresCAS
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


@pytest.mark.parametrize(
    "changed", [{"dbname": "no_such_database"}, {"host": "/no/such/place"}, {"user": "nobody_of_that_name"}]
)
def test_a_wrong_address_is_a_typed_error_without_the_password(dsn, changed):
    wrong = make_conninfo(dsn, **{"password": "s3cret", "connect_timeout": "2", **changed})
    with pytest.raises(StoreUnavailableError) as caught:
        PostgresCAS(wrong, timeout=2.0)
    assert "s3cret" not in f"{caught.value} {caught.value!r}"


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


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_what_is_left_behind_the_last_full_slice_is_kept_wherever_it_stands(dsn, store, slices):
    sizes = [1996 * slices + left for left in (-1, 0, 1, 255, 256, 257, 1995)]
    blobs = {name: random.Random(size).randbytes(size) for name, size in zip(NAMES, sizes, strict=False)}
    store.store(blobs)
    assert store.fetch(NAMES) == blobs
    assert [info.stored_size for info in store.scan()] == sizes
    in_rows = rows(dsn, "SELECT octet_length(tail) FROM agentref_blob WHERE tail IS NOT NULL ORDER BY 1")
    assert in_rows == [(1,), (255,), (256,)]
    for turned in (dict(zip(blobs, reversed(blobs.values()), strict=True)), dict.fromkeys(blobs, b"")):
        store.replace(turned)
        assert store.fetch(NAMES) == turned
        assert [info.stored_size for info in store.scan()] == [len(data) for data in turned.values()]


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


def test_values_of_every_size_and_nul_come_back(dsn):
    with PostgresCAS(dsn) as cas:
        for value in ("a\0b", "", b"", "x" * 5_000_000, random.Random(1).randbytes(3_000_000), DOCS):
            assert cas.load(cas.dump(value)) == value
        assert cas.verify().ok
