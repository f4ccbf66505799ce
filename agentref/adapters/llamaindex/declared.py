"""Whether an inline value can be read again by the model that a context's state is kept in.

LlamaIndex sets a field of a model without a look at its type, and reads the whole state by it: one value of
another type, and a saved state can never be read again. Pure.
"""

from collections import deque
from collections.abc import AsyncIterable, Iterable
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from workflows.events import DictLikeModel

from agentref.adapters.llamaindex.models import declared_type
from agentref.errors import InvalidInputError

__all__ = ["check_declared"]

_OPEN: Final = (list, dict, list[Any], dict[str, Any])
_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})
# Whoever reads a stream uses it up. A class is found again by the workflow's serializer, which may know
# more of them than can be imported.
_NOT_LOOKED_AT: Final = (Iterable, AsyncIterable, type)


def check_declared(model: type[BaseModel], name: str, value: Any, called: str) -> None:
    """Raise `InvalidInputError` for a value that the model would refuse when a saved state is read.
    `called` is what the error calls the field.

    Asks pydantic itself, with the value as it is saved: as JSON. What cannot be saved at all passes, since
    whoever saves it hears of that; so does what comes back as another value, what cannot be looked at
    without using it up, and all in a model that is not of ours.
    """
    declared = declared_type(model, name)
    if declared is None or value is None or _is_open(model.model_fields[name].annotation, value):
        return
    try:
        if _can_be_looked_at(value):
            declared.validate_python(declared.dump_python(value, mode="json", warnings=False))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, (called, *wrong["loc"])))
        raise InvalidInputError(
            f"{called} is declared as {_spelled(model.model_fields[name].annotation)}, and a saved context "
            f"with this {type(value).__name__} in it could not be read: {wrong['msg']} ({where:.200})."
        ) from None
    except Exception:  # noqa: BLE001  (serializers and validators are the user's)
        return


def _is_open(kind: Any, value: Any) -> bool:
    """Whether a look tells that the value fits: what is in there may be anything, and keys become texts."""
    for option in get_args(kind):  # every field may be None, so it is a union
        if option in _OPEN and type(value) is (get_origin(option) or option):
            return True
        if option == list[dict[str, Any]] and type(value) is list:
            return all(type(item) is dict for item in value)
    return False


def _can_be_looked_at(value: Any) -> bool:
    """Whether dumping the value uses up nothing, and reading it asks for no class that only the workflow's
    serializer may know. Takes apart what pydantic does."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if isinstance(value, dict):
        return _all_can(value.values())
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return _all_can(value)
    if isinstance(value, BaseModel):
        parts = (value.__dict__, value.__pydantic_extra__ or {})
        return not isinstance(value, DictLikeModel) and all(_all_can(part.values()) for part in parts)
    if is_dataclass(kind):
        return _all_can([getattr(value, part.name, None) for part in fields(value)])
    return isinstance(value, str) or not isinstance(value, _NOT_LOOKED_AT)


def _all_can(values: Iterable[Any]) -> bool:
    return _PLAIN.issuperset(map(type, values)) or all(map(_can_be_looked_at, values))


def _spelled(kind: Any) -> str:
    given = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Annotated or (get_origin(kind) in {Union, UnionType} and len(given) == 1):
        return _spelled(given[0])  # every field may be without a value
    return kind.__qualname__ if type(kind) is type else str(kind).replace("typing.", "")
