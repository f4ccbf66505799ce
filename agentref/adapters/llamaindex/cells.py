"""The cells of a state class in whatever model LlamaIndex keeps a context's state in.

A cell is what the context itself carries: an inline value, or the wire form of a ref.
"""

from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import PydanticUndefined
from workflows.events import DictLikeModel

from agentref.adapters.llamaindex.models import CellModel
from agentref.errors import ConfigurationError, InvalidInputError, InvalidRefError
from agentref.refs import REF_KEY, ContentRef, Digest
from agentref.state import Schema
from agentref.trees import Part, Seals

__all__ = ["check_model", "clear_cell", "copied", "read_cells", "ref_in", "write_cell"]

_ATOMS: Final = frozenset(
    {
        str,
        int,
        float,
        bool,
        type(None),
        bytes,
        datetime,
        date,
        timedelta,
        UUID,
        ContentRef,
    }
)
_OF_DATA: Final = frozenset({"builtins", "collections", "array", "numpy", "pandas"})
_WIRE: Final = ContentRef(Digest(bytes(32)), "raw", 0).to_dict()


def check_model(model: Any, schema: Schema) -> None:
    """Raise `ConfigurationError` for a user's model that has no room for the cells, `InvalidInputError` for
    what is no model."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise InvalidInputError(f"A state store keeps a pydantic model, and this one {model!r:.80}.")
    for name in schema.fields:
        field = model.model_fields.get(name)
        if field is None:
            if issubclass(model, DictLikeModel) or model.model_config.get("extra") == "allow":
                continue
            if issubclass(model, CellModel):
                raise ConfigurationError(
                    f"The context's state is of another state class than this {schema.name}: it has no "
                    f"field {name!r}. If there are two of that name, a context that is restored finds the "
                    f"one that an adapter was made for last: rename one."
                )
            raise ConfigurationError(
                f"The context's state is a {model.__qualname__}, which has no field {name!r}. Annotate the "
                f"steps with Context[adapter.schema()], or give that model all fields of {schema.name}."
            )
        if model.model_config.get("frozen") or field.frozen:
            raise ConfigurationError(
                f"{model.__qualname__}.{name} is frozen, so no step could write it. Leave `frozen` out."
            )
        if name in schema.external and field.exclude:
            raise ConfigurationError(
                f"{model.__qualname__}.{name} has exclude=True, so no saved context would hold its ref. "
                f"Leave that out: a ref is small."
            )
        if name in schema.external and not _takes_wire(field.annotation):
            raise ConfigurationError(
                f"{model.__qualname__}.{name} cannot hold a ref, which is a dict: annotate it with Any, "
                f"with None as its default, or the steps with Context[adapter.schema()]."
            )


def read_cells(state: BaseModel, schema: Schema) -> dict[str, Any]:
    """The cells that are set, in order of declaration."""
    found: dict[str, Any] = {}
    extra = _extra(state)
    for name in schema.fields:
        if name not in type(state).model_fields:
            if name in extra:
                found[name] = extra[name]
            continue
        cell = getattr(state, name)
        # In a user's own model every field has a value from the start; None is what no ref looks like.
        is_set = name not in schema.external or cell is not None
        if name in state.model_fields_set if isinstance(state, CellModel) else is_set:
            found[name] = cell
    return found


def write_cell(state: BaseModel, name: str, cell: Any) -> None:
    """Set a cell, in a model that is the caller's own."""
    if isinstance(state, DictLikeModel) and name not in type(state).model_fields:
        state[name] = cell
    else:
        setattr(state, name, cell)


def clear_cell(state: BaseModel, name: str) -> None:
    """Make a cell as it was when the state was new, in a model that is the caller's own."""
    field = type(state).model_fields.get(name)
    if field is None:
        _extra(state).pop(name, None)
        return
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        raise ConfigurationError(
            f"{type(state).__qualname__}.{name} has no default, so it cannot be cleared. Give it one."
        )
    setattr(state, name, default)
    state.model_fields_set.discard(name)


def copied(value: Any) -> Any:
    """A copy to hand out, of what is data. Anything else in it, a lock or a client say, is the same one:
    steps share it."""
    try:
        return _copied(value)
    except RecursionError:  # of a value that holds itself
        return deepcopy(value)


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return value.copy() if _ATOMS.issuperset(map(type, value)) else [_copied(item) for item in value]
    if kind is dict:
        return {key: _copied(item) for key, item in value.items()}
    if kind is tuple:
        return tuple([_copied(item) for item in value])
    try:
        if isinstance(value, BaseModel):
            return _copied_model(value)
        if is_dataclass(kind):
            return _copied_dataclass(value)
        if kind.__module__.partition(".")[0] in _OF_DATA or isinstance(value, tuple):
            return deepcopy(value)
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001  (of a class that is the user's)
        return value
    return value


def _copied_model(value: BaseModel) -> BaseModel:
    made = BaseModel.__copy__(value)
    for part in (made.__dict__, made.__pydantic_extra__, made.__pydantic_private__):
        for name, item in (part or {}).items():
            part[name] = _copied(item)  # type: ignore[index]  # there are items, so it is there
    return made


def _copied_dataclass(value: Any) -> Any:
    made = copy(value)
    for declared in fields(value):
        if hasattr(value, declared.name):
            object.__setattr__(made, declared.name, _copied(getattr(value, declared.name)))  # also frozen
    return made


def ref_in(cell: Any, seals: Seals) -> ContentRef | None:
    """The ref that the cell of an external field holds; None for a value that stands there itself.

    Raises `InvalidRefError` or `InvalidDigestError` for a ref that is malformed, and `UntrustedRefError`
    for one that is not sealed as it should be.
    """
    if not isinstance(cell, Mapping) or cell.keys() != {REF_KEY}:
        return None
    part = seals.read(dict(cell))
    if not isinstance(part, Part) or part.items is not None:
        raise InvalidRefError(f"{cell!r:.80} is no ref to the value of a field.")
    return part.ref


def _extra(state: BaseModel) -> dict[str, Any]:
    """The part of a model that takes any name: the dict itself, or an empty one."""
    if isinstance(state, DictLikeModel):
        entries: dict[str, Any] = state.to_dict()
        return entries
    return {} if state.model_extra is None else state.model_extra


def _takes_wire(annotation: Any) -> bool:
    try:
        return bool(TypeAdapter(annotation).validate_python(_WIRE) == _WIRE)
    except (ValidationError, PydanticSchemaGenerationError):
        return False
