"""The format of packs: batches of blobs, one behind the other, each of which is there as a whole or not.

A batch is a head, the blobs' digests, the sizes of their bytes (4 bytes each), the pins that were set with
them, and the bytes. All numbers are big endian. The head:

    magic         4 bytes  b"ARB1"
    head_check    4 bytes  CRC-32 of the pack's name and the rest of the head
    list_check    4 bytes  CRC-32 of what stands between the head and the bytes
    body_check    4 bytes  CRC-32 of the bytes
    count         4 bytes
    pins_size     4 bytes
    stored_at     8 bytes  a double: seconds since the epoch
    expires_at    8 bytes  a double: the same, or infinity

A pin is the length of its owner's name (2 bytes), the name in UTF-8, a digest, and a double: when it ends.

The checks tell a batch that a crash cut short from one that is whole. Damage that somebody wants is not
their matter: whoever reads a blob hashes it. The pack's name, which is drawn by chance, is in them so that
nobody who has something stored can make it look like a batch where one was damaged. The head has a check
of its own, so that what only looks like one costs no more than to read so much.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from agentref.errors import InvalidInputError
from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage._arguments import unique_pins
from agentref.storage.protocol import PinRow

__all__ = ["ENTRY_SIZE", "Batch", "batch_parts", "intact_end", "pins_in", "read_all", "read_batches"]

_MAGIC: Final = b"ARB1"
_CHECKED: Final = struct.Struct(">IIIIdd")  # what of the head is checked, and comes behind `head_check`
_HEAD_SIZE: Final = 8 + _CHECKED.size
_OWNER: Final = struct.Struct(">H")
_LIFE: Final = struct.Struct(">d")
_WINDOW: Final = 16 * 1024
_JOINED: Final = 256 * 1024
_CHECK_AT_ONCE: Final = 1024 * 1024

ENTRY_SIZE: Final = DIGEST_SIZE + 4
"""Bytes that a batch takes for each blob, beside the blob's own."""


class Batch(NamedTuple):
    """A batch in a pack: where it begins and ends, and where the bytes of each of its blobs are; `pins` as
    they lie there, for `pins_in`."""

    begin: int
    end: int
    digests: Sequence[Digest]
    places: Sequence[int]
    sizes: Sequence[int]
    stored_at: float
    expires_at: float
    body_check: int
    pins: bytes


def batch_parts(  # noqa: PLR0913
    blobs: Mapping[Digest, bytes],
    name: str,
    begin: int,
    *,
    stored_at: float,
    expires_at: float,
    pins: Iterable[PinRow] = (),
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
    pinned = b"".join([_pin_entry(*pin) for pin in pins])
    listed = b"".join([*blobs, struct.pack(f">{len(sizes)}I", *sizes), pinned])
    checked = _CHECKED.pack(zlib.crc32(listed), check, len(sizes), len(pinned), stored_at, expires_at)
    head_check = zlib.crc32(checked, zlib.crc32(name.encode()))
    head = b"".join([_MAGIC, head_check.to_bytes(4, "big"), checked, listed])
    first = begin + len(head)
    places = list(accumulate(sizes, initial=first))
    batch = Batch(begin, places.pop(), list(blobs), places, sizes, stored_at, expires_at, check, pinned)
    return batch, [b"".join([head, *bodies])] if total < _JOINED else [head, *bodies]


def _pin_entry(owner: str, digest: Digest, expires_at: float) -> bytes:
    name = owner.encode()
    return b"".join([_OWNER.pack(len(name)), name, digest, _LIFE.pack(expires_at)])


def pins_in(batch: Batch) -> list[PinRow]:
    """The pins that were set with the blobs of a batch; none if they are not as anybody writes them."""
    pins: list[PinRow] = []
    data, at = batch.pins, 0
    try:
        while at < len(data):
            (size,) = _OWNER.unpack_from(data, at)
            begin = at + _OWNER.size
            at = begin + size
            (expires_at,) = _LIFE.unpack_from(data, at + DIGEST_SIZE)
            pins.append(PinRow(data[begin:at].decode(), Digest(data[at : at + DIGEST_SIZE]), expires_at))
            at += DIGEST_SIZE + _LIFE.size
        return unique_pins(pins)
    except (struct.error, UnicodeDecodeError, InvalidInputError):
        return []


def read_batches(descriptor: int, name: str, begin: int, end: int) -> Iterator[Batch]:
    """The batches of that pack that are whole between `begin` and `end`; damage is passed over.

    Reads their heads only: whether the bytes are what they were is not checked.
    """
    heads = _Heads(descriptor, name, end)
    while batch := heads.read(begin) or _resync(heads, begin + 1):
        yield batch
        begin = batch.end


class _Heads:
    """Reads the heads of batches before `end`: those that lie together in one system call."""

    def __init__(self, descriptor: int, name: str, end: int) -> None:
        self.descriptor = descriptor
        self.end = end
        self._seed = zlib.crc32(name.encode())
        self._window = b""
        self._window_begin = 0

    def read(self, begin: int) -> Batch | None:
        """The batch that begins there, if one does and is whole."""
        if begin + _HEAD_SIZE > self.end:
            return None
        head = self._bytes(begin, _HEAD_SIZE)
        if head[:4] != _MAGIC or len(head) < _HEAD_SIZE:
            return None
        if zlib.crc32(head[8:], self._seed) != int.from_bytes(head[4:8], "big"):
            return None
        list_check, body_check, count, pins_size, stored_at, expires_at = _CHECKED.unpack_from(head, 8)
        first = begin + _HEAD_SIZE + ENTRY_SIZE * count + pins_size
        if first > self.end:
            return None
        listed = self._bytes(begin + _HEAD_SIZE, first - begin - _HEAD_SIZE)
        if begin + _HEAD_SIZE + len(listed) < first or zlib.crc32(listed) != list_check:
            return None
        names = DIGEST_SIZE * count
        digests = [Digest(listed[at : at + DIGEST_SIZE]) for at in range(0, names, DIGEST_SIZE)]
        sizes = struct.unpack_from(f">{count}I", listed, names)
        places = list(accumulate(sizes, initial=first))
        pins = listed[ENTRY_SIZE * count :]
        batch = Batch(begin, places.pop(), digests, places, sizes, stored_at, expires_at, body_check, pins)
        return batch if batch.end <= self.end else None

    def _bytes(self, begin: int, size: int) -> bytes:
        """Fewer where the file ends."""
        at = begin - self._window_begin
        if at < 0 or at + size > len(self._window):
            self._window = read_all(self.descriptor, begin, min(max(size, _WINDOW), self.end - begin))
            self._window_begin, at = begin, 0
        return self._window[at : at + size]


def _resync(heads: _Heads, begin: int) -> Batch | None:
    """The first batch from `begin` on, wherever it begins."""
    while begin + _HEAD_SIZE <= heads.end:
        window = read_all(heads.descriptor, begin, min(_CHECK_AT_ONCE, heads.end - begin))
        at = window.find(_MAGIC)
        while at >= 0:
            batch = heads.read(begin + at)
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
