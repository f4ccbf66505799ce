"""A prune that is killed, wherever it is: nothing that lives is lost, and the next one ends the work."""

import random
import sqlite3
import time
from contextlib import closing

import pytest

from agentref.storage import InMemoryCAS, PinRow

SHORT = 0.02
SHARED = ["shared " + "and on " * 3000, *(f"shared {n} " * 200 for n in range(12))]
VALUES = {
    name: [*SHARED, name + " alone " * 3000, *(f"{name} {n} " * 200 for n in range(60))]
    for name in ("put", "pinned", "named", "nobody's")
}
KEPT = ("put", "pinned", "named")
# More than are removed at once.
RUBBISH = [b"rubbish %d" % n for n in range(1200)]

ANYWHERE = [
    "after survey",
    "after scan_pins",
    "after scan_aliases",
    "before condemn",
    "after condemn",
    "before remove",
    "after remove",
    "before forget",
]
# In a removal: in its transaction, before it is said to be over, and while space is given back.
IN_FILES = [
    "after _journal.begin_removal",
    "before _journal.end_removal",
    "after _journal.end_removal",
    "before _journal.appended",
    "before _packs.unlink",
    "after _packs.unlink",
]

INDEX = {"index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"}


def fill(place):
    place.values = VALUES
    with place.open() as cas:
        cas.put_many(RUBBISH, ttl=SHORT)
        refs = dict(zip(VALUES, cas.dump_many(VALUES.values(), ttl=SHORT), strict=True))
        time.sleep(2 * SHORT)
        # As it is when a lease is over: the root alone keeps all of it.
        cas._store.pin(PinRow.each("owner", [refs["pinned"].digest]))
        alias = cas.set_alias("name", cas.dump("something"))
        cas.set_alias("name", cas.dump(VALUES["named"]), expect=alias.ref)
        cas.dump(VALUES["put"])


def what_lives():
    fresh = InMemoryCAS()
    fresh.dump_many([*(VALUES[name] for name in KEPT), "something"])
    return list(fresh.iter_hashes())


def assert_nothing_is_left_over(place):
    """Of files there are the marks, the index, and packs that the index knows and something is in."""
    if place.is_postgres:
        return
    root = place.root
    with place.open() as cas:
        cas._store.sweep()
    with closing(sqlite3.connect(root / "index.sqlite3")) as index:
        packs = dict(index.execute("SELECT name, live FROM pack"))
    assert {path.name for path in (root / "packs").iterdir()} == set(packs)
    assert sum(path.stat().st_size for path in (root / "packs").iterdir()) < 3 * sum(packs.values())
    assert {path.name for path in root.iterdir()} - {"packs", "marks"} <= INDEX


def kill_at(place, point):
    fill(place)
    place.pruning(point).kill()


@pytest.mark.parametrize("point", ANYWHERE)
def test_the_next_prune_finishes_what_a_killed_one_began(place, point):
    kill_at(place, point)
    assert place.hashes_after_check(*KEPT) == what_lives()
    assert_nothing_is_left_over(place)


@pytest.mark.parametrize("place", ["filesystem"], indirect=True)
@pytest.mark.parametrize("point", IN_FILES)
def test_a_removal_from_files_is_killed_at_each_step(place, point):
    kill_at(place, point)
    assert place.hashes_after_check(*KEPT) == what_lives()
    assert_nothing_is_left_over(place)


def test_prunes_are_killed_again_and_again(place):
    draw = random.Random(1)
    fill(place)
    killed = 0
    for turn in range(10):
        with place.open() as cas:
            cas.put_many([b"%d " % turn + rubbish for rubbish in RUBBISH], ttl=SHORT)
        prune = place.pruning("before survey")
        prune.process.stdin.write("\n")
        prune.process.stdin.flush()
        time.sleep(draw.random() * 0.02 * (turn + 1))
        prune.kill()
        killed += prune.says() != "done"
    assert killed >= 3
    assert place.hashes_after_check(*KEPT) == what_lives()
    assert_nothing_is_left_over(place)
