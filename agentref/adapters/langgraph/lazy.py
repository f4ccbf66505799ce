"""State that a node reads: external fields are loaded when they are first touched."""

import asyncio
import copy
import dataclasses
import logging
import time
from collections.abc import Collection, ItemsView, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from agentref.adapters.langgraph.fields import Fields
from agentref.errors import UnsetFieldError
from agentref.refs import ContentRef

__all__ = ["LazyState", "LoadedStore", "Loads"]

_log: Final = logging.getLogger("agentref.adapters.langgraph")
_STALL_SECONDS: Final = 0.1
_item: Final = dict.__getitem__  # asked for more than anything else, and `super()` takes as long
_IMMUTABLE: Final = frozenset({type(None), bool, int, float, complex, str, bytes})


class Loads:
    """The external fields of what one node was given: what they were, and what was loaded of them.

    Attributes:
        origins: field to its ref, or to a value that stood in the state itself.
        values: field to the one object that the node got to see. Threads of the node share it.
    """

    def __init__(self, fields: Fields, node: str, given: Mapping[str, Any]) -> None:
        self.fields = fields
        self.node = node
        self.origins: dict[str, Any] = {}
        external = fields.external
        for name in given:
            if name in external:
                self.origins[name] = given[name]
        self.values: dict[str, Any] = {}

    def value(self, name: str) -> Any:
        """The value of one field, loaded if it was not."""
        if name not in self.values:
            self.load([name])
        return self.values[name]

    def load(self, names: Collection[str]) -> None:
        """Load these fields, in one batch; those that are loaded stay."""
        wanted = self._unloaded(names)
        if not wanted:
            return
        began = time.monotonic()
        with self.fields.naming(wanted):
            self._settle(wanted, self.fields.load(wanted.values()))
        spent = time.monotonic() - began
        if spent > _STALL_SECONDS and _is_on_event_loop():
            _log.warning(
                "Node %r held up the event loop for %.1f s while it loaded %s. Use wrap_node(..., "
                "prefetch=[...]), hint the node with a narrower state, or `await state.aload(...)` first.",
                self.node,
                spent,
                ", ".join(wanted),
            )

    async def aload(self, names: Collection[str]) -> None:
        """`load` for the event loop."""
        if wanted := self._unloaded(names):
            with self.fields.naming(wanted):
                self._settle(wanted, await asyncio.to_thread(self.fields.load, wanted.values()))

    def _unloaded(self, names: Collection[str]) -> dict[str, Any]:
        return {
            name: self.origins[name] for name in names if name in self.origins and name not in self.values
        }

    def _settle(self, wanted: Mapping[str, Any], values: Sequence[Any]) -> None:
        for (name, origin), value in zip(wanted.items(), values, strict=True):
            # What stood in the state itself is also what the next attempt of this node would get.
            self.values.setdefault(name, copy.deepcopy(value) if value is origin else value)

    def changed(self, written: Collection[str]) -> list[str]:
        """The loaded fields, except `written`, whose value is no longer what it was.

        Encodes each that is mutable.
        """
        return [
            name
            for name, value in list(self.values.items())
            if name not in written and type(value) not in _IMMUTABLE and self._has_changed(name, value)
        ]

    def _has_changed(self, name: str, value: Any) -> bool:
        backend = self.fields.runtime.backend
        origin = self.origins[name]
        with self.fields.naming([name]):
            now = backend.encode([value]).refs
            if type(origin) is ContentRef and now == [origin]:
                return False
            # An older codec may have named the same value otherwise.
            return now != backend.encode(self.fields.load([origin])).refs


class LazyState(dict[str, Any]):
    """What a node gets when its parameter has no `AgentRefState` for a type: a dict.

    Reading an external field loads it: `state[...]`, `get`, `pop`, `values`, `items`, `dict(state)`,
    `{**state}`, `json.dumps`. Asking for names does not: `in`, `len`, iteration, `keys`, `copy`. Setting
    an item changes this dict alone, as with any state of LangGraph: return it to have it written.

    On an event loop `await state.aload(...)` first. C code that reads a dict behind its back (pydantic's
    `model_validate`, orjson) sees a `ContentRef` for what is not loaded: hand it `dict(state)`.
    """

    __slots__ = ("_loads",)

    def __init__(self, loads: Loads, given: Mapping[str, Any]) -> None:
        """`given` holds the very origins of `loads` where it has those fields."""
        super().__init__(given)
        self._loads = loads

    def load(self, *names: str) -> None:
        """Load these external fields (without names: all) in one batch."""
        self._loads.load(self._declared(names))

    async def aload(self, *names: str) -> None:
        """As `load`, without blocking the event loop."""
        await self._loads.aload(self._declared(names))

    def stored_items(self) -> ItemsView[str, Any]:
        """The items as they stand: a `ContentRef` for what is not loaded. Reads nothing from the store."""
        return super().items()

    def _declared(self, names: Sequence[str]) -> Collection[str]:
        return [self._loads.fields.schema[name].name for name in names] or self._loads.origins

    def _is_unloaded(self, name: str, value: object) -> bool:
        origins = self._loads.origins
        return name in origins and value is origins[name]

    def __getitem__(self, name: str) -> Any:
        value = _item(self, name)
        origins = self._loads.origins
        if name in origins and value is origins[name]:
            value = self._loads.value(name)
            super().__setitem__(name, value)
        return value

    def __missing__(self, name: str) -> Any:
        declared = self._loads.fields.schema[name]
        raise UnsetFieldError(
            f"{declared.name!r} has no value yet, or this node's input does not include it."
        )

    def __iter__(self) -> Iterator[str]:
        # `dict(state)` and `{**state}` read a dict's storage directly, unless its class iterates by itself.
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        return dict(self) == other

    __hash__ = None

    def __repr__(self) -> str:
        shown = (
            f"{name!r}: {f'<external {value.size:,} bytes>' if type(value) is ContentRef else repr(value)}"
            for name, value in self.stored_items()
        )
        return f"{{{', '.join(shown)}}}"

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def __copy__(self) -> Self:
        return self.copy()

    def copy(self) -> Self:
        """A dict of its own, with the same lazy values."""
        return type(self)(self._loads, dict(self.stored_items()))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field, or `default` while it is unset."""
        return self[name] if name in self else default  # noqa: SIM401  (this is that method)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """The value of a field; `default`, from now on, while it is unset."""
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        """Take a field out of this dict."""
        if name in self:
            self[name]  # loads it
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """Take the last field out of this dict."""
        name, value = super().popitem()
        return name, self._loads.value(name) if self._is_unloaded(name, value) else value

    def values(self) -> Any:
        """All values; loads the external ones in one batch."""
        self._fill()
        return super().values()

    def items(self) -> Any:
        """All items; loads the external ones in one batch."""
        self._fill()
        return super().items()

    def _fill(self) -> None:
        unloaded = [name for name, value in self.stored_items() if self._is_unloaded(name, value)]
        self._loads.load(unloaded)
        for name in unloaded:
            self[name]


class LoadedStore:
    """The store of an `AgentRefState` that a node gets: it loads by way of `Loads`."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        backend = loads.fields.runtime.backend
        self.dump, self.dump_many, self.adump_many = backend.dump, backend.dump_many, backend.adump_many
        self.size_of = backend.size_of
        self._names = {id(origin): name for name, origin in loads.origins.items()}

    @staticmethod
    def told_apart(origins: Mapping[str, Any]) -> dict[str, Any]:
        """The same refs, each an object of its own, by which the names are told apart here."""
        return {
            name: dataclasses.replace(origin) if type(origin) is ContentRef else origin
            for name, origin in origins.items()
        }

    def load(self, ref: ContentRef) -> object:
        """The value of one ref."""
        return self.load_many([ref])[0]

    def load_many(self, refs: Sequence[ContentRef]) -> list[object]:
        """The value of each ref."""
        names = [self._names[id(ref)] for ref in refs]
        self._loads.load(names)
        return [self._loads.values[name] for name in names]

    async def aload_many(self, refs: Sequence[ContentRef]) -> list[object]:
        """`load_many` for the event loop."""
        names = [self._names[id(ref)] for ref in refs]
        await self._loads.aload(names)
        return [self._loads.values[name] for name in names]


def _is_on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
