"""A migration stopped at chosen points while others put, name, prune and delete; and killed there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentref.storage import FilesystemCAS, PinRow, PostgresCAS, migrate_cas

FOREVER = 3600.0 * 24
LEASE = 0.4
PAIRS = [("filesystem", "postgres"), ("postgres", "filesystem"), ("filesystem", "filesystem")]


CHILD = """
import json, sys
from agentref.storage import FilesystemCAS, PostgresCAS, migrate_cas
from agentref.storage import _root_transfer, _transfer

source, target = [PostgresCAS(x) if "=" in x else FilesystemCAS(x) for x in sys.argv[1:3]]
plan = json.loads(sys.argv[3])
_transfer.PAGE = _root_transfer.PAGE = plan["page"]
_transfer.LEASE_SECONDS = plan["lease"]
_transfer._CHUNK_BYTES = plan["chunk"]
store = {"source": source, "target": target}[plan["side"]]._store
verb = getattr(store, plan["verb"])
calls = 0

def stop():
    print("stopped", flush=True)
    sys.stdin.readline()

def stopping(*arguments, **named):
    global calls
    calls += 1
    call = calls
    if call == plan["call"] and plan["when"] == "before":
        stop()
    result = verb(*arguments, **named)
    if call == plan["call"] and plan["when"] == "after":
        stop()
    return result

setattr(store, plan["verb"], stopping)
print("ready", flush=True)
sys.stdin.readline()
report = migrate_cas(source, target, workers=1, overwrite_aliases=plan["overwrite"])
print(json.dumps({name: getattr(report, name) for name in (*report.__slots__, "ok")}), flush=True)
"""


class Migration:
    """A migration in a process of its own, which stops at a point such as "before target.store 1"."""

    def __init__(self, source, target, point, *, page=1000, lease=3600.0, chunk=4 << 20, overwrite=False):
        when, where, call = point.split()
        side, verb = where.split(".")
        plan = {"when": when, "side": side, "verb": verb, "call": int(call)}
        plan |= {"page": page, "lease": lease, "chunk": chunk, "overwrite": overwrite}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(source), str(target), json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._expect("ready")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def begin(self):
        """Go on until the point."""
        self._go_on()
        self._expect("stopped")
        return self

    def finish(self):
        """Go on to the end: what it reports."""
        self._go_on()
        said = self._process.stdout.readline()
        assert said, "the migration failed"
        return json.loads(said)

    def kill(self):
        """As the power would."""
        self._process.kill()
        assert self._process.wait() != 0

    def _go_on(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _expect(self, line):
        said = self._process.stdout.readline()
        assert said == line + "\n", said


def opened(where, **options):
    """The store at a path, or in a database."""
    return FilesystemCAS(where, **options) if isinstance(where, Path) else PostgresCAS(where, **options)


def place(kind, name, tmp_path, databases):
    """Where a store of that kind is to be."""
    return databases.dsn(name) if kind == "postgres" else tmp_path / name


def text(seed, count=30):
    return [f"{seed} {n} {n * 7919} " * 200 for n in range(count)]


@pytest.fixture(params=PAIRS, ids="-to-".join)
def places(request, tmp_path, databases):
    return [
        place(kind, name, tmp_path, databases)
        for kind, name in zip(request.param, ("source", "target"), strict=True)
    ]


@pytest.fixture
def stores(places):
    with opened(places[0]) as source, opened(places[1], backend_aliases=[source.backend_id]) as target:
        yield source, target


def expired(source, value):
    """A value that is there because somebody pins it, and for no other reason."""
    ref = source.dump(value, ttl=0.05)
    source._store.pin(PinRow.each("run", [ref.digest]))
    time.sleep(0.12)
    return ref


def whole(target):
    """Whether all that is named or pinned can be read."""
    for alias in target.iter_aliases():
        target.load(alias.ref)
    return target.verify().ok


POINTS = [
    "before source.fetch 1",
    "after target.touch 1",
    "before target.store 1",
    "after target.store 1",
    "after target.store 3",
    "before target.pin 1",
    "after target.pin 1",
    "before target.set_alias 1",
    "after target.set_alias 1",
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_it_is_finished_by_the_next_run(places, stores, point):
    source, target = stores
    values = {"named": text("named"), "pinned": text("pinned"), "free": text("free")}
    pinned = expired(source, values["pinned"])
    named, free = source.dump(values["named"]), source.dump(values["free"], ttl=FOREVER)
    source.set_alias("name", named)
    with Migration(*places, point, chunk=16 << 10) as migration:
        migration.begin().kill()
    for alias in target.iter_aliases():
        assert target.load(alias.ref) == values["named"]
    for pin in target.iter_pins():
        assert target.load(pinned) == values["pinned"], pin
    assert migrate_cas(source, target).ok
    assert migrate_cas(source, target).copied == 0
    assert target.prune_expired(grace=0).removed == 0
    assert whole(target)
    refs = {"named": target.resolve_alias("name"), "pinned": pinned, "free": free}
    assert {name: target.load(ref) for name, ref in refs.items()} == values


def test_what_expires_and_is_pruned_from_the_source_meanwhile_is_no_damage(places, stores):
    source, target = stores
    kept = source.dump(text("kept"))
    with Migration(*places, "before source.fetch 1") as migration:
        ref = source.dump(text("short"), ttl=2)
        migration.begin()
        time.sleep(2.5)
        assert source.prune_expired(grace=0).removed > 0
        report = migration.finish()
    assert report["ok"]
    assert not target.exists(ref.hash)
    assert target.load(kept) == text("kept")
    assert whole(target)


def test_what_is_let_go_and_pruned_from_the_source_meanwhile_is_not_missed(places, stores):
    source, target = stores
    expired(source, text("let go"))
    with Migration(*places, "before source.fetch 1") as migration:
        migration.begin()
        source.unpin("run")
        assert source.prune_expired(grace=0).removed > 0
        report = migration.finish()
    assert report["ok"]
    assert (report["pins"], report["copied"]) == (0, 0)
    assert list(target.iter_pins()) == []


def test_what_a_prune_takes_from_the_target_before_it_is_pinned_is_brought_again(places, stores):
    source, target = stores
    ref = expired(source, text("pinned"))
    with Migration(*places, "after target.store 1", lease=LEASE) as migration:
        migration.begin()
        time.sleep(LEASE * 1.5)
        assert target.prune_expired(grace=0).removed > 0
        report = migration.finish()
    assert report["ok"]
    assert target.prune_expired(grace=0).removed == 0
    assert target.load(ref) == text("pinned")


@pytest.mark.parametrize("point", ["after target.store 1", "before target.pin 1"])
def test_a_prune_of_the_target_takes_nothing_that_is_still_to_be_pinned(places, stores, point):
    source, target = stores
    ref = expired(source, text("pinned"))
    with Migration(*places, point) as migration:
        migration.begin()
        assert target.prune_expired(grace=0).removed == 0
        report = migration.finish()
    assert report["ok"]
    assert report["copied"] == source.stats().blobs
    assert target.load(ref) == text("pinned")


def test_a_life_that_ends_before_it_is_pinned_is_lengthened_until_then(places, stores):
    source, target = stores
    with Migration(*places, "before target.pin 1") as migration:
        ref = source.dump(text("short"), ttl=2)
        source._store.pin(PinRow.each("run", [ref.digest]))
        migration.begin()
        time.sleep(2.5)
        assert target.prune_expired(grace=0).removed == 0
        report = migration.finish()
    assert report["ok"]
    assert target.load(ref) == text("short")


def split_value(source, middle):
    """A value whose root is in the upper part of the names, and a part of which is in the lower one."""
    for seed in range(10_000):
        encoded = source.encode([text(seed, 8)])
        root = encoded.refs[0].digest
        if root > middle and min(encoded.blobs) < middle:
            return encoded, text(seed, 8)
    raise AssertionError


@pytest.mark.parametrize("look", ["first", "second"])
def test_what_is_put_meanwhile_and_met_is_met_with_all_that_it_needs(places, stores, look):
    source, target = stores
    source.put_many([bytes([n]) * 100 for n in range(40)])
    names = sorted(source.iter_hashes())
    pages = 4
    call = 2 if look == "first" else pages + 1 + 2  # one more page, an empty one, ends the first look
    with Migration(*places, f"after source.scan {call}", page=10) as migration:
        migration.begin()
        encoded, value = split_value(source, bytes.fromhex(names[19]))
        source.store(encoded)
        report = migration.finish()
    assert report["ok"]
    assert target.exists(encoded.refs[0].hash)
    assert target.load(encoded.refs[0]) == value
    assert whole(target)


def test_what_is_pinned_meanwhile_comes_with_all_that_it_needs(places, stores):
    source, target = stores
    source.pin("a", [source.dump("first")])
    with Migration(*places, "before target.pin 1", page=1) as migration:
        migration.begin()
        ref = source.dump(text("later"), ttl=5)
        source.pin("b", [ref])
        named = source.dump(text("named"), ttl=5)
        source.set_alias("name", named)
        report = migration.finish()
    assert report["ok"]
    assert (report["pins"], report["aliases"]) == (2, 1)
    assert target.load(ref) == text("later")
    assert target.load(target.resolve_alias("name")) == text("named")


def test_a_pin_that_is_set_among_those_just_read_never_comes_without_its_content(places, stores):
    source, target = stores
    for owner in ("a", "c"):
        source.pin(owner, [source.dump(owner)])
    with Migration(*places, "before source.scan_pins 2") as migration:
        migration.begin()
        source.pin("b", [source.dump(text("between"))])
        report = migration.finish()
    assert report["ok"]
    assert all(target.exists(pin.hash) for pin in target.iter_pins())
    assert migrate_cas(source, target).pins == 3
    assert [pin.owner for pin in target.iter_pins()] == ["a", "b", "c"]
    assert whole(target)


def test_a_name_that_moves_in_the_source_meanwhile_comes_as_it_stands_then(places, stores):
    source, target = stores
    source.set_alias("name", source.dump(text("old")))
    with Migration(*places, "before source.scan_aliases 2") as migration:
        migration.begin()
        source.set_alias("name", source.dump(text("new")))
        report = migration.finish()
    assert report["ok"]
    assert target.load(target.resolve_alias("name")) == text("new")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_name_that_is_moved_in_the_target_at_that_moment_is_left_to_who_moved_it(
    places, stores, overwrite
):
    source, target = stores
    source.set_alias("name", source.dump("ours"))
    with Migration(*places, "before target.set_alias 1", overwrite=overwrite) as migration:
        migration.begin()
        target.set_alias("name", target.dump("theirs"))
        report = migration.finish()
    assert (report["conflicts"], report["aliases"], report["ok"]) == (["name"], 0, False)
    assert target.load(target.resolve_alias("name")) == "theirs"
