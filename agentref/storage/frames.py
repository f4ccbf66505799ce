"""Frames: how a blob is kept. One head byte, the raw length, and the bytes, compressed if that helps.

Compression is no part of a blob's name: a frame may be rewritten at any level, and no ref changes.
"""

import struct
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import zstandard

from agentref.chunks import MAX_BLOB_BYTES, Kind, blob_digest, read_varint, varint
from agentref.errors import CorruptBlobError, MalformedBlobError
from agentref.refs import Digest
from agentref.storage.parallel import Task, shared_out

__all__ = [
    "LINKS",
    "Leaves",
    "Packed",
    "Unpacked",
    "has_links",
    "links_by_head",
    "open_frame",
    "pack_alone",
    "pack_frame",
    "pack_frames",
]

_VERSION: Final = 0x10
_ZSTD: Final = 0x08
LINKS: Final = 0x04
"""The bit of a frame's first byte that says that its blob links to others."""
_KIND_MASK: Final = 0x03

_NOT_OF_LEAVES: Final = 0xF0 | LINKS

_HEADS: Final = tuple(bytes((first,)) for first in range(256))
_KINDS: Final = tuple(Kind)  # by number; one that is missing is an IndexError
_RAW: Final = Kind.RAW
_NODE: Final = Kind.NODE

_MIN_COMPRESSED: Final = 64
_MIN_GAIN: Final = 0.95

# From so much on, zstandard is given many blobs in one call: it lets go of the interpreter lock once then,
# not once a blob, and where another thread computes each time takes up to 5 ms to get it back.
_BATCH_BYTES: Final = 64 * 1024
# To compress, from less on, and one alone as well: a call gives its buffers back, up to 1.3 MB, which a
# context keeps; for that, 15 us are not too much.
_LARGE_BYTES: Final = 16 * 1024


# What opening a frame may raise that no `pack_frame` made.
_BROKEN: Final = (MalformedBlobError, zstandard.ZstdError, ValueError, IndexError, MemoryError)


class Packed(NamedTuple):
    """A blob on its way into a frame."""

    kind: Kind
    data: bytes | memoryview
    level: int


class Unpacked(NamedTuple):
    """A blob that is out of its frame and hashes to its name."""

    kind: Kind
    data: bytes


class _Contexts:
    """zstandard's contexts. Two threads must not share one (that ends the process), and one a thread
    would be megabytes in each of a framework's many: so they are lent, and there are as many of them
    as were ever needed at once."""

    def __init__(self) -> None:
        self._compressors: dict[int, list[zstandard.ZstdCompressor]] = {}
        self._decompressors: list[zstandard.ZstdDecompressor] = []

    def compress(self, datas: Sequence[bytes | memoryview], level: int) -> Sequence[Any]:
        """What each of them is compressed: bytes, or segments of a buffer."""
        idle = self._compressors.setdefault(level, [])
        try:
            context = idle.pop()
        except IndexError:
            context = zstandard.ZstdCompressor(level=level)
        packed: Any
        if sum(map(len, datas)) >= _LARGE_BYTES:
            packed = context.multi_compress_to_buffer(list(datas))
        else:
            packed = list(map(context.compress, datas))
        idle.append(context)
        return packed  # type: ignore[no-any-return]

    def decompress(self, datas: list[Any], sizes: Sequence[int]) -> Iterable[Any]:
        """What each of them, whose size is known, unpacks to: bytes, or segments of a buffer."""
        unpacked: Any
        try:
            context = self._decompressors.pop()
        except IndexError:
            context = zstandard.ZstdDecompressor()
        # One that failed is not lent again.
        if len(datas) > 1 and sum(sizes) >= _BATCH_BYTES:
            unpacked = context.multi_decompress_to_buffer(
                datas,
                decompressed_sizes=struct.pack(f"={len(sizes)}Q", *sizes),
            )
            unpacked = map(unpacked.__getitem__, range(len(datas)))
        else:
            unpacked = list(map(context.decompress, datas))
        self._decompressors.append(context)
        return unpacked  # type: ignore[no-any-return]


_contexts = _Contexts()


def pack_frame(kind: Kind, data: bytes | memoryview, level: int) -> bytes:
    """The frame of a blob's canonical bytes."""
    return pack_frames([Packed(kind, data, level)])[0]


def pack_frames(blobs: Sequence[Packed], *, part_of: int = 0) -> list[bytes]:
    """The frame of each, in order: on several cores where it is worth it, as for a part of much."""
    return shared_out(pack_alone, blobs, [len(blob.data) for blob in blobs], part_of=part_of)


def pack_alone(blobs: Sequence[Packed]) -> list[bytes]:
    """The same on one core."""
    levels: dict[int, list[int]] = {}
    for index, (_, data, level) in enumerate(blobs):
        if len(data) >= _MIN_COMPRESSED:
            levels.setdefault(level, []).append(index)
    frames = [b""] * len(blobs)
    for level, indexes in levels.items():
        packed = _contexts.compress([blobs[index][1] for index in indexes], level)
        for index, body in zip(indexes, packed, strict=True):
            kind, data, _ = blobs[index]
            size = len(data)
            if len(body) <= size * _MIN_GAIN:
                frames[index] = b"".join((_head(kind, data, _ZSTD), varint(size), body))
    return [
        frame or b"".join((_head(kind, data, 0), varint(len(data)), data))
        for frame, (kind, data, _) in zip(frames, blobs, strict=True)
    ]


def _head(kind: Kind, data: bytes | memoryview, flags: int) -> bytes:
    return _HEADS[_VERSION | kind | flags | (LINKS if kind is not _RAW and data[0] else 0)]


def has_links(frame: bytes) -> bool:
    """Whether a frame says that its blob links to others. `open_frame` holds it to that."""
    return bool(frame) and links_by_head(frame[0])


def links_by_head(head: int) -> bool:
    """The same, by the first byte of a frame; -1 if it has none."""
    return head >= 0 and bool(head & LINKS)


def open_frame(digest: Digest, frame: bytes) -> Unpacked:
    """The kind and the canonical bytes, which hash to `digest`.

    Raises `CorruptBlobError` if they do not, or if the frame cannot be opened at all. No more than
    `MAX_BLOB_BYTES` are ever unpacked.
    """
    try:
        kind, length, body, is_packed = _parse(frame)
        (data,) = _contexts.decompress([body], [length]) if is_packed else (bytes(body),)
        _check(kind, length, data, frame)
    except _BROKEN as error:
        raise _corrupt(digest, str(error)) from error
    if blob_digest(kind, data) != digest:
        raise _corrupt(digest, "they hash to something else")
    return Unpacked(kind, data)


class Leaves:
    """Many blobs without links, of known logical sizes. `ahead` has another thread begin to unpack them."""

    def __init__(
        self,
        digests: Sequence[Digest],
        frames: Sequence[bytes],
        sizes: Sequence[int],
        *,
        ahead: bool = False,
    ) -> None:
        self._digests = list(digests)
        self._kinds: list[Kind] = []
        self._lengths: list[int] = []
        self._plain: dict[int, memoryview] = {}
        self._broken = False
        packed: list[memoryview] = []
        try:
            for frame, size in zip(frames, sizes, strict=True):
                kind, length, body, is_packed = _parse_leaf(frame, size)
                if is_packed:
                    packed.append(body)
                else:
                    self._plain[len(self._kinds)] = body
                self._kinds.append(kind)
                self._lengths.append(length)
        except _BROKEN:
            self._broken = True
            return
        lengths = self._lengths
        if self._plain:
            lengths = [length for index, length in enumerate(lengths) if index not in self._plain]
        self._unpacking = Task(partial(_contexts.decompress, packed, lengths), sum(lengths) if ahead else 0)

    def opened(self) -> list[tuple[Kind, memoryview]] | None:
        """`open_frame` of each, in order. None if any of them is not what it should be: to be opened one
        by one, to see which and why."""
        if self._broken:
            return None
        kinds = self._kinds
        try:
            # No copies are made: they would take as long as a third of the hashes.
            datas: list[memoryview] = [memoryview(data) for data in self._unpacking.result()]
            for index, body in self._plain.items():
                datas.insert(index, body)
            if list(map(len, datas)) != self._lengths:
                return None
            if any(data[0] for kind, data in zip(kinds, datas, strict=True) if kind is not _RAW):
                return None
            if list(map(blob_digest, kinds, datas)) != self._digests:
                return None
        except _BROKEN:
            return None
        return list(zip(kinds, datas, strict=True))


def _parse_leaf(frame: bytes, size: int) -> tuple[Kind, int, memoryview, bool]:
    """`_parse` of the frame of a blob that has no links and is no node."""
    head = frame[0]
    kind = _KINDS[head & _KIND_MASK]
    # Such a blob is its payload, and one byte that says so unless it is raw. A frame that claims
    # otherwise could have us make room for much more than was asked for.
    length = size if kind is _RAW else size + 1
    announced = varint(length)
    if (
        head & _NOT_OF_LEAVES != _VERSION
        or kind is _NODE
        or length > MAX_BLOB_BYTES
        or not frame.startswith(announced, 1)
    ):
        raise MalformedBlobError("they are of another size")
    body = memoryview(frame)[1 + len(announced) :]
    is_packed = bool(head & _ZSTD)
    if is_packed and zstandard.frame_content_size(body) != length:
        raise MalformedBlobError("their two lengths do not agree")
    return kind, length, body, is_packed


def _check(kind: Kind, length: int, data: bytes, frame: bytes) -> None:
    if len(data) != length:
        raise MalformedBlobError("they are cut off")
    if kind is not _RAW and (not data or bool(data[0]) != bool(frame[0] & LINKS)):
        raise MalformedBlobError("they hide their links")


def _parse(frame: bytes) -> tuple[Kind, int, bytes | memoryview, bool]:
    """Kind, length of the canonical bytes, the body, and whether that is compressed."""
    head = frame[0]
    if head & 0xF0 != _VERSION:
        raise MalformedBlobError(f"frame version {head >> 4} is unknown")
    kind = _KINDS[head & _KIND_MASK]
    length, at = read_varint(frame, 1)
    if length > MAX_BLOB_BYTES:
        raise MalformedBlobError(f"they claim to unpack to {length:,} bytes")
    if not head & _ZSTD:
        return kind, length, frame[at:], False
    body = memoryview(frame)[at:]
    # The decompressor believes the size in its own header: it has to agree with ours first.
    if zstandard.frame_content_size(body) != length:
        raise MalformedBlobError("their two lengths do not agree")
    return kind, length, body, True


def _corrupt(digest: Digest, why: str) -> CorruptBlobError:
    return CorruptBlobError(
        f"The stored bytes of blob {digest.hex()} are damaged: {why}. "
        "Restore it from a backup, or store the same content again through this object, which replaces it; "
        "repair() replaces all blobs of a value."
    )
