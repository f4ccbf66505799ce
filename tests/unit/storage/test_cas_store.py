"""The store as a whole: what an edit costs, many threads, damage that is found and mended."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentref.errors import (
    BlobNotFoundError,
    CorruptBlobError,
)
from agentref.refs import ContentRef, Digest, parse_digest
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS
from agentref.storage.memory import MemoryBlobStore

ABSENT = "0" * 64
ITEMS = [b"", b"a", b"b" * 10_000, random.Random(1).randbytes(700_000)]
VALUES = [None, "text", ["x" * 20_000, {"n": 1}], list(range(9000)), random.Random(2).randbytes(700_000)]


@pytest.fixture(params=["memory", "filesystem"])
def cas(request: pytest.FixtureRequest, tmp_path: Path):
    with InMemoryCAS() if request.param == "memory" else FilesystemCAS(tmp_path / "store") as made:
        yield made


def _edits() -> list[tuple[str, object]]:
    def fresh() -> list[dict]:
        return [{"id": n, "text": f"{n} " * 120, "score": n / 7} for n in range(2000)]

    changed, inserted, deleted, appended = fresh(), fresh(), fresh(), fresh()
    changed[1000]["score"] = 9.0
    inserted.insert(1, {"id": -1})
    del deleted[1500]
    appended.append({"id": 2000, "text": "new"})
    return [
        ("change", changed),
        ("insert", inserted),
        ("delete", deleted),
        ("append", appended),
        ("as it was", fresh()),
    ]


@pytest.mark.parametrize(
    ("edit", "value"), _edits(), ids=lambda item: item if isinstance(item, str) else ""
)
def test_an_edit_of_a_list_stores_a_few_blobs_only(cas: CAS, edit: str, value: object) -> None:
    before = _edits()[-1][1]
    cas.dump(before)
    blobs = cas.stats().blobs
    assert blobs > 30
    cas.dump(value)
    assert cas.stats().blobs - blobs <= (0 if edit == "as it was" else 8)


def test_a_new_order_of_documents_stores_no_text_again(cas: CAS) -> None:
    documents = [{"text": random.Random(n).randbytes(8000).hex(), "score": n} for n in range(60)]
    cas.dump(documents)
    stored = cas.counters.bytes_stored
    documents.sort(key=lambda document: -document["score"])
    for document in documents:
        document["score"] *= 2
    cas.dump(documents)
    assert cas.counters.bytes_stored - stored < stored / 4


def test_eight_threads_that_dump_overlapping_values_agree(cas: CAS) -> None:
    def values(thread: int) -> list[object]:
        return [
            [{"n": n, "text": f"{n} " * 100} for n in range(k, k + 80)] for k in range(thread, thread + 6)
        ]

    def work(thread: int) -> list[ContentRef]:
        refs = cas.dump_many(values(thread))
        assert cas.load_many(refs) == values(thread)
        return refs

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for thread, refs in enumerate(results):
        assert cas.load_many(refs) == values(thread)
        assert refs == InMemoryCAS().dump_many(values(thread))
    assert cas.verify().ok


def test_verify_reads_every_blob_and_reports_progress(cas: CAS) -> None:
    cas.dump_many([f"{n} " * 10 for n in range(600)])
    seen: list[int] = []
    report = cas.verify(progress=seen.append)
    assert report.ok
    assert report.checked == seen[-1] == 600
    assert report.checked_bytes == cas.stats().stored_bytes
    assert len(seen) > 1


def _damage(cas: CAS, digest: str) -> None:
    name = Digest(bytes.fromhex(digest))
    frame = bytearray(cas._store.fetch([name])[name])
    frame[-1] ^= 1
    cas._store.replace({name: bytes(frame)})


def test_damage_is_found_told_and_mended(cas: CAS) -> None:
    noise = random.Random(3).randbytes(20_000).hex()
    value = [noise, *range(9000), {"a": noise[::-1]}]
    ref = cas.dump(value)
    for digest in list(cas.iter_hashes()):
        _damage(cas, digest)
        with pytest.raises(CorruptBlobError, match=ref.hash):
            cas.load(ref)
        assert cas.verify().corrupt == (digest,)
        assert cas.dump(value) == ref  # here already, as far as it knows
        assert cas.repair(value) == ref
        assert cas.verify().ok
        assert cas.load(ref) == value


def test_repair_stores_what_is_not_here_at_all(cas: CAS) -> None:
    ref = cas.repair(["x" * 20_000])
    assert cas.load(ref) == ["x" * 20_000]


def test_a_pack_that_is_damaged_lost_or_cut_short_is_found(tmp_path: Path) -> None:
    with FilesystemCAS(tmp_path / "store") as cas:
        data = random.Random(4).randbytes(200_000)
        name = cas.put(data)
        (file,) = (tmp_path / "store" / "packs").iterdir()
        good = file.read_bytes()
        for bad in (good[:-1], good[:100_000] + b"!" + good[100_001:], b""):
            file.write_bytes(bad)
            with pytest.raises((CorruptBlobError, BlobNotFoundError), match=name):
                cas.get(name)
            assert not cas.verify().ok
        file.unlink()
        with pytest.raises(BlobNotFoundError, match=name):
            cas.get(name)
        assert cas.verify().missing == (name,)
        assert cas.put(data) == name
        assert cas.get(name) == data
        assert cas.verify().ok


@pytest.mark.parametrize("damage", [b"", b"garbage"], ids=["empty", "garbage"])
def test_bytes_that_were_found_damaged_are_replaced_by_putting_them_again(damage: bytes) -> None:
    store = MemoryBlobStore()
    cas = CAS(store)
    name = cas.put(b"content")
    store.replace({parse_digest(name): damage})
    with pytest.raises(CorruptBlobError, match="store the same content again"):
        cas.get(name)
    assert cas.put(b"content") == name
    assert cas.get(name) == b"content"


def test_what_a_writer_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentref.storage.writing._MAX_PRESENT", 50)
    cas = InMemoryCAS()
    for number in range(200):
        cas.put(str(number).encode())
    assert len(cas._writer._present) <= 51
    assert cas.stats().blobs == 200


def test_the_store_as_a_whole_has_async_twins():
    cas, value = InMemoryCAS(), ["a value"]

    async def look():
        ref = await cas.adump(value)
        await cas.aset_alias("a", ref)
        assert (await cas.aget_alias("a")).ref == ref
        assert (await cas.astats()).blobs == 1
        cas._store.replace({Digest(ref.digest): b"damaged"})
        seen = []
        assert (await cas.averify(progress=seen.append)).corrupt == (ref.hash,)
        assert seen == [1]
        assert await cas.arepair(value) == ref
        assert (await cas.averify()).ok

    asyncio.run(look())
