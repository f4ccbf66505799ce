"""`AgentRefState`: a typed class for an agent's state, whose large fields load when they are first read."""

import reprlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, Self, dataclass_transform

from agentref.errors import InvalidInputError, StateDefinitionError, StateError
from agentref.refs import ContentRef
from agentref.state.cells import Cells
from agentref.state.protocol import AsyncValueStore, ValueStore
from agentref.state.schema import Field, Schema, field, own_fields

__all__ = ["DEFAULT_INLINE_THRESHOLD_BYTES", "AgentRefState"]

DEFAULT_INLINE_THRESHOLD_BYTES = 64 * 1024


@dataclass_transform(kw_only_default=True, field_specifiers=(field,))
class AgentRefState:
    """Base of typed state classes. Each field says where it is kept:

        class RAGState(AgentRefState):
            question: Inline[str]                  # carried by the checkpoint
            docs: Externalized[list[str]]          # kept in the store; the checkpoint carries a ref
            tries: Inline[int] = 0
            pages: Externalized[list[str]] = field(default_factory=list)

    Subclasses inherit fields and may declare them again. What a class body cannot mean (a field without
    marker or annotation, an annotation that cannot be resolved, a marker in the wrong place, a mutable
    default, a name that the base uses) raises `StateDefinitionError` when the class is created.

    The constructor takes fields by keyword. Type checkers ask for all that have no default; at run time
    the rest may come later, as a graph's state fills up: reading one before that is `UnsetFieldError`.
    A name that is not declared is `UnknownFieldError`, on every way in or out.

    Fields are read and set as attributes or as items. A state also behaves as a mapping of the fields
    that are set, in order of declaration: `in`, `len`, iteration, `keys`, `dict(state)`, `{**state}`.
    It is compared by class and values, is not hashable, and copies share what is not loaded. It is not
    pickled (`StateError`): its checkpoint form is what travels.

    A field that came as a ref is loaded when it is first read, which blocks; on an event loop
    `await state.aload()` first. Threads may read the same state at once: all of them get the same value.
    A loaded value may be changed in place: `to_checkpoint_dict` stores every loaded value again.
    """

    __slots__ = ("_agentref_cells",)
    # Not annotated: a framework that reads the annotations of a state must find its fields only.
    __agentref_own__ = MappingProxyType[str, Field]({})
    __agentref_schema__ = Schema("AgentRefState", {})
    if TYPE_CHECKING:
        _agentref_cells: Cells

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__agentref_own__ = MappingProxyType(own_fields(cls))
        cls.__agentref_schema__ = Schema(cls.__qualname__, _merge(cls))

    def __new__(cls, /, *_: object, **__: object) -> Self:
        """Empty; the constructor, or `from_checkpoint_dict`, fills it."""
        state = super().__new__(cls)
        object.__setattr__(state, "_agentref_cells", Cells(cls.__agentref_schema__))
        return state

    def __init__(self, /, **values: Any) -> None:
        for name in values:
            self._declared(name)
        for name, value in values.items():
            self._agentref_cells.assign(name, value)
        self._agentref_cells.fill_defaults()

    @classmethod
    def schema(cls) -> Schema:
        """The fields of this class. Made once; free to call."""
        return cls.__agentref_schema__

    # --- to and from checkpoints

    @classmethod
    def from_checkpoint_dict(cls, data: Mapping[str, Any], store: ValueStore | AsyncValueStore) -> Self:
        """The state that a checkpoint holds. Reads nothing from `store` yet.

        An external field may be the wire form of a ref, a `ContentRef`, or a plain value (a checkpoint
        from before the field was externalized). An inline field is taken as it is, whatever it looks
        like. Fields that are absent get their default, or stay unset. `__init__` is not called.
        Raises `UnknownFieldError` for other keys, `InvalidRefError` for a ref that is none.
        """
        if not isinstance(data, Mapping):
            raise InvalidInputError(f"A checkpoint of {cls.__qualname__} is a mapping, not {data!r:.80}.")
        cells = Cells(cls.schema())
        cells.adopt(data, store)
        cells.fill_defaults()
        return cls._holding(cells)

    def to_checkpoint_dict(
        self, store: ValueStore, *, inline_threshold_bytes: int = DEFAULT_INLINE_THRESHOLD_BYTES
    ) -> dict[str, Any]:
        """What a checkpoint carries: inline values as they are, external fields as wire forms of refs.

        One `dump_many` for all external values that are loaded or assigned, so a change in place is
        never lost (an unchanged value costs its encoding, and no new bytes in the store). What was not
        loaded keeps its ref, without I/O: `store` must be the one that it came from, or hold the same.
        Raises `InlineSizeExceeded` for an inline value that is larger than `inline_threshold_bytes`
        once encoded, before anything is stored.
        """
        _check_store(store, ValueStore)
        plan = self._agentref_cells.plan(store.size_of, inline_threshold_bytes)
        return plan.finish(plan.dump(store))

    async def ato_checkpoint_dict(
        self, store: AsyncValueStore, *, inline_threshold_bytes: int = DEFAULT_INLINE_THRESHOLD_BYTES
    ) -> dict[str, Any]:
        """As `to_checkpoint_dict`, without blocking the event loop for I/O."""
        _check_store(store, AsyncValueStore)
        plan = self._agentref_cells.plan(store.size_of, inline_threshold_bytes)
        return plan.finish(await plan.adump(store))

    # --- lazy values

    def load(self, *names: str) -> None:
        """Load these fields (without names: all) in one batch; what is loaded, inline or unset stays."""
        self._agentref_cells.load(names)

    async def aload(self, *names: str) -> None:
        """As `load`, without blocking the event loop."""
        await self._agentref_cells.aload(names)

    def touched(self) -> frozenset[str]:
        """The external fields that were read, loaded or assigned here: those that may have changed."""
        return self._agentref_cells.touched()

    def refs(self) -> dict[str, ContentRef]:
        """The external fields that are not loaded, with their refs."""
        return self._agentref_cells.refs()

    # --- as a mapping of the fields that are set

    def __getitem__(self, name: str) -> Any:
        return self._agentref_cells.read(self._declared(name))

    def __setitem__(self, name: str, value: Any) -> None:
        self._agentref_cells.assign(self._declared(name), value)

    def __contains__(self, name: object) -> bool:
        return self._agentref_cells.has(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a declared field, or `default` while it is unset."""
        return self[name] if self._declared(name) in self else default

    def keys(self) -> list[str]:
        """The names of the fields that are set."""
        return self._agentref_cells.names()

    def values(self) -> list[Any]:
        """The values of the fields that are set; loads all of them in one batch."""
        return [value for _, value in self.items()]

    def items(self) -> list[tuple[str, Any]]:
        """Name and value of the fields that are set; loads all of them in one batch."""
        self.load()
        return [(name, self[name]) for name in self]

    def __eq__(self, other: object) -> bool:
        """Same class, same fields set, equal values. Loads what it must; equal refs are equal values."""
        if type(other) is not type(self):
            return NotImplemented
        return self._agentref_cells.same_as(other._agentref_cells)

    __hash__ = None  # type: ignore[assignment]

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        refs = self.refs()
        shown = (
            f"{name}=<external {refs[name].size:,} bytes>"
            if name in refs
            else f"{name}={reprlib.repr(self._agentref_cells.peek(name))}"
            for name in self
        )
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __copy__(self) -> Self:
        return self._holding(self._agentref_cells.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = self._holding(Cells(self.schema()))
        memo[id(self)] = twin  # before its values, one of which may be this state again
        object.__setattr__(twin, "_agentref_cells", self._agentref_cells.copy(memo))
        return twin

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise StateError(
            f"A {type(self).__qualname__} is not pickled: it may hold refs and a store. Send "
            f"state.to_checkpoint_dict(store), and build it again with from_checkpoint_dict."
        )

    def _declared(self, name: object) -> str:
        return self.schema()[name].name

    @classmethod
    def _holding(cls, cells: Cells) -> Self:
        state = cls.__new__(cls)
        object.__setattr__(state, "_agentref_cells", cells)
        return state

    if not TYPE_CHECKING:  # to a type checker an undeclared attribute is an error already

        def __getattr__(self, name: str) -> Any:
            if name not in self.schema().fields and _class_attribute(type(self), name) is not None:
                # A property raised AttributeError, and so Python asks here. Let it say so itself.
                return object.__getattribute__(self, name)
            return self[name]

        def __setattr__(self, name: str, value: Any) -> None:
            if hasattr(type(_class_attribute(type(self), name)), "__set__"):
                object.__setattr__(self, name, value)
            else:
                self[name] = value

        def __delattr__(self, name: str) -> None:
            raise StateError(
                f"{self.schema()[name].name!r} cannot be deleted. Assign another value instead."
            )


def _check_store(store: object, wanted: type) -> None:
    if isinstance(store, type) or not isinstance(store, wanted):
        raise InvalidInputError(
            f"store must be a content-addressed store, such as FilesystemCAS('./state_blobs'), "
            f"not {store!r:.80}: it lacks methods of {wanted.__name__}."
        )


def _class_attribute(cls: type, name: str) -> object:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _merge(cls: type[AgentRefState]) -> dict[str, Field]:
    """The fields of `cls` and its bases: the most derived declaration wins, at the place of the first."""
    declaring = [base for base in cls.__mro__ if issubclass(base, AgentRefState)]
    fields: dict[str, Field] = {}
    for base in reversed(declaring):
        fields |= base.__agentref_own__
    for name, chosen in fields.items():
        winner, *others = (base for base in declaring if name in base.__agentref_own__)
        for other in others:
            declared = other.__agentref_own__[name]
            if not issubclass(winner, other) and declared.annotation != chosen.annotation:
                raise StateDefinitionError(
                    f"{cls.__qualname__}.{name}: {winner.__qualname__} and {other.__qualname__} declare it "
                    f"differently. Declare it in {cls.__qualname__} too."
                )
        if _class_attribute(cls, name) is not None:
            raise StateDefinitionError(
                f"{cls.__qualname__}.{name}: the class also has an attribute or a method of this name, "
                f"which would hide the field. Rename the field."
            )
    return fields
