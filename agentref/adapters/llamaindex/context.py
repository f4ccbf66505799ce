"""`ContextStore`: a workflow's `ctx.store`, seen as a typed state whose large fields live elsewhere."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel
from workflows.context.state_store import StateStore, get_by_path, set_by_path

from agentref.adapters.llamaindex.cells import clear_cell, copied, read_cells, write_cell
from agentref.adapters.llamaindex.fields import Fields
from agentref.errors import InvalidInputError, StateDefinitionError
from agentref.state import AgentRefState

__all__ = ["ContextStore"]

StateT = TypeVar("StateT", bound=AgentRefState)
_NOTHING: Final = object()


class ContextStore(Generic[StateT]):
    """The verbs of a workflow's state store, over the fields of one state class. From
    `LlamaIndexAdapter.context_store`.

    The context carries inline values, and for external ones the wire forms of refs; values go to the
    content store and come from there, without blocking the event loop. It has nothing of its own: make one
    in each step, or use one in many. A step that asks for no external field fetches none.

    What a write is to change is read and written under the lock of `ctx.store`, so that parallel steps lose
    no update of each other's. Nothing in the context changes until the content store has acknowledged, nor
    if it raises (`StorageError`) or the step is cancelled.

    A name that the state class does not declare is `UnknownFieldError`, with a default too; a path that
    leads nowhere is `InvalidInputError`, a `ValueError`, as in LlamaIndex.

    What `get` and `get_state` return is a copy, as with LlamaIndex's durable state stores: changing it in
    place changes nothing in the context. Change it in `edit_state`, or by `set`. Of an inline value that is
    what is data: containers, dataclasses, pydantic models, arrays. Any other object, such as a lock, an
    `asyncio.Event` or a client, is handed out itself, as LlamaIndex does, so that steps share it.
    """

    def __init__(
        self, store: StateStore[Any], fields: Fields, state_class: type[StateT], owner: str | None = None
    ) -> None:
        self._owner = owner
        self._store = store
        self._fields = fields
        self._state_class = state_class

    async def get(self, path: str, default: Any = ...) -> Any:
        """The value at a dotted path, such as `"docs.0.text"`; loads the external field that it leads into.

        Without a value there: `default`, or else `InvalidInputError`. The empty path is `get_state()`.
        """
        if path == "":
            return await self.get_state()
        name = self._field_of(path)
        cells = await self._cells()
        holder = await self._holder(name, cells)
        try:
            found = get_by_path(holder, path, _NOTHING)
        except ValueError:  # of more segments than LlamaIndex follows
            found = _NOTHING
        if found is not _NOTHING:
            # What was loaded is nobody else's.
            return copied(found) if name in cells and holder[name] is cells[name] else found
        if default is not ...:
            return default
        raise InvalidInputError(
            f"Path {path!r:.200} not found in state: "
            + (
                f"{self._fields.qualified(name)} has no such part."
                if holder
                else f"{self._fields.qualified(name)} has no value yet. Set it first, or pass a default."
            )
        )

    async def set(self, path: str, value: Any) -> None:
        """Set what is at a dotted path. Dicts in between are made as needed.

        An external value is stored, and the context gets its ref; a `ContentRef` is taken as it is. Setting
        a part of one loads it, changes it and stores it anew. Raises `InlineSizeExceeded` for an inline
        value that is larger than the adapter's limit, and `InvalidInputError` for one with which a context
        of `Context[adapter.schema()]` could not be read again once it is saved.
        """
        name = self._field_of(path)
        if path == name:
            cell = await self._fields.cell(name, value, self._owner, self._store.state_type)
            await self._store.set(name, cell)
            return
        async with self._store.edit_state() as model:
            holder = await self._holder(name, read_cells(model, self._fields.schema))
            try:
                set_by_path(holder, path, value)
            except (AttributeError, TypeError, ValueError, LookupError) as error:
                raise InvalidInputError(f"Path {path!r:.200} cannot be set: {error}") from error
            write_cell(model, name, await self._fields.cell(name, holder[name], self._owner, type(model)))

    async def get_state(self) -> StateT:
        """The state as it is now, its external fields not loaded: `await state.aload("docs")` before they
        are read, or that blocks. A copy; `set_state` writes it back, with what was changed in place.
        """
        return self._copy(await self._cells())

    async def set_state(self, state: AgentRefState) -> None:
        """Replace the state: fields that are unset in `state` are unset then. One of a base class of the
        adapter's replaces its own fields only. What is not loaded keeps its ref.

        Whatever other steps wrote since `state` was read is overwritten: see `edit_state`.
        """
        self._check(state)
        before = await self._cells()
        cells = await self._fields.cells_of(state, state, self._owner, self._store.state_type, before)
        async with self._store.edit_state() as model:
            self._write(model, cells, type(state).schema().fields)

    @asynccontextmanager
    async def edit_state(self) -> AsyncGenerator[StateT, None]:
        """The state, to be changed as one likes, in place too; written when the block ends.

        No other write of this run comes in between: keep the block short. If it raises, nothing changes.
        Reads elsewhere see the state before it. Inside, `get` does too, and a write through the store, this
        one or `ctx.store`, is a `RuntimeError`; one from another task waits for the block to end, so a
        block that awaits that task, by `gather` or `wait_for` say, never ends. Reading an external field
        loads it, which blocks, so `await state.aload("docs")` first. What was read or assigned is stored,
        the rest keeps its ref.
        """
        async with self._store.edit_state() as model:
            cells = read_cells(model, self._fields.schema)
            before = self._fields.inline_copy(cells)
            state = self._state(cells)
            yield state
            cells = await self._fields.cells_of(
                state, self._fields.changed(state), self._owner, type(model), before
            )
            self._write(model, cells, ())

    async def clear(self) -> None:
        """Make the fields of the state class as they were at first. Other entries of the context stay."""
        async with self._store.edit_state() as model:
            self._write(model, {}, self._fields.schema.fields)

    async def to_checkpoint_dict(self) -> dict[str, Any]:
        """What the context carries: inline values, and the wire forms of refs. JSON-safe if the inline
        values are. Loads nothing; stores an external value that stands in the context itself.
        """
        cells = await self._cells()
        return await self._fields.cells_of(self._copy(cells), cells, self._owner)

    def is_over(self, fields: Fields) -> bool:
        """Whether it is of the adapter that these fields are of."""
        return self._fields is fields

    def of(self, owner: str | None) -> "ContextStore[StateT]":
        """The same store for that owner."""
        if owner == self._owner:
            return self
        return ContextStore(self._store, self._fields, self._state_class, owner)

    def _field_of(self, path: str) -> str:
        if type(path) is not str or not path:
            raise InvalidInputError(f"A path is a text such as 'docs' or 'docs.0.text', not {path!r:.80}.")
        return self._fields.schema[path.partition(".")[0]].name

    async def _holder(self, name: str, cells: dict[str, Any]) -> dict[str, Any]:
        """The value of a field under its name, or nothing."""
        if name in cells:
            return {name: await self._fields.value(name, cells[name])}
        make = self._fields.schema[name].default_factory
        return {} if make is None else {name: make()}

    async def _cells(self) -> dict[str, Any]:
        return read_cells(await self._store.get_state(), self._fields.schema)

    def _state(self, cells: dict[str, Any]) -> StateT:
        return self._made(self._fields.opened(cells))

    def _copy(self, cells: dict[str, Any]) -> StateT:
        return self._made({name: copied(cell) for name, cell in self._fields.opened(cells).items()})

    def _made(self, opened: dict[str, Any]) -> StateT:
        return self._state_class.from_checkpoint_dict(opened, self._fields.values)

    def _check(self, state: object) -> None:
        if not isinstance(state, AgentRefState) or not (
            isinstance(state, self._state_class) or issubclass(self._state_class, type(state))
        ):
            raise StateDefinitionError(
                f"set_state() takes a {self._state_class.__qualname__}, or an instance of one of its base "
                f"classes, not {type(state).__qualname__}."
            )

    def _write(self, model: BaseModel, cells: dict[str, Any], cleared: Any) -> None:
        for name in cleared:
            if name in self._fields.schema.fields and name not in cells:
                clear_cell(model, name)
        for name, cell in cells.items():
            if name in self._fields.schema.fields:
                write_cell(model, name, cell)
