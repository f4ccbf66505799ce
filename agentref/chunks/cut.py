"""Where to cut: opaque bytes by FastCDC, elements of a list where their own bytes say so.

Cuts depend only on the content around them, so that an insertion, a removal or an append changes
the chunks that it touches and no others. The parameters are part of the format: changing one stores
everything anew, though nothing that was stored becomes unreadable.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO, Final, NamedTuple, cast
from zlib import crc32

from pyfastcdc import FastCDC

from agentref.errors import InvalidInputError

__all__ = ["WHOLE_BYTES", "cut_bytes", "cut_items", "cut_links", "cut_rows", "cut_stream", "cut_tail"]

WHOLE_BYTES: Final = 256 * 1024
"""Opaque bytes up to this size stay in one blob: cutting them would cost more than it saves."""

_CDC_AVERAGE: Final = 64 * 1024
_ROWS_BYTES: Final = 256 * 1024


class _Sizes(NamedTuple):
    """Of leaves: no cut before so many bytes and elements; then one in so many bytes; one at so many."""

    least: int
    fewest: int
    span: int
    most: int


_LEAF: Final = _Sizes(12 * 1024, 1, 20 * 1024, 64 * 1024)
# What comes behind the last cut is stored anew each time a list grows: in small leaves, less of it. With no
# fewer than three elements in each, 64 KiB in records of 4 KiB are 4.6 blobs to read, not 6.7 as with
# leaves of a single one, and 400 messages of 2 KiB, stored one by one, take 1.3 times the bytes.
_TAIL: Final = _Sizes(2 * 1024, 3, 2 * 1024, 16 * 1024)

# The middle of an element tells it from its neighbours as well as all of it would, for less.
_SAMPLE: Final = 64

_NODE_MIN: Final = 4
_NODE_MAX: Final = 32
_NODE_MASK: Final = 0x07


def _chunker() -> FastCDC:
    # Normalization 2 and min = avg / 4, max = 4 * avg: as in Bazel's remote-apis FastCDC2020 profile.
    return FastCDC(
        avg_size=_CDC_AVERAGE, min_size=_CDC_AVERAGE // 4, max_size=_CDC_AVERAGE * 4, normalized_chunking=2
    )


def cut_bytes(data: memoryview) -> Iterator[memoryview]:
    """Chunks of `data` in order: `data` itself when small, else about 64 KiB each (16 to 256 KiB)."""
    if len(data) <= WHOLE_BYTES:
        if len(data):
            yield data
        return
    if not data.c_contiguous:  # FastCDC would read past the strides of such a view
        data = memoryview(bytes(data))
    for chunk in _chunker().cut_buf(data):
        yield data[chunk.offset : chunk.offset + chunk.length]


def cut_stream(file: BinaryIO) -> Iterator[bytes]:
    """The same chunks as `cut_bytes` of all that `file` yields, in bounded memory."""
    head = _read_up_to(file, WHOLE_BYTES + 1)
    if len(head) <= WHOLE_BYTES:
        if head:
            yield head
        return
    for chunk in _chunker().cut_stream(cast("BinaryIO", _Rejoined(head, file))):
        yield bytes(chunk.data)


def cut_rows(data: memoryview, row_bytes: int) -> Iterator[memoryview]:
    """Chunks of at most 256 KiB that begin at rows (or within one, for a row that is larger)."""
    step = max(_ROWS_BYTES // max(row_bytes, 1), 1) * max(row_bytes, 1)
    step = min(step, _ROWS_BYTES)
    for at in range(0, len(data), step):
        yield data[at : at + step]


def cut_items(
    items: Sequence[bytes], weights: Sequence[int], known_end: Callable[[int], int] | None = None
) -> list[int]:
    """Ends of the leaves that encoded elements fall into: about 30 KiB each by weight.

    A cut falls behind an element with a chance in proportion to its weight, drawn from its bytes.
    What comes behind the last cut is for `cut_tail`.

    Where a cut falls depends on nothing before the last one: `known_end` may tell where the leaf ends
    that begins at an element, or 0 if it does not know.
    """
    ends: list[int] = []
    begin = 0
    totals = list(accumulate(weights, initial=0))
    while begin < len(items):
        end = known_end(begin) if known_end is not None else 0
        begin = end or _next_cut(items, totals, begin, _LEAF)
        if not begin:
            break
        ends.append(begin)
    return ends


def cut_tail(items: Sequence[bytes], begin: int) -> list[int]:
    """Ends of the leaves of the elements from `begin` on: about 4 KiB and three elements at least, or 16
    KiB, until a cut gathers them."""
    ends: list[int] = []
    rest, at = items[begin:], 0
    totals = list(accumulate(map(len, rest), initial=0))
    while at < len(rest):
        at = _next_cut(rest, totals, at, _TAIL) or len(rest)
        ends.append(begin + at)
    return ends


def _next_cut(items: Sequence[bytes], totals: Sequence[int], begin: int, sizes: _Sizes) -> int:
    """The end of the leaf that begins at an element; 0 if the elements come to an end before.

    `totals` are the weights of all elements before each.
    """
    least, fewest, span, most = sizes
    base = totals[begin]
    # The first element with which the leaf is long enough, and the one with which it is full.
    first = bisect_left(totals, base + least, begin + 1) - 1
    full = bisect_left(totals, base + most, first + 1) - 1
    for index in range(max(first, begin + fewest - 1), min(full, len(items))):
        item = items[index]
        if len(item) > _SAMPLE:
            middle = len(item) >> 1
            item = item[middle - _SAMPLE // 2 : middle + _SAMPLE // 2]
        if crc32(item) * span < totals[index + 1] - totals[index] << 32:
            return index + 1
    return full + 1 if full < len(items) else 0


def cut_links(digests: Sequence[bytes]) -> list[int]:
    """Ends of the nodes that links fall into: about 12 each, 4 to 32, drawn from their digests."""
    ends: list[int] = []
    begin = 0
    for index, digest in enumerate(digests):
        count = index + 1 - begin
        if count >= _NODE_MAX or (count >= _NODE_MIN and not digest[0] & _NODE_MASK):
            begin = index + 1
            ends.append(begin)
    if begin != len(digests):
        ends.append(len(digests))
    return ends


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    parts = []
    while size > 0:
        part = _bytes_read(file, size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _bytes_read(file: BinaryIO, size: int) -> bytes:
    part = file.read(size)
    if not isinstance(part, (bytes, bytearray, memoryview)):
        raise InvalidInputError(f"The file gives {type(part).__name__}, not bytes: open it with mode 'rb'.")
    return bytes(part)


class _Rejoined:
    """A file whose first bytes were read already."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head = memoryview(head)
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return _bytes_read(self._file, size)
        part = bytes(self._head if size < 0 else self._head[:size])
        self._head = self._head[len(part) :]
        return part + _bytes_read(self._file, -1) if size < 0 else part

    def readinto(self, buffer: bytearray | memoryview) -> int:
        view = memoryview(buffer)
        part = self.read(len(view))
        view[: len(part)] = part
        return len(part)
