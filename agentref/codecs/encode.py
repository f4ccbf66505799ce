"""Values to canonical MessagePack, with what is large moved into trees of blobs.

Plain values (dict, list, str, bytes, numbers, None) are packed by msgpack's C code; Python runs per
element of a large list or dictionary and per object of a richer type. Equal values of equal types
give equal bytes in every process; the order of a dictionary's keys is part of its value.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import msgpack

from agentref.codecs.class_types import Rows
from agentref.codecs.screen import screened, screened_leaf, too_deep
from agentref.codecs.sink import Sink
from agentref.codecs.take import Taker
from agentref.codecs.wire import MAX_NESTING, Ext
from agentref.errors import AgentRefError, ValueTooLargeError

__all__ = ["Encoder"]

_SPILL: Final = 8 * 1024
"""A str or bytes inside of a container becomes blobs of its own above this length."""

_INLINE: Final = 16 * 1024
"""A list or dictionary whose elements weigh no more stays within its parent."""

_SPILLED_SHARE: Final = 8
"""An element counts its spilled bytes at an eighth, so that a leaf over long texts stays short."""

_RECORD: Final = 32
"""A dictionary with no more keys, and no larger container in it, is packed in one go if it can be."""

_RUN: Final = 1024
"""Elements a leaf of a list of nothing but numbers."""

_PACK_BUFFER: Final = 16 * 1024
"""What msgpack takes for a start; its default, 256 KiB, costs more than most values do."""

_MEMO_BYTES: Final = 256
"""What packs to less is packed again when it is met again."""

_FIXEXT_1: Final = 0xD4
"""What msgpack opens an extension type of one byte with; a dictionary in place never begins so."""

_SCALARS: Final = frozenset({int, float, bool, type(None)})
_TEXTS: Final = frozenset({str, bytes})
_LEAVES: Final = _SCALARS | _TEXTS
_CONTAINERS: Final = frozenset({dict, list})
_TEXT_TREES: Final = {str: Ext.TEXT_TREE, bytes: Ext.BYTES_TREE}

Pack = Callable[[object], bytes]
Mark = tuple[int, int]
"""How many links there are, and how many bytes were spilled behind them."""


class _Spilled(NamedTuple):
    """A long str or bytes that was moved out. Not plain, so that msgpack asks about it."""

    code: Ext
    links: Sequence[Any]


class _Taken(NamedTuple):
    """An object of a richer type that was packed. Holding it keeps its id from being given to another."""

    item: object
    ext: msgpack.ExtType
    links: list[Any]
    spilled: int


class _Record(NamedTuple):
    """What a dictionary consisted of, by identity, and what it packed to.

    Holds its keys and short values, so that their ids stay theirs, but not its texts, of which only
    the place (index and type) matters: each was a single blob.
    """

    state: tuple[int, ...]
    held: tuple[object, ...]
    texts: list[tuple[int, type[str | bytes]]]
    data: bytes


class Encoder:
    """Encodes one value into a sink. For one thread, for one value."""

    def __init__(self, sink: Sink, taker: Taker) -> None:
        self._sink = sink
        self._taker = taker
        self._links: list[Any] = []
        self._spilled = 0
        self._depth = 0
        self._packers: list[Pack] = []
        # An element may be packed twice, once to see how large it is; its objects only once.
        self._taken: dict[int, _Taken] = {}

    def encode(self, value: Any) -> Any:
        """A link to the blob that holds `value`.

        Raises `UnsupportedTypeError` or `ValueTooLargeError`, and `RecursionError` where the caller's
        stack leaves too little room; nothing was stored then.
        """
        try:
            short = type(value) in _TEXTS and len(value) <= _INLINE
            payload = self._pack(value) if short else self._value(value)
            return self._sink.value([payload], self._links)
        finally:
            # The packers know this encoder and it knows them: without this, all that it holds would
            # stay until the garbage collector runs.
            self._packers.clear()
            self._taken.clear()

    # Packing in C

    def _pack(self, value: object) -> bytes:
        """Pack as it is. What is not plain comes back through `_default`."""
        return self._pack_all([value])[0]

    def _pack_all(self, values: Sequence[object]) -> list[bytes]:
        depth = self._depth
        if depth == len(self._packers):
            self._packers.append(self._packer("strict"))
        pack = self._packers[depth]
        mark = self._mark()
        # msgpack's packer is not reentrant: objects met within `_default` use the next one.
        self._depth = depth + 1
        try:
            return [pack(value) for value in values]
        except UnicodeEncodeError:
            # Lone surrogates, as JSON from a model may hold. Always allowing for them would make the
            # packing of any text seven times slower.
            self._back_to(mark)
            pack = self._packer("surrogatepass")
            return [pack(value) for value in values]
        except AgentRefError:
            raise
        except ValueError as error:
            if "recursion" in str(error):
                raise too_deep() from error
            raise ValueTooLargeError(f"The value cannot be packed: {error}.") from error
        finally:
            self._depth = depth

    def _packer(self, unicode_errors: str) -> Pack:
        if self._depth > MAX_NESTING:
            raise too_deep()
        packer = msgpack.Packer(
            strict_types=True, default=self._default, unicode_errors=unicode_errors, buf_size=_PACK_BUFFER
        )
        return packer.pack  # type: ignore[no-any-return]

    def _mark(self) -> Mark:
        return len(self._links), self._spilled

    def _back_to(self, mark: Mark) -> None:
        del self._links[mark[0] :]
        self._spilled = mark[1]

    # Plain values

    def _value(self, value: Any) -> bytes:
        """Pack a value whose large parts are moved out; their links are appended in order."""
        kind = type(value)
        if kind is dict:
            return self._dict(screened(value))
        return self._list(screened(value)) if kind is list else self._item(value)

    def _item(self, item: Any) -> bytes:
        """Pack one element of a container that was screened."""
        kind = type(item)
        if kind in _TEXTS:
            return self._pack(item if len(item) <= _SPILL else self._spill(item))
        if kind not in _CONTAINERS:
            return self._pack(screened_leaf(item))
        if kind is dict:
            known = self._sink.memo.get(item)
            # A long text is known to be large: packing the record as it is would only copy it.
            if type(known) is _Record or _has_long_text(item):
                return self._record(item, known)
        mark = self._mark()
        data = self._pack(item)
        if len(data) <= _SPILL:
            return data
        self._back_to(mark)
        return self._dict(item) if kind is dict else self._list(item)

    def _spill(self, data: str | bytes) -> _Spilled:
        return _Spilled(_TEXT_TREES[type(data)], self._sink.raw(data))

    def _record(self, item: dict[Any, Any], known: object) -> bytes:
        """A dictionary with a long text. If its keys and short values are the very objects of the last
        time, none of which can change, it packs to what it did then: the text itself is elsewhere."""
        mark = self._mark()
        if isinstance(known, _Record):
            values = tuple(item.values())
            if known.state == (*map(id, item), *map(id, values)) and self._spill_again(known, values):
                return known.data
            self._back_to(mark)
        record = dict(item)  # another thread may change the item meanwhile
        values = tuple(record.values())
        state = (*map(id, record), *map(id, values))
        data = self._dict(record)
        long = [index for index, part in enumerate(values) if type(part) in _TEXTS and len(part) > _SPILL]
        each_one_blob = data[0] != _FIXEXT_1 and len(self._links) - mark[0] == len(long)
        if each_one_blob and _LEAVES.issuperset(map(type, chain(record, values))):
            held = (*record, *(part for index, part in enumerate(values) if index not in long))
            texts = [(index, type(values[index])) for index in long]
            self._sink.memo.add(item, _Record(state, held, texts, data), len(data) + 64 * len(state))
        return data

    def _spill_again(self, known: _Record, values: tuple[Any, ...]) -> bool:
        for index, kind in known.texts:
            part: Any = values[index]
            if type(part) is not kind or len(part) <= _SPILL:
                return False
            links = self._sink.raw(part)
            if len(links) != 1:
                return False
            self._links.append(links[0])
            self._spilled += links[0][1]
        return True

    def _list(self, items: list[Any]) -> bytes:
        if set(map(type, items)) <= _SCALARS:
            return self._numbers(items)
        mark = self._mark()
        if not _has_long_text(items[0]):
            # Mostly a list of short elements: one pass in C packs them all.
            packed = self._pack_all(items)
            if self._mark() == mark and len(max(packed, key=len)) <= _SPILL:
                return self._grouped(Ext.LIST_TREE, packed, [mark] * (len(packed) + 1), _array_header)
            self._back_to(mark)
        packed = []
        marks = [mark]
        for item in items:
            packed.append(self._item(item))
            marks.append(self._mark())
        return self._grouped(Ext.LIST_TREE, packed, marks, _array_header)

    def _numbers(self, items: list[Any]) -> bytes:
        """Numbers are packed in C, many at a time, and cut by count."""
        data = self._pack(items)
        if len(data) <= _INLINE:
            return data
        links = [
            self._sink.value([self._pack(items[at : at + _RUN])], []) for at in range(0, len(items), _RUN)
        ]
        return self._tree(Ext.LIST_TREE, links)

    def _dict(self, items: dict[Any, Any]) -> bytes:
        pairs = list(items.items())
        mark = self._mark()
        if len(pairs) <= _RECORD and not any(map(_is_wide, items.values())):
            # Mostly a record: short but for a text or two. One pass in C packs all the rest.
            lean = {
                key: self._spill(part) if type(part) in _TEXTS and len(part) > _SPILL else part
                for key, part in pairs
            }
            data = self._pack(lean)
            if len(data) <= _INLINE:
                return data
            self._back_to(mark)
        packed: list[bytes] = []
        marks = [mark]
        for key, part in pairs:
            packed.append(self._pack(key) + self._item(part))
            marks.append(self._mark())
        return self._grouped(Ext.DICT_TREE, packed, marks, _map_header)

    # Trees

    def _grouped(
        self, code: Ext, packed: list[bytes], marks: list[Mark], header: Callable[[int], bytes]
    ) -> bytes:
        """Packed elements as they are, if they are few; else as a tree of leaves.

        `marks[i]` is where the links of element `i` begin among all links.
        """
        weights = list(map(len, packed))
        if marks[-1][1] != marks[0][1]:
            for index in range(len(packed)):
                weights[index] += (marks[index + 1][1] - marks[index][1]) // _SPILLED_SHARE
        ends = self._sink.cut(packed, weights) if sum(weights) > _INLINE else ()
        if len(ends) <= 1:
            return header(len(packed)) + b"".join(packed)
        leaves = []
        begin = 0
        for end in ends:
            own = self._links[marks[begin][0] : marks[end][0]]
            leaves.append(self._sink.value([header(end - begin), *packed[begin:end]], own))
            begin = end
        self._back_to(marks[0])
        return self._tree(code, leaves)

    def _tree(self, code: Ext, links: list[Any]) -> bytes:
        # What lies below a tree no longer weighs on its parents.
        top = self._sink.top(links)
        self._links.extend(top)
        return bytes([_FIXEXT_1, code, len(top)])

    # Richer types

    def _default(self, item: Any) -> msgpack.ExtType | bytes:
        """Called by msgpack for what is not plain: the item as an extension type."""
        if type(item) is Rows:
            if len(item.data) <= _SPILL:
                return item.data
            item = _Spilled(Ext.BYTES_TREE, self._sink.rows(memoryview(item.data), item.row_bytes))
        if type(item) is _Spilled:
            self._links.extend(item.links)
            self._spilled += sum([link[1] for link in item.links])
            return msgpack.ExtType(item.code, bytes([len(item.links)]))
        known = self._taken.get(id(item))
        if known is not None:
            self._links.extend(known.links)
            self._spilled += known.spilled
            return known.ext
        mark = self._mark()
        ext = msgpack.ExtType(*self._take(item))
        if len(ext.data) >= _MEMO_BYTES or self._mark() != mark:
            links, spilled = self._links[mark[0] :], self._spilled - mark[1]
            self._taken[id(item)] = _Taken(item, ext, links, spilled)
        return ext

    def _take(self, item: Any) -> tuple[Ext, bytes]:
        if type(item) is set or type(item) is frozenset:
            return (Ext.SET if type(item) is set else Ext.FROZENSET), self._set(item)
        code, state = self._taker.state_of(item)
        return code, self._value(state)

    def _set(self, items: set[Any] | frozenset[Any]) -> bytes:
        """A set's order differs among processes, so its elements are sorted by their bytes."""
        first = self._mark()
        elements: list[tuple[bytes, list[Any], int]] = []
        for item in items:
            mark = self._mark()
            data = self._item(item)
            elements.append((data, self._links[mark[0] :], self._spilled - mark[1]))
        self._back_to(first)
        elements.sort()
        marks = [first]
        for _, links, spilled in elements:
            self._links.extend(links)
            self._spilled += spilled
            marks.append(self._mark())
        return self._grouped(Ext.LIST_TREE, [data for data, _, _ in elements], marks, _array_header)


def _has_long_text(item: Any) -> bool:
    if type(item) is not dict:
        return False
    for part in item.values():  # noqa: SIM110  (any() with a generator takes three times as long)
        if type(part) in _TEXTS and len(part) > _SPILL:
            return True
    return False


def _is_wide(part: Any) -> bool:
    return type(part) in _CONTAINERS and len(part) > _RECORD


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


def _map_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x80 | count])
    return b"\xde" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdf" + count.to_bytes(4, "big")
