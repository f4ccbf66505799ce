"""The fields of a state class with the stores behind them: from values to cells, and back."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from agentref.adapters.llamaindex.cells import copied, ref_in
from agentref.adapters.llamaindex.declared import check_declared
from agentref.adapters.llamaindex.values import Values
from agentref.codecs import name_error, surely_fits
from agentref.errors import AgentRefError, InlineSizeExceeded, UnsupportedTypeError
from agentref.refs import ContentRef
from agentref.runtime import Runtime
from agentref.state import AgentRefState, Schema
from agentref.trees import Part, Seals

__all__ = ["Fields"]


class Fields:
    """What a state class declares, and the stores that keep its external values. Thread-safe.

    Attributes:
        schema: the declared fields.
        runtime: the stores.
        values: the same, as a state wants them.
        inline_limit: what an inline field may hold, in bytes as encoded.
    """

    def __init__(self, schema: Schema, runtime: Runtime, inline_limit: int, seals: Seals) -> None:
        self._seals = seals
        self.schema = schema
        self.runtime = runtime
        self.values = Values(runtime)
        self.inline_limit = inline_limit

    def qualified(self, name: str) -> str:
        """What errors call a field."""
        return f"{self.schema.name}.{name}"

    async def value(self, name: str, cell: Any) -> Any:
        """The value that a cell stands for. An inline one is the cell itself, whatever it looks like."""
        if name not in self.schema.external:
            return cell
        with self._naming([name]):
            ref = ref_in(cell, self._seals)
        if ref is None:
            return cell
        return (await self.runtime.aload_many([ref], names=[self.qualified(name)]))[0]

    async def cell(self, name: str, value: Any, owner: str | None, model: type[BaseModel]) -> Any:
        """What a context carries for a value, when that is stored, and pinned if it has an owner."""
        return (await self.cells({name: value}, owner, model))[name]

    async def cells(
        self,
        values: Mapping[str, Any],
        owner: str | None,
        model: type[BaseModel] | None,
        before: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The same for many, in one batch. Raises before anything is stored, also for an inline value that
        the model could not read again, if that is given. One that is as it was before is not looked at."""
        cells: dict[str, Any] = {}
        pending: dict[str, Any] = {}
        known: list[ContentRef] = []
        for name, value in values.items():
            if name not in self.schema.external:
                if name not in before or not _is_same(value, before[name]):
                    self._check(name, value, model)
                cells[name] = value
            elif isinstance(value, ContentRef):
                cells[name] = self._wire(value)
                known.append(value)
            else:
                pending[name] = value
        if pending or (owner is not None and known):
            with self._naming(pending):
                refs = await self._stored(list(pending.values()), owner, known)
            cells |= {name: self._wire(ref) for name, ref in zip(pending, refs, strict=True)}
        return cells

    def opened(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """The cells with refs in place of their wire forms, which are checked."""
        opened = dict(cells)
        for name in self.schema.external.intersection(cells):
            with self._naming([name]):
                ref = ref_in(cells[name], self._seals)
            if ref is not None:
                opened[name] = ref
        return opened

    def _wire(self, ref: ContentRef) -> dict[str, Any]:
        return self._seals.write(Part(ref, None))

    async def _stored(
        self, values: list[Any], owner: str | None, known: list[ContentRef]
    ) -> list[ContentRef]:
        if owner is None:
            return await self.values.adump_many(values)
        return await self.values.akeep_many(values, owner, known)

    async def cells_of(
        self,
        state: AgentRefState,
        names: Iterable[str],
        owner: str | None,
        model: type[BaseModel] | None = None,
        before: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """The cells of these fields of a state. What is not loaded keeps its ref."""
        refs = state.refs()
        values = {name: refs[name] if name in refs else state[name] for name in names}
        return await self.cells(values, owner, model, before)

    def inline_copy(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """The inline ones of these cells as they are now, whatever becomes of them."""
        return {name: copied(cell) for name, cell in cells.items() if name not in self.schema.external}

    def changed(self, state: AgentRefState) -> list[str]:
        """The fields of a state that may have changed: the inline ones, and what was read or assigned."""
        touched = state.touched()
        return [name for name in state if name not in self.schema.external or name in touched]

    def _check(self, name: str, value: Any, model: type[BaseModel] | None) -> None:
        if not surely_fits(value, self.inline_limit):
            self._check_size(name, value)
        if model is not None:
            check_declared(model, name, value, self.qualified(name))

    def _check_size(self, name: str, value: Any) -> None:
        with self._naming([name]):
            try:
                size = self.values.size_of(value)
            except UnsupportedTypeError:
                return  # the workflow's serializer may know it, and says so if not
        if size > self.inline_limit:
            raise InlineSizeExceeded(name, size, self.inline_limit)

    @contextmanager
    def _naming(self, names: Iterable[str]) -> Generator[None]:
        """Add to what the store has to say the names of the fields, or in front that of the one field."""
        try:
            yield
        except AgentRefError as error:
            if not name_error(error, [self.qualified(name) for name in names]):
                error.add_note(f"In field {', '.join(names)} of a workflow's state.")
            raise


def _is_same(value: Any, before: Any) -> bool:
    try:
        return type(value) is type(before) and bool(value == before)
    except Exception:  # noqa: BLE001  (an array is compared to an array; the class is the user's)
        return False
