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
"""How many parts of a value are looked at: a second's worth, or two."""

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


_Step = tuple[str, object]
"""One step down: how it is written, and the index, key or name that goes in."""


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
    deepest: list[_Step] = []
    for path, item, is_within_itself in _walk(value, types, leaves=False):
        if item is offender or (offender is TOO_DEEP and is_within_itself):
            return _shown(path)
        if offender is TOO_DEEP and len(path) > len(deepest):
            deepest = list(path)
    return _shown(deepest)


def _largest(value: object, types: Collection[type]) -> str:
    total = size = 0
    found = ""
    for path, item, _ in _walk(value, types, leaves=True):
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


def _walk(
    value: object, types: Collection[type], *, leaves: bool
) -> Iterator[tuple[list[_Step], object, bool]]:
    """Every part of a value, depth first, each container once: its path, which changes when the walk goes
    on, the part, and whether it lies within itself. Parts that no error is about only with `leaves`."""
    path: list[_Step] = []
    yield path, value, False
    entered = {id(value)}
    stack = [(id(value), _parts(value, types, leaves=leaves))]
    for _ in range(_STEPS):
        found = next(stack[-1][1], None)
        if found is None:
            stack.pop()
            if not stack:
                return
            path.pop()
            continue
        how, key, part = found
        path.append((how, key))
        known = id(part) in entered
        yield path, part, known and any(id(part) == inside for inside, _ in stack)
        if type(part) in _LEAVES or known or len(stack) >= _DEPTH or not (leaves or _is_deep(part)):
            path.pop()
        else:
            entered.add(id(part))
            stack.append((id(part), _parts(part, types, leaves=leaves)))


def _is_deep(part: Any) -> bool:
    """Whether anything but leaves is in there. In C, for most of what a large value consists of."""
    kind = type(part)
    if kind is dict:
        return not (_LEAVES.issuperset(map(type, part.values())) and _LEAVES.issuperset(map(type, part)))
    return kind not in _SEQUENCES or not _LEAVES.issuperset(map(type, part))


def _parts(item: Any, types: Collection[type], *, leaves: bool) -> Iterator[tuple[str, object, object]]:
    kind = type(item)
    if kind in _LEAVES:
        return
    if kind in _MAPPINGS:
        yield from _entries(item, leaves=leaves)
    elif kind in _SEQUENCES:
        for index, part in enumerate(list(item)):
            if leaves or type(part) not in _LEAVES:
                yield "[{}]", index, part
    elif kind in _SETS:
        for part in list(item):
            yield "<element>", None, part
    else:
        for name, part in _fields(item, kind, types):
            yield ".{}", name, part


def _entries(items: dict[Any, Any], *, leaves: bool) -> Iterator[tuple[str, object, object]]:
    for index, (key, part) in enumerate(list(items.items())):
        is_plain = type(key) in _LEAVES
        if not is_plain:
            yield "<key {}>", index, key
        if leaves or type(part) not in _LEAVES:
            yield ("[{!r:.60}]", key, part) if is_plain else ("[<key {}>]", index, part)


def _fields(item: Any, kind: type, types: Collection[type]) -> Iterator[tuple[str, object]]:
    code = getattr(family_of(kind), "code", None)
    if code is Ext.NAMEDTUPLE:
        names: Any = getattr(kind, "_fields", ())
        yield from zip(names, tuple.__iter__(item), strict=False)
    elif code in (Ext.DATACLASS, Ext.PYDANTIC) or kind in types:
        for name, part in _attributes(item, kind):
            if not name.startswith("__"):
                yield name, part
            elif type(part) is dict:  # pydantic's own, where it keeps more attributes
                yield from list(part.items())


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


def _shown(path: list[_Step]) -> str:
    steps = path
    if len(path) > _SHOWN:
        steps = [*path[: _SHOWN // 2], ("...", None), *path[-_SHOWN // 2 :]]
    return "".join(how.format(key) for how, key in steps)
