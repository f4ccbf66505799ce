"""What a state class declares: its fields, read once, when the class is created."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar, overload

from agentref.errors import StateDefinitionError, UnknownFieldError
from agentref.state.annotations import is_class_variable, own_annotations, resolve
from agentref.state.markers import Placement, read_annotation, show

__all__ = ["Field", "Schema", "Split", "field", "own_fields"]

_T = TypeVar("_T")
_MISSING: Final = dataclasses.MISSING


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One declared field. Immutable.

    Attributes:
        name: as declared.
        placement: where its value is kept.
        type: the plain type, without marker and metadata.
        annotation: as declared and resolved, marker included; fit for a LangGraph schema.
        metadata: what else stood in `Annotated`, in order: a reducer, a merge policy.
        default_factory: makes the value of a field that was not given; None when it then stays unset.
    """

    name: str
    placement: Placement
    type: Any
    annotation: Any
    metadata: tuple[Any, ...] = ()
    default_factory: Callable[[], object] | None = None


class Split(NamedTuple):
    """Values, sorted by where they are kept. `unknown` holds those that the schema does not place."""

    inline: dict[str, Any]
    external: dict[str, Any]
    unknown: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """The fields of a state class, in order of declaration. Immutable, safe to share among threads.

    Attributes:
        name: the qualified name of the class.
        fields: name to `Field`, read-only.
        unmarked: names that a foreign class annotates without a marker; see `Schema.of`.
        external: names of the externalized fields.
    """

    name: str
    fields: Mapping[str, Field]
    unmarked: frozenset[str] = frozenset()
    external: frozenset[str] = dataclasses.field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))
        external = (each.name for each in self.fields.values() if each.placement is Placement.EXTERNALIZED)
        object.__setattr__(self, "external", frozenset(external))

    @classmethod
    def of(cls, declared: type, /, *, allow_unmarked: bool = False) -> "Schema":
        """The schema of an `AgentRefState`, or of a TypedDict, dataclass or pydantic class with markers.

        The same rules hold for all of them. With `allow_unmarked` a foreign class may leave fields
        unmarked (those of LangGraph's `MessagesState`, say); they are listed in `unmarked`.
        A foreign class keeps its own defaults. Raises `StateDefinitionError`.
        """
        if not isinstance(declared, type):
            raise StateDefinitionError(f"{declared!r:.80} is no class, so it declares no state.")
        ready = vars(declared).get("__agentref_schema__")
        if isinstance(ready, Schema):
            return ready
        fields: dict[str, Field] = {}
        unmarked: set[str] = set()
        for base in reversed(declared.__mro__):
            annotations = _public_annotations(base, is_typed_dict=issubclass(declared, dict))
            found, plain = _read_fields(base, resolve(base, annotations), allow_unmarked=allow_unmarked)
            unmarked = (unmarked - found.keys()) | plain
            fields = {name: each for name, each in fields.items() if name not in plain} | found
        if not fields and not unmarked:
            raise StateDefinitionError(
                f"{declared.__qualname__} declares no field. "
                f"Annotate some with Inline[...] or Externalized[...]."
            )
        return cls(declared.__qualname__, fields, frozenset(unmarked))

    def __getitem__(self, name: object) -> Field:
        """The field of that name. `UnknownFieldError`, with the closest names, when there is none."""
        if isinstance(name, str) and name in self.fields:
            return self.fields[name]
        close = difflib.get_close_matches(name, self.fields, n=3) if isinstance(name, str) else []
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        known = ", ".join(self.fields) or "none"
        raise UnknownFieldError(f"{self.name} has no field {name!r:.80}.{hint} Its fields: {known}.")

    def split(self, values: Mapping[str, Any], /) -> Split:
        """Sort `values` by where their fields are kept. Copies no value, raises nothing."""
        sorted_ = Split({}, {}, {})
        for name, value in values.items():
            if name not in self.fields:
                sorted_.unknown[name] = value
            elif name in self.external:
                sorted_.external[name] = value
            else:
                sorted_.inline[name] = value
        return sorted_


@dataclasses.dataclass(frozen=True, slots=True)
class _Default:
    """What `field` leaves in a class body."""

    make: Callable[[], object]


@overload
def field(*, default: _T) -> _T: ...
@overload
def field(*, default_factory: Callable[[], _T]) -> _T: ...
def field(*, default: Any = _MISSING, default_factory: Any = _MISSING) -> Any:
    """The default of a state's field: one immutable value, or a factory that is called for each instance.

    `docs: Externalized[list[str]] = field(default_factory=list)`.
    """
    if (default is _MISSING) == (default_factory is _MISSING):
        raise StateDefinitionError("field() takes either default= or default_factory=.")
    if default is not _MISSING:
        return _Default(_constant("field(default=...)", default))
    if not callable(default_factory):
        raise StateDefinitionError(
            f"field(default_factory=...) takes a callable such as list, not {default_factory!r:.80}."
        )
    return _Default(default_factory)


def own_fields(cls: type) -> dict[str, Field]:
    """The fields that the body of a state class itself declares, with their defaults.

    Takes each default out of the class, so that reading an attribute finds the instance's value.
    Raises `StateDefinitionError`.
    """
    annotations = own_annotations(cls)
    _refuse_unannotated(cls, annotations)
    hints = resolve(cls, annotations)
    _refuse_private(cls, hints)
    fields, _ = _read_fields(cls, hints, allow_unmarked=False)
    for name, declared in fields.items():
        default = vars(cls).get(name, _MISSING)
        if default is not _MISSING:
            delattr(cls, name)
            where = f"{cls.__qualname__}.{name}"
            make = default.make if isinstance(default, _Default) else _constant(where, default)
            fields[name] = dataclasses.replace(declared, default_factory=make)
    return fields


def _read_fields(
    cls: type, hints: Mapping[str, Any], *, allow_unmarked: bool
) -> tuple[dict[str, Field], set[str]]:
    fields: dict[str, Field] = {}
    unmarked: set[str] = set()
    for name, annotation in hints.items():
        if is_class_variable(annotation):
            continue
        where = f"{cls.__qualname__}.{name}"
        placement, bare, metadata = read_annotation(where, annotation)
        if placement is not None:
            fields[name] = Field(name, placement, bare, annotation, metadata)
        elif allow_unmarked:
            unmarked.add(name)
        else:
            _refuse_unmarked(where, name, bare, metadata)
    return fields, unmarked


def _refuse_unmarked(where: str, name: str, bare: Any, metadata: tuple[Any, ...]) -> None:
    choices = (
        f"{each.marker}[{show(bare)}]"
        if not metadata
        else f"Annotated[{each.marker}[{show(bare)}], {', '.join(map(show, metadata))}]"
        for each in Placement
    )
    inline, external = choices
    raise StateDefinitionError(
        f"{where} does not say where it is kept. Write `{name}: {inline}` (carried by the checkpoint) "
        f"or `{name}: {external}` (kept in the store)."
    )


def _refuse_private(cls: type, hints: Mapping[str, Any]) -> None:
    for name, hint in hints.items():
        if name.startswith("_") and not is_class_variable(hint):
            raise StateDefinitionError(
                f"{cls.__qualname__}.{name}: a field's name starts with no underscore. "
                f"Rename it, or annotate it as ClassVar[...]."
            )


def _refuse_unannotated(cls: type, annotations: Mapping[str, Any]) -> None:
    for name, value in vars(cls).items():
        # What a class body holds besides fields: methods, properties and other descriptors, nested classes.
        if name in annotations or name.startswith("_") or hasattr(type(value), "__get__"):
            continue
        if not isinstance(value, type):
            raise StateDefinitionError(
                f"{cls.__qualname__}.{name} has a value but no annotation, so it is no field. Write "
                f"`{name}: Inline[...] = ...`, or `{name}: ClassVar[...] = ...` for a constant."
            )


def _constant(where: str, value: object) -> Callable[[], object]:
    if type(value).__hash__ is None:
        raise StateDefinitionError(
            f"{where}: a {type(value).__name__} as default would be shared by all instances. Write "
            f"field(default_factory={show(type(value))}) or a factory of your own."
        )
    return lambda: value


def _public_annotations(cls: type, *, is_typed_dict: bool) -> dict[str, Any]:
    """What a foreign class annotates, without its machinery. In a TypedDict every name is a key."""
    annotations = own_annotations(cls)
    return {name: each for name, each in annotations.items() if is_typed_dict or not name.startswith("_")}
