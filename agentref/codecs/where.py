"""Where in a value the part sits that could not be encoded.

The encoder, which is fast, does not keep account of where it is. Only when it has raised, the value is
walked again in plain Python. No code of the value's own runs meanwhile: containers are of builtin types,
and attributes are read from where the object keeps them.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from types import MemberDescriptorType
from typing import Any, Final, NamedTuple

from agentref.codecs.class_types import family_of
from agentref.codecs.wire import Ext
from agentref.errors import AgentRefError, InvalidInputError, ValueTooLargeError

__all__ = ["TOO_DEEP", "blame", "name_error", "place_error"]

TOO_DEEP: Final = object()
"""What is to blame where a value ends nowhere, or too far down."""

_STEPS: Final = 1_000_000
"""How many parts of a value are looked at: about a second's worth."""

_DEPTH: Final = 600
_SHOWN: Final = 24
"""A path of more steps is shown by its two ends."""

_OFFENDER: Final = "_agentref_offender"
_PLACE: Final = "_agentref_place"

_LEAVES: Final = frozenset({int, float, bool, type(None), str, bytes})
_TEXTS: Final = {str: "characters", bytes: "bytes", bytearray: "bytes"}
_MAPPINGS: Final = frozenset({dict, OrderedDict, defaultdict})
_SEQUENCES: Final = frozenset({list, tuple, deque})
_SETS: Final = frozenset({set, frozenset})


class _Place(NamedTuple):
    """Which of several values, where in it, and what there is to say."""

    which: int
    path: str
    text: str


class _Part(NamedTuple):
    path: list[str]
    item: object
    is_within_itself: bool


def blame(error: InvalidInputError, item: object) -> None:
    """Note which object an error is about, unless that is noted."""
    vars(error).setdefault(_OFFENDER, item)


def place_error(
    error: InvalidInputError, values: Sequence[object], index: int, types: Collection[type]
) -> None:
    """Put the place of what is to blame in front of the message: which of the values, and where in it.

    If the value as a whole is too large, its largest part is named. `types` are entered as classes with
    fields are. Takes a second or two, fails never: what is not found, because another thread has changed
    the value or because it is too large, is left out.
    """
    offender = vars(error).pop(_OFFENDER, None)
    value, path, text = values[index], "", error.message
    if offender is not None:
        path = _found(lambda: _path_to(offender, value, types))
    elif isinstance(error, ValueTooLargeError):
        text += _found(lambda: _largest(value, types))
    vars(error)[_PLACE] = _Place(index, path, text)
    _say(error, "value" if len(values) == 1 else f"values[{index}]")


def name_error(error: AgentRefError, names: Sequence[str]) -> bool:
    """Call the value `names[i]` that had the index `i` when the error was placed. False if it was not."""
    place = vars(error).get(_PLACE)
    if not isinstance(place, _Place) or place.which >= len(names):
        return False
    _say(error, names[place.which])
    return True


def _say(error: AgentRefError, name: str) -> None:
    place: _Place = vars(error)[_PLACE]
    # Where there is but one value, and nothing to say of a part of it, there is nothing to say.
    is_plain = name == "value" and not place.path
    error.message = place.text if is_plain else f"In {name}{place.path}: {place.text}"
    error.args = (error.message,)


def _found(search: Callable[[], str]) -> str:
    try:
        return search()
    except Exception:  # noqa: BLE001  (whatever is wrong with the value, the first error counts)
        return ""


def _path_to(offender: object, value: object, types: Collection[type]) -> str:
    deepest = ""
    depth = 0
    for part in _walk(value, types):
        if offender is TOO_DEEP:
            if part.is_within_itself:
                return _shown(part.path)
            if len(part.path) > depth:
                depth, deepest = len(part.path), _shown(part.path)
        elif part.item is offender:
            return _shown(part.path)
    return deepest


def _largest(value: object, types: Collection[type]) -> str:
    total = size = 0
    found = ""
    for path, item, _ in _walk(value, types):
        kind: Any = type(item)
        if kind in _TEXTS:
            length, unit = len(item), _TEXTS[kind]  # type: ignore[arg-type]
        elif kind not in _LEAVES and getattr(family_of(kind), "code", None) is Ext.NDARRAY:
            length, unit = item.nbytes, "bytes"  # type: ignore[attr-defined]
        else:
            continue
        total += length
        if length > size:
            size = length
            found = "" if not path else f" Its largest part is at {_shown(path)}: {length:,} {unit}."
    return found if size * 2 > total else ""


def _walk(value: object, types: Collection[type]) -> Iterator[_Part]:
    """Every part of a value, depth first, each container once. The paths change when the walk goes on."""
    path: list[str] = []
    yield _Part(path, value, False)
    entered = {id(value)}
    stack = [(id(value), _parts(value, types))]
    for _ in range(_STEPS):
        step = next(stack[-1][1], None)
        if step is None:
            stack.pop()
            if not stack:
                return
            path.pop()
            continue
        label, part = step
        path.append(label)
        if type(part) in _LEAVES:
            yield _Part(path, part, False)
            path.pop()
            continue
        known = id(part) in entered
        yield _Part(path, part, known and any(id(part) == inside for inside, _ in stack))
        if known or len(stack) >= _DEPTH:
            path.pop()
        else:
            entered.add(id(part))
            stack.append((id(part), _parts(part, types)))


def _parts(item: Any, types: Collection[type]) -> Iterator[tuple[str, object]]:
    kind = type(item)
    if kind in _MAPPINGS:
        for index, (key, part) in enumerate(list(item.items())):
            if type(key) not in _LEAVES:
                yield f"<key {index}>", key
                yield f"[<key {index}>]", part
            else:
                yield f"[{key!r:.60}]", part
    elif kind in _SEQUENCES:
        for index, part in enumerate(list(item)):
            yield f"[{index}]", part
    elif kind in _SETS:
        for part in list(item):
            yield "<element>", part
    elif kind not in _LEAVES:
        yield from _fields(item, kind, types)


def _fields(item: Any, kind: type, types: Collection[type]) -> Iterator[tuple[str, object]]:
    code = getattr(family_of(kind), "code", None)
    if code is Ext.NAMEDTUPLE:
        names: Any = getattr(kind, "_fields", ())
        for name, part in zip(names, tuple.__iter__(item), strict=False):
            yield f".{name}", part
    elif code in (Ext.DATACLASS, Ext.PYDANTIC) or kind in types:
        for name, part in _attributes(item, kind):
            if not name.startswith("__"):
                yield f".{name}", part
            elif type(part) is dict:  # pydantic's own, where it keeps more attributes
                for inner, each in list(part.items()):
                    yield f".{inner}", each


def _attributes(item: Any, kind: type) -> Iterator[tuple[str, object]]:
    for cls in kind.__mro__:
        for name, slot in list(vars(cls).items()):
            if type(slot) is MemberDescriptorType:
                try:
                    yield name, slot.__get__(item)
                except AttributeError:  # nothing was assigned yet
                    continue
    try:
        own = object.__getattribute__(item, "__dict__")
    except AttributeError:
        return
    if type(own) is dict:
        yield from list(own.items())


def _shown(path: list[str]) -> str:
    if len(path) <= _SHOWN:
        return "".join(path)
    return "".join([*path[: _SHOWN // 2], "...", *path[-_SHOWN // 2 :]])
