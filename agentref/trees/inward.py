"""The way back: what stubs stand for takes their place. Pure; mutates nothing that it is given."""

from collections.abc import Sequence
from typing import Any, Final

from agentref.errors import InvalidInputError, InvalidRefError, MalformedBlobError
from agentref.trees.outward import MAX_DEPTH
from agentref.trees.segments import like
from agentref.trees.stubs import Part, Seals, Stub, escape, is_marker, is_segment

__all__ = ["Gaps", "adopt"]

_DEPTH: Final = 2 * MAX_DEPTH + 2  # each level may have been escaped
_LEAVES: Final = frozenset({str, int, float, bool, type(None), bytes})


class _Gap:
    """Stands in a container that is ours for what is to come: the value of a part, or a tuple of some."""

    __slots__ = ("items", "like", "number")

    def __init__(self, number: int, items: list[Any] | None = None, like: Any = None) -> None:
        self.number = number
        self.items = items
        self.like = like


class Gaps:
    """A tree whose parts are still missing. `parts` says which, in order; `fill` puts them in, once.

    Only what holds a part is copied. The constructor raises what `Seals.read` does, and `InvalidInputError`
    for a tree that is too deep.

    Args:
        tree: what `externalize` returned.
        seals: what reads the parts.
        within: of a tree that is being worked on, only the stubs in these lists count, and of these none
            that stands for a segment; what only looks like a stub is a user's.
    """

    def __init__(self, tree: Any, seals: Seals, *, within: Sequence[list[Any]] | None = None) -> None:
        self.parts: list[Part] = []
        self._within = None if within is None else set(map(id, within))
        self._seals = seals
        self._open: list[tuple[Any, list[Any]]] = []  # the innermost first
        self._tree = [tree]
        new = self._visit(tree, 0, is_item=False, counts=within is None)
        self._tree[0] = new
        if type(new) is _Gap:
            self._open.append((self._tree, [0]))

    def fill(self, values: Sequence[Any]) -> Any:
        """The tree with these values in place of the parts.

        Raises `MalformedBlobError` for a segment that is not as long as was said.
        """
        for container, places in self._open:
            for place in reversed(places):
                gap = container[place]
                if gap.items is not None:
                    container[place] = like(gap.like, gap.items)
                    continue
                part, value = self.parts[gap.number], values[gap.number]
                if part.items is None:
                    container[place] = value
                    continue
                if type(value) is not list or len(value) != part.items:
                    raise MalformedBlobError(
                        f"{part.ref.hash} is to be a list of {part.items:,} items, and is another value: "
                        f"the tree that refers to it was edited."
                    )
                container[place : place + 1] = value
        return self._tree[0]

    def _visit(self, tree: Any, depth: int, *, is_item: bool, counts: bool) -> Any:
        if not isinstance(tree, (dict, list, tuple)):
            return tree
        if depth > _DEPTH:
            raise InvalidInputError(f"The tree is nested more than {_DEPTH} levels deep: none of ours is.")
        if not isinstance(tree, dict):
            return self._sequence(tree, depth, counts=counts or id(tree) in (self._within or ()))
        if type(tree) is Stub if self._within is not None else is_marker(tree):
            if not counts or (self._within is not None and is_segment(tree)):
                return tree
            read = self._seals.read(tree)
            if isinstance(read, Part):
                return self._gap(read, is_item=is_item)
            tree = read.data
        return self._dict(tree, depth, counts=counts)

    def _gap(self, part: Part, *, is_item: bool) -> _Gap:
        _check_place(part, is_item=is_item)
        self.parts.append(part)
        return _Gap(len(self.parts) - 1)

    def _dict(self, tree: dict[Any, Any], depth: int, *, counts: bool) -> Any:
        new, places = tree, []
        for key, value in tree.items():
            if type(value) in _LEAVES:
                continue
            got = self._visit(value, depth + 1, is_item=False, counts=counts)
            if got is not value:
                if new is tree:
                    new = dict(tree)
                new[key] = got
                if type(got) is _Gap:
                    places.append(key)
        if places:
            self._open.append((new, places))
        return new

    def _sequence(self, tree: Any, depth: int, *, counts: bool) -> Any:
        is_list = isinstance(tree, list)
        new, places = tree, []
        for index, value in enumerate(tree):
            if type(value) in _LEAVES:
                continue
            got = self._visit(value, depth + 1, is_item=is_list, counts=counts)
            if got is not value:
                if new is tree:
                    new = list(tree)
                new[index] = got
                if type(got) is _Gap:
                    places.append(index)
        if places:
            self._open.append((new, places))
        if is_list or new is tree:
            return new
        return _Gap(-1, new, tree) if places else like(tree, new)


def adopt(tree: Any, seals: Seals, depth: int = 0, *, is_item: bool = False) -> Any:
    """The tree with stubs, sealed by the first key, in place of the dicts that are read as wire forms."""
    if not isinstance(tree, (dict, list, tuple)):
        return tree
    if depth > _DEPTH:
        raise InvalidInputError(f"The tree is nested more than {_DEPTH} levels deep: none of ours is.")
    if isinstance(tree, dict):
        read = seals.read(tree) if is_marker(tree) else None
        if isinstance(read, Part):
            _check_place(read, is_item=is_item)
            return Stub(seals.write(read))
        data = tree if read is None else read.data
        new = {key: adopt(value, seals, depth + 1) for key, value in data.items()}
        if read is not None:
            return escape(new)
        return tree if all(new[key] is value for key, value in tree.items()) else new
    items = [adopt(item, seals, depth + 1, is_item=isinstance(tree, list)) for item in tree]
    if all(one is other for one, other in zip(items, tree, strict=True)):
        return tree
    return like(tree, items)


def _check_place(part: Part, *, is_item: bool) -> None:
    if part.items is not None and not is_item:
        raise InvalidRefError(
            f"The ref to {part.ref.hash} stands for {part.items:,} items of a list, and is in none."
        )
