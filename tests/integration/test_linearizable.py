"""Random concurrent histories of several processes are linearizable, key by key.

Every success names a version, so there is one order in which they can have happened: that of the versions,
a read after the commit that it saw. It is a linearization if and only if it nowhere contradicts time: what
had ended before something else began does not come after it. (Herlihy and Wing, 1990, for the definition.)
"""

import json
import random
import subprocess
import sys
from itertools import groupby
from typing import NamedTuple

import pytest

from agentref.coherence import SqliteCoordinator
from agentref.storage import FilesystemCAS

PROCESSES, KEYS, SECONDS = 4, 3, 2.5
STRATEGIES = ("lazy", "eager", "lease", "access_count")

WORKER = """
import json, random, sys, time
from agentref.coherence import Conflict, PostgresCoordinator, SqliteCoordinator, Strategy
from agentref.storage import FilesystemCAS, PostgresCAS

kind, where, blobs, strategy, seed, seconds, keys = sys.argv[1:]
draw = random.Random(int(seed))
short = {"lease": Strategy.lease(ttl=0.05), "access_count": Strategy.access_count(5, ttl=0.05)}
made = SqliteCoordinator(where) if kind == "sqlite" else PostgresCoordinator(where)
with made as coordinator:
    store = FilesystemCAS(blobs) if kind == "sqlite" else PostgresCAS(where)
    with coordinator.peer(f"agent-{seed}", backend=store, strategy=short.get(strategy, strategy)) as peer:
        views, end, number = {}, time.monotonic() + float(seconds), 0
        while time.monotonic() < end:
            key = ("key", str(draw.randrange(int(keys))))
            what = "commit" if key in views and draw.random() < 0.4 else "read"
            number += 1
            begun = time.monotonic()
            try:
                if what == "read":
                    view = peer.read(key)
                elif draw.random() < 0.1:
                    view = peer.delete(key, base=views[key])
                else:
                    view = peer.commit(key, f"{seed}-{number}", base=views[key])
            except Conflict:
                continue
            if what == "commit" and view.version == views[key].version:
                what = "read"  # to delete what is deleted changes nothing, and tells what stands there
            value = view.value if view.exists else None
            print(json.dumps([key[1], what, begun, time.monotonic(), view.version, view.epoch, value]))
            views[key] = view
"""


class Did(NamedTuple):
    """A success; times by the clock that all processes of a machine share."""

    key: str
    what: str
    begun: float
    ended: float
    version: int
    epoch: int
    value: str | None


def order(did):
    return did.version, did.what == "read"


def contradictions(history):
    """Pairs of successes of one key of which the later one had ended before the earlier one began, and
    versions that were made twice, or read as something else than they were made as."""
    found = []
    for _, group in groupby(sorted(history, key=lambda did: did.key), key=lambda did: did.key):
        one_key = sorted(group, key=order)
        values = {}
        soonest = None  # of all that come later in the order, the first to end
        for did in reversed(one_key):
            if soonest is not None and soonest.ended < did.begun and order(soonest) > order(did):
                found.append((did, soonest))
            if soonest is None or did.ended < soonest.ended:
                soonest = did
            values.setdefault(did.version, set()).add(did.value)
        made = [did.version for did in one_key if did.what == "commit"]
        found += [version for version in set(made) if made.count(version) > 1]
        found += [version for version, seen in values.items() if len(seen) > 1]
    return found


def history(kind, where, blobs):
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, kind, *map(str, (where, blobs, strategy, seed, SECONDS, KEYS))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, strategy in enumerate(STRATEGIES[:PROCESSES])
    ]
    said = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES
    return [Did(*json.loads(line)) for each in said for line in each.splitlines()]


def prepare(coordinator, store):
    with coordinator.peer("first", backend=store) as peer:
        for number in range(KEYS):
            peer.commit(("key", str(number)), "first", base=None)


def check(found):
    assert contradictions(found) == []
    assert sum(did.what == "commit" for did in found) > 20
    assert {did.key for did in found} == {str(number) for number in range(KEYS)}
    # The checker can tell: of two reads that followed each other, the later one is made to see less.
    reads = sorted((did for did in found if did.key == "0" and did.what == "read"), key=lambda d: d.begun)
    first, last = reads[0], reads[-1]
    assert first.version < last.version
    swapped = [first._replace(version=last.version), last._replace(version=first.version)]
    assert contradictions([*swapped, *(did for did in found if did not in (first, last))])


def test_histories_over_sqlite_are_linearizable(tmp_path):
    where, blobs = tmp_path / "coherence.db", tmp_path / "blobs"
    with SqliteCoordinator(where) as coordinator, FilesystemCAS(blobs) as store:
        prepare(coordinator, store)
    check(history("sqlite", where, blobs))


def test_histories_over_postgres_are_linearizable(databases, tmp_path):
    pytest.importorskip("psycopg")
    from agentref.coherence import PostgresCoordinator
    from agentref.storage import PostgresCAS

    dsn = databases.dsn()
    with PostgresCoordinator(dsn) as coordinator, PostgresCAS(dsn) as store:
        prepare(coordinator, store)
    check(history("postgres", dsn, tmp_path))


@pytest.mark.parametrize(
    ("history", "is_linear"),
    [
        ([("k", "commit", 0, 1, 1), ("k", "read", 2, 3, 1)], True),
        ([("k", "commit", 0, 1, 2), ("k", "read", 2, 3, 1)], False),  # a stale read
        ([("k", "commit", 0, 3, 2), ("k", "read", 2, 3, 1)], True),  # at the same time
        ([("k", "read", 0, 1, 2), ("k", "commit", 2, 3, 2)], False),  # read before it was made
        ([("k", "commit", 0, 9, 2), ("k", "commit", 0, 9, 2)], False),  # two winners
        ([("k", "commit", 0, 1, 2), ("j", "read", 2, 3, 1)], True),  # another key
    ],
)
def test_the_checker_tells(history, is_linear):
    draw = random.Random(0)
    dids = [Did(*each, 0, "v") for each in history]
    draw.shuffle(dids)
    assert (contradictions(dids) == []) is is_linear
