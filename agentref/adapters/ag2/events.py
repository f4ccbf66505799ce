"""Events as data, and back: what AG2's own codec writes, read with the types that are known here only."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any, Final

from ag2.events import BaseEvent
from pydantic import BaseModel

from agentref.errors import InvalidInputError, MalformedBlobError, UntrustedTypeError

__all__ = ["EventTypes", "StoredEvent", "parsed"]

_log: Final = logging.getLogger("agentref.adapters.ag2")
_NAMES: Final = ("__event__", "__dataclass__", "__pydantic__", "__enum__")


class StoredEvent(BaseEvent):
    """What an inner storage keeps in place of an event: its class by name, and its fields as JSON with
    refs.

    `AgentRefStorage` writes and reads it; it never reaches an agent.
    """

    kind: str
    data: str


# An inner storage that writes names of classes writes this one, wherever the class is defined.
StoredEvent.__module__ = "agentref.adapters.ag2"


class EventTypes:
    """The classes that stored events may name: AG2's own that are loaded, and those that the caller gives.

    AG2's codec imports and constructs whatever class its input names. So names are looked up here first.

    Immutable, thread-safe. Raises `InvalidInputError` for what is no class that an event can hold.
    """

    def __init__(self, own: Iterable[type] = ()) -> None:
        self._own: dict[str, type] = {}
        for kind in own:
            given: Any = kind
            if not isinstance(given, type) or not _can_be_stored(given):
                raise InvalidInputError(
                    f"event_types: {kind!r:.80} is no event class, dataclass, pydantic model or enum."
                )
            self._own[_name(kind)] = kind
        self._told: set[type] = set()

    def data(self, event: BaseEvent, limit: int) -> dict[str, Any] | None:
        """The fields of an event as AG2 writes them, if they are more than `limit` bytes as JSON; None also
        if this event would not come back as it was, which is logged once for its class."""
        kind, error = type(event), None
        try:
            text = json.dumps(event.to_dict(), allow_nan=False)
            if len(text) <= limit:
                return None
            data: dict[str, Any] = json.loads(text)
            again = self.event(_name(kind), data)
            # An attribute that somebody set beside the fields is in neither comparison.
            if again == event and again.to_dict() == data and vars(again).keys() >= vars(event).keys():
                return data
        except (TypeError, ValueError, RecursionError, AttributeError) as raised:
            error = raised
        if kind not in self._told:
            self._told.add(kind)
            _log.warning(
                "Events of %s are kept as they are, payloads and all: AG2's codec would not bring them "
                "back (%s)",
                _name(kind),
                error or "not equal",
            )
        return None

    def event(self, kind: str, data: dict[str, Any]) -> BaseEvent:
        """The event again. Raises `UntrustedTypeError` for a class that is not known here,
        `MalformedBlobError` for fields that its class refuses."""
        cls = self._find(kind)
        if not issubclass(cls, BaseEvent):
            raise UntrustedTypeError(f"{kind!r:.120} is no event class.")
        for name in _named(data):
            self._find(name)
        try:
            return cls.from_dict(data)
        except (TypeError, ValueError, AttributeError, KeyError, ImportError) as error:
            raise MalformedBlobError(f"A stored event is no {kind!r:.120}: {error!s:.200}") from error

    def _find(self, name: object) -> type:
        if isinstance(name, str):
            if name in self._own:
                return self._own[name]
            if name.startswith("ag2."):
                for known in _loaded(name):
                    return known
        raise UntrustedTypeError(
            f"A stored event names the class {name!r:.120}, which is not known here. If it is yours: "
            f"AgentRefStorage(..., event_types=[...])."
        )


def parsed(stored: StoredEvent) -> tuple[str, Any]:
    """The class name and the externalized fields. Raises `MalformedBlobError`."""
    kind: Any = stored.kind
    data: Any = stored.data
    try:
        fields = json.loads(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedBlobError(f"A stored event holds no JSON: {error!s:.200}") from error
    if not isinstance(kind, str) or not isinstance(fields, dict):
        raise MalformedBlobError("A stored event has the name of a class and fields; this one has not.")
    return kind, fields


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _can_be_stored(kind: type) -> bool:
    return issubclass(kind, (BaseEvent, BaseModel, Enum)) or is_dataclass(kind)


def _loaded(name: str) -> Iterator[type]:
    """The class of that name, if one of AG2's loaded modules defines it and an event can hold it."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:cut]))
        if found is None:
            continue
        for part in parts[cut:]:
            found = vars(found).get(part) if hasattr(found, "__dict__") else None
        if isinstance(found, type) and _name(found) == name and _can_be_stored(found):
            yield found
        return


def _named(data: Any) -> Iterator[object]:
    """Every class name in what AG2's codec would read."""
    rest = [data]
    while rest:
        part = rest.pop()
        if isinstance(part, Mapping):
            yield from (part[key] for key in _NAMES if key in part)
            rest.extend(part.values())
        elif isinstance(part, list):
            rest.extend(part)
