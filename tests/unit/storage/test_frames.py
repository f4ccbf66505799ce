"""Frames: what is kept of a blob opens to exactly what was put in, or not at all."""

import os
import random
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agentref.chunks import MAX_BLOB_BYTES, Kind, Link, blob_digest, link_table, varint
from agentref.errors import CorruptBlobError
from agentref.refs import Digest
from agentref.storage.frames import Leaves, Packed, has_links, open_frame, pack_frame, pack_frames

ZSTD = 0x08
TEXT = b"the same words again and again, " * 20


def canonical(kind: Kind) -> bytes:
    links = [Link(Digest(os.urandom(32)), 5)]
    return {Kind.RAW: TEXT, Kind.VALUE: b"\0" + TEXT, Kind.NODE: link_table(links)}[kind]


@given(st.sampled_from(list(Kind)), st.binary(max_size=300), st.integers(1, 200), st.integers(1, 19))
def test_a_frame_opens_to_what_was_packed(kind: Kind, part: bytes, times: int, level: int) -> None:
    data = part * times or b"x"
    digest = blob_digest(kind, data)
    frame = pack_frame(kind, data, level)
    assert open_frame(digest, frame) == (kind, data)
    assert len(frame) <= len(data) + 5
    assert has_links(frame) == (kind is not Kind.RAW and data[0] != 0)


def test_what_does_not_compress_is_kept_as_it_is() -> None:
    data = random.Random(1).randbytes(5000)
    assert pack_frame(Kind.RAW, data, 1).endswith(data)
    assert len(pack_frame(Kind.RAW, bytes(5000), 1)) < 100


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("size", ["short", "compressed", "incompressible"])
def test_no_flipped_bit_gives_other_bytes(kind: Kind, size: str) -> None:
    data = canonical(kind)
    if size == "short":
        data = data[:40] if kind is not Kind.NODE else data
    if size == "incompressible" and kind is not Kind.NODE:
        data = data[:1] + random.Random(1).randbytes(200)
    digest = blob_digest(kind, data)
    frame = pack_frame(kind, data, 1)
    for bit in range(8 * len(frame)):
        bad = bytearray(frame)
        bad[bit // 8] ^= 1 << bit % 8
        with suppress(CorruptBlobError):
            assert open_frame(digest, bytes(bad)) == (kind, data)


@pytest.mark.parametrize("kind", Kind)
def test_no_truncated_or_swapped_frame_is_taken(kind: Kind) -> None:
    data = canonical(kind)
    digest, frame = blob_digest(kind, data), pack_frame(kind, data, 1)
    for length in range(len(frame)):
        with pytest.raises(CorruptBlobError, match=digest.hex()):
            open_frame(digest, frame[:length])
    for other in Kind:
        if other is not kind:
            with pytest.raises(CorruptBlobError):
                open_frame(digest, pack_frame(other, data, 1))
    with pytest.raises(CorruptBlobError):
        open_frame(digest, pack_frame(kind, data + b"x", 1))


@given(st.binary(max_size=200))
def test_no_bytes_at_all_open_to_something_unasked(frame: bytes) -> None:
    with pytest.raises(CorruptBlobError):
        open_frame(Digest(bytes(32)), frame)


def zstd(data: bytes, *, size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=size).compress(data)


def _with_claim(claim: int) -> bytes:
    """A zstd frame of nothing that claims to unpack to `claim` bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + claim.to_bytes(8, "little") + b"\x01\x00\x00"


BOMBS = {
    "huge claim of ours": varint(1 << 40) + zstd(b"x"),
    "huge claim of both": varint(1 << 40) + _with_claim(1 << 40),
    "largest claim of both": varint(MAX_BLOB_BYTES) + _with_claim(MAX_BLOB_BYTES),
    "huge claim of zstd": varint(5) + _with_claim(1 << 60),
    "bomb": varint(1000) + zstd(bytes(1 << 26)),
    "no claim": varint(5) + zstd(b"xxxxx", size=False),
    "two frames": varint(10) + zstd(b"xxxxx") + zstd(b"xxxxx"),
    "a skippable frame": varint(5) + b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zstd(b"xxxxx"),
    "an empty frame": varint(0) + zstd(b""),
    "no frame": varint(5),
    "no zstd": varint(5) + b"xxxxx",
    "a length in long form": b"\x85\x00" + zstd(b"xxxxx"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("kind", Kind)
def test_a_frame_that_lies_about_its_size_is_refused(name: str, kind: Kind) -> None:
    frame = bytes([0x10 | ZSTD | kind]) + BOMBS[name]
    with pytest.raises(CorruptBlobError):
        open_frame(blob_digest(Kind.RAW, b"other"), frame)


@pytest.mark.parametrize("head", [0x00, 0x20, 0xF0, 0x13])
def test_a_frame_of_another_version_or_kind_is_refused(head: int) -> None:
    frame = bytes([head]) + pack_frame(Kind.RAW, b"data", 1)[1:]
    with pytest.raises(CorruptBlobError):
        open_frame(blob_digest(Kind.RAW, b"data"), frame)


@pytest.mark.parametrize("claim", [0, 3, 5, MAX_BLOB_BYTES + 1])
def test_a_plain_frame_that_lies_about_its_length_is_refused(claim: int) -> None:
    with pytest.raises(CorruptBlobError):
        open_frame(blob_digest(Kind.RAW, b"data"), bytes([0x10]) + varint(claim) + b"data")


@pytest.mark.parametrize("data", [b"\0" + TEXT, link_table([Link(Digest(bytes(32)), 1)]) + b"\xc0"])
def test_a_frame_that_hides_or_invents_links_is_refused(data: bytes) -> None:
    frame = pack_frame(Kind.VALUE, data, 1)
    with pytest.raises(CorruptBlobError):
        open_frame(blob_digest(Kind.VALUE, data), bytes([frame[0] ^ 0x04]) + frame[1:])


def many() -> list[bytes]:
    chance = random.Random(3)
    texts = [(b"%d " % n + TEXT) * chance.randrange(1, 80) for n in range(40)]
    return [b"", b"short", chance.randbytes(70_000), *texts]


@pytest.mark.parametrize("few", [True, False])
def test_frames_are_the_same_whether_packed_one_by_one_or_together(few: bool) -> None:
    datas = many()[:4] if few else many()
    blobs = [Packed(Kind.RAW, data, 1 + 2 * (n % 2)) for n, data in enumerate(datas)]
    frames = pack_frames(blobs)
    digests = [blob_digest(Kind.RAW, data) for data in datas]
    assert [open_frame(digest, frame) for digest, frame in zip(digests, frames, strict=True)] == [
        (Kind.RAW, data) for data in datas
    ]
    assert frames == [pack_frame(*blob) for blob in blobs]


@pytest.mark.parametrize("ahead", [True, False])
def test_leaves_open_together_to_what_each_opens_to_alone(ahead: bool) -> None:
    kinds = [Kind.RAW if n % 3 else Kind.VALUE for n in range(43)]
    datas = [data if kind is Kind.RAW else b"\0" + data for kind, data in zip(kinds, many(), strict=True)]
    digests = [blob_digest(kind, data) for kind, data in zip(kinds, datas, strict=True)]
    frames = pack_frames([Packed(kind, data, 1) for kind, data in zip(kinds, datas, strict=True)])
    sizes = [len(data) - (kind is Kind.VALUE) for kind, data in zip(kinds, datas, strict=True)]

    def opened(frames: list[bytes]) -> object:
        return Leaves(digests, frames, sizes, ahead=ahead).opened()

    assert opened(frames) == list(zip(kinds, datas, strict=True))
    assert Leaves([], [], [], ahead=ahead).opened() == []
    for index in (0, 2, 20, 42):
        for bad in (frames[index][:-1], frames[index][:-1] + b"!", frames[index - 1], b""):
            assert opened([*frames[:index], bad, *frames[index + 1 :]]) is None


def test_no_room_is_made_for_what_a_leaf_claims_beyond_its_size() -> None:
    bomb = pack_frame(Kind.RAW, bytes(MAX_BLOB_BYTES), 1)
    digest = blob_digest(Kind.RAW, bytes(MAX_BLOB_BYTES))
    count = 3000  # 48 GB, if it were believed
    assert Leaves([digest] * count, [bomb] * count, [5] * count).opened() is None
    linked = pack_frame(Kind.NODE, canonical(Kind.NODE), 1)
    assert Leaves([blob_digest(Kind.NODE, canonical(Kind.NODE))], [linked], [5]).opened() is None
    empty = pack_frame(Kind.NODE, b"\0", 1)
    assert Leaves([blob_digest(Kind.NODE, b"\0")], [empty], [0]).opened() is None
