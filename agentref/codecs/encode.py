"""Values to canonical MessagePack, with what is large moved into trees of blobs.

Plain values (dict, list, str, bytes, numbers, None) are packed by msgpack's C code; Python runs per
element of a large list or dictionary and per object of a richer type. Equal values of equal types
give equal bytes in every process; the order of a dictionary's keys is part of its value.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

import msgpack

from agentref.codecs import builtin_types, class_types
from agentref.codecs.class_types import Rows
from agentref.codecs.extension import Extensions, Foreign
from agentref.codecs.trust import TypeTrust
from agentref.codecs.wire import MAX_NESTING, Ext
from agentref.errors import AgentRefError, UnsupportedTypeError, ValueTooLargeError

__all__ = ["Encoder", "Sink"]

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

_SCALARS: Final = frozenset({int, float, bool, type(None)})
_TEXTS: Final = frozenset({str, bytes})
_LEAVES: Final = _SCALARS | _TEXTS
_CONTAINERS: Final = frozenset({dict, list})
_BUFFERS: Final = frozenset({bytearray, memoryview})
_TREES: Final = {list: Ext.LIST_TREE, dict: Ext.DICT_TREE, str: Ext.TEXT_TREE, bytes: Ext.BYTES_TREE}


class Sink(Protocol):
    """Takes what is moved out of the packed bytes, and answers with links (digest, size) to it.

    Its `memo` (get, add) remembers what was found out about objects that never change.
    """

    @property
    def memo(self) -> Any:
        """An `IdentityMemo`."""
        ...

    def raw(self, data: bytes | str, /) -> Sequence[Any]:
        """Links that together are `data`."""
        ...

    def rows(self, data: memoryview, row_bytes: int, /) -> Sequence[Any]:
        """The same, cut between rows."""
        ...

    def value(self, parts: Sequence[bytes], links: Sequence[Any], /) -> Any:
        """A link to a blob of one packed value, given in parts."""
        ...

    def top(self, links: list[Any], /) -> Sequence[Any]:
        """Few links that stand for many."""
        ...

    def cut(self, items: Sequence[bytes], weights: Sequence[int], /) -> Sequence[int]:
        """Ends of the leaves that packed elements fall into."""
        ...


class _Boxed:
    """A bytearray within a container: msgpack would pack it as if it were bytes, unasked."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Spilled:
    """A long str or bytes within a dictionary that was moved out."""

    def __init__(self, code: Ext, links: Sequence[Any]) -> None:
        self.code = code
        self.links = links


class _Record(NamedTuple):
    """What a dictionary consisted of, by identity, and what it packed to.

    Holds its keys and short values, so that their ids stay theirs, but not its texts, of which only
    the place (index and type) matters: each was a single blob.
    """

    state: tuple[int, ...]
    held: tuple[object, ...]
    texts: list[tuple[int, type]]
    data: bytes


class Encoder:
    """Encodes one value into a sink. For one thread, for one value."""

    def __init__(self, sink: Sink, trust: TypeTrust, extensions: Extensions, foreign: Foreign | None) -> None:
        self._sink = sink
        self._trust = trust
        self._extensions = extensions
        self._foreign = foreign
        self._links: list[Any] = []
        self._depth = 0
        self._packers: list[tuple[Callable[[object], bytes], Callable[[object], bytes]]] = []
        # An element may be packed twice, once to see how large it is; its objects only once.
        self._taken: dict[int, tuple[object, msgpack.ExtType, list[Any]]] = {}

    def encode(self, value: object) -> Any:
        """A link to the blob that holds `value`.

        Raises `UnsupportedTypeError` or `ValueTooLargeError`; nothing was stored then.
        """
        try:
            if type(value) in _TEXTS and len(value) <= _INLINE:  # type: ignore[arg-type]
                payload = self._pack(value)
            else:
                payload = self._value(value)
        except RecursionError as error:
            raise _too_deep() from error
        return self._sink.value([payload], self._links)

    def _pack(self, value: object) -> bytes:
        """Pack in C. Types that are not plain come back through `_default`."""
        depth = self._depth
        if depth == len(self._packers):
            self._add_packers()
        mark = len(self._links)
        fast, careful = self._packers[depth]
        # msgpack's packer is not reentrant: objects met within `_default` use the next one.
        self._depth = depth + 1
        try:
            return fast(value)
        except UnicodeEncodeError:
            del self._links[mark:]
            return careful(value)
        except ValueError as error:
            if isinstance(error, AgentRefError):
                raise
            if "recursion" in str(error):
                raise _too_deep() from error
            raise ValueTooLargeError(f"The value cannot be packed: {error}.") from error
        finally:
            self._depth = depth

    def _add_packers(self) -> None:
        if len(self._packers) > MAX_NESTING:
            raise _too_deep()
        fast = msgpack.Packer(strict_types=True, default=self._default)
        # Keeps lone surrogates, but is seven times slower on any text.
        careful = msgpack.Packer(strict_types=True, default=self._default, unicode_errors="surrogatepass")
        self._packers.append((fast.pack, careful.pack))

    def _value(self, value: object) -> bytes:
        """Pack a value whose large parts are moved out; their links are appended in order."""
        kind = type(value)
        if kind in _CONTAINERS:
            value = self._without_buffers(value)
            return self._dict(value) if kind is dict else self._list(value)  # type: ignore[arg-type]
        return self._item(_Boxed(bytes(value)) if kind is bytearray else value)

    def _item(self, item: Any) -> bytes:
        """Pack one element of a container."""
        kind = type(item)
        if kind is dict:
            if _has_long_text(item):
                # Known to be large: packing it as it is would only copy the text.
                return self._record(item)
        elif kind in _TEXTS:
            return self._pack(item if len(item) <= _SPILL else self._spill(item))
        mark = len(self._links)
        data = self._pack(item)
        if len(data) <= _SPILL or kind not in _CONTAINERS:
            return data
        del self._links[mark:]
        return self._dict(item) if kind is dict else self._list(item)

    def _record(self, item: dict[Any, Any]) -> bytes:
        """A dictionary with a long text. If its keys and short values are the very objects of the last
        time, none of which can change, it packs to what it did then: the text itself is elsewhere."""
        record = dict(item)  # another thread may change the item meanwhile
        values = tuple(record.values())
        state = (*map(id, record), *map(id, values))
        mark = len(self._links)
        known: _Record | None = self._sink.memo.get(item)
        if known is not None and known.state == state:
            if all(self._spilled_again(values[index], kind) for index, kind in known.texts):
                return known.data
            del self._links[mark:]
        data = self._dict(record)
        long = [index for index, part in enumerate(values) if type(part) in _TEXTS and len(part) > _SPILL]
        if len(self._links) - mark == len(long) and _LEAVES.issuperset(map(type, chain(record, values))):
            held = (*record, *(part for index, part in enumerate(values) if index not in long))
            texts = [(index, type(values[index])) for index in long]
            self._sink.memo.add(item, _Record(state, held, texts, data), len(data) + 64 * len(state))
        return data

    def _spilled_again(self, part: Any, kind: type) -> bool:
        if type(part) is not kind or len(part) <= _SPILL:
            return False
        links = self._sink.raw(part)
        self._links.extend(links)
        return len(links) == 1

    def _spill(self, data: str | bytes) -> _Spilled:
        return _Spilled(_TREES[type(data)], self._sink.raw(data))

    def _list(self, items: list[Any]) -> bytes:
        kinds = set(map(type, items))
        if kinds <= _SCALARS:
            return self._numbers(items)
        packed = None if _has_long_text(items[0]) else self._records(items)
        if packed is not None:
            return self._grouped(Ext.LIST_TREE, packed, [len(self._links)] * (len(packed) + 1), _array_header)
        packed = []
        marks = [len(self._links)]
        for item in items:
            packed.append(self._item(item))
            marks.append(len(self._links))
        return self._grouped(Ext.LIST_TREE, packed, marks, _array_header)

    def _records(self, items: list[Any]) -> list[bytes] | None:
        """The elements packed in one go, or None if any of them has a part to be moved out."""
        mark = len(self._links)
        depth = self._depth
        if depth == len(self._packers):
            self._add_packers()
        pack = self._packers[depth][0]
        self._depth = depth + 1
        try:
            packed = list(map(pack, items))
        except ValueError:
            packed = []  # told apart and handled one by one
        finally:
            self._depth = depth
        if packed and len(self._links) == mark and len(max(packed, key=len)) <= _SPILL:
            return packed
        del self._links[mark:]
        return None

    def _numbers(self, items: list[Any]) -> bytes:
        """Numbers are packed in C, many at a time, and cut by count."""
        data = self._pack(items)
        if len(data) <= _INLINE:
            return data
        links = [self._sink.value([self._pack(items[at : at + _RUN])], []) for at in range(0, len(items), _RUN)]
        return self._tree(Ext.LIST_TREE, links)

    def _dict(self, items: dict[Any, Any]) -> bytes:
        pairs = list(items.items())
        if len(pairs) <= _RECORD and not any(
            type(part) in _CONTAINERS and len(part) > _RECORD for _, part in pairs
        ):
            # Mostly a record: short but for a text or two. One pass in C packs all the rest.
            mark = len(self._links)
            lean = {
                key: self._spill(part) if type(part) in _TEXTS and len(part) > _SPILL else part
                for key, part in pairs
            }
            data = self._pack(lean)
            if len(data) <= _INLINE:
                return data
            del self._links[mark:]
        packed: list[bytes] = []
        marks = [len(self._links)]
        for key, part in pairs:
            packed.append(self._pack(key) + self._item(part))
            marks.append(len(self._links))
        return self._grouped(Ext.DICT_TREE, packed, marks, _map_header)

    def _grouped(self, code: Ext, packed: list[bytes], marks: list[int], header: Any) -> bytes:
        """Packed elements as they are, if they are few; else as a tree of leaves.

        `marks[i]` is where the links of element `i` begin among all links.
        """
        links = self._links
        weights = list(map(len, packed))
        first = marks[0]
        if marks[-1] != first:
            for index in range(len(packed)):
                begin, end = marks[index], marks[index + 1]
                if begin != end:
                    weights[index] += sum([link[1] for link in links[begin:end]]) // _SPILLED_SHARE
        if sum(weights) <= _INLINE:
            return header(len(packed)) + b"".join(packed)  # type: ignore[no-any-return]
        leaves = []
        begin = 0
        for end in self._sink.cut(packed, weights):
            parts = [header(end - begin), *packed[begin:end]]
            leaves.append(self._sink.value(parts, links[marks[begin] : marks[end]]))
            begin = end
        del links[first:]
        return self._tree(code, leaves)

    def _tree(self, code: Ext, links: list[Any]) -> bytes:
        top = self._sink.top(links)
        self._links.extend(top)
        return self._pack(msgpack.ExtType(code, bytes([len(top)])))

    def _default(self, item: Any) -> msgpack.ExtType | bytes:
        """Called by msgpack for what is not plain: the item as an extension type."""
        if type(item) is Rows:
            if len(item.data) <= _SPILL:
                return item.data
            item = _Spilled(Ext.BYTES_TREE, self._sink.rows(memoryview(item.data), item.row_bytes))
        if type(item) is _Spilled:
            self._links.extend(item.links)
            return msgpack.ExtType(item.code, bytes([len(item.links)]))
        known = self._taken.get(id(item))
        if known is None:
            mark = len(self._links)
            code, payload = self._take(item)
            ext = msgpack.ExtType(code, payload)
            # Holding the item keeps its id from being given to another.
            self._taken[id(item)] = (item, ext, self._links[mark:])
            return ext
        self._links.extend(known[2])
        return known[1]

    def _take(self, item: Any) -> tuple[Ext, bytes]:
        cls = type(item)
        if cls is _Boxed:
            return Ext.BYTEARRAY, self._value(item.data)
        if cls is set or cls is frozenset:
            return (Ext.SET if cls is set else Ext.FROZENSET), self._set(item)
        builtin = builtin_types.BY_TYPE.get(cls)
        if builtin is not None:
            return builtin.code, self._value(builtin.take(item))
        extension = self._extensions.by_type.get(cls)
        if extension is not None:
            return Ext.EXTENSION, self._value([extension.tag, extension.take(item)])
        family = class_types.family_of(cls)
        if family is not None:
            try:
                state = family.take(item, self._trust)
            except UnsupportedTypeError:
                if self._foreign is None:
                    raise
            else:
                return family.code, self._value(state)
        return Ext.FOREIGN, self._value(list(self._ask_foreign(item)))

    def _ask_foreign(self, item: Any) -> tuple[str, bytes]:
        problem = UnsupportedTypeError(
            f"A value of type {type(item).__module__}.{type(item).__qualname__} cannot be stored faithfully. "
            f"Convert it to plain data (dict, list, str, bytes, numbers), a dataclass or a pydantic model."
        )
        if self._foreign is None or type(item) is memoryview:
            raise problem
        try:
            return self._foreign.dumps_typed(item)
        except Exception as error:
            raise problem from error

    def _set(self, items: set[Any] | frozenset[Any]) -> bytes:
        """A set's order differs among processes, so its elements are sorted by their bytes."""
        links = self._links
        first = len(links)
        elements: list[tuple[bytes, list[Any]]] = []
        for item in items:
            mark = len(links)
            data = self._item(item)
            elements.append((data, links[mark:]))
        del links[first:]
        elements.sort()
        marks = [first]
        for _, own in elements:
            links.extend(own)
            marks.append(len(links))
        return self._grouped(Ext.LIST_TREE, [data for data, _ in elements], marks, _array_header)

    def _without_buffers(self, value: Any) -> Any:
        """`value`, with any bytearray in its plain containers boxed; a copy only if there is one."""
        level = [value]
        for _ in range(512):
            dicts = [item for item in level if type(item) is dict]
            lists = [item for item in level if type(item) is list]
            parts = list(chain(chain.from_iterable(map(dict.values, dicts)), chain.from_iterable(lists)))
            kinds = set(map(type, parts))
            kinds.update(map(type, chain.from_iterable(dicts)))
            if not kinds.isdisjoint(_BUFFERS):
                return self._boxed(value)
            if kinds.isdisjoint(_CONTAINERS):
                return value
            level = [part for part in parts if type(part) in _CONTAINERS]
        raise _too_deep()

    def _boxed(self, value: Any) -> Any:
        kind = type(value)
        if kind is dict:
            if any(type(key) is memoryview for key in value):
                self._ask_foreign(next(key for key in value if type(key) is memoryview))
            return {key: self._boxed(part) for key, part in value.items()}
        if kind is list:
            return [self._boxed(part) for part in value]
        if kind is memoryview:
            self._ask_foreign(value)
        return _Boxed(bytes(value)) if kind is bytearray else value


def _has_long_text(item: Any) -> bool:
    if type(item) is not dict:
        return False
    for part in item.values():
        if type(part) in _TEXTS and len(part) > _SPILL:
            return True
    return False


def _array_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x90 | count])
    return b"\xdc" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdd" + count.to_bytes(4, "big")


def _map_header(count: int) -> bytes:
    if count < 16:
        return bytes([0x80 | count])
    return b"\xde" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdf" + count.to_bytes(4, "big")


def _too_deep() -> ValueTooLargeError:
    return ValueTooLargeError(
        "The value is nested too deeply, or contains itself. Flatten it: the limits are about 500 levels "
        f"of lists and dictionaries and {MAX_NESTING} of richer types."
    )
