"""From one store to another: content, lives, aliases and pins, beside writers, prunes and damage."""

import asyncio
import threading
import time

import pytest

from agentref.errors import InvalidInputError
from agentref.refs import Digest
from agentref.runtime import Runtime
from agentref.storage import (
    FOREVER,
    FilesystemCAS,
    InMemoryCAS,
    PostgresCAS,
    amigrate_cas,
    migrate_cas,
)

DOCS = [{"id": n, "text": f"document {n} " * 300} for n in range(60)]
KINDS = ["memory", "filesystem", "postgres"]


@pytest.fixture
def make(request, tmp_path):
    made = []

    def make(kind, name, **options):
        match kind:
            case "memory":
                cas = InMemoryCAS(**options)
            case "filesystem":
                cas = FilesystemCAS(tmp_path / name, **options)
            case "postgres":
                cas = PostgresCAS(request.getfixturevalue("databases").dsn(name), **options)
        made.append(cas)
        return cas

    yield make
    for cas in made:
        cas.close()


@pytest.fixture(params=KINDS)
def source(request, make):
    return make(request.param, "source")


@pytest.fixture(params=KINDS)
def target(request, make, source):
    return make(request.param, "target", backend_aliases=[source.backend_id])


@pytest.fixture
def stores(make):
    source = make("filesystem", "source")
    return source, make("filesystem", "target", backend_aliases=[source.backend_id])


def blobs(cas):
    return {info.digest: info.stored_size for info in cas._store.scan(limit=100_000)}


def test_everything_is_there_afterwards_and_old_refs_find_it(source, target):
    refs = [source.dump(DOCS), source.dump("short"), source.dump(b"x" * 300_000, ttl=5000)]
    source.set_alias("plan", refs[0])
    source.set_alias("mortal", refs[1], ttl=5000)
    source.pin("run", refs[:2])
    seen = []
    report = migrate_cas(source, target, progress=seen.append)
    assert report.ok
    assert not report.dry_run
    assert (report.blobs, report.copied) == (source.stats().blobs, source.stats().blobs)
    assert report.copied_bytes == source.stats().stored_bytes
    assert (report.pins, report.aliases) == (2, 2)
    assert seen == sorted(seen)
    assert seen
    assert blobs(target) == blobs(source)
    assert target.verify().ok
    values = [source.load(ref) for ref in refs]
    source.close()
    assert Runtime(target, inline_threshold_bytes=0).load_many(refs) == values
    assert target.load(target.resolve_alias("plan")) == DOCS
    assert [pin.owner for pin in target.iter_pins()] == ["run", "run"]


def test_lives_are_kept(source, target):
    source.put(b"for ever")
    source.put(b"mortal", ttl=5000)
    source.set_alias("a", source.dump("x"), ttl=700)
    migrate_cas(source, target)
    mine = {info.digest: info.expires_at for info in source._store.scan()}
    theirs = {info.digest: info.expires_at for info in target._store.scan()}
    assert theirs == pytest.approx(mine, abs=2)
    assert FOREVER in theirs.values()
    assert target.get_alias("a").expires_at == pytest.approx(source.get_alias("a").expires_at, abs=2)


def test_a_second_run_sends_nothing(source, target):
    source.dump(DOCS)
    source.dump(DOCS[::2], ttl=5000)
    assert migrate_cas(source, target).copied > 0
    again = migrate_cas(source, target)
    assert again.ok
    assert (again.copied, again.copied_bytes) == (0, 0)


def test_what_came_since_comes_with_the_next_run(stores):
    source, target = stores
    source.dump(DOCS)
    migrate_cas(source, target)
    ref = source.dump([*DOCS, "one more"])
    report = migrate_cas(source, target)
    assert 0 < report.copied < report.blobs
    assert target.load(ref) == [*DOCS, "one more"]


def test_a_dry_run_tells_all_and_changes_nothing(stores):
    source, target = stores
    source.pin("o", [source.dump(DOCS)])
    report = migrate_cas(source, target, dry_run=True)
    assert report.dry_run
    assert (report.copied, report.copied_bytes) == (source.stats().blobs, source.stats().stored_bytes)
    assert target.stats().blobs == 0
    assert list(target.iter_pins()) == []
    assert migrate_cas(source, target).copied == report.copied


def test_what_is_damaged_is_left_out_and_told(stores):
    source, target = stores
    kept, lost = source.dump(DOCS), source.dump("a value that is damaged then " * 40)
    source.pin("o", [kept, lost])
    source._store.replace({Digest(lost.digest): b"\x10damaged"})
    report = migrate_cas(source, target)
    assert not report.ok
    assert (report.corrupt, report.missing) == ((lost.hash,), ())
    assert target.load(kept) == DOCS
    assert target.verify().corrupt == ()
    assert not target.exists(lost.hash)
    source.repair("a value that is damaged then " * 40)
    assert migrate_cas(source, target).ok
    assert target.load(lost) == "a value that is damaged then " * 40


def test_a_name_that_stands_for_something_else_is_left_alone(stores):
    source, target = stores
    source.set_alias("same", source.dump("same"))
    source.set_alias("plan", source.dump("ours"))
    theirs = target.dump("theirs")
    target.set_alias("plan", theirs)
    target.set_alias("same", target.dump("same"))
    report = migrate_cas(source, target)
    assert report.conflicts == ("plan",)
    assert report.aliases == 1
    assert target.resolve_alias("plan") == theirs


def test_what_only_a_pin_keeps_comes_too_and_stays(stores):
    source, target = stores
    ref = source.dump(DOCS, ttl=0.01)
    source.pin("o", [ref])
    time.sleep(0.03)
    end = {info.expires_at for info in source._store.scan()}
    assert max(end) < FOREVER
    assert migrate_cas(source, target).ok
    assert target.prune_expired(grace=0).removed == 0
    assert target.load(ref) == DOCS
    target.unpin("o")
    assert min(info.expires_at for info in target._store.scan()) > time.time() + 1000  # the lease


def test_beside_writers_and_a_prune_of_the_target_nothing_that_is_named_is_lost(stores):
    source, target = stores
    done = threading.Event()
    refs, removed = [], []

    def write():
        turn = 0
        while not done.is_set():
            turn += 1
            ref = source.dump([f"{turn} {n} " * 100 for n in range(40)], ttl=0.05)
            source.pin(f"run-{turn}", [ref])
            refs.append((turn, ref))

    def prune():
        while not done.is_set():
            removed.append(target.prune_expired(grace=0).removed)

    threads = [threading.Thread(target=write), threading.Thread(target=prune)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    for _ in range(3):
        migrate_cas(source, target)
    done.set()
    for thread in threads:
        thread.join()
    report = migrate_cas(source, target)
    assert report.ok
    target.prune_expired(grace=0)
    for turn, ref in refs:
        assert target.load(ref) == [f"{turn} {n} " * 100 for n in range(40)]
    assert target.verify().ok


@pytest.mark.parametrize("workers", [1, 4])
def test_large_content_goes_in_chunks(make, workers):
    source = make("memory", "source")
    target = make("filesystem", "target")
    source.dump([bytes([n]) * 100_000 + bytes(range(256)) * 2000 for n in range(50)])
    assert migrate_cas(source, target, workers=workers).ok
    assert blobs(target) == blobs(source)


def test_on_the_event_loop(stores):
    source, target = stores
    source.dump(DOCS)
    assert asyncio.run(amigrate_cas(source, target, workers=1)).ok


def test_two_stores_of_one_name_are_refused(make):
    source = make("memory", "source", backend_id="mine")
    source.dump("x")
    namesake = make("memory", "other", backend_id="mine")
    with pytest.raises(InvalidInputError, match="backend_aliases"):
        migrate_cas(source, namesake)
    assert namesake.stats().blobs == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_and_itself_are_refused_whatever_they_are_called(make, kind):
    source = make(kind, "same", backend_id="one")
    source.dump("x")
    again = make(kind, "same", backend_id="other") if kind != "memory" else source
    with pytest.raises(InvalidInputError, match="one store"):
        migrate_cas(source, again)


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": "2"}, {"workers": 17}, {"progress": 1}])
def test_bad_arguments_are_refused(stores, options):
    source, target = stores
    source.dump("x")
    with pytest.raises(InvalidInputError):
        migrate_cas(source, target, **options)
    with pytest.raises(InvalidInputError):
        migrate_cas(source, "./elsewhere")
    assert target.stats().blobs == 0
