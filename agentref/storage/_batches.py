"""The format of packs: batches of blobs, one behind the other, each of which is there as a whole or not.

A batch is a head, the blobs' digests, the sizes of their bytes (4 bytes each), and the bytes. All numbers
are big endian. The head:

    magic         4 bytes  b"ARB1"
    head_check    4 bytes  CRC-32 of the pack's name, the rest of the head, the digests and the sizes
    body_check    4 bytes  CRC-32 of the bytes
    count         4 bytes
    stored_at     8 bytes  a double: seconds since the epoch
    expires_at    8 bytes  a double: the same, or infinity

The checks tell a batch that a crash cut short from one that is whole. Damage that somebody wants is not
their matter: whoever reads a blob hashes it. The pack's name, which is drawn by chance, is in them so that
nobody who has something stored can make it look like a batch where one was damaged.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from agentref.refs import DIGEST_SIZE, Digest

__all__ = ["ENTRY_SIZE", "Batch", "batch_parts", "intact_end", "read_all", "read_batches"]

_MAGIC: Final = b"ARB1"
_CHECKED: Final = struct.Struct(">IIdd")  # what of the head is checked, and comes behind `head_check`
_HEAD_SIZE: Final = 8 + _CHECKED.size
_WINDOW: Final = 4096
_JOINED: Final = 256 * 1024
_CHECK_AT_ONCE: Final = 1024 * 1024

ENTRY_SIZE: Final = DIGEST_SIZE + 4
"""Bytes that a batch takes for each blob, beside the blob's own."""


class Batch(NamedTuple):
    """A batch in a pack: where it begins and ends, and where the bytes of each of its blobs are."""

    begin: int
    end: int
    digests: Sequence[Digest]
    places: Sequence[int]
    sizes: Sequence[int]
    stored_at: float
    expires_at: float
    body_check: int


def batch_parts(
    blobs: Mapping[Digest, bytes], name: str, begin: int, *, stored_at: float, expires_at: float
) -> tuple[Batch, list[bytes]]:
    """A batch that will begin at `begin` of that pack, and the bytes of it to be written there."""
    bodies = list(blobs.values())
    sizes = list(map(len, bodies))
    total = sum(sizes)
    if total < _JOINED:
        bodies = [b"".join(bodies)]
    check = 0
    for body in bodies:
        check = zlib.crc32(body, check)
    listed = b"".join([*blobs, struct.pack(f">{len(sizes)}I", *sizes)])
    checked = _CHECKED.pack(check, len(sizes), stored_at, expires_at)
    head_check = zlib.crc32(listed, zlib.crc32(checked, zlib.crc32(name.encode())))
    head = b"".join([_MAGIC, head_check.to_bytes(4, "big"), checked, listed])
    first = begin + len(head)
    places = list(accumulate(sizes, initial=first))
    batch = Batch(begin, places.pop(), list(blobs), places, sizes, stored_at, expires_at, check)
    return batch, [b"".join([head, *bodies])] if total < _JOINED else [head, *bodies]


def read_batches(descriptor: int, name: str, begin: int, end: int) -> Iterator[Batch]:
    """The batches of that pack that are whole between `begin` and `end`; damage is passed over.

    Reads their heads only: whether the bytes are what they were is not checked.
    """
    while batch := _read_head(descriptor, name, begin, end) or _resync(descriptor, name, begin + 1, end):
        yield batch
        begin = batch.end


def _read_head(descriptor: int, name: str, begin: int, end: int) -> Batch | None:
    if begin + _HEAD_SIZE > end:
        return None
    window = read_all(descriptor, begin, min(_WINDOW, end - begin))
    if window[:4] != _MAGIC or len(window) < _HEAD_SIZE:
        return None
    body_check, count, stored_at, expires_at = _CHECKED.unpack_from(window, 8)
    size = _HEAD_SIZE + ENTRY_SIZE * count
    if begin + size > end:
        return None
    if size > len(window):
        window += read_all(descriptor, begin + len(window), size - len(window))
    check = zlib.crc32(window[8:size], zlib.crc32(name.encode()))
    if len(window) < size or check != int.from_bytes(window[4:8], "big"):
        return None
    listed = _HEAD_SIZE + DIGEST_SIZE * count
    digests = [Digest(window[at : at + DIGEST_SIZE]) for at in range(_HEAD_SIZE, listed, DIGEST_SIZE)]
    sizes = struct.unpack_from(f">{count}I", window, listed)
    places = list(accumulate(sizes, initial=begin + size))
    batch = Batch(begin, places.pop(), digests, places, sizes, stored_at, expires_at, body_check)
    return batch if batch.end <= end else None


def _resync(descriptor: int, name: str, begin: int, end: int) -> Batch | None:
    """The first batch from `begin` on, wherever it begins."""
    while begin + _HEAD_SIZE <= end:
        window = read_all(descriptor, begin, min(_CHECK_AT_ONCE, end - begin))
        at = window.find(_MAGIC)
        while at >= 0:
            batch = _read_head(descriptor, name, begin + at, end)
            if batch is not None:
                return batch
            at = window.find(_MAGIC, at + 1)
        if len(window) < _HEAD_SIZE:
            break  # the file is shorter than it should be
        begin += len(window) - len(_MAGIC) + 1
    return None


def intact_end(descriptor: int, name: str, begin: int, end: int) -> int:
    """Where the last batch between `begin` and `end` ends of which all bytes are what they were."""
    intact = begin
    for batch in read_batches(descriptor, name, begin, end):
        at, check = batch.end - sum(batch.sizes), 0
        while at < batch.end and (data := os.pread(descriptor, min(_CHECK_AT_ONCE, batch.end - at), at)):
            check = zlib.crc32(data, check)
            at += len(data)
        if check == batch.body_check and at == batch.end:
            intact = batch.end
    return intact


def read_all(descriptor: int, offset: int, size: int) -> bytes:
    """Bytes of a file; fewer where it ends."""
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data
