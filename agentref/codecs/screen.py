"""What msgpack would pack in silence as something else, found before it gets to see it.

It packs bytearray and memoryview as bytes, and its own ExtType as whatever extension that names.
"""

from itertools import chain
from typing import Any, Final

import msgpack

from agentref.codecs.where import TOO_DEEP, blame
from agentref.codecs.wire import MAX_NESTING
from agentref.errors import UnsupportedTypeError, ValueTooLargeError

__all__ = ["Boxed", "screened", "screened_leaf", "too_deep", "unsupported"]

_CONTAINERS: Final = frozenset({dict, list})
_MISTAKEN: Final = frozenset({bytearray, memoryview, msgpack.ExtType, msgpack.Timestamp})
_LEVELS: Final = 512
_MAX_ITEMS: Final = 100_000_000
"""Of a value whose parts are shared; one whose are not has to fit into memory first."""


class Boxed:
    """A bytearray that msgpack has to ask about."""

    def __init__(self, data: bytearray) -> None:
        self.data = bytes(data)


def screened(value: Any) -> Any:
    """A plain container in which any bytearray is boxed; a copy only if there is one."""
    level = [value]
    is_shared = False
    for _ in range(_LEVELS):
        dicts = [item for item in level if type(item) is dict]
        lists = [item for item in level if type(item) is list]
        kinds = set(map(type, chain.from_iterable(map(dict.values, dicts))))
        kinds.update(map(type, chain.from_iterable(dicts)), map(type, chain.from_iterable(lists)))
        if not kinds.isdisjoint(_MISTAKEN):
            _refuse_expansion(value)
            return _boxed(value)
        if kinds.isdisjoint(_CONTAINERS):
            if is_shared:
                _refuse_expansion(value)
            return value
        parts = chain(chain.from_iterable(map(dict.values, dicts)), chain.from_iterable(lists))
        found = [part for part in parts if type(part) in _CONTAINERS]
        # Once each: a list that holds itself twice would double from level to level.
        level = list({id(part): part for part in found}.values())
        is_shared = is_shared or len(level) < len(found)
    raise too_deep()


def _refuse_expansion(value: Any) -> None:
    """Forty lists, each of which holds the one before twice, take nothing in memory and all there is on
    disk: what is shared is packed as often as it is met."""
    sizes: dict[int, int] = {}
    path = {id(value): (value, iter(_inner(value)))}
    while path:
        item, inner = next(reversed(path.values()))
        part = next((part for part in inner if id(part) not in sizes), None)
        if part is None:
            sizes[id(item)] = len(item) + sum([sizes[id(part)] for part in _inner(item)])
            del path[id(item)]
        elif id(part) in path:
            raise too_deep()
        else:
            path[id(part)] = (part, iter(_inner(part)))
    if sizes[id(value)] > _MAX_ITEMS:
        raise ValueTooLargeError(
            f"The value shares its parts so often that it would be packed as {sizes[id(value)]:,} items, "
            f"over the limit of {_MAX_ITEMS:,}. Hold what is shared once."
        )


def _inner(item: Any) -> list[Any]:
    parts = item.values() if type(item) is dict else item
    return [part for part in parts if type(part) in _CONTAINERS]


def screened_leaf(item: Any) -> Any:
    """The same for what is no container."""
    kind = type(item)
    if kind not in _MISTAKEN:
        return item
    if kind is bytearray:
        return Boxed(item)
    raise unsupported(item)


def _boxed(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {screened_leaf(key): _boxed(part) for key, part in value.items()}
    if kind is list:
        return [_boxed(part) for part in value]
    return screened_leaf(value)


def unsupported(item: object) -> UnsupportedTypeError:
    """The error for a type that nothing knows."""
    error = UnsupportedTypeError(
        f"A value of type {type(item).__module__}.{type(item).__qualname__} cannot be stored faithfully. "
        f"Convert it to plain data (dict, list, str, bytes, numbers), a dataclass or a pydantic model."
    )
    blame(error, item)
    return error


def too_deep() -> ValueTooLargeError:
    """The error for a value that ends nowhere, or too far down."""
    error = ValueTooLargeError(
        "The value is nested too deeply, or contains itself. Flatten it: the limits are about 500 levels "
        f"of lists and dictionaries and {MAX_NESTING} of richer types."
    )
    blame(error, TOO_DEEP)
    return error
