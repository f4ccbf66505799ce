"""From one store to another: content, lives, aliases and pins, beside writers, prunes and damage."""

import asyncio
import math
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from agentref.errors import ConfigurationError, IntegrityError, InvalidInputError
from agentref.refs import Digest
from agentref.runtime import Runtime
from agentref.storage import (
    CAS,
    FOREVER,
    AliasRow,
    BlobStore,
    FilesystemCAS,
    InMemoryCAS,
    PostgresCAS,
    amigrate_cas,
    migrate_cas,
)
from agentref.storage import _root_transfer as root_transfer
from agentref.storage import _transfer as transfer
from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.postgres import PostgresBlobStore
from agentref.storage.protocol import PinRow

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


def test_what_has_expired_and_nothing_needs_stays_behind(source, target):
    gone, pinned = source.dump(DOCS, ttl=0.01), source.dump(DOCS[:20], ttl=0.01)
    source._store.pin(PinRow.each("o", [pinned.digest]))
    time.sleep(0.05)
    planned = migrate_cas(source, target, dry_run=True)
    report = migrate_cas(source, target)
    assert report.ok
    assert (planned.blobs, planned.copied, planned.copied_bytes, planned.pins) == (
        report.blobs,
        report.copied,
        report.copied_bytes,
        report.pins,
    )
    assert 0 < report.copied < source.stats().blobs
    assert report.copied == target.stats().blobs
    assert target.load(pinned) == DOCS[:20]
    assert not target.exists(gone.hash)


def test_what_lives_and_needs_what_has_expired_comes_whole(stores):
    source, target = stores
    ref = source.dump(DOCS, ttl=0.01)
    time.sleep(0.05)
    source._store.touch([ref.digest], expires_at=time.time() + 5000)  # as nobody should
    assert migrate_cas(source, target).ok
    assert target.load(ref) == DOCS
    assert target.prune_expired(grace=0).removed == 0


def test_a_short_life_is_not_lengthened_by_what_it_is_part_of(stores):
    source, target = stores
    source.dump(DOCS, ttl=50)
    migrate_cas(source, target)
    assert {info.expires_at for info in target._store.scan()} == {
        info.expires_at for info in source._store.scan()
    }


def test_what_lives_for_ever_in_the_target_does_so_still(source, target):
    ref = source.put(b"the same", ttl=50)
    target.put(b"the same")
    migrate_cas(source, target)
    assert [info.expires_at for info in target._store.scan()] == [FOREVER]
    assert ref in list(target.iter_hashes())


def test_pages_and_rounds_of_one_change_nothing(stores, monkeypatch):
    source, target = stores
    for module in (transfer, root_transfer):
        monkeypatch.setattr(module, "PAGE", 1)
    monkeypatch.setattr(transfer, "LEASE_SECONDS", 0.001)  # each look is too old for the next one
    refs = [source.dump(DOCS[n : n + 30], ttl=0.01) for n in range(5)]
    for n, ref in enumerate(refs):
        source._store.pin(PinRow.each(f"o{n % 2}", [ref.digest], expires_at=time.time() + 1000 + n))
        source._store.set_alias(AliasRow(f"a{n}", ref.digest, ref.codec, ref.size, 0, FOREVER))
    target._store.pin(PinRow.each("o1", [refs[1].digest], expires_at=time.time() + 5000))
    target._store.pin(PinRow.each("o11", [refs[0].digest]))
    time.sleep(0.05)
    report = migrate_cas(source, target)
    assert report.ok
    assert (report.pins, report.aliases) == (5, 5)
    assert [target.load(ref) for ref in refs] == [DOCS[n : n + 30] for n in range(5)]
    theirs = {(pin.owner, pin.hash): pin.expires_at for pin in target.iter_pins()}
    for pin in source.iter_pins():
        assert theirs.pop((pin.owner, pin.hash)) >= pin.expires_at
    assert list(theirs) == [("o11", refs[0].hash)]
    assert [alias.ref for alias in target.iter_aliases()] == refs


def test_a_second_run_sets_nothing_again(stores, monkeypatch):
    source, target = stores
    ref = source.dump(DOCS)
    source.pin("o", [ref], ttl=5000)
    source.set_alias("plan", ref, ttl=5000)
    migrate_cas(source, target)
    before = [list(target.iter_aliases()), list(target.iter_pins()), target._store.scan()]
    for verb in ("store", "pin", "set_alias"):
        monkeypatch.setattr(target._store, verb, None)  # whoever calls it fails
    report = migrate_cas(source, target)
    assert (report.pins, report.aliases, report.ok) == (1, 1, True)
    assert [list(target.iter_aliases()), list(target.iter_pins()), target._store.scan()] == before


def test_a_name_that_lives_longer_in_the_source_does_so_in_the_target(stores):
    source, target = stores
    ref = source.dump(DOCS)
    source.set_alias("plan", ref, ttl=500)
    migrate_cas(source, target)
    source.set_alias("plan", ref)
    assert migrate_cas(source, target).ok
    assert target.get_alias("plan").expires_at == FOREVER
    source.set_alias("plan", ref, ttl=500)
    assert migrate_cas(source, target).ok
    assert target.get_alias("plan").expires_at == FOREVER


def test_names_follow_the_source_if_that_is_asked_for(stores):
    source, target = stores
    source.set_alias("plan", source.dump("first"))
    migrate_cas(source, target)
    moved = source.dump("second")
    source.set_alias("plan", moved)
    assert migrate_cas(source, target).conflicts == ("plan",)
    assert target.load(target.resolve_alias("plan")) == "first"
    assert migrate_cas(source, target, overwrite_aliases=True, dry_run=True).ok
    assert target.load(target.resolve_alias("plan")) == "first"
    assert migrate_cas(source, target, overwrite_aliases=True).ok
    assert target.resolve_alias("plan") == moved


def test_what_neither_has_is_told(stores):
    source, target = stores
    ref = source.dump(DOCS)
    source.pin("o", [ref])
    lost = next(name for name in source.iter_hashes() if name != ref.hash)
    source.delete(lost)
    report = migrate_cas(source, target)
    assert (report.missing, report.corrupt, report.ok) == ((lost,), (), False)
    target.dump(DOCS)
    assert migrate_cas(source, target).ok


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("lost", ["the root", "a part"])
def test_no_pin_and_no_name_comes_without_all_that_it_needs(source, target, lost, dry_run):
    ref, whole = source.dump(DOCS, ttl=3600), source.dump(["whole"])
    source.pin("o", [ref, whole])
    source.set_alias("broken", ref)
    source.set_alias("whole", whole)
    source.delete(ref.hash if lost == "the root" else parts(source, ref)[0])
    report = migrate_cas(source, target, dry_run=dry_run)
    assert len(report.missing) == 1
    assert (report.pins, report.aliases, report.skipped) == (1, 1, ("broken",))
    if not dry_run:
        assert [pin.hash for pin in target.iter_pins()] == [whole.hash]
        assert [alias.name for alias in target.iter_aliases()] == ["whole"]
    source.dump(DOCS)
    assert migrate_cas(source, target).ok
    assert target.load(target.resolve_alias("broken")) == DOCS
    assert {pin.hash for pin in target.iter_pins()} == {ref.hash, whole.hash}


def test_what_needs_damaged_content_is_not_named_either(stores):
    source, target = stores
    ref = source.dump(DOCS)
    source.set_alias("broken", ref)
    source._store.replace({Digest(bytes.fromhex(parts(source, ref)[0])): b"\x10damaged"})
    assert migrate_cas(source, target).skipped == ("broken",)
    assert list(target.iter_aliases()) == []
    source.repair(DOCS)
    assert migrate_cas(source, target).ok


def parts(cas, ref):
    others = {ref.hash, cas.encode([["whole"]]).refs[0].hash}
    return [name for name in cas.iter_hashes() if name not in others]


def damage(cas, column, value):
    """Let somebody else write to the table of aliases."""
    match cas._store:
        case PostgresBlobStore() as store:
            with store._opening.pool.connect() as connection:
                connection.execute(f"UPDATE agentref_alias SET {column} = %s WHERE name = 'bad'", [value])
        case FilesystemBlobStore():
            with closing(sqlite3.connect(f"{cas.root}/index.sqlite3")) as connection, connection:
                connection.execute("PRAGMA ignore_check_constraints = ON")
                connection.execute(f"UPDATE alias SET {column} = ? WHERE name = 'bad'", [value])
        case store:
            store._aliases["bad"] = store._aliases["bad"]._replace(**{column: value})


@pytest.mark.parametrize(
    ("column", "value"), [("codec", "\x1b[31mX"), ("size", -1), ("expires_at", math.nan)]
)
def test_a_damaged_name_is_told_and_the_others_work(source, target, column, value):
    if column == "expires_at" and not isinstance(source._store, PostgresBlobStore):
        pytest.skip("only there does such a name stand")
    ref = source.dump(DOCS)
    for name in ("a", "bad", "c"):
        source.set_alias(name, ref)
    damage(source, column, value)
    with pytest.raises(IntegrityError, match="'bad' is damaged"):
        source.resolve_alias("bad")
    with pytest.raises(IntegrityError, match="'bad'"):
        source.set_alias("bad", ref, expect=source.dump("another"))
    assert [alias.name for alias in source.iter_aliases()] == ["a", "c"]
    report = source.verify()
    assert (report.damaged_aliases, report.ok) == (("bad",), False)
    moved = migrate_cas(source, target)
    assert (moved.aliases, moved.skipped, moved.ok) == (2, ("bad",), False)
    source.set_alias("bad", ref)
    assert source.verify().ok
    assert migrate_cas(source, target).ok


def test_what_is_listed_and_cannot_be_read_is_told(stores, tmp_path):
    source, target = stores
    ref = source.dump("x" * 200_000)
    packs = [
        path for path in (tmp_path / "source").rglob("*") if path.is_file() and "sqlite" not in path.name
    ]
    source.close()
    for path in packs:
        if path.stat().st_size > 100:
            path.unlink()
    with FilesystemCAS(tmp_path / "source") as source:
        assert source.stats().blobs > 0
        report = migrate_cas(source, target)
        assert ref.hash in report.corrupt
        assert (report.missing, report.copied, report.ok) == ((), 0, False)


def test_a_node_that_is_damaged_in_the_target_is_mended(stores):
    source, target = stores
    ref = source.dump(DOCS)
    migrate_cas(source, target)
    target._store.replace({ref.digest: target._store.fetch([ref.digest])[ref.digest][:-1] + b"?"})
    assert not target.verify().ok
    assert migrate_cas(source, target).ok
    assert target.verify().ok


class Blobs:
    """A blob store that keeps no pins: the verbs of another one, and no more."""

    def __init__(self, store):
        for verb in [name for name in vars(BlobStore) if not name.startswith("_")]:
            setattr(self, verb, getattr(store, verb))


def test_a_store_without_pins_takes_what_a_store_without_any_has(make):
    source, target = make("memory", "source"), CAS(Blobs(MemoryBlobStore()))
    ref = source.dump(DOCS)
    assert migrate_cas(source, target).ok
    assert target.load(ref) == DOCS
    back = make("memory", "back")
    assert migrate_cas(target, back).ok
    assert back.load(ref) == DOCS


@pytest.mark.parametrize("kind", ["pin", "alias"])
def test_a_store_without_pins_takes_nothing_of_one_that_has_some(make, kind):
    source, target = make("memory", "source"), CAS(Blobs(MemoryBlobStore()))
    if kind == "pin":
        source.pin("o", [source.dump(DOCS)])
    else:
        source.set_alias("plan", source.dump(DOCS))
    with pytest.raises(ConfigurationError, match="RootStore"):
        migrate_cas(source, target)
    assert target.stats().blobs == 0


class Ahead(MemoryBlobStore):
    """A store whose clock is some seconds ahead of the machine's."""

    SECONDS = 1000.0

    def clock(self):
        return super().clock() + self.SECONDS

    def stat(self, digests, /):
        return {d: self._shown(info) for d, info in super().stat(digests).items()}

    def scan(self, *, after=None, limit=1000, expires_by=FOREVER):
        return [
            self._shown(info)
            for info in super().scan(after=after, limit=limit, expires_by=expires_by - self.SECONDS)
        ]

    def store(self, blobs, /, *, expires_at=FOREVER):
        super().store(blobs, expires_at=expires_at - self.SECONDS)

    def touch(self, digests, /, *, expires_at):
        return super().touch(digests, expires_at=expires_at - self.SECONDS)

    def pin(self, rows, /):
        super().pin([row._replace(expires_at=row.expires_at - self.SECONDS) for row in rows])

    def set_alias(self, alias, /, *, expect=None):
        row = super().set_alias(alias._replace(expires_at=alias.expires_at - self.SECONDS), expect=expect)
        return row and row._replace(expires_at=row.expires_at + self.SECONDS)

    def alias(self, name, /):
        row = super().alias(name)
        return row and row._replace(expires_at=row.expires_at + self.SECONDS)

    def scan_pins(self, **options):
        return [r._replace(expires_at=r.expires_at + self.SECONDS) for r in super().scan_pins(**options)]

    def scan_aliases(self, **options):
        return [r._replace(expires_at=r.expires_at + self.SECONDS) for r in super().scan_aliases(**options)]

    def _shown(self, info):
        return info._replace(expires_at=info.expires_at + self.SECONDS)


@pytest.mark.parametrize("who_is_ahead", ["source", "target"])
def test_lives_are_measured_by_the_clock_of_each_store(make, who_is_ahead):
    stores = {"source": make("memory", "source"), "target": make("memory", "target")}
    stores[who_is_ahead] = CAS(Ahead())
    source, target = stores["source"], stores["target"]
    ref = source.dump(DOCS, ttl=900)
    needed = source.dump("needed", ttl=0.01)
    source._store.pin(PinRow.each("o", [needed.digest], expires_at=source._store.clock() + 700))
    source.dump("for ever")
    time.sleep(0.02)
    for _ in range(2):
        assert migrate_cas(source, target).ok
        left = {info.digest: info.expires_at - source._store.clock() for info in source._store.scan()}
        there = {info.digest: info.expires_at - target._store.clock() for info in target._store.scan()}
        assert there.keys() == left.keys()
        assert there[ref.digest] == pytest.approx(left[ref.digest], abs=1)
        assert FOREVER in there.values()
        assert 3000 < there[needed.digest] < 4100
        (pin,) = target.iter_pins()
        assert pin.expires_at - target._store.clock() == pytest.approx(700, abs=3)


def test_progress_counts_each_blob_once_and_may_stop_the_run(source, target):
    source.pin("o", [source.dump(DOCS)])
    seen = []
    assert migrate_cas(source, target, progress=seen.append).blobs == seen[-1] == source.stats().blobs
    source.dump([*DOCS, "more"])

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate_cas(source, target, progress=stop)
    assert migrate_cas(source, target).ok


def test_a_task_that_is_cancelled_ends_the_run(stores):
    source, target = stores
    for n in range(30):
        source.put(bytes([n]) * 1000, ttl=1000 + 100 * n)
    reached, go_on, calls = threading.Event(), threading.Event(), []

    def progress(count):
        calls.append(count)
        reached.set()
        go_on.wait()

    async def main():
        task = asyncio.create_task(amigrate_cas(source, target, progress=progress))
        await asyncio.to_thread(reached.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(main())  # which waits for threads
    assert len(calls) == 1
    assert target.stats().blobs < 30
