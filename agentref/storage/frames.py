"""Frames: how a blob is kept. One head byte, the raw length, and the bytes, compressed if that helps.

Compression is no part of a blob's name: a frame may be rewritten at any level, and no ref changes.
"""

from typing import Final

import zstandard

from agentref.chunks import MAX_BLOB_BYTES, Kind, blob_digest, read_varint, varint
from agentref.errors import CorruptBlobError, MalformedBlobError
from agentref.refs import Digest

__all__ = ["has_links", "open_frame", "pack_frame"]

_VERSION: Final = 0x10
_ZSTD: Final = 0x08
_LINKS: Final = 0x04
_KIND_MASK: Final = 0x03

_MIN_COMPRESSED: Final = 64
_MIN_GAIN: Final = 0.95


class _Contexts:
    """zstandard's contexts. Two threads must not share one (that ends the process), and one a thread
    would be megabytes in each of a framework's many: so they are lent, and there are as many of them
    as were ever needed at once."""

    def __init__(self) -> None:
        self._compressors: dict[int, list[zstandard.ZstdCompressor]] = {}
        self._decompressors: list[zstandard.ZstdDecompressor] = []

    def compress(self, data: bytes | memoryview, level: int) -> bytes:
        idle = self._compressors.setdefault(level, [])
        try:
            context = idle.pop()
        except IndexError:
            context = zstandard.ZstdCompressor(level=level)
        packed = context.compress(data)
        idle.append(context)
        return packed

    def decompress(self, data: bytes) -> bytes:
        try:
            context = self._decompressors.pop()
        except IndexError:
            context = zstandard.ZstdDecompressor()
        # One that failed is not lent again.
        unpacked = context.decompress(data)
        self._decompressors.append(context)
        return unpacked


_contexts = _Contexts()


def pack_frame(kind: Kind, data: bytes | memoryview, level: int) -> bytes:
    """The frame of a blob's canonical bytes."""
    head = _VERSION | kind | (_LINKS if kind is not Kind.RAW and data[0] else 0)
    length = varint(len(data))
    if len(data) >= _MIN_COMPRESSED:
        packed = _contexts.compress(data, level)
        if len(packed) <= len(data) * _MIN_GAIN:
            return b"".join((bytes([head | _ZSTD]), length, packed))
    return b"".join((bytes([head]), length, data))


def has_links(frame: bytes) -> bool:
    """Whether a frame says that its blob links to others. `open_frame` holds it to that."""
    return bool(frame) and bool(frame[0] & _LINKS)


def open_frame(digest: Digest, frame: bytes) -> tuple[Kind, bytes]:
    """The kind and the canonical bytes, which hash to `digest`.

    Raises `CorruptBlobError` if they do not, or if the frame cannot be opened at all. No more than
    `MAX_BLOB_BYTES` are ever unpacked.
    """
    try:
        kind, data = _unpack(frame)
    except (MalformedBlobError, zstandard.ZstdError, ValueError, IndexError, MemoryError) as error:
        raise _corrupt(digest, str(error)) from error
    if blob_digest(kind, data) != digest:
        raise _corrupt(digest, "they hash to something else")
    return kind, data


def _unpack(frame: bytes) -> tuple[Kind, bytes]:
    head = frame[0]
    if head & 0xF0 != _VERSION:
        raise MalformedBlobError(f"frame version {head >> 4} is unknown")
    kind = Kind(head & _KIND_MASK)
    length, at = read_varint(frame, 1)
    if length > MAX_BLOB_BYTES:
        raise MalformedBlobError(f"they claim to unpack to {length:,} bytes")
    body = frame[at:]
    if head & _ZSTD:
        # The decompressor believes the size in its own header: it has to agree with ours first.
        if zstandard.frame_content_size(body) != length:
            raise MalformedBlobError("their two lengths do not agree")
        body = _contexts.decompress(body)
    if len(body) != length:
        raise MalformedBlobError("they are cut off")
    if kind is not Kind.RAW and (length == 0 or bool(body[0]) != bool(head & _LINKS)):
        raise MalformedBlobError("they hide their links")
    return kind, body


def _corrupt(digest: Digest, why: str) -> CorruptBlobError:
    return CorruptBlobError(
        f"The stored bytes of blob {digest.hex()} are damaged: {why}. "
        f"Restore it from a backup, or store the same content again through this object, which replaces it."
    )
