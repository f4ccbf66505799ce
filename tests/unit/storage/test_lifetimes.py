"""Lives of values: TTL, aliases, pins, and a prune that spares what anything needs."""

import asyncio
import io
import math
import threading
import time
from functools import partial

import pytest

from agentref.chunks import Kind, Link, blob_digest, link_table
from agentref.errors import (
    AliasConflictError,
    AliasNotFoundError,
    BlobNotFoundError,
    ConfigurationError,
    CorruptBlobError,
    InvalidInputError,
    InvalidRefError,
)
from agentref.refs import ContentRef, Digest
from agentref.storage import CAS, FOREVER, LEASE_SECONDS, InMemoryCAS
from agentref.storage.frames import pack_frame
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.protocol import AliasRow, PinRow

SHORT = 0.02
DOCS = [{"id": n, "text": f"document {n} " * 300} for n in range(60)]


@pytest.fixture
def cas(cas_of_each_kind):
    return cas_of_each_kind


def expire():
    time.sleep(2 * SHORT)


def prune(cas, **options):
    return cas.prune_expired(**{"grace": 0, **options})


def lives(cas):
    return [info.expires_at for info in cas._store.scan()]


# Lives


def test_a_value_without_a_ttl_is_never_pruned(cas):
    ref = cas.dump(DOCS)
    report = prune(cas)
    assert (report.expired, report.removed) == (0, 0)
    assert cas.load(ref) == DOCS


def test_what_has_expired_goes_with_all_of_its_chunks(cas):
    ref = cas.dump(DOCS, ttl=SHORT)
    blobs, size = cas.stats().blobs, cas.stats().stored_bytes
    assert blobs > 3
    expire()
    report = prune(cas)
    assert (report.expired, report.removed, report.removed_bytes) == (blobs, blobs, size)
    assert cas.stats().blobs == 0
    with pytest.raises(BlobNotFoundError):
        cas.load(ref)


def test_a_life_only_lengthens_and_one_without_an_end_keeps_none(cas):
    cas.put(b"x", ttl=1000)
    first = lives(cas)
    cas.put(b"x", ttl=10)
    assert lives(cas) == first
    cas.put(b"x")
    cas.put(b"x", ttl=10)
    assert lives(cas) == [FOREVER]


def test_a_put_refreshes_what_is_nearly_over(cas):
    cas.dump(DOCS, ttl=SHORT)
    expire()
    ref = cas.dump(DOCS, ttl=1000)
    assert min(lives(cas)) >= time.time() + 990
    assert prune(cas).removed == 0
    assert cas.load(ref) == DOCS


def test_a_refresh_sends_no_bytes(cas):
    cas.dump(DOCS, ttl=10)
    stored = cas.counters.blobs_stored
    cas.dump(DOCS, ttl=1000)
    assert cas.counters.blobs_stored == stored
    assert min(lives(cas)) >= time.time() + 990


def test_a_store_may_have_a_default_ttl():
    with InMemoryCAS(default_ttl_seconds=100) as cas:
        cas.dump("a value")
        assert time.time() + 99 < lives(cas)[0] < time.time() + 115


def test_reads_refresh_where_that_is_asked_for():
    store = MemoryBlobStore()
    ref = CAS(store).dump(DOCS, ttl=10)
    CAS(store, default_ttl_seconds=1000).load(ref)
    assert max(info.expires_at for info in store.scan()) < time.time() + 20
    CAS(store, default_ttl_seconds=1000, refresh_on_read=True).load(ref)
    assert min(info.expires_at for info in store.scan()) >= time.time() + 990


@pytest.mark.parametrize(
    "read",
    [
        lambda file: file.read(10),
        lambda file: file.read1(10),
        lambda file: file.readinto(bytearray(10)),
        lambda file: file.readinto1(bytearray(10)),
        lambda file: file.peek(10),
        lambda file: file.readline(10),
        next,
    ],
)
def test_every_read_of_a_stream_lengthens_the_life_of_all_of_it(cas, read):
    data = b"a line of many\n" * 60_000
    ref = cas.put_stream(io.BytesIO(data), ttl=10)
    before = cas._store.clock()
    file = CAS(cas._store, default_ttl_seconds=1000, refresh_on_read=True).open(ref)
    assert max(lives(cas)) < before + 20
    read(file)
    assert min(lives(cas)) >= before + 1000


def test_a_slow_reader_keeps_what_it_reads(cas):
    data = b"".join(b"%07d\n" % n for n in range(300_000))
    ref = cas.put_stream(io.BytesIO(data), ttl=0.8)
    file = CAS(cas._store, default_ttl_seconds=0.8, refresh_on_read=True).open(ref)
    read = []
    for _ in range(20):
        read.append(file.read(10))  # from the buffer, all but the first
        prune(cas)
        time.sleep(0.1)
    assert b"".join(read) + file.read() == data


def test_a_setting_of_a_name_states_its_life_anew_and_shortens_no_other(cas):
    ref = cas.dump(DOCS)
    assert cas.set_alias("a", ref).expires_at == FOREVER
    assert cas.set_alias("a", ref, ttl=SHORT).expires_at < time.time() + 10
    expire()
    with pytest.raises(AliasNotFoundError):
        cas.get_alias("a")
    assert set(lives(cas)) == {FOREVER}


def test_touch_lengthens_all_that_a_ref_needs(cas):
    ref = cas.dump(DOCS, ttl=10)
    assert cas.touch([ref], ttl=1000) == cas.stats().blobs
    assert min(lives(cas)) >= time.time() + 990


def test_a_touch_of_what_is_not_all_here_keeps_none_of_it_for_good(cas):
    ref = cas.dump(DOCS, ttl=10)
    cas.delete(next(digest for digest in cas.iter_hashes() if digest != ref.hash))
    with pytest.raises(BlobNotFoundError):
        cas.touch([ref])
    assert max(lives(cas)) < time.time() + 2 * LEASE_SECONDS


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf, "1", True, 1e12])
def test_a_bad_ttl_is_refused_and_nothing_is_changed(cas, ttl):
    ref = cas.dump("here")
    before = cas.stats().blobs
    for call in (
        lambda: cas.dump(["new"], ttl=ttl),
        lambda: cas.put(b"new", ttl=ttl),
        lambda: cas.set_alias("a", ref, ttl=ttl),
        lambda: cas.pin("o", [ref], ttl=ttl),
        lambda: cas.touch([ref], ttl=ttl),
        lambda: InMemoryCAS(default_ttl_seconds=ttl),
    ):
        with pytest.raises(InvalidInputError, match="seconds"):
            call()
    assert cas.stats().blobs == before
    assert list(cas.iter_aliases()) == list(cas.iter_pins()) == []


# What keeps blobs


def test_a_chunk_that_something_living_needs_stays(cas):
    kept = cas.dump(DOCS)
    cas.dump([*DOCS, {"id": 60, "text": "one more " * 300}], ttl=SHORT)
    expire()
    assert prune(cas).removed > 0
    assert cas.load(kept) == DOCS
    assert cas.verify().ok


def test_a_pin_keeps_all_that_its_refs_need(cas):
    ref = cas.dump(DOCS, ttl=SHORT)
    cas._store.pin(PinRow.each("thread", [ref.digest]))
    expire()
    report = prune(cas)
    assert (report.removed, report.needed) == (0, cas.stats().blobs)
    assert cas.load(ref) == DOCS
    assert cas.unpin("thread") == 1
    assert prune(cas).removed > 0
    assert cas.stats().blobs == 0


def test_a_pin_has_a_life_of_its_own(cas):
    ref = cas.dump(DOCS, ttl=SHORT)
    cas.pin("thread", [ref], ttl=SHORT, look=False)
    expire()
    report = prune(cas)
    assert report.forgotten == 1
    assert cas.stats().blobs == 0


def test_an_alias_keeps_what_it_stands_for(cas):
    ref = cas.dump(DOCS, ttl=SHORT)
    cas._store.set_alias(_row("plan", ref))
    expire()
    assert prune(cas).removed == 0
    assert cas.load(cas.resolve_alias("plan")) == DOCS
    assert cas.delete_alias("plan")
    assert prune(cas).removed > 0


def _row(name, ref):
    from agentref.storage import AliasRow

    return AliasRow(name, ref.digest, ref.codec, ref.size, 0, FOREVER)


def test_whoever_names_a_value_looks_whether_all_of_it_is_here(cas):
    ref = cas.dump(DOCS)
    victim = next(digest for digest in cas.iter_hashes() if digest != ref.hash)
    cas.delete(victim)
    with pytest.raises(BlobNotFoundError, match=victim):
        cas.pin("thread", [ref])
    with pytest.raises(BlobNotFoundError, match=victim):
        cas.set_alias("plan", ref)
    assert list(cas.iter_aliases()) == list(cas.iter_pins()) == []


# Aliases


def test_aliases_are_moved_by_compare_and_swap(cas):
    one, two = cas.dump("one"), cas.dump("two")
    assert cas.set_alias("plan", one, expect="absent").ref == one
    with pytest.raises(AliasConflictError) as caught:
        cas.set_alias("plan", two, expect="absent")
    assert caught.value.current == one
    assert one.hash in str(caught.value)
    with pytest.raises(AliasConflictError):
        cas.set_alias("plan", one, expect=two)
    assert cas.set_alias("plan", two, expect=one).ref == two
    with pytest.raises(AliasConflictError):
        cas.delete_alias("plan", expect=one)
    assert cas.resolve_alias("plan") == two
    assert cas.delete_alias("plan", expect=two)
    with pytest.raises(AliasNotFoundError):
        cas.resolve_alias("plan")
    with pytest.raises(AliasConflictError) as caught:
        cas.set_alias("plan", two, expect=one)
    assert caught.value.current is None


def test_what_an_alias_is_compared_with_may_be_gone(cas):
    one, two = cas.dump("one"), cas.dump("two")
    by_hash = ContentRef(one.digest, "other", 0)
    cas.set_alias("plan", one)
    cas.delete(one.hash)
    with pytest.raises(AliasConflictError) as caught:
        cas.set_alias("plan", two, expect=two)
    assert caught.value.current == one
    moved = cas.set_alias("plan", two, expect=by_hash)
    for change in (partial(cas.set_alias, "plan", two), partial(cas.delete_alias, "plan")):
        with pytest.raises(AliasConflictError) as caught:
            change(expect=one)
        assert caught.value.current == two
    assert cas.get_alias("plan") == moved
    cas.delete(two.hash)
    assert cas.delete_alias("plan", expect=two)


def test_aliases_and_pins_are_listed(cas):
    ref = cas.dump("one")
    for name in ["p/b", "p/a", "q"]:
        cas.set_alias(name, ref)
        cas.pin(name, [ref])
    assert [alias.name for alias in cas.iter_aliases("p/")] == ["p/a", "p/b"]
    assert [(pin.owner, pin.hash) for pin in cas.iter_pins("p/")] == [("p/a", ref.hash), ("p/b", ref.hash)]
    assert cas.unpin("p/a", "p/b") == 2


def test_the_async_twins_do_the_same(cas):
    async def run():
        ref = await cas.adump("one", ttl=SHORT)
        await cas.aset_alias("a", ref, expect="absent")
        assert await cas.aresolve_alias("a") == ref
        await cas.apin("o", [ref])
        assert await cas.atouch([ref], ttl=10) == 1
        assert await cas.aunpin("o") == 1
        assert await cas.adelete_alias("a")
        return await cas.aprune_expired(grace=0)

    assert asyncio.run(run()).removed == 0


@pytest.mark.parametrize("ref", [None, "a" * 64, {}])
def test_what_is_no_ref_is_refused(cas, ref):
    for call in (
        lambda: cas.set_alias("a", ref),
        lambda: cas.pin("o", [ref]),
        lambda: cas.touch([ref]),
    ):
        with pytest.raises(InvalidRefError):
            call()
    with pytest.raises(InvalidInputError):
        cas.pin("o", ref)


def test_a_blob_store_without_roots_says_so():
    class NoRoots:
        def __init__(self):
            self.inner = MemoryBlobStore()

        def __getattr__(self, name):
            if name in {"set_alias", "pin"}:
                raise AttributeError(name)
            return getattr(self.inner, name)

    cas = CAS(NoRoots())
    ref = cas.dump("x")
    for call in (lambda: cas.set_alias("a", ref), lambda: cas.pin("o", [ref]), cas.prune_expired):
        with pytest.raises(ConfigurationError, match="RootStore"):
            call()


def test_a_store_answers_to_its_aliases():
    assert InMemoryCAS(backend_aliases=["old", "older"]).backend_aliases == ("old", "older")
    with pytest.raises(InvalidInputError):
        InMemoryCAS(backend_aliases=["a b\0"])
    with pytest.raises(InvalidInputError):
        InMemoryCAS(backend_aliases="old")


# Prune


def test_what_is_not_needed_goes_after_the_grace_time_only(cas):
    ref = cas.dump(DOCS, ttl=SHORT)
    blobs = cas.stats().blobs
    expire()
    first = cas.prune_expired(grace=0.2)
    assert (first.condemned, first.waiting, first.removed) == (blobs, blobs, 0)
    assert cas.load(ref) == DOCS
    second = cas.prune_expired(grace=0.2)
    assert (second.condemned, second.waiting, second.removed) == (0, blobs, 0)
    time.sleep(0.25)
    third = cas.prune_expired(grace=0.2)
    assert (third.waiting, third.removed) == (0, blobs)


def test_without_grace_all_that_is_not_needed_goes_at_once(cas):
    cas.dump(DOCS, ttl=SHORT)
    blobs = cas.stats().blobs
    kept = cas.dump("pinned", ttl=SHORT)
    cas.pin("me", [kept])
    expire()
    report = prune(cas)
    assert (report.condemned, report.waiting, report.removed) == (blobs, 0, blobs)
    assert report.removed_bytes > 0
    assert cas.load(kept) == "pinned"


def test_without_grace_what_is_put_meanwhile_stays(cas):
    refs = [cas.dump(f"text {number}" * 9, ttl=SHORT) for number in range(9)]
    cas.prune_expired(grace=60)  # some are condemned already
    expire()
    again = []

    def put_again(_):
        if not again:
            again.append(cas.dump("text 3" * 9, ttl=60))

    report = prune(cas, progress=put_again)
    assert (report.removed, report.waiting) == (8, 1)
    assert cas.load(refs[3]) == "text 3" * 9
    assert cas.load(again[0]) == "text 3" * 9


def test_without_grace_a_limit_leaves_the_rest(cas):
    for number in range(9):
        cas.dump(f"text {number}" * 9, ttl=SHORT)
    expire()
    report = prune(cas, limit=4)
    assert (report.removed, report.condemned, report.waiting) == (4, 9, 5)
    assert prune(cas).removed == 5


def test_who_puts_it_again_within_the_grace_time_has_it(cas):
    cas.dump(DOCS, ttl=SHORT)
    expire()
    cas.prune_expired(grace=60)
    ref = cas.dump(DOCS, ttl=SHORT)
    expire()
    assert cas.prune_expired(grace=0.001).removed == 0  # condemned anew
    assert cas.load(ref) == DOCS


def test_what_is_pinned_within_the_grace_time_is_pardoned(cas):
    ref = cas.dump(DOCS, ttl=SHORT)
    expire()
    cas.prune_expired(grace=60)
    cas._store.pin(PinRow.each("thread", [ref.digest]))
    assert cas.prune_expired(grace=60).waiting == 0
    assert all(info.condemned_at is None for info in cas._store.scan())


def test_a_dry_run_changes_nothing_and_tells_all(cas):
    cas.dump(DOCS, ttl=SHORT)
    cas.pin("gone", [cas.dump("x")], ttl=SHORT)
    expire()
    before = cas._store.scan()
    report = prune(cas, dry_run=True)
    assert report.dry_run
    assert report.removed == report.expired == len(before) - 1
    assert cas._store.scan() == before
    assert prune(cas).removed == report.removed


def test_a_limit_bounds_what_is_removed(cas):
    for number in range(10):
        cas.put(b"%d" % number, ttl=SHORT)
    expire()
    assert prune(cas, limit=4).removed == 4
    assert prune(cas, limit=4).removed == 4
    assert prune(cas, limit=4).removed == 2


def test_progress_is_told(cas):
    cas.dump(DOCS, ttl=SHORT)
    expire()
    seen = []
    prune(cas, progress=seen.append)
    assert seen == sorted(seen)
    assert seen


def test_what_cannot_be_read_stops_a_prune_before_anything_is_removed(cas):
    ref = cas.dump(DOCS)
    cas.dump("gone", ttl=SHORT)
    expire()
    cas._store.replace({Digest(ref.digest): b"\x1dno"})
    with pytest.raises(CorruptBlobError, match="Nothing was pruned"):
        prune(cas)
    assert cas.exists(cas.dump("gone").hash)


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"limit": "1"}, {"grace": -1}, {"grace": math.nan}, {"progress": 5}]
)
def test_bad_arguments_of_a_prune_are_refused(cas, options):
    with pytest.raises(InvalidInputError):
        cas.prune_expired(**options)


def test_writers_lose_nothing_beside_one_who_prunes(cas):
    """Each dumps, waits until it may well be condemned, dumps again with a life, and reads."""
    done, lost = threading.Event(), []

    def write(seed):
        for turn in range(15):
            value = [f"{(seed + turn) % 4} {n} " * 200 for n in range(40)]
            cas.dump(value, ttl=0.005)
            time.sleep(0.006)
            ref = cas.dump(value, ttl=5)
            try:
                if cas.load(ref) != value:
                    lost.append(ref)
            except BlobNotFoundError:
                lost.append(ref)

    def sweep():
        while not done.is_set():
            prune(cas)

    pruner = threading.Thread(target=sweep)
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in [pruner, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    pruner.join()
    assert lost == []


@pytest.mark.parametrize("taken", [0, 3, 9])
def test_each_of_two_prunes_at_once_counts_what_it_removed(cas, taken):
    for number in range(9):
        cas.put(b"blob %d" % number, ttl=SHORT)
    expire()
    size = cas.stats().stored_bytes
    store, remove = cas._store, cas._store.remove
    others = []

    def be_late(digests, **options):
        if not others:
            others.append(remove(list(digests)[:taken], **options))
        return remove(digests, **options)

    store.remove = be_late
    report = prune(cas)
    assert (report.removed, report.waiting, others) == (9 - taken, 0, [taken])
    assert report.removed_bytes == size * (9 - taken) // 9


def test_put_stops_a_removal_that_is_under_way(cas):
    """The put comes after the mark and before the removal: at the chosen point, in the same process."""
    cas.dump(DOCS, ttl=SHORT)
    expire()
    store, remove = cas._store, cas._store.remove
    refs = []

    def put_first(digests, **options):
        if not refs:
            refs.append(cas.dump(DOCS, ttl=100))
        return remove(digests, **options)

    store.remove = put_first
    assert prune(cas).removed == 0
    assert cas.load(refs[0]) == DOCS


def test_a_pin_stops_a_removal_that_is_under_way(cas):
    ref = cas.dump(DOCS, ttl=SHORT)
    expire()
    store, remove = cas._store, cas._store.remove

    def pin_first(digests, **options):
        cas.pin("thread", [ref])
        return remove(digests, **options)

    store.remove = pin_first
    report = prune(cas)
    assert (report.removed, report.removed_bytes) == (0, 0)
    assert cas.load(ref) == DOCS


def test_a_ref_of_another_store_is_a_ref(cas):
    ref = cas.dump("x")
    other = ContentRef(ref.digest, ref.codec, ref.size, "elsewhere")
    assert cas.set_alias("a", other).ref.backend_id == cas.backend_id


# Verifying between the halves of a prune


def half_pruned(cas):
    """A value that has expired, of which a prune has taken some parts and not yet the root."""
    ref = cas.dump(DOCS, ttl=SHORT)
    expire()
    prune(cas, grace=3600)
    lost = next(name for name in cas.iter_hashes() if name != ref.hash)
    cas.delete(lost)
    return ref, lost


def test_what_a_prune_has_begun_to_remove_is_not_missing(cas):
    half_pruned(cas)
    assert cas.verify().ok


@pytest.mark.parametrize("keep", ["life", "pin", "alias", "through another"])
def test_what_lacks_a_part_and_is_needed_is_missing_it(cas, keep):
    ref, lost = half_pruned(cas)
    store = cas._store
    match keep:
        case "life":
            store.touch([ref.digest], expires_at=FOREVER)
        case "pin":
            store.pin(PinRow.each("o", [ref.digest]))
        case "alias":
            store.set_alias(AliasRow("a", ref.digest, ref.codec, ref.size, 0, FOREVER))
        case "through another":
            data = link_table([Link(ref.digest, ref.size)])
            above = blob_digest(Kind.NODE, data)
            store.store({above: pack_frame(Kind.NODE, data, 1)}, expires_at=1.0)
            store.pin(PinRow.each("o", [above]))
    report = cas.verify()
    assert (report.corrupt, report.missing, report.ok) == ((), (lost,), False)


def test_verify_beside_what_cannot_be_read_tells_both(cas):
    ref, lost = half_pruned(cas)
    other = cas.dump([f"{n} another text of its own" * 99 for n in range(99)])
    cas._store.replace({Digest(other.digest): b"\x10damaged"})
    cas._store.pin(PinRow.each("o", [ref.digest]))
    report = cas.verify()
    assert (report.corrupt, report.missing) == ((other.hash,), (lost,))
