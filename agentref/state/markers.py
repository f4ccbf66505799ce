"""`Inline[T]` and `Externalized[T]`: where a field's value is kept, said in its annotation.

To a type checker both are `T`. At run time they are `Annotated[T, Placement...]`, so that a framework
which reads annotations (LangGraph, pydantic) sees `T` and a piece of metadata that it ignores.
"""

import enum
from collections.abc import Iterator
from typing import (
    Annotated,
    Any,
    Final,
    NamedTuple,
    NotRequired,
    Required,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from agentref.errors import StateDefinitionError

__all__ = ["Externalized", "Inline", "Marked", "Placement", "read_annotation", "show"]

_T = TypeVar("_T")


class Placement(enum.Enum):
    """Where a field's value is kept. The members are the markers inside of an annotation.

    They are neither callable nor channels, so LangGraph takes them for no reducer.
    """

    INLINE = "inline"
    EXTERNALIZED = "externalized"

    @property
    def marker(self) -> str:
        """The name of the marker as it is written in an annotation."""
        return self.value.capitalize()


Inline: TypeAlias = Annotated[_T, Placement.INLINE]
"""`Inline[T]` is a `T` that the checkpoint carries itself: small control state."""

Externalized: TypeAlias = Annotated[_T, Placement.EXTERNALIZED]
"""`Externalized[T]` is a `T` that is kept in the store; the checkpoint carries a ref of about 150 bytes.

A reducer goes around it: `Annotated[Externalized[list[str]], operator.add]`.
"""


class Marked(NamedTuple):
    """An annotation, read. `placement` is None when it carries no marker."""

    placement: Placement | None
    type: Any
    metadata: tuple[Any, ...]


# ReadOnly is in `typing` from 3.13 on, and in typing_extensions before; both call themselves so.
_QUALIFIERS: Final = (Required, NotRequired)
_READ_ONLY: Final = "ReadOnly"


def read_annotation(where: str, annotation: Any) -> Marked:
    """Take a resolved annotation apart.

    Raises `StateDefinitionError`, which names `where` (class and field) and what to write instead,
    for a marker that is nested, doubled, bare, or that stands where it would hide a reducer.
    """
    bare, metadata = _unwrap(annotation)
    placements = [item for item in metadata if isinstance(item, Placement)]
    others = tuple(item for item in metadata if not isinstance(item, Placement))
    if nested := list(_nested(bare)):
        _refuse_nested(where, annotation, [*placements, *nested])
    if not placements:
        return Marked(None, bare, others)
    placement, *more = placements
    if more:
        kept = " or ".join(f"{each.marker}[{show(bare)}]" for each in dict.fromkeys(placements))
        raise StateDefinitionError(f"{where} carries {len(placements)} markers. Keep one: {kept}.")
    if bare is _T:
        raise StateDefinitionError(
            f"{where} does not say its type. Write {placement.marker}[str] (or list[dict], Any, ...)."
        )
    if any(callable(item) for item in metadata[: metadata.index(placement)]):
        rest = ", ".join(show(item) for item in others)
        raise StateDefinitionError(
            f"{where} puts a reducer inside of {placement.marker}[...], where LangGraph would silently "
            f"ignore it. Write Annotated[{placement.marker}[{show(bare)}], {rest}]."
        )
    return Marked(placement, bare, others)


def show(item: Any) -> str:
    """`item` as one would write it in an annotation."""
    if isinstance(item, type) and not get_args(item):
        return item.__name__ if item.__module__ == "builtins" else item.__qualname__
    text = getattr(item, "__name__", None) if callable(item) and not get_args(item) else None
    return text if isinstance(text, str) else repr(item).replace("typing.", "")


def _unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type below all `Annotated` and qualifiers, and the metadata in the order LangGraph sees it."""
    metadata: tuple[Any, ...] = ()
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            metadata = (*annotation.__metadata__, *metadata)
            annotation = annotation.__origin__
        elif origin in _QUALIFIERS or getattr(origin, "_name", None) == _READ_ONLY:
            (annotation,) = get_args(annotation)
        else:
            return annotation, metadata


def _nested(annotation: Any) -> Iterator[Placement]:
    """Every marker anywhere inside of `annotation`."""
    if get_origin(annotation) is Annotated:
        yield from (item for item in annotation.__metadata__ if isinstance(item, Placement))
        yield from _nested(annotation.__origin__)
        return
    # The parameters of a Callable are a plain list among its arguments.
    for part in annotation if isinstance(annotation, list) else get_args(annotation):
        yield from _nested(part)


def _refuse_nested(where: str, annotation: Any, found: list[Placement]) -> None:
    holder = type("holder", (), {"__annotations__": {"field": annotation}})
    plain = show(get_type_hints(holder)["field"])
    kept = " or ".join(f"{each.marker}[{plain}]" for each in dict.fromkeys(found))
    raise StateDefinitionError(
        f"{where} has a marker inside of another type. A marker stands for the whole field. Write {kept}."
    )
