"""What LlamaIndex's serializer wraps around a model or component: `{"__is_pydantic": true, "value": ...,
"qualified_name": ...}`. Only the value of one is walked; what says which class it is stays as it is. Pure.
"""

from operator import is_
from typing import Any, Final

from agentref.errors import InvalidInputError

__all__ = ["closed", "opened"]

_MARKS: Final = ("__is_pydantic", "__is_component")
_VALUE: Final = "value"
_NAME: Final = "qualified_name"


class _Envelope:
    """Stands in a tree for an envelope, whose value is the tree of that number."""

    __slots__ = ("data", "number")

    def __init__(self, data: dict[str, Any], number: int) -> None:
        self.data = data
        self.number = number


def opened(tree: Any) -> tuple[Any, ...]:
    """The tree without its envelopes, and then what was in each of them, as trees of their own.

    Tuples become lists, as in JSON; what holds no envelope is not copied. Raises
    `InvalidInputError` for a tree that is too deep.
    """
    trees: list[Any] = [None]
    try:
        trees[0] = _open(tree, trees)
    except RecursionError as error:
        raise InvalidInputError("The value is nested too deeply, or holds itself.") from error
    return tuple(trees)


def closed(trees: tuple[Any, ...]) -> Any:
    """The one tree that `opened` took apart, whatever became of its parts meanwhile."""
    return _close(trees[0], trees)


def _open(tree: Any, trees: list[Any]) -> Any:
    if isinstance(tree, dict):
        if _is_envelope(tree):
            number = len(trees)
            trees.append(None)
            trees[number] = _open(tree[_VALUE], trees)
            return _Envelope(tree, number)
        new = tree
        for key, value in tree.items():
            part = _open(value, trees)
            if part is not value:
                new = dict(tree) if new is tree else new
                new[key] = part
        return new
    if isinstance(tree, (list, tuple)):
        parts = []
        for item in tree:
            parts.append(_open(item, trees))  # noqa: PERF401  (a comprehension has a frame of its own)
        return tree if isinstance(tree, list) and all(map(is_, parts, tree)) else parts
    return tree


def _close(tree: Any, trees: tuple[Any, ...]) -> Any:
    if isinstance(tree, _Envelope):
        return {**tree.data, _VALUE: _close(trees[tree.number], trees)}
    if isinstance(tree, dict):
        new = tree
        for key, value in tree.items():
            part = _close(value, trees)
            if part is not value:
                new = dict(tree) if new is tree else new
                new[key] = part
        return new
    if isinstance(tree, list):
        parts = []
        for item in tree:
            parts.append(_close(item, trees))  # noqa: PERF401
        return tree if all(map(is_, parts, tree)) else parts
    return tree


def _is_envelope(tree: dict[Any, Any]) -> bool:
    return _VALUE in tree and _NAME in tree and any(tree.get(mark) for mark in _MARKS)
