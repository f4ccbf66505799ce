"""Streams: `open` reads as a file does, whatever the size and wherever one seeks."""

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentref.chunks import Kind, Link, blob_digest, link_table
from agentref.errors import BlobNotFoundError, CorruptBlobError, IntegrityError, InvalidInputError
from agentref.refs import ContentRef, Digest
from agentref.storage import CAS, InMemoryCAS
from agentref.storage.frames import pack_frame
from agentref.storage.memory import MemoryBlobStore


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


SIZES = [0, 1, 262_143, 262_144, 262_145, 400_000, 1_000_000, 1_300_000, 1_900_000, 3_400_000, 7_000_001]


@pytest.mark.parametrize("size", SIZES)
def test_a_stream_of_any_size_is_read_whole(size: int) -> None:
    data = noise(size)
    cas = InMemoryCAS()
    ref = cas.put_stream(io.BytesIO(data))
    assert ref.hash == cas.put(data) == InMemoryCAS().put(data)
    assert ref.size == size
    assert cas.get(ref.hash) == data
    assert cas.load(ref) == data
    with cas.open(ref) as file:
        assert file.read() == data
        assert file.read(1) == b""


@pytest.mark.parametrize("seed", range(40))
def test_streams_of_many_shapes_are_read_whole(seed: int) -> None:
    data = noise(random.Random(seed).randrange(1_000_000, 4_000_000), seed)
    cas = InMemoryCAS()
    with cas.open(cas.put_stream(io.BytesIO(data))) as file:
        assert file.read() == data


class Dribble(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._file = io.BytesIO(data)

    def readinto(self, buffer) -> int:
        return self._file.readinto(memoryview(buffer)[:7001])

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 7001) if size >= 0 else -1)


@pytest.mark.parametrize("size", [5, 262_145, 1_500_000])
def test_a_file_that_gives_little_at_a_time_is_stored_whole(size: int) -> None:
    cas = InMemoryCAS()
    assert cas.put_stream(Dribble(noise(size))).hash == cas.put(noise(size))


DATA = noise(1_234_567) + bytes(700_000) + noise(400_000, 2)
STEPS = st.lists(
    st.tuples(st.just("read"), st.sampled_from([0, 1, 10, 5000, 131_072, 300_000, -1]))
    | st.tuples(st.just("seek"), st.integers(0, len(DATA) + 10))
    | st.tuples(st.just("relative"), st.integers(-300_000, 300_000))
    | st.tuples(st.just("end"), st.integers(-len(DATA), 10))
    | st.tuples(st.just("tell"), st.none()),
    max_size=15,
)


@pytest.fixture(scope="module")
def stored() -> tuple[CAS, ContentRef]:
    cas = InMemoryCAS()
    return cas, cas.put_stream(io.BytesIO(DATA))


@settings(max_examples=60)
@given(steps=STEPS)
def test_a_stream_behaves_as_a_file_in_memory(stored: tuple[CAS, ContentRef], steps: list) -> None:
    cas, ref = stored
    model = io.BytesIO(DATA)
    with cas.open(ref) as file:
        assert file.readable()
        assert file.seekable()
        assert not file.writable()
        for verb, number in steps:
            if verb == "read":
                assert file.read(number) == model.read(number)
            elif verb == "seek":
                assert file.seek(number) == model.seek(number)
            elif verb == "end":
                assert file.seek(number, io.SEEK_END) == model.seek(number, io.SEEK_END)
            elif verb == "relative":
                at = max(model.tell() + number, 0)
                assert file.seek(at - file.tell(), io.SEEK_CUR) == model.seek(at)
            assert file.tell() == model.tell()


def test_a_seek_before_the_beginning_is_an_error(stored: tuple[CAS, ContentRef]) -> None:
    cas, ref = stored
    with cas.open(ref) as file:
        for offset, whence in ((-1, io.SEEK_SET), (-len(DATA) - 1, io.SEEK_END), (0, 7)):
            with pytest.raises(ValueError):  # noqa: PT011  (of io or of ours, as whence decides)
                file.seek(offset, whence)
        assert file.read(5) == DATA[:5]
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_only_what_is_read_is_fetched(stored: tuple[CAS, ContentRef]) -> None:
    cas, ref = stored
    before = cas.counters.bytes_fetched
    with cas.open(ref) as file:
        file.seek(600_000)
        file.read(10)
    assert 0 < cas.counters.bytes_fetched - before < 1_600_000


def _leaves(cas: CAS) -> list[str]:
    return [name for name in cas.iter_hashes() if blob_digest(Kind.RAW, _raw(cas, name)).hex() == name]


def _raw(cas: CAS, name: str) -> bytes:
    try:
        return cas.get(name)
    except (IntegrityError, InvalidInputError):
        return b""


def test_a_chunk_that_is_gone_or_damaged_is_a_typed_error_when_it_is_reached() -> None:
    data = noise(3_000_000)
    store = MemoryBlobStore()
    cas = CAS(store)
    ref = cas.put_stream(io.BytesIO(data))
    name = next(name for name in _leaves(cas) if data.find(cas.get(name)) > 2_000_000)
    chunk = cas.get(name)
    store.replace({Digest(bytes.fromhex(name)): pack_frame(Kind.RAW, chunk[:-1] + b"!", 1)})
    with cas.open(ref) as file, pytest.raises(CorruptBlobError, match=ref.hash):
        file.read()
    cas.delete(name)
    with cas.open(ref) as file:
        assert file.read(100_000) == data[:100_000]
        with pytest.raises(BlobNotFoundError, match=name):
            file.read()


def test_a_link_that_lies_about_a_chunk_read_before_is_refused() -> None:
    store = MemoryBlobStore()

    def keep(kind: Kind, data: bytes) -> Digest:
        digest = blob_digest(kind, data)
        store.store({digest: pack_frame(kind, data, 1)})
        return digest

    chunk = Link(keep(Kind.RAW, b"x" * 1000), 1000)
    table = [Link(chunk.digest, 3000), chunk]
    table = [chunk, Link(keep(Kind.NODE, link_table(table)), 4000)]
    root = ContentRef(keep(Kind.NODE, link_table(table)), "raw", 5000)
    for read in (lambda: CAS(store).open(root).read(), lambda: CAS(store).load(root)):
        with pytest.raises(IntegrityError):
            read()


def _texts(count: int) -> list[dict[str, object]]:
    return [{"id": n, "text": f"{n} " * 6_000, "short": f"{n}" * 700} for n in range(count)]


def test_values_that_share_leaves_are_read_whole_in_whatever_order_and_share_nothing() -> None:
    docs = _texts(120)
    values = [docs, docs[::-1], docs[30:60], [docs[7]] * 20, docs, {"a": docs[5], "b": [docs[5]] * 3}]
    cas = InMemoryCAS()
    refs = cas.dump_many(values)
    order = [5, 0, 3, 2, 1, 4, 0]
    loaded = cas.load_many([refs[index] for index in order])
    assert loaded == [values[index] for index in order]
    assert len({id(item) for value in loaded if isinstance(value, list) for item in value}) == 530


@pytest.mark.parametrize("position", [0, 0.5, 0.999])
def test_a_damaged_leaf_among_many_is_named_and_the_others_are_not_suspected(position: float) -> None:
    store = MemoryBlobStore()
    cas = CAS(store)
    docs = _texts(200)
    ref = cas.dump(docs)
    leaves = [name for name in cas.iter_hashes() if name != ref.hash]
    name = leaves[int(len(leaves) * position)]
    digest = Digest(bytes.fromhex(name))
    frame = store.fetch([digest])[digest]
    store.replace({digest: frame[:-9] + bytes([frame[-9] ^ 1]) + frame[-8:]})
    with pytest.raises(CorruptBlobError, match=name):
        cas.load(ref)
    assert cas._writer._distrusted == {digest}
    assert cas.dump(docs) == ref
    assert cas.load(ref) == docs
