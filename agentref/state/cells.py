"""What one state instance holds: values, and refs to values that nobody has asked for yet."""

import copy
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from agentref.codecs import name_error, surely_fits
from agentref.errors import (
    AgentRefError,
    ConfigurationError,
    InlineSizeExceeded,
    InvalidInputError,
    UnsetFieldError,
)
from agentref.refs import REF_KEY, ContentRef
from agentref.state.markers import Placement
from agentref.state.protocol import AsyncValueStore, ValueStore
from agentref.state.schema import Schema

__all__ = ["Cells", "Plan"]


class Plan(NamedTuple):
    """A checkpoint in the making: what it carries as it is, and what must be stored first."""

    schema: Schema
    ready: dict[str, Any]
    pending: dict[str, object]

    def dump(self, store: ValueStore) -> Sequence[ContentRef]:
        with _naming(self.pending, self.schema):
            return store.dump_many(list(self.pending.values())) if self.pending else ()

    async def adump(self, store: AsyncValueStore) -> Sequence[ContentRef]:
        with _naming(self.pending, self.schema):
            return await store.adump_many(list(self.pending.values())) if self.pending else ()

    def finish(self, refs: Iterable[ContentRef]) -> dict[str, Any]:
        """The checkpoint, in order of declaration, given a ref for each pending value."""
        stored = {name: ref.to_dict() for name, ref in zip(self.pending, refs, strict=True)}
        done = self.ready | stored
        return {name: done[name] for name in self.schema.fields if name in done}


class Cells:
    """The fields of one instance.

    A value once here stays here, and a ref leaves only after its value has come. Both moves are single
    dict operations, so threads that read a lazy field together may load it twice, but they all get the
    one value that came first: no thread can change a copy that is then dropped.
    """

    __slots__ = ("_refs", "_schema", "_store", "_touched", "_values")

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._store: ValueStore | AsyncValueStore | None = None
        self._values: dict[str, Any] = {}
        self._refs: dict[str, ContentRef] = {}
        self._touched: set[str] = set()

    def assign(self, name: str, value: object) -> None:
        self._values[name] = value
        self._refs.pop(name, None)
        self._touched.add(name)

    def adopt(self, data: Mapping[str, Any], store: ValueStore | AsyncValueStore) -> None:
        """Take a checkpoint's fields. Reads nothing from the store."""
        self._store = store
        for name, value in data.items():
            if self._schema[name].placement is Placement.INLINE:
                self._values[name] = value
            elif isinstance(value, ContentRef):
                self._refs[name] = value
            elif isinstance(value, Mapping) and value.keys() == {REF_KEY}:
                with _naming([name], self._schema):
                    self._refs[name] = ContentRef.from_dict(value)
            else:
                self._values[name] = value

    def fill_defaults(self) -> None:
        for name, declared in self._schema.fields.items():
            if declared.default_factory is not None and not self.has(name):
                self._values[name] = declared.default_factory()

    def has(self, name: object) -> bool:
        return name in self._refs or name in self._values

    def names(self) -> list[str]:
        return [name for name in self._schema.fields if self.has(name)]

    def read(self, name: str) -> Any:
        is_lazy = name in self._refs
        if name not in self._values:
            if not is_lazy:
                raise UnsetFieldError(
                    f"{self._schema.name}.{name} has no value yet. Assign it first, give it a default, "
                    f"or ask with `{name!r} in state` or state.get({name!r})."
                )
            self.load([name])
        self._touched.add(name)
        return self._values[name]

    def load(self, names: Iterable[str]) -> None:
        wanted = self._unloaded(names)
        if not wanted:
            return
        if not isinstance(self._store, ValueStore):
            raise ConfigurationError(
                f"{self._schema.name}: {', '.join(wanted)} cannot be loaded here, because the store has "
                f"only async methods. Call `await state.aload()` first."
                if isinstance(self._store, AsyncValueStore)
                else self._without_store(wanted)
            )
        with _naming(wanted, self._schema):
            self._settle(wanted, self._store.load_many(list(wanted.values())))

    async def aload(self, names: Iterable[str]) -> None:
        wanted = self._unloaded(names)
        if not wanted:
            return
        if not isinstance(self._store, AsyncValueStore):
            raise ConfigurationError(
                f"{self._schema.name}: {', '.join(wanted)} cannot be awaited, because the store has no "
                f"async methods. Call state.load() instead."
                if isinstance(self._store, ValueStore)
                else self._without_store(wanted)
            )
        with _naming(wanted, self._schema):
            self._settle(wanted, await self._store.aload_many(list(wanted.values())))

    def _without_store(self, wanted: Iterable[str]) -> str:
        return (
            f"{self._schema.name}: {', '.join(wanted)} cannot be loaded from {self._store!r:.80}, which is "
            f"no store. Give from_checkpoint_dict() the one that the values were written to."
        )

    def _unloaded(self, names: Iterable[str]) -> dict[str, ContentRef]:
        refs = dict(self._refs)
        asked = [self._schema[name].name for name in names] or refs
        return {name: refs[name] for name in asked if name in refs}

    def _settle(self, wanted: Mapping[str, ContentRef], values: Iterable[object]) -> None:
        for name, value in zip(wanted, values, strict=True):
            self._values.setdefault(name, value)
            self._touched.add(name)
            self._refs.pop(name, None)

    def touched(self) -> frozenset[str]:
        return self._schema.external & self._touched

    def refs(self) -> dict[str, ContentRef]:
        return dict(self._refs)

    def plan(self, size_of: Callable[[object], int], inline_limit: int) -> Plan:
        """Sort what a checkpoint must carry. Raises before anything is stored."""
        if type(inline_limit) is not int or inline_limit < 0:
            raise InvalidInputError(
                f"inline_threshold_bytes is a whole number of bytes, 0 or more, not {inline_limit!r:.40}."
            )
        # Refs before values: one that is loaded meanwhile is then found among both, never in neither.
        plan = Plan(self._schema, {name: ref.to_dict() for name, ref in self.refs().items()}, {})
        for name, value in dict(self._values).items():
            if name in self._schema.external:
                plan.pending[name] = value
                continue
            if not surely_fits(value, inline_limit):
                with _naming([name], self._schema):
                    size = size_of(value)
                if size > inline_limit:
                    raise InlineSizeExceeded(name, size, inline_limit)
            plan.ready[name] = value
        return plan

    def same_as(self, other: "Cells") -> bool:
        names = self.names()
        if names != other.names():
            return False
        mine, theirs = self.refs(), other.refs()
        lazy = [name for name in names if name in mine or name in theirs]
        if not self._agree(other, (name for name in names if name not in lazy)):
            return False
        lazy = [name for name in lazy if mine.get(name) != theirs.get(name)]
        if lazy:
            self.load(lazy)
            other.load(lazy)
        return self._agree(other, lazy)

    def _agree(self, other: "Cells", names: Iterable[str]) -> bool:
        pairs = ((self.peek(name), other.peek(name)) for name in names)
        return all(mine is theirs or bool(mine == theirs) for mine, theirs in pairs)

    def copy(self, memo: dict[int, Any] | None = None) -> "Cells":
        """The same refs and store; the same values, or with `memo` deep copies of them."""
        twin = Cells(self._schema)
        twin._store = self._store
        refs = self.refs()
        values = dict(self._values)
        twin._refs = {name: ref for name, ref in refs.items() if name not in values}
        twin._values = values if memo is None else copy.deepcopy(values, memo)
        twin._touched = set(self._touched)
        return twin

    def peek(self, name: str) -> Any:
        """The value, or else its ref. Reads nothing from the store, marks nothing."""
        ref = self._refs.get(name)
        return self._values.get(name, ref)


@contextmanager
def _naming(names: Iterable[str], schema: Schema) -> Generator[None]:
    """Add to what the store has to say the names of the fields, or in front that of the one field."""
    try:
        yield
    except AgentRefError as error:
        if not name_error(error, [f"{schema.name}.{name}" for name in names]):
            error.add_note(f"In field {', '.join(names)} of an agent's state.")
        raise
