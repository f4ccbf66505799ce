"""Pydantic models as JSON trees in which bytes are still bytes. Pure.

Pydantic's own mode "json" makes texts of them: where a field does not say that it holds bytes, whether they
come back depends on what is in them, and those that are no UTF-8 are refused.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from agentref.errors import InvalidInputError

__all__ = ["dumped_with_bytes", "holds_bytes"]

_LEAVES = frozenset({str, int, float, bool, type(None)})


def holds_bytes(value: Any) -> bool:
    """Whether there are bytes in a value, its containers and models, but for those that a field of a model
    is declared to hold, if they are UTF-8: pydantic makes them bytes again. Raises `RecursionError` for
    one that is too deep, or holds itself.
    """
    kind = type(value)
    if kind in _LEAVES:
        return False
    if isinstance(value, (bytes, bytearray)):
        return True
    if isinstance(value, dict):
        return any(map(holds_bytes, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(map(holds_bytes, value))
    return isinstance(value, BaseModel) and any(
        not _is_declared(value, name, part) for name, part in _parts(value) if holds_bytes(part)
    )


def dumped_with_bytes(model: BaseModel) -> Any:
    """The model as pydantic's mode "json" has it, except that bytes stay bytes.

    Raises `InvalidInputError` for one with bytes in a field that is read under another name than it is
    dumped under: they would be lost, and nobody told.
    """
    _check_names(model)
    return _jsonable(model.model_dump())


def _parts(model: BaseModel) -> Iterator[tuple[str, Any]]:
    yield from model.__dict__.items()
    yield from (model.__pydantic_extra__ or {}).items()
    yield from (model.__pydantic_private__ or {}).items()


def _is_declared(model: BaseModel, name: str, part: Any) -> bool:
    field = type(model).model_fields.get(name)
    if field is None or field.annotation is not bytes or field.validation_alias or type(part) is not bytes:
        return False
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_names(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _check_names(item)
    if not isinstance(value, BaseModel):
        return
    config = type(value).model_config
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    for name, field in type(value).model_fields.items():
        part = getattr(value, name, None)
        if by_name or field.validation_alias is None or not holds_bytes(part):
            _check_names(part)
            continue
        written = (field.serialization_alias or name) if config.get("serialize_by_alias") else name
        if written != field.validation_alias:
            raise InvalidInputError(
                f"{type(value).__qualname__}.{name} holds bytes, is written as {written!r} and read as "
                f"{field.validation_alias!r}: it would be lost. Give the model populate_by_name=True."
            )


def _jsonable(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            key if isinstance(key, str) else next(iter(to_jsonable_python({key: None}))): _jsonable(value)
            for key, value in part.items()
        }
    if isinstance(part, (list, tuple, set, frozenset)):
        return [_jsonable(item) for item in part]
    return part if isinstance(part, (bytes, bytearray)) else to_jsonable_python(part)
