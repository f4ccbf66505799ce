"""Whether an inline value is of the type that a context's model declares.

LlamaIndex sets a field of a model without a look at its type, and reads the whole state by it: one value of
another type, and a saved state can never be read again. Pure.
"""

from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.fields import FieldInfo

from agentref.errors import InvalidInputError

__all__ = ["check_declared"]

_CONFIG: Final = ConfigDict(arbitrary_types_allowed=True)
_adapters: Final[WeakKeyDictionary[type[BaseModel], dict[str, TypeAdapter[Any] | None]]] = (
    WeakKeyDictionary()
)


def check_declared(model: type[BaseModel], name: str, value: Any, called: str) -> None:
    """Raise `InvalidInputError` for a value that the model would refuse when it is read, or read as another
    one. `called` is what the error calls the field. Where the model does not say, everything passes."""
    field = model.model_fields.get(name)
    if field is None or field.annotation is Any or type(value) is field.annotation is str:
        return
    known = _adapters.get(model)
    if known is None:
        known = _adapters.setdefault(model, {})
    if name not in known:
        known[name] = _adapter(field)
    adapter = known[name]
    if adapter is None or value is None:  # None is what a field without a default begins as
        return
    try:
        read = adapter.validate_python(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, (called, *wrong["loc"])))
        raise InvalidInputError(
            f"{_said(called, field)}, and this {type(value).__name__} is none: {wrong['msg']} "
            f"({where:.200})."
        ) from None
    if not _is_same(read, value):
        raise InvalidInputError(
            f"{_said(called, field)}, and this {type(value).__name__} would come back as another value. "
            f"Convert it first."
        )


def _is_same(read: Any, value: Any) -> bool:
    if read is value:
        return True
    try:
        # NaN equals nothing.
        return bool(read == value) or (type(read) is type(value) and repr(read) == repr(value))
    except Exception:  # noqa: BLE001  (an array is compared to an array; the class is the user's)
        return True


def _adapter(field: FieldInfo) -> TypeAdapter[Any] | None:
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    for config in (_CONFIG, None):  # pydantic refuses one for a type that has its own
        try:
            return TypeAdapter(kind, config=config)
        except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError):
            continue
    return None


def _said(called: str, field: FieldInfo) -> str:
    return f"{called} is declared as {_spelled(field.annotation)}"


def _spelled(kind: Any) -> str:
    given = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) in {Union, UnionType} and len(given) == 1:
        return _spelled(given[0])  # every field may be without a value
    return kind.__qualname__ if type(kind) is type else str(kind).replace("typing.", "")
