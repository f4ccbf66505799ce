"""Both faces of a store: bytes by hash, values by ref, sync and async."""

import asyncio
import io
import random
from pathlib import Path

import pytest

from agentref.codecs import CODEC_ID, ValueCodec
from agentref.errors import (
    BlobNotFoundError,
    InvalidDigestError,
    InvalidInputError,
    InvalidRefError,
    StoreUnavailableError,
    UnsupportedTypeError,
    ValueTooLargeError,
)
from agentref.refs import ContentRef, Digest
from agentref.storage import CAS, FOREVER, FilesystemCAS, InMemoryCAS
from agentref.storage.memory import MemoryBlobStore

ABSENT = "0" * 64
ITEMS = [b"", b"a", b"b" * 10_000, random.Random(1).randbytes(700_000)]
VALUES = [None, "text", ["x" * 20_000, {"n": 1}], list(range(9000)), random.Random(2).randbytes(700_000)]


@pytest.fixture(params=["memory", "filesystem"])
def cas(request: pytest.FixtureRequest, tmp_path: Path):
    with InMemoryCAS() if request.param == "memory" else FilesystemCAS(tmp_path / "store") as made:
        yield made


def test_bytes_are_kept_by_their_hash(cas: CAS) -> None:
    names = [cas.put(data) for data in ITEMS]
    assert names == cas.put_many(ITEMS)
    assert [cas.get(name) for name in names] == ITEMS == cas.get_many(names)
    assert all(cas.exists(name) for name in names)
    assert set(names) <= set(cas.iter_hashes())
    assert list(cas.iter_hashes()) == sorted(cas.iter_hashes())
    assert cas.get_many([names[1], names[1]]) == [b"a", b"a"]
    assert cas.put_many([]) == []
    assert cas.get_many([]) == []


def test_the_name_of_short_bytes_is_their_plain_hash(cas: CAS) -> None:
    assert cas.put(b"abc") == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"


def test_any_buffer_is_taken_and_nothing_else(cas: CAS) -> None:
    assert (
        cas.put(bytearray(b"ab"))
        == cas.put(memoryview(b"ab"))
        == cas.put(memoryview(b"a-b-")[::2])
        == cas.put(b"ab")
    )
    for bad in ("text", None, 5, [1]):
        with pytest.raises(InvalidInputError, match="bytes"):
            cas.put(bad)
        with pytest.raises(InvalidInputError, match="bytes"):
            cas.put_many([b"never stored", bad])
    assert cas.stats().blobs == 1


def test_values_are_kept_by_ref(cas: CAS) -> None:
    refs = cas.dump_many(VALUES)
    assert [cas.dump(value) for value in VALUES] == refs
    assert cas.load_many(refs) == VALUES == [cas.load(ref) for ref in refs]
    assert {ref.codec for ref in refs} == {CODEC_ID}
    assert {ref.backend_id for ref in refs} == {cas.backend_id}
    assert cas.dump_many([]) == []
    assert cas.load_many([]) == []
    assert cas.load_many([refs[1], refs[0], refs[1]]) == ["text", None, "text"]


def test_no_two_results_share_a_part(cas: CAS) -> None:
    ref = cas.dump([[1]])
    first, second = cas.load_many([ref, ref])
    first[0].append(2)
    assert second == [[1]]


def test_the_async_twins_agree_with_the_sync_verbs(cas: CAS) -> None:
    async def run() -> None:
        names = await cas.aput_many(ITEMS)
        assert names == cas.put_many(ITEMS) == [await cas.aput(data) for data in ITEMS]
        assert await cas.aget_many(names) == ITEMS == [await cas.aget(name) for name in names]
        refs = await cas.adump_many(VALUES)
        assert refs == cas.dump_many(VALUES) == [await cas.adump(value) for value in VALUES]
        assert await cas.aload_many(refs) == VALUES == [await cas.aload(ref) for ref in refs]
        assert await cas.aput_stream(io.BytesIO(ITEMS[3])) == cas.put_stream(io.BytesIO(ITEMS[3]))
        assert await cas.aexists(names[0])
        assert await cas.adelete(names[0])
        assert not await cas.adelete(names[0])
        assert not await cas.aexists(names[0])
        with pytest.raises(BlobNotFoundError):
            await cas.aget(ABSENT)
        with pytest.raises(UnsupportedTypeError):
            await cas.adump(object())
        with pytest.raises(InvalidRefError):
            await cas.aload("no ref")

    asyncio.run(run())


def test_a_value_may_change_while_its_dump_is_awaited(cas: CAS) -> None:
    async def run() -> None:
        value = {"a": [1], "b": bytearray(b"x" * 20_000)}
        pending = asyncio.create_task(cas.adump(value))
        await asyncio.sleep(0)
        value["a"].append(2)
        value["b"][0] = 0
        assert await cas.aload(await pending) == {"a": [1], "b": bytearray(b"x" * 20_000)}

    asyncio.run(run())


def test_what_is_absent_is_a_key_error_that_names_it(cas: CAS) -> None:
    ref = ContentRef(Digest(bytes(32)), CODEC_ID, 5)
    for call in (lambda: cas.get(ABSENT), lambda: cas.load(ref), lambda: cas.load_many([cas.dump(1), ref])):
        with pytest.raises(BlobNotFoundError, match=ABSENT) as caught:
            call()
        assert isinstance(caught.value, KeyError)
    assert not cas.exists(ABSENT)
    assert not cas.delete(ABSENT)


@pytest.mark.parametrize(
    "bad", ["", "x" * 64, "A" * 64, "../" * 21 + "a", None, 5, b"short", ABSENT + "\n"]
)
def test_what_is_no_digest_is_refused_by_every_verb(cas: CAS, bad: object) -> None:
    for verb in (cas.get, cas.exists, cas.delete, lambda name: cas.get_many([ABSENT, name])):
        with pytest.raises(InvalidDigestError):
            verb(bad)


@pytest.mark.parametrize("bad", ["x", None, ABSENT, {"__agentref__": []}])
def test_what_is_no_ref_is_refused(cas: CAS, bad: object) -> None:
    for verb in (cas.load, cas.open, lambda ref: cas.load_many([ref])):
        with pytest.raises(InvalidRefError):
            verb(bad)


def test_a_ref_is_read_only_by_its_own_codec(cas: CAS) -> None:
    value, data = cas.dump("text"), cas.put_stream(io.BytesIO(b"data"))
    with pytest.raises(InvalidRefError, match="update agentref"):
        cas.load(ContentRef(value.digest, "agr9", value.size))
    with pytest.raises(InvalidRefError, match="load"):
        cas.open(value)
    assert cas.load(data) == b"data"


def test_the_hash_of_a_value_is_not_the_hash_of_bytes(cas: CAS) -> None:
    ref = cas.dump(["value"])
    assert cas.exists(ref.hash)
    with pytest.raises((InvalidInputError, ValueError)):
        cas.get(ref.hash)


def test_a_deleted_chunk_is_an_error_that_names_ref_and_blob(cas: CAS) -> None:
    value = ["x" * 20_000, "y" * 20_000]
    other, ref = cas.dump("other"), cas.dump(value)
    chunk = cas.put(b"x" * 20_000)
    assert cas.delete(chunk)
    with pytest.raises(BlobNotFoundError, match=chunk) as caught:
        cas.load_many([other, ref])
    assert ref.hash in str(caught.value)
    assert cas.verify().missing == (chunk,)
    assert cas.dump(value) == ref
    assert cas.load(ref) == value


def test_the_same_again_is_not_stored_again(cas: CAS) -> None:
    cas.dump_many(VALUES)
    cas.put_many(ITEMS)
    cas.put_stream(io.BytesIO(ITEMS[3]))
    stats, stored = cas.stats(), cas.counters.blobs_stored
    assert stats.blobs == stored == len(list(cas.iter_hashes()))
    assert stats.stored_bytes == cas.counters.bytes_stored
    offered = cas.counters.blobs_offered
    cas.dump_many(VALUES)
    cas.put_many(ITEMS)
    cas.put_stream(io.BytesIO(ITEMS[3]))
    assert cas.counters.blobs_stored == stored
    assert cas.counters.blobs_offered == 2 * offered
    assert cas.counters.values_dumped == 2 * len(VALUES)
    assert cas.stats().blobs == stored


def test_counters_tell_what_dedup_and_compression_saved(cas: CAS) -> None:
    for _ in range(3):
        cas.dump(["x" * 100_000])
    assert cas.counters.bytes_offered > 300_000
    assert cas.counters.bytes_stored < 10_000
    cas.load(cas.dump(["x" * 100_000]))
    assert cas.counters.values_loaded == 1
    assert cas.counters.blobs_fetched == 2


def test_nothing_of_a_refused_batch_is_stored(cas: CAS) -> None:
    with pytest.raises(UnsupportedTypeError):
        cas.dump_many(["x" * 20_000, {"bad": object()}])
    assert cas.stats().blobs == 0
    assert cas.counters.values_dumped == 0


@pytest.mark.parametrize(
    "ttl", [0, -1, float("nan"), float("inf"), "1", True, 10**400, 5e-324, 1e-300, 1e308]
)
def test_a_ttl_that_makes_no_sense_is_refused(cas: CAS, ttl: object) -> None:
    for call in (
        lambda: cas.put(b"x", ttl=ttl),
        lambda: cas.dump("x", ttl=ttl),
        lambda: cas.put_stream(io.BytesIO(b"x"), ttl=ttl),
    ):
        with pytest.raises(InvalidInputError, match="ttl"):
            call()
    assert cas.stats().blobs == 0


def _life(store: MemoryBlobStore, ref: ContentRef) -> tuple[float, float]:
    info = store.stat([ref.digest])[ref.digest]
    return info.expires_at, info.touched_at


def test_lives_last_as_long_as_asked_and_only_lengthen() -> None:
    store = MemoryBlobStore()
    cas = CAS(store)
    ref = cas.dump("x", ttl=100)
    expires, touched = _life(store, ref)
    assert 99 < expires - touched < 120
    cas.dump("x", ttl=10)
    assert _life(store, ref)[0] == expires
    cas.dump("x", ttl=1000)
    assert _life(store, ref)[0] > expires + 800
    cas.dump("x")
    assert _life(store, ref)[0] == FOREVER
    cas.dump("x", ttl=10)
    assert _life(store, ref)[0] == FOREVER


def test_a_limit_holds_on_the_way_in(cas: CAS) -> None:
    small = CAS(cas._store, max_value_bytes=1000)
    for call in (
        lambda: small.put(bytes(1001)),
        lambda: small.put_many([b"never stored", bytes(1001)]),
        lambda: small.dump("x" * 2000),
        lambda: small.dump_many(["never stored", list(range(5000))]),
        lambda: small.put_stream(io.BytesIO(bytes(1001))),
    ):
        with pytest.raises(ValueTooLargeError, match="limit"):
            call()
    assert cas.stats().blobs == 0
    assert small.get(small.put(bytes(1000))) == bytes(1000)


def test_a_limit_holds_on_the_way_out(cas: CAS) -> None:
    ref, name, stream = (
        cas.dump("x" * 2000),
        cas.put(bytes(2000)),
        cas.put_stream(io.BytesIO(bytes(400_000))),
    )
    small = CAS(cas._store, max_value_bytes=1000)
    for call in (lambda: small.load(ref), lambda: small.get(name), lambda: small.open(stream)):
        with pytest.raises(ValueTooLargeError, match="limit"):
            call()


def test_a_store_under_another_codec_is_the_same_store(cas: CAS) -> None:
    other = cas.with_codec(ValueCodec(allow=[]))
    assert type(other) is type(cas)
    assert other.backend_id == cas.backend_id
    assert other.load(cas.dump([1])) == [1]
    assert other.counters is cas.counters
    assert cas.codec is not other.codec


@pytest.mark.parametrize(
    "options",
    [
        {"max_value_bytes": 0},
        {"max_value_bytes": "1"},
        {"max_value_bytes": float("nan")},
        {"compression_level": 0},
        {"compression_level": 20},
        {"compression_level": 1.5},
        {"backend_id": ""},
        {"backend_id": "a b"},
        {"backend_id": 5},
        {"codec": 5},
    ],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError):
        InMemoryCAS(**options)
    with pytest.raises(InvalidInputError):
        FilesystemCAS(tmp_path / "store", **options)


def test_a_name_that_was_given_is_what_refs_carry() -> None:
    cas = InMemoryCAS(backend_id="mine")
    assert cas.dump(1).backend_id == "mine"
    assert "mine" in repr(cas)


def test_a_closed_store_says_so(cas: CAS) -> None:
    ref = cas.dump(1)
    with cas as entered:
        assert entered is cas
    cas.close()
    for call in (lambda: cas.load(ref), lambda: cas.dump(1), lambda: cas.put(b"x"), cas.stats, cas.verify):
        with pytest.raises(StoreUnavailableError):
            call()


@pytest.mark.parametrize(
    "make",
    [
        lambda: "a path",
        lambda: None,
        lambda: io.StringIO("text"),
    ],
    ids=["path", "none", "text"],
)
def test_what_is_no_file_of_bytes_is_refused(cas: CAS, make) -> None:
    with pytest.raises(InvalidInputError):
        cas.put_stream(make())
    assert cas.stats().blobs == 0
