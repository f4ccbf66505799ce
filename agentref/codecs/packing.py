"""Packing by msgpack's C code; what is moved out meanwhile, and the links that then stand for it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import add, rshift, sub
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

from agentref.codecs.screen import too_deep
from agentref.codecs.sink import Sink
from agentref.codecs.wire import MAX_NESTING, Ext
from agentref.errors import AgentRefError, ValueTooLargeError

__all__ = ["INLINE", "TEXT_EXTS", "Elements", "Packing", "array_header", "map_header", "without_links"]

_PACK_BUFFER: Final = 16 * 1024
"""What msgpack takes for a start; its default, 256 KiB, costs more than most values do."""

INLINE: Final = 16 * 1024
"""A list or dictionary whose elements weigh no more stays within its parent."""

_SPILLED_SHARE: Final = 3
"""An element counts its spilled bytes at an eighth, so many bits to the right: a leaf over long texts
stays short."""

_FIXEXT_1: Final = 0xD4
"""What msgpack opens an extension type of one byte with."""

_TEXT_TREES: Final = {str: Ext.TEXT_TREE, bytes: Ext.BYTES_TREE}
TEXT_EXTS: Final[dict[tuple[type, int], Any]] = {
    (kind, count): msgpack.ExtType(code, bytes([count]))
    for kind, code in _TEXT_TREES.items()
    for count in range(17)
}
"""What stands for a long text, by its type and by how many links lead to it."""

_Result = TypeVar("_Result")
_Pack = Callable[[object], bytes]
_Mark = tuple[int, int]
"""How many links there are, and how many bytes were spilled behind them."""


class Elements(NamedTuple):
    """Packed elements of a container; how many links each has, and how many bytes lie behind them."""

    packed: list[bytes]
    counts: list[int]
    spilled: list[int]

    def extend(self, more: "Elements") -> None:
        """More elements behind these."""
        self.packed.extend(more.packed)
        self.counts.extend(more.counts)
        self.spilled.extend(more.spilled)


def without_links(packed: list[bytes]) -> Elements:
    """Elements that need nothing else."""
    return Elements(packed, [0] * len(packed), [0] * len(packed))


def array_header(count: int) -> bytes:
    """What msgpack opens an array of so many elements with."""
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


def map_header(count: int) -> bytes:
    """What msgpack opens a map of so many pairs with."""
    if count < 16:
        return bytes([0x80 | count])
    return b"\xde" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdf" + count.to_bytes(4, "big")


def _check_counts(packed: Sequence[bytes]) -> None:
    """msgpack writes how long a list is before it goes through it. Where it asks us in between, another
    thread may run, and make the list longer or shorter. Of a dict, Python itself notices."""
    unpacker = msgpack.Unpacker(max_buffer_size=0)
    end = 0
    for data in packed:
        end += len(data)
        unpacker.feed(data)
        try:
            unpacker.skip()
        except msgpack.OutOfData:
            end = -1
        if unpacker.tell() != end:
            raise RuntimeError("list changed size during iteration")


def _steps(totals: Sequence[int]) -> list[int]:
    return list(map(sub, totals[1:], totals))


class Packing(ABC):
    """What an encoder packs with, and where it puts what is large. For one thread, for one value."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._links: list[Any] = []
        self._spilled = 0
        self._depth = 0
        self._asked = 0
        self._packers: list[_Pack] = []

    @abstractmethod
    def _default(self, item: Any) -> msgpack.ExtType | bytes:
        """Called by msgpack for what is not plain."""

    def _pack(self, value: object) -> bytes:
        """Pack as it is. What is not plain comes back through `_default`."""
        return self._pack_all([value])[0]

    def _pack_all(self, values: Sequence[object]) -> list[bytes]:
        """The same for many."""
        asked = self._asked
        packed = self._packed(lambda pack: [pack(value) for value in values])
        if self._asked != asked:
            _check_counts(packed)
        return packed

    def _pack_each(self, values: Sequence[object]) -> Elements:
        """The same for many, and the links of each."""

        def each(pack: _Pack) -> Elements:
            packed, marks = [], [self._mark()]
            for value in values:
                packed.append(pack(value))
                marks.append((len(self._links), self._spilled))
            links, spilled = zip(*marks, strict=True)
            return Elements(packed, _steps(links), _steps(spilled))

        asked = self._asked
        elements = self._packed(each)
        if self._asked != asked:
            _check_counts(elements.packed)
        return elements

    def _packed(self, work: Callable[[_Pack], _Result]) -> _Result:
        depth = self._depth
        if depth == len(self._packers):
            self._packers.append(self._packer("strict"))
        mark = self._mark()
        # msgpack's packer is not reentrant: objects met within `_default` use the next one.
        self._depth = depth + 1
        try:
            return work(self._packers[depth])
        except UnicodeEncodeError:
            # Lone surrogates, as JSON from a model may hold. Always allowing for them would make the
            # packing of any text seven times slower.
            self._back_to(mark)
            return work(self._packer("surrogatepass"))
        except AgentRefError:
            raise
        except ValueError as error:
            if "recursion" in str(error):
                raise too_deep() from error
            raise ValueTooLargeError(f"The value cannot be packed: {error}.") from error
        finally:
            self._depth = depth

    def _packer(self, unicode_errors: str) -> _Pack:
        if self._depth > MAX_NESTING:
            raise too_deep()
        packer = msgpack.Packer(
            strict_types=True, default=self._default, unicode_errors=unicode_errors, buf_size=_PACK_BUFFER
        )
        return packer.pack  # type: ignore[no-any-return]

    def _mark(self) -> _Mark:
        return len(self._links), self._spilled

    def _back_to(self, mark: _Mark) -> None:
        del self._links[mark[0] :]
        self._spilled = mark[1]

    # What is moved out

    def _spill(self, data: str | bytes) -> msgpack.ExtType:
        """Move a long text out: what stands for it."""
        return self._moved(type(data), self._sink.raw(data))

    def _moved(self, kind: type, links: Sequence[Any]) -> msgpack.ExtType:
        self._links.extend(links)
        for link in links:
            self._spilled += link[1]
        return TEXT_EXTS[kind, len(links)]

    def _text(self, data: str | bytes) -> bytes:
        ext = self._spill(data)
        return bytes((_FIXEXT_1, ext.code, *ext.data))

    def _each(self, pack: Callable[[Any], Any], items: Iterable[Any]) -> Elements:
        """Pack one after the other, and count the links."""
        elements = Elements([], [], [])
        for item in items:
            links, spilled = self._mark()
            elements.packed.append(pack(item))
            elements.counts.append(len(self._links) - links)
            elements.spilled.append(self._spilled - spilled)
        return elements

    def _grouped(self, code: Ext, elements: Elements, header: Callable[[int], bytes]) -> bytes:
        """Packed elements as they are, if they are few; else as a tree of leaves.

        Theirs are the last of all links.
        """
        packed, counts, spilled = elements
        weights = list(map(len, packed))
        if any(spilled):
            weights = list(map(add, weights, map(rshift, spilled, repeat(_SPILLED_SHARE))))
        if sum(weights) > INLINE:
            first = len(self._links) - sum(counts)
            leaves = self._sink.leaves(header, packed, weights, counts, self._links[first:])
            if leaves:
                self._back_to((first, self._spilled - sum(spilled)))
                return self._tree(code, leaves)
        return header(len(packed)) + b"".join(packed)

    def _tree(self, code: Ext, links: list[Any]) -> bytes:
        # What lies below a tree no longer weighs on its parents.
        top = self._sink.top(links)
        self._links.extend(top)
        return bytes([_FIXEXT_1, code, len(top)])
