"""Many write the same at once, in every order: nobody waits in a circle, and nothing is lost."""

import random
import threading
import time

import psycopg
import pytest

from agentref.refs import Digest
from agentref.storage import FOREVER
from agentref.storage.postgres import PostgresBlobStore
from agentref.storage.protocol import AliasRow, PinRow

SECONDS = 4
DIGESTS = [Digest(n.to_bytes(1, "big") * 32) for n in range(120)]


def deadlocks(observer):
    observer.execute("SELECT pg_stat_clear_snapshot()")
    return observer.execute(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    ).fetchone()[0]


def run_all(work):
    errors, until = [], time.monotonic() + SECONDS

    def run(task, dice):
        try:
            while time.monotonic() < until:
                task(dice)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=(task, random.Random(n))) for n, task in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def some(dice):
    return dice.sample(DIGESTS, 60)


def test_overlapping_batches_in_any_order_never_lock_one_another_up(dsn, observer):
    store = PostgresBlobStore(dsn, max_size=16)

    def put(dice):
        batch = some(dice)
        store.store(dict.fromkeys(batch, b"x" * 3000), expires_at=time.time() + dice.random() * 1000)

    def touch(dice):
        store.touch(some(dice), expires_at=time.time() + dice.random() * 2000)

    def condemn(dice):
        store.condemn(some(dice), expires_by=FOREVER)

    def remove(dice):
        store.remove(some(dice), condemned_by=FOREVER)

    def replace(dice):
        store.replace(dict.fromkeys(some(dice)[:20], b"y" * 3000))

    run_all([put] * 4 + [touch] * 4 + [condemn] * 2 + [remove] * 2 + [replace] * 2)
    time.sleep(1)  # the server counts deadlocks now and then
    assert deadlocks(observer) == 0
    store.store(dict.fromkeys(DIGESTS, b"x"))
    assert len(store.fetch(DIGESTS)) == len(DIGESTS)
    store.close()


def test_roots_never_lock_one_another_up(dsn, observer):
    store = PostgresBlobStore(dsn, max_size=16)
    owners = [f"owner {n}" for n in range(6)]

    def pin(dice):
        end = time.time() + dice.choice([-1, 0.01, 100])
        store.pin(PinRow.each(dice.choice(owners), some(dice), expires_at=end))

    def unpin(dice):
        store.unpin(dice.sample(owners, 3))

    def forget(dice):
        store.forget(expires_by=FOREVER)

    def name(dice):
        store.set_alias(AliasRow(dice.choice(owners), DIGESTS[0], "raw", 1, 0, time.time() + 0.01))

    run_all([pin] * 6 + [unpin] * 2 + [forget] * 2 + [name] * 2)
    time.sleep(1)
    assert deadlocks(observer) == 0
    store.close()


def test_a_pin_that_comes_while_its_owner_is_forgotten_stays(dsn):
    """`forget` locks the owner, then looks again."""
    store = PostgresBlobStore(dsn)
    store.pin(PinRow.each("me", [DIGESTS[0]], expires_at=1.0))
    with psycopg.connect(dsn) as connection:
        PostgresBlobStore(connection=connection).pin(PinRow.each("me", [DIGESTS[1]]))
        forgetting = threading.Thread(target=store.forget, kwargs={"expires_by": FOREVER})
        forgetting.start()
        time.sleep(0.3)
    forgetting.join()
    assert [pin.digest for pin in store.scan_pins()] == [DIGESTS[1]]
    store.close()


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_touch_that_waits_tells_what_is_here_then(dsn, how):
    store = PostgresBlobStore(dsn)
    store.store(dict.fromkeys(DIGESTS[:3], b"x"), expires_at=5e9)
    found = []
    with psycopg.connect(dsn) as connection:
        joined = PostgresBlobStore(connection=connection)
        joined.touch(DIGESTS[:1], expires_at=FOREVER)
        joined.remove(DIGESTS[1:2])
        touching = threading.Thread(target=lambda: found.extend(store.touch(DIGESTS[:3], expires_at=6e9)))
        touching.start()
        time.sleep(0.3)
        getattr(connection, how)()
    touching.join()
    here = [DIGESTS[0], DIGESTS[2]] if how == "commit" else DIGESTS[:3]
    assert sorted(found) == here
    assert all(info.expires_at >= 6e9 for info in store.stat(found).values())
    store.close()


def test_one_of_many_who_expect_the_same_sets_a_name(dsn):
    store = PostgresBlobStore(dsn, max_size=16)
    barrier, set_by = threading.Barrier(12), []

    def work(number, expect):
        barrier.wait()
        if store.set_alias(AliasRow("name", DIGESTS[number], "raw", 1, 0, FOREVER), expect=expect):
            set_by.append(number)

    for _ in range(10):
        set_by.clear()
        standing = store.alias("name")
        expect = standing.version if standing else 0
        threads = [threading.Thread(target=work, args=(number, expect)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set_by) == 1
        assert store.alias("name").digest == DIGESTS[set_by[0]]
    store.close()
