"""The way out: what is large in a tree makes room for stubs. Pure; mutates nothing that it is given."""

from operator import is_
from typing import Any, Final, NamedTuple

from agentref.errors import InvalidInputError
from agentref.trees.segments import Segments, like
from agentref.trees.stubs import Stub, escape, is_marker, is_segment

__all__ = ["MAX_DEPTH", "Limits", "Pending", "Shrunk", "shrink"]

MAX_DEPTH: Final = 200
"""Levels of dicts and lists. A tree of real state has a few dozen."""

_LARGE: Final = 16
"""Thresholds' worth of what is small on its own: so much of it together is kept as one value."""

_STUB: Final = 170  # bytes of a stub as text; of a number, about
_NUMBER: Final = 8
_NUMBERS: Final = frozenset({int, float, bool, type(None)})
_BYTES: Final = frozenset({bytes, bytearray})


class Limits(NamedTuple):
    """When something is large. See `Externalizer`."""

    threshold: int
    segment: int
    all_bytes: bool = False


class Pending(NamedTuple):
    """A value to be stored: the stub that waits for its ref, and how many items of a list it is."""

    stub: Stub
    value: object
    items: int | None
    path: str


class Shrunk(NamedTuple):
    """A tree with empty stubs in it, what they are to stand for, and the stubs that were there already.

    Nothing of the lists in `stuck` can be sealed, though there is enough: stubs are among their last items.
    """

    tree: Any
    pending: list[Pending]
    kept: list[Stub]
    stuck: list[list[Any]]


_PLAIN, _REFERS, _FOREIGN = range(3)
"""A part can be stored as it is; not, for there is a stub in it; not, for there is a foreign object."""

_Seen = tuple[Any, int, int, int]
"""What became of a part of the tree: what takes its place; about how many bytes that is, as text; how many
the part itself is; and which of the three kinds it is of. A bare tuple, because there is one for each part.
"""


def shrink(tree: Any, limits: Limits) -> Shrunk:
    """Put empty stubs in place of all that is large. Raises `InvalidInputError` for what is too deep."""
    walk = _Walk(limits)
    return Shrunk(walk.visit(tree, is_root=True)[0], walk.pending, walk.kept, walk.stuck)


class _Walk:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._where: list[Any] = []
        self.pending: list[Pending] = []
        self.kept: list[Stub] = []
        self.stuck: list[list[Any]] = []

    def visit(self, part: Any, *, is_root: bool = False, in_list: bool = False) -> _Seen:
        kind = type(part)
        if kind is str or kind in _BYTES:
            return self._leaf(part)
        if kind in _NUMBERS:
            return (part, _NUMBER, _NUMBER, _PLAIN)
        if kind is Stub:
            if is_segment(part) and not in_list:
                raise InvalidInputError(
                    f"{self._path()} stands for items of a list, and is in none. Rehydrate the list."
                )
            self.kept.append(part)
            return (part, _STUB, _STUB, _REFERS)
        if len(self._where) >= MAX_DEPTH:
            raise InvalidInputError(
                f"{self._path()} is nested more than {MAX_DEPTH} levels deep, or holds itself. "
                f"Externalize its parts on their own, or flatten it."
            )
        if isinstance(part, dict):
            return self._dict(part, is_root=is_root)
        if isinstance(part, (list, tuple)):
            return self._sequence(part, is_root=is_root)
        return (part, _NUMBER, _NUMBER, _FOREIGN)

    def _leaf(self, part: Any) -> _Seen:
        limit = self._limits.threshold
        size = len(part)
        if type(part) is str:
            # A character takes one to four bytes; only in between must they be counted.
            if size <= limit < size * 4 and not part.isascii():
                size = len(part.encode(errors="surrogatepass"))
        elif self._limits.all_bytes:
            limit = -1
        if size <= limit:
            return (part, size + 2, size + 2, _PLAIN)
        return (self._put(part), _STUB, size, _PLAIN)

    def _dict(self, part: dict[Any, Any], *, is_root: bool) -> _Seen:
        mark, where = len(self.pending), self._where
        inline = whole = 2
        kind = _PLAIN if type(part) is dict else _FOREIGN
        new: dict[Any, Any] = part
        small = self._limits.threshold // 4
        items = list(part.items())  # another thread may add some
        for key, value in items:
            if type(key) is str:
                own = len(key) + 6
            else:
                own, kind = _NUMBER, _FOREIGN
            of = type(value)
            if (of is str and len(value) <= small) or of in _NUMBERS:  # most of it; worth no call
                size = len(value) if of is str else _NUMBER
                inline += own + size
                whole += own + size
                continue
            where.append(key)
            other, its_inline, its_whole, its_kind = self.visit(value)
            where.pop()
            inline += its_inline + own
            whole += its_whole + own
            kind = max(kind, its_kind)
            if other is not value:
                if new is part:
                    new = dict(items)
                new[key] = other
        if self._is_large(inline) and kind == _PLAIN and not is_root:
            return self._as_one(part, mark, whole)
        return (escape(new) if is_marker(part) else new), inline, whole, kind

    def _sequence(self, part: Any, *, is_root: bool) -> _Seen:
        mark, where = len(self.pending), self._where
        is_list = type(part) is list
        items = list(part)  # another thread may take some away
        if is_list and len(items) * _NUMBER > self._limits.threshold and _are_numbers(items):
            return self._as_one(items, mark, len(items) * _NUMBER)
        new: list[Any] = []
        inlines: list[int] = []
        whole, begun, stubs = 2, mark, 0
        kind = _PLAIN if type(part) in {list, tuple} else _FOREIGN
        segments = Segments(self._limits.segment, self._limits.threshold, self._limits.threshold * _LARGE)
        for index, item in enumerate(items):
            where.append(index)
            other, its_inline, its_whole, its_kind = self.visit(item, in_list=is_list)
            where.pop()
            new.append(other)
            inlines.append(its_inline)
            whole += its_whole
            kind = max(kind, its_kind)
            if not is_list:
                continue
            stubs += is_segment(item)
            if segments.add(its_whole, is_plain=its_kind == _PLAIN):
                del self.pending[begun:]  # a segment is stored as it is, whatever is in it
            if segments.is_empty:
                begun = len(self.pending)
        if is_list and kind == _REFERS and len(items) - stubs >= self._limits.segment:
            self.stuck.append(part)
        self._seal(items, segments.closed, new, inlines)
        inline = 2 + sum(inlines)
        if self._is_large(inline) and kind == _PLAIN and not is_root:
            return self._as_one(part, mark, whole)
        return (part if _are_same(new, items) else like(part, new)), inline, whole, kind

    def _seal(self, part: Any, closed: list[tuple[int, int]], new: list[Any], inlines: list[int]) -> None:
        for begin, end in reversed(closed):
            new[begin:end] = [self._put(part[begin:end], end - begin)]
            inlines[begin:end] = [_STUB]

    def _is_large(self, size: int) -> bool:
        return size > self._limits.threshold * _LARGE

    def _as_one(self, part: Any, mark: int, whole: int) -> _Seen:
        """Keep all of a container as one value, and not what is in it."""
        del self.pending[mark:]
        return (self._put(part), _STUB, whole, _PLAIN)

    def _put(self, value: object, items: int | None = None) -> Stub:
        stub = Stub()
        self.pending.append(Pending(stub, value, items, self._path()))
        return stub

    def _path(self) -> str:
        return "".join(f"[{key!r:.40}]" for key in self._where[:12]) or "The tree"


def _are_numbers(part: list[Any]) -> bool:
    return _NUMBERS.issuperset(map(type, part))


def _are_same(new: list[Any], items: list[Any]) -> bool:
    return len(new) == len(items) and all(map(is_, new, items))
