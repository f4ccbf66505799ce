"""Two processes, one of which is stopped where it hurts most: whatever was promised to either is kept.

A prune is stopped while others put, pin, name, touch and read; and each of these is stopped while another
prunes. Nothing has a grace time, but for prunes that are to condemn: of these there are two.
"""

import time

import pytest

from agentref.errors import BlobNotFoundError
from agentref.storage import InMemoryCAS

SHORT = 0.02
# Small blobs and large ones, some of which several values have in common.
SHARED = ["shared " + "and on " * 3000, *(f"shared {n} " * 200 for n in range(12))]
VALUES = {
    name: [*SHARED, name + " alone " * 3000, *(f"{name} {n} " * 200 for n in range(60))]
    for name in ("put", "pinned", "named", "touched", "nobody's")
}

VALUES["put"] += [f"put {n} " * 3000 for n in range(20)]  # enough for a second thread to help

PRUNE_STOPS = [
    "before scan_pins",
    "after scan_pins",
    "after scan_aliases",
    "before condemn",
    "before remove",
]


@pytest.fixture
def expired(place):
    """All values are here, and have expired."""
    place.values = VALUES
    with place.open() as cas:
        cas.dump_many(VALUES.values(), ttl=SHORT)
        time.sleep(2 * SHORT)
        yield cas


def ref_to(name):
    return InMemoryCAS().dump(VALUES[name])


def hashes_of(*names):
    fresh = InMemoryCAS()
    fresh.dump_many([VALUES[name] for name in names])
    return list(fresh.iter_hashes())


def act(cas):
    """All that a value can be saved by; what was acknowledged."""
    ways = {
        "put": lambda: cas.dump(VALUES["put"]),
        "pinned": lambda: cas.pin("owner", [ref_to("pinned")]),
        "named": lambda: cas.set_alias("name", ref_to("named")),
        "touched": lambda: cas.touch([ref_to("touched")]),
    }
    kept = []
    for name, way in ways.items():
        try:
            way()
        except BlobNotFoundError:
            continue
        kept.append(name)
    return kept


@pytest.mark.parametrize("point", PRUNE_STOPS)
def test_what_comes_in_the_middle_of_a_prune_is_kept(place, expired, point):
    prune = place.pruning(point)
    kept = act(expired)
    assert kept == ["put", "pinned", "named", "touched"]
    assert prune.go() == "done"
    place.hashes_after_check(*kept)


def test_what_comes_after_the_removal_is_put_anew_or_refused(place, expired):
    prune = place.worker("prune", None, "after remove")
    assert prune.says() == "after remove"
    assert act(expired) == ["put"]
    assert prune.go() == "done"
    assert place.hashes_after_check("put") == hashes_of("put")


@pytest.mark.parametrize("point", ["after survey", "before condemn", "before remove"])
def test_a_new_value_may_use_what_is_about_to_go(place, expired, point):
    prune = place.pruning(point)
    place.values = {**VALUES, "new": [SHARED, VALUES["nobody's"]]}
    expired.dump(place.values["new"])
    assert prune.go() == "done"
    place.hashes_after_check("new")


@pytest.mark.parametrize(
    ("task", "stops"),
    [
        ("put", ["after stat"]),
        ("put", ["after touch"]),
        ("put", ["before touch", "after touch", "before store", "after store"]),
        ("again put", ["before again", "after epoch"]),
        ("again put", ["before again", "after touch"]),
        ("again put", ["before again", "before touch", "before store"]),
    ],
)
def test_a_put_that_is_held_up_keeps_all_of_it(place, expired, task, stops):
    """At each stop others prune. `again`: the client has put the value before, and remembers that."""
    put = place.worker(task, "put", *stops)
    said = put.says()
    for point in stops:
        assert said == point
        time.sleep(2 * SHORT)
        expired.prune_expired(grace=0)
        said = put.go()
    assert said == "done"
    assert place.hashes_after_check("put") == hashes_of("put")


@pytest.mark.parametrize(
    ("task", "point"), [("pin", "after touch"), ("alias", "before fetch"), ("touch", "after touch")]
)
def test_who_has_touched_the_root_keeps_all_of_it_from_a_prune_to_come(place, expired, task, point):
    worker = place.worker(task, "pinned", point)
    assert worker.says() == point
    expired.prune_expired(grace=0)
    assert worker.go() == "done"
    place.hashes_after_check("pinned")


@pytest.mark.parametrize(("task", "verb"), [("pin", "pin"), ("alias", "set_alias")])
def test_who_has_looked_at_all_of_it_has_time_to_name_it(place, expired, task, verb):
    worker = place.worker(task, "pinned", f"before {verb}")
    assert worker.says() == f"before {verb}"
    expired.prune_expired(grace=0)
    assert worker.go() == "done"
    place.hashes_after_check("pinned")


@pytest.mark.parametrize(
    ("task", "stop"),
    [("pin", "after scan_aliases"), ("alias", "before remove"), ("touch", "before remove")],
)
def test_who_has_touched_the_root_only_is_told_what_a_prune_has_taken(place, expired, task, stop):
    """The prune has marked before, so the chunks below the root go."""
    prune = place.pruning(stop)
    worker = place.worker(task, "pinned", "after touch")
    assert worker.says() == "after touch"
    assert prune.go() == "done"
    assert worker.go() == "raised BlobNotFoundError"
    assert list(expired.iter_pins()) == list(expired.iter_aliases()) == []
    # It may be put again all the same, by whomever.
    expired.dump(VALUES["pinned"])
    place.hashes_after_check("pinned")


@pytest.mark.parametrize("task", ["pin", "alias", "touch", "get"])
def test_what_a_prune_took_first_is_not_there(place, expired, task):
    point = "before fetch" if task == "get" else "before touch"
    worker = place.worker(task, "pinned", point)
    assert worker.says() == point
    expired.prune_expired(grace=0)
    assert worker.go() == "raised BlobNotFoundError"
    assert place.hashes_after_check() == []


def test_who_reads_what_lives_reads_it_while_another_prunes(place, expired):
    ref = expired.dump(VALUES["put"])
    reader = place.worker("get", "put", "before fetch", "before fetch")
    assert reader.says() == "before fetch"
    assert expired.prune_expired(grace=0).removed
    assert reader.go() == "before fetch"
    assert expired.load(ref) == VALUES["put"]
    assert reader.go() == "done"


@pytest.mark.parametrize("place", ["filesystem"], indirect=True)
def test_who_reads_what_lives_reads_it_however_often_it_moves(place, expired):
    """Between a look at the index and a look at the pack, the pack may go: again and again."""
    ref = expired.dump(VALUES["put"])
    stops = ["before _packs.read"] * 4
    reader = place.worker("get", "put", *stops)
    said = reader.says()
    for turn, point in enumerate(stops):
        assert said == point
        packs = expired._store._packs.names()
        expired.dump([f"{turn} {n} " * 200 for n in range(400)], ttl=SHORT)
        time.sleep(2 * SHORT)
        assert expired.prune_expired(grace=0).removed
        assert set(packs).isdisjoint(expired._store._packs.names())
        said = reader.go()
    assert said == "done"
    assert expired.load(ref) == VALUES["put"]


def test_of_what_has_expired_a_reader_gets_all_or_nothing(place, expired):
    reader = place.worker("get", "put", "after fetch")
    assert reader.says() == "after fetch"
    assert expired.prune_expired(grace=0).removed
    assert reader.go() == "raised BlobNotFoundError"


@pytest.mark.parametrize("stop", ["after survey", "before condemn", "before remove"])
def test_two_prunes_take_nothing_that_came_between_them(place, expired, stop):
    prune = place.pruning(stop)
    assert expired.prune_expired(grace=0).removed
    expired.dump(VALUES["put"])
    assert prune.go() == "done"
    assert place.hashes_after_check("put") == hashes_of("put")
