"""Blobs: the unit that a store keeps, its canonical bytes and its digest.

A blob is of one of three kinds. `RAW` is opaque bytes. `VALUE` is one encoded value, and `NODE` an
inner node of a tree; both open with a table of links to other blobs, so that what a blob needs can
be told without decoding it.
"""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from blake3 import blake3

from agentref.errors import MalformedBlobError
from agentref.refs import DIGEST_SIZE, Digest

__all__ = [
    "MAX_BLOB_BYTES",
    "Blob",
    "Kind",
    "Link",
    "blob_digest",
    "link_table",
    "read_varint",
    "unpack_blob",
    "varint",
]

MAX_BLOB_BYTES: Final = 16 * 1024 * 1024
"""No blob's canonical form is larger; a reader refuses one that claims to be."""

_MAX_LINKS: Final = 1 << 18


class Kind(IntEnum):
    """What the canonical bytes of a blob are. Each kind is hashed under its own key."""

    RAW = 0
    VALUE = 1
    NODE = 2


# Python 3.11 takes 170 ns to look a member of an enum up, which adds up where it is done for each blob.
_RAW: Final = Kind.RAW
_VALUE: Final = Kind.VALUE
_NODE: Final = Kind.NODE

# A kind byte in front of the bytes would separate the kinds as well, but shifts all of them out of
# step with BLAKE3's 1 KiB chunks: 12.7 against 8.0 us for 16 KiB (blake3 1.0.11).
_KEYS: Final[dict[Kind, Any]] = {
    kind: blake3(f"agentref v1 {kind.name}".encode()).digest() for kind in (_VALUE, _NODE)
}
_KEYS[_RAW] = None


class Link(NamedTuple):
    """A child: its digest, and the logical bytes below it (at least 1)."""

    digest: Digest
    size: int


class Blob(NamedTuple):
    """A parsed blob: its payload (raw bytes, an encoded value, or nothing for a node), its links, and
    the logical bytes of all of it, links included."""

    kind: Kind
    links: tuple[Link, ...]
    payload: bytes | memoryview
    size: int


@lru_cache(maxsize=8192)  # a growing list has the same links again and again
def varint(number: int) -> bytes:
    """`number` (0 or more) in LEB128: seven bits a byte, low bits first, shortest form."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The number at offset `at` and the offset behind it. Only the shortest form is accepted."""
    number = shift = 0
    if at + 2 < len(data):  # most numbers have one to three bytes
        first, second, third = data[at], data[at + 1], data[at + 2]
        if first < 0x80:
            return first, at + 1
        if 0 < second < 0x80:
            return first & 0x7F | second << 7, at + 2
        if second and 0 < third < 0x80:
            return first & 0x7F | (second & 0x7F) << 7 | third << 14, at + 3
    for index in range(at, min(at + 9, len(data))):
        byte = data[index]
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if byte == 0 and index > at:
                break
            return number, index + 1
    raise MalformedBlobError("A number in a blob is cut off, too long or not in its shortest form.")


def link_table(links: Sequence[Link]) -> bytes:
    """What the canonical bytes of a `VALUE` or `NODE` open with."""
    if not links:
        return b"\0"
    return varint(len(links)) + b"".join([digest + varint(size) for digest, size in links])


def unpack_blob(kind: Kind, data: bytes) -> Blob:
    """Parse canonical bytes that were verified before. Raises `MalformedBlobError`."""
    if kind is _RAW:
        return Blob(kind, (), data, len(data))
    if data and not data[0] and kind is _VALUE:
        return Blob(kind, (), memoryview(data)[1:], len(data) - 1)
    count, at = read_varint(data, 0)
    if count > _MAX_LINKS or count * (DIGEST_SIZE + 1) > len(data) - at:
        raise MalformedBlobError(f"A blob claims {count:,} links, more than its bytes can hold.")
    links = []
    for _ in range(count):
        digest: Any = data[at : at + DIGEST_SIZE]
        size, at = read_varint(data, at + DIGEST_SIZE)
        if len(digest) != DIGEST_SIZE or size < 1:
            raise MalformedBlobError("A link in a blob is cut off or claims to be empty.")
        links.append(Link(digest, size))
    if kind is _NODE and (at != len(data) or not links):
        raise MalformedBlobError("An inner node holds something else than links.")
    payload = memoryview(data)[at:]
    return Blob(kind, tuple(links), payload, len(payload) + sum([link[1] for link in links]))


def blob_digest(kind: Kind, data: bytes | memoryview) -> Digest:
    """BLAKE3-256 of the canonical bytes: plain for `RAW`, keyed by kind for the others."""
    return Digest(blake3(data, key=_KEYS[kind]).digest())
