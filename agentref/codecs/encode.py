"""Values to canonical MessagePack, with what is large moved into trees of blobs.

Plain values (dict, list, str, bytes, numbers, None) are packed by msgpack's C code; Python runs per
element of a large list or dictionary and per object of a richer type. Equal values of equal types
give equal bytes in every process; the order of a dictionary's keys is part of its value.
"""

from collections.abc import Callable
from functools import cached_property, partial
from itertools import chain
from operator import add
from typing import Any, Final, NamedTuple

import msgpack

from agentref.codecs.class_types import Rows
from agentref.codecs.models import KnownModel, ModelCopy, plain_packer
from agentref.codecs.packing import (
    INLINE,
    TEXT_EXTS,
    Elements,
    Packing,
    array_header,
    map_header,
    without_links,
)
from agentref.codecs.records import LEAVES, RECORD, Encoded, KnownList, Records, closest
from agentref.codecs.screen import screened, screened_leaf
from agentref.codecs.sink import Sink
from agentref.codecs.take import Taker
from agentref.codecs.wire import MAX_NESTING, Ext
from agentref.errors import UnsupportedTypeError

__all__ = ["Encoder"]

_SPILL: Final = 8 * 1024
"""A str or bytes inside of a container becomes blobs of its own above this length."""

_LIST: Final = 16
"""A list of no fewer records is remembered."""

_RUN: Final = 1024
"""Elements a leaf of a list of nothing but numbers."""

_MEMO_BYTES: Final = 256
"""What packs to less is packed again when it is met again."""

_SCALARS: Final = frozenset({int, float, bool, type(None)})
_TEXTS: Final = frozenset({str, bytes})
_CONTAINERS: Final = frozenset({dict, list})
_LARGE: Final = _TEXTS | _CONTAINERS
"""The types whose large values are moved out of a container."""


class _Long(NamedTuple):
    """A long text that is to be moved out. Not plain, so that msgpack asks about it in its turn."""

    text: str | bytes


class _Taken(NamedTuple):
    """An object of a richer type that was packed. Holding it keeps its id from being given to another."""

    item: object
    ext: msgpack.ExtType
    links: list[Any]
    spilled: int


class Encoder(Packing):
    """Encodes one value into a sink. For one thread, for one value."""

    def __init__(self, sink: Sink, taker: Taker) -> None:
        super().__init__(sink)
        self._taker = taker
        # An element may be packed twice, once to see how large it is; its objects only once.
        self._taken: dict[int, _Taken] = {}

    def encode(self, value: Any) -> Any:
        """A link to the blob that holds `value`.

        Raises `UnsupportedTypeError` or `ValueTooLargeError`, and `RecursionError` where the caller's
        stack leaves too little room; nothing was stored then.
        """
        try:
            short = type(value) in _TEXTS and len(value) <= INLINE
            payload = self._pack(value) if short else self._value(value)
            return self._sink.value([payload], self._links)
        finally:
            # The packers know this encoder and it knows them: without this, all that it holds would
            # stay until the garbage collector runs.
            self._packers.clear()
            self._taken.clear()

    # Plain values

    def _value(self, value: Any) -> bytes:
        """Pack a value whose large parts are moved out; their links are appended in order."""
        kind = type(value)
        if kind is dict:
            return self._dict(screened(value))
        if kind is not list:
            return self._item(value)
        data = self._records(value)
        return self._list(screened(value)) if data is None else data

    def _item(self, item: Any) -> bytes:
        """Pack one element of a container that was screened."""
        kind = type(item)
        if kind in _TEXTS:
            return self._pack(item) if len(item) <= _SPILL else self._text(item)
        if kind not in _CONTAINERS:
            return self._pack(screened_leaf(item))
        # What is known to be large is not packed as it is, only to be packed anew.
        if kind is dict and _has_long_text(item):
            return self._dict(item)
        if kind is list and len(item) >= _LIST:
            data = self._records(item)
            if data is not None:
                return data
        mark = self._mark()
        data = self._pack(item)
        if len(data) <= _SPILL:
            return data
        self._back_to(mark)
        return self._dict(item) if kind is dict else self._list(item)

    def _list(self, items: list[Any]) -> bytes:
        kinds = set(map(type, items))
        if kinds <= _SCALARS:
            return self._numbers(items)
        if all(map(self._taker.is_model, kinds)):
            return self._grouped(Ext.LIST_TREE, self._models(items), array_header)
        return self._grouped(Ext.LIST_TREE, self._elements(items, kinds), array_header)

    def _elements(self, items: list[Any], kinds: set[type]) -> Elements:
        """Pack the elements of a container, which are of those types."""
        if not _has_long_text(items[0]):
            # Mostly they are short: one pass in C packs them all.
            mark = self._mark()
            elements = self._pack_each(items) if kinds - LEAVES else without_links(self._pack_all(items))
            if kinds.isdisjoint(_LARGE) or len(max(elements.packed, key=len)) <= _SPILL:
                return elements
            self._back_to(mark)
        return self._each(self._item, items)

    def _records(self, items: list[Any]) -> bytes | None:
        """A list of flat records; None if it is none. Only those are packed that are not of the very
        objects that they were of in a list before."""
        if len(items) < _LIST or self._depth >= MAX_NESTING or set(map(type, items)) != {dict}:
            return None
        records = Records.of(items)
        if records is None:
            return None
        recent = self._sink.memo.lists
        known, head, tail = closest(recent.entries, records)
        if known is not None and head == len(items) == len(known.records.lengths):
            self._links.extend(known.top)
            self._spilled += known.weight
            self._sink.again(*known.kept)
            recent.put(known)
            return known.data
        if not records.are_flat(head, tail):
            return None
        encoded, kept = self._sink.apart(partial(self._encode_records, records, known, head, tail))
        texts = self._sink.opaque(encoded.links)
        if texts is not None:
            similar = known if 2 * (head + tail) >= len(items) else None
            recent.put(KnownList(records, encoded, kept, texts), similar)
        return encoded.data

    def _encode_records(self, records: Records, known: KnownList | None, head: int, tail: int) -> Encoded:
        """Records of which the first and the last ones are those of a known list."""
        begin, spilled = self._mark()
        if known is None:
            elements = self._flat(records.records)
        else:
            elements = self._reuse(known, 0, head)
            total = len(known.records.lengths)
            elements.extend(self._flat(records.records[head : len(records.records) - tail]))
            elements.extend(self._reuse(known, total - tail, total))
        links = self._links[begin:]
        data = self._grouped(Ext.LIST_TREE, elements, array_header)
        return Encoded(elements, links, data, self._links[begin:], self._spilled - spilled)

    def _reuse(self, known: KnownList, begin: int, end: int) -> Elements:
        first, last = known.firsts[begin], known.firsts[end]
        self._links.extend(known.links[first:last])
        self._sink.again(known.texts[first:last], {})
        packed, counts, spilled = known.elements
        self._spilled += sum(spilled[begin:end])
        return Elements(packed[begin:end], counts[begin:end], spilled[begin:end])

    def _flat(self, records: list[dict[Any, Any]]) -> Elements:
        """Pack flat records. What stands for their long texts is as plain as the rest to msgpack."""
        if not records:
            return without_links([])
        if not _has_long_text(records[0]):
            packed = self._pack_all(records)
            if len(max(packed, key=len)) <= _SPILL:
                return without_links(packed)
        mark = self._mark()
        leans = list(map(dict.copy, records))
        places = [
            (index, key, part)
            for index, record in enumerate(records)
            for key, part in record.items()
            if type(part) in _TEXTS and len(part) > _SPILL
        ]
        counts, spilled = [0] * len(records), [0] * len(records)
        all_links = self._sink.texts([part for _, _, part in places])
        for (index, key, part), links in zip(places, all_links, strict=True):
            leans[index][key] = TEXT_EXTS[type(part), len(links)]
            counts[index] += len(links)
            for link in links:
                spilled[index] += link[1]
        self._links.extend(chain.from_iterable(all_links))
        self._spilled += sum(spilled)
        packed = self._pack_all(leans)
        if len(max(packed, key=len)) <= INLINE:
            return Elements(packed, counts, spilled)
        self._back_to(mark)
        return self._each(self._dict, records)

    def _lean(self, record: dict[Any, Any]) -> dict[Any, Any]:
        """A flat record without its long texts, which were moved out."""
        lean = record
        for key, part in record.items():
            if type(part) in _TEXTS and len(part) > _SPILL:
                if lean is record:
                    lean = record.copy()
                lean[key] = self._spill(part)
        return lean

    def _numbers(self, items: list[Any]) -> bytes:
        """Numbers are packed in C, many at a time, and cut by count."""
        data = self._pack(items)
        if len(data) <= INLINE:
            return data
        links = [
            self._sink.value([self._pack(items[at : at + _RUN])], []) for at in range(0, len(items), _RUN)
        ]
        return self._tree(Ext.LIST_TREE, links)

    def _dict(self, items: dict[Any, Any]) -> bytes:
        record = items.copy()  # another thread may change it meanwhile
        mark = self._mark()
        if len(record) <= RECORD and not any(map(_is_wide, record.values())):
            # Mostly a record: short but for a text or two. One pass in C packs all the rest.
            is_flat = LEAVES.issuperset(map(type, record.values())) and LEAVES.issuperset(map(type, record))
            data = self._pack(
                self._lean(record)
                if is_flat
                else {
                    key: _Long(part) if type(part) in _TEXTS and len(part) > _SPILL else part
                    for key, part in record.items()
                }
            )
            if len(data) <= INLINE:
                return data
            self._back_to(mark)
        if LEAVES.issuperset(map(type, record)):
            parts = list(record.values())
            elements = self._elements(parts, set(map(type, parts)))
            packed = list(map(add, self._pack_all(list(record)), elements.packed))
            return self._grouped(Ext.DICT_TREE, elements._replace(packed=packed), map_header)
        return self._grouped(Ext.DICT_TREE, self._each(self._pair, record.items()), map_header)

    def _pair(self, pair: tuple[Any, Any]) -> bytes:
        return self._pack(pair[0]) + self._item(pair[1])

    # Richer types

    def _default(self, item: Any) -> msgpack.ExtType | bytes:
        """Called by msgpack for what is not plain: the item as an extension type."""
        self._asked += 1
        if type(item) is Rows:
            if len(item.data) <= _SPILL:
                return item.data
            return self._moved(bytes, self._sink.rows(memoryview(item.data), item.row_bytes))
        if type(item) is _Long:
            return self._spill(item.text)
        known = self._taken.get(id(item))
        if known is not None:
            self._links.extend(known.links)
            self._spilled += known.spilled
            return known.ext
        if self._taker.is_model(type(item)):
            model = self._model(item)
            if model is not None:
                self._links.extend(model.links)
                self._spilled += model.spilled
                return model.ext
        mark = self._mark()
        ext = msgpack.ExtType(*self._take(item))
        if len(ext.data) >= _MEMO_BYTES or self._mark() != mark:
            links, spilled = self._links[mark[0] :], self._spilled - mark[1]
            self._taken[id(item)] = _Taken(item, ext, links, spilled)
        return ext

    @cached_property
    def _plain(self) -> Callable[[object], bytes]:
        return plain_packer()

    def _model(self, item: Any) -> KnownModel | None:
        """What a pydantic model packs to, which is found out again only if it is not what it was; None
        for one of rich parts. Its links are for the caller to add."""
        if self._depth >= MAX_NESTING:
            return None  # what was packed before may have been so where it did not lie as deep
        memo = self._sink.memo.objects
        known: KnownModel | None = memo.get(item)
        if (
            known is not None
            and known[0] is item
            and known.taker is self._taker
            and known.copy.is_of(item, self._plain)
        ):
            if known.texts:
                self._sink.again(known.texts, {})
            return known
        copy = ModelCopy.of(item, self._plain)
        if copy is None:
            return None
        try:
            code, state = self._taker.state_of_model(copy.state())
        except (UnsupportedTypeError, TypeError):
            return None
        mark = self._mark()
        ext = msgpack.ExtType(code, self._value(state))
        links, spilled = self._links[mark[0] :], self._spilled - mark[1]
        self._back_to(mark)
        texts = self._sink.opaque(links)
        known = KnownModel(item, self._taker, copy, ext, self._pack(ext), links, spilled, texts or [])
        if texts is not None:
            memo.add(item, known, known.size)
        return known

    def _models(self, items: list[Any]) -> Elements:
        """A list of nothing but pydantic models."""
        elements = Elements([], [], [])
        for item in items:
            known = self._model(item)
            if known is None:
                elements.extend(self._pack_each([item]))
                continue
            elements.packed.append(known.packed)
            elements.counts.append(len(known.links))
            elements.spilled.append(known.spilled)
            if known.links:
                self._links.extend(known.links)
                self._spilled += known.spilled
        return elements

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
        for _, links, spilled in elements:
            self._links.extend(links)
            self._spilled += spilled
        columns = [data for data, _, _ in elements], [len(links) for _, links, _ in elements]
        return self._grouped(
            Ext.LIST_TREE, Elements(*columns, [spilled for _, _, spilled in elements]), array_header
        )


def _has_long_text(item: Any) -> bool:
    if type(item) is not dict:
        return False
    for part in item.values():  # noqa: SIM110  (any() with a generator takes three times as long)
        if type(part) in _TEXTS and len(part) > _SPILL:
            return True
    return False


def _is_wide(part: Any) -> bool:
    return type(part) in _CONTAINERS and len(part) > RECORD
