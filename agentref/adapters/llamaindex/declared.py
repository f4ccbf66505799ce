"""Whether an inline value can be read again by the model that a context's state is kept in.

LlamaIndex sets a field of a model without a look at its type, and reads the whole state by it: one value of
another type, and a saved state can never be read again. Pure.
"""

from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from datetime import date, datetime, timedelta
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from workflows.events import DictLikeModel

from agentref.adapters.llamaindex.models import CellModel
from agentref.errors import InvalidInputError

__all__ = ["check_declared"]

_ATOMS: Final = frozenset({str, int, float, bool, bytes, datetime, date, timedelta, UUID})
_STREAMS: Final = (Iterable, Iterator, Generator, AsyncIterable, AsyncIterator)  # read but once


def check_declared(model: type[BaseModel], name: str, value: Any, called: str) -> None:
    """Raise `InvalidInputError` for a value that the model would refuse when a saved state is read.
    `called` is what the error calls the field.

    Asks the model itself, with the value as it is saved: as JSON. What cannot be saved at all passes, since
    whoever saves it hears of that; so does what comes back as another value, and all in a model that is not
    of ours.
    """
    field = model.model_fields.get(name) if issubclass(model, CellModel) else None
    if field is None or value is None or _surely_reads(field, value):
        return
    try:
        saved = model.model_construct({name}, **{name: value}).model_dump(
            mode="json", include={name}, warnings=False
        )
    except Exception:  # noqa: BLE001  (serializers are the user's)
        return
    try:
        model.model_validate(saved)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, (called, *wrong["loc"][1:])))
        raise InvalidInputError(
            f"{_said(called, field)}, and a saved context with this {type(value).__name__} in it could not "
            f"be read: {wrong['msg']} ({where:.200})."
        ) from None


def _surely_reads(field: FieldInfo, value: Any) -> bool:
    """Whether there is no need to ask the model, or no way without using the value up."""
    if field.annotation is Any or isinstance(value, DictLikeModel):  # an event is read by the serializer
        return True
    kind = type(value)
    for option in get_args(field.annotation):  # every field may be None, so it is a union
        if kind is option and (kind in _ATOMS or kind in {list, dict}):
            return True
        # What is in there is anything, and keys become texts.
        if (kind is dict and option == dict[str, Any]) or (kind is list and option == list[Any]):
            return True
        if kind is list and option == list[dict[str, Any]] and all(type(item) is dict for item in value):
            return True
    return isinstance(value, (Iterator, AsyncIterable)) or _has_stream(field.annotation)


def _has_stream(kind: Any) -> bool:
    # By identity: the parameters of a Callable are a list, which no set takes.
    return any(get_origin(kind) is stream or kind is stream for stream in _STREAMS) or any(
        map(_has_stream, get_args(kind))
    )


def _said(called: str, field: FieldInfo) -> str:
    return f"{called} is declared as {_spelled(field.annotation)}"


def _spelled(kind: Any) -> str:
    given = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) in {Union, UnionType} and len(given) == 1:
        return _spelled(given[0])  # every field may be without a value
    return kind.__qualname__ if type(kind) is type else str(kind).replace("typing.", "")
