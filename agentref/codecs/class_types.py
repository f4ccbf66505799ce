"""Classes of users and of numpy: dataclasses, pydantic models, enums, named tuples, arrays.

Objects are taken apart field by field and put together without running `__init__`, so that what
comes back is what was stored, and stored bytes choose no arguments of a call.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Collection
from enum import Enum
from types import ModuleType
from typing import Any, Final, NamedTuple

from agentref.codecs.trust import TypeTrust
from agentref.codecs.wire import Ext
from agentref.errors import MalformedBlobError, UnsupportedTypeError

__all__ = ["BY_CODE", "ClassFamily", "ModelParts", "Rows", "family_of"]


class Rows(NamedTuple):
    """The bytes of an array, to be cut between rows."""

    data: bytes
    row_bytes: int


class ClassFamily(NamedTuple):
    """`take` and `make` as of a builtin type, with the names of classes checked by a `TypeTrust`.

    `plain` is what of a state makes sense without the class.
    """

    code: Ext
    take: Callable[[Any, TypeTrust], object]
    make: Callable[[Any, TypeTrust], object]
    plain: Callable[[Any], object] = lambda state: state[1]


class ModelParts(NamedTuple):
    """What a pydantic model consists of."""

    cls: Any
    values: dict[str, Any]
    fields_set: Collection[str]
    extra: dict[str, Any] | None
    private: dict[str, Any] | None

    def state(self, trust: TypeTrust) -> list[object]:
        """What of it is packed."""
        return [
            trust.name_of(self.cls),
            {key: self.values[key] for key in self.cls.model_fields if key in self.values},
            sorted(self.fields_set),
            self.extra,
            None if self.private is None else dict(self.private),
        ]


_MAX_DIMENSIONS: Final = 64
_ENUM_VALUES: Final = frozenset({str, int, float, bool})


def _take_enum(member: Enum, trust: TypeTrust) -> list[object]:
    name = member.name if member.name in type(member).__members__ else None
    value = member.value
    if name is not None and type(value) not in _ENUM_VALUES:
        value = None  # the name is enough; the value could be anything
    return [trust.name_of(type(member)), name, value]


def _make_enum(state: list[Any], trust: TypeTrust) -> object:
    name, member, value = state
    cls: Any = trust.resolve(name, "enum", lambda found: issubclass(found, Enum))
    return cls(value) if member is None else cls[member]


def _take_dataclass(item: Any, trust: TypeTrust) -> list[object]:
    names = [field.name for field in dataclasses.fields(item)]
    _refuse_extras(item, names)
    return [trust.name_of(type(item)), {name: getattr(item, name) for name in names if hasattr(item, name)}]


def _refuse_extras(item: object, names: Collection[str]) -> None:
    """What an object holds besides its fields would be lost, unless it can be computed again."""
    cls = type(item)
    extras = [
        name
        for name in getattr(item, "__dict__", ())
        if name not in names
        and name != "__orig_class__"
        and not isinstance(getattr(cls, name, None), functools.cached_property)
    ]
    if extras:
        raise UnsupportedTypeError(
            f"A {cls.__module__}.{cls.__qualname__} has the attributes {', '.join(map(repr, extras))}, "
            f"which are no fields of it and would be lost. Declare them as fields."
        )


@functools.lru_cache(maxsize=4096)
def _is_plain_class(cls: type) -> bool:
    """Whether instances hold nothing but attributes: no base of theirs is a builtin with contents."""
    try:
        object.__new__(cls)
    except TypeError:
        return False
    return True


def _make_dataclass(state: list[Any], trust: TypeTrust) -> object:
    name, stored = state
    cls: Any = trust.resolve(name, "dataclass", dataclasses.is_dataclass)
    item = object.__new__(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    _refuse_unknown(name, stored, fields)
    for key, field in fields.items():
        if key in stored:
            object.__setattr__(item, key, stored[key])
        elif field.default is not dataclasses.MISSING:
            object.__setattr__(item, key, field.default)
        elif field.default_factory is not dataclasses.MISSING:
            object.__setattr__(item, key, field.default_factory())
    return item


def _pydantic() -> ModuleType | None:
    # Not imported on our account: an object of its type cannot exist before somebody did.
    return sys.modules.get("pydantic")


def _is_model(cls: type) -> bool:
    pydantic = _pydantic()
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def _take_model(model: Any, trust: TypeTrust) -> list[object]:
    parts = ModelParts(
        type(model),
        model.__dict__,
        model.__pydantic_fields_set__,
        model.__pydantic_extra__,
        model.__pydantic_private__,
    )
    return parts.state(trust)


def _make_model(state: list[Any], trust: TypeTrust) -> object:
    name, stored, fields_set, extra, private = state
    cls: Any = trust.resolve(name, "pydantic model", _is_model)
    fields = cls.model_fields
    _refuse_unknown(name, stored, fields)
    values = {
        key: stored[key] if key in stored else field.get_default(call_default_factory=True)
        for key, field in fields.items()
        if key in stored or not field.is_required()
    }
    model = cls.__new__(cls)
    sys.modules["pydantic"].BaseModel.__setstate__(
        model,
        {
            "__dict__": values,
            "__pydantic_fields_set__": set(fields_set),
            "__pydantic_extra__": extra,
            "__pydantic_private__": private,
        },
    )
    return model


def _refuse_unknown(name: str, stored: dict[str, object], known: Any) -> None:
    unknown = [key for key in stored if key not in known]
    if unknown:
        raise MalformedBlobError(
            f"A stored {name} has the fields {', '.join(map(repr, unknown))}, which the class no longer "
            f"declares. Declare them again, with a default, to read it."
        )


def _is_namedtuple(cls: type) -> bool:
    return issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple)


def _take_namedtuple(item: Any, trust: TypeTrust) -> list[object]:
    _refuse_extras(item, ())
    if len(item) != len(item._fields):
        raise UnsupportedTypeError(
            f"A {type(item).__qualname__} has {len(item)} items for {len(item._fields)} fields."
        )
    return [trust.name_of(type(item)), list(item)]


def _make_namedtuple(state: list[Any], trust: TypeTrust) -> object:
    name, values = state
    cls: Any = trust.resolve(name, "named tuple", _is_namedtuple)
    if len(values) != len(cls._fields):
        raise MalformedBlobError(f"A stored {name} has {len(values)} fields, the class {len(cls._fields)}.")
    return tuple.__new__(cls, values)


def _numpy() -> Any:
    try:
        import numpy as np  # noqa: PLC0415  (optional: only who stores arrays has it)
    except ImportError as error:
        raise UnsupportedTypeError("The value holds a numpy array: install numpy to read it.") from error
    return np


def _take_array(array: Any, _trust: TypeTrust) -> list[object]:
    descr = _descr(array.dtype)
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    rows = array.shape[-1 if order == "F" else 0] if array.ndim else 1
    data = (_without_padding(array) if array.dtype.names else array).tobytes(order)
    return [descr, list(array.shape), order, Rows(data, array.nbytes // rows if rows else 0)]


def _without_padding(array: Any) -> Any:
    """A copy whose bytes between the fields are zero: they could be anything, and differ each time."""
    clean = _numpy().zeros(array.shape, array.dtype)
    for name in array.dtype.names:
        part = array[name]
        clean[name] = _without_padding(part) if part.dtype.names else part
    return clean


def _descr(dtype: Any) -> object:
    if dtype.hasobject or not dtype.itemsize or dtype.metadata or _has_long_doubles(dtype):
        raise UnsupportedTypeError(
            f"A numpy array of {dtype} (Python objects, long doubles, items of no size, or with metadata) "
            f"cannot be stored. Use .tolist(), or a plain dtype."
        )
    try:
        return _numpy().lib.format.dtype_to_descr(dtype)
    except (TypeError, ValueError) as error:
        raise UnsupportedTypeError(f"A numpy array of {dtype} cannot be stored: {error}") from error


def _has_long_doubles(dtype: Any) -> bool:
    # They differ among machines, and their padding could hold anything.
    base = dtype.base
    return base.char in {"g", "G"} or any(_has_long_doubles(base[name]) for name in base.names or ())


def _make_array(state: list[Any], _trust: TypeTrust) -> Any:
    descr, shape, order, data = state
    np = _numpy()
    dtype = np.lib.format.descr_to_dtype(descr)
    if dtype.hasobject or not dtype.itemsize or order not in {"C", "F"} or len(shape) > _MAX_DIMENSIONS:
        raise MalformedBlobError("A stored array is of a kind that is never stored.")
    count = len(data) // dtype.itemsize
    if not all(type(length) is int and length >= 0 for length in shape):
        raise MalformedBlobError("A stored array has an impossible shape.")
    if math.prod(shape) != count or count * dtype.itemsize != len(data):
        raise MalformedBlobError("A stored array's shape, type and bytes do not agree.")
    array = np.empty(shape, dtype, order)
    if count:
        array.reshape(-1, order="A").view(np.uint8)[:] = np.frombuffer(data, np.uint8)
    return array


def _take_scalar(scalar: Any, _trust: TypeTrust) -> list[object]:
    # As arrays, text and bytes would lose the NULs at their end.
    if isinstance(scalar, str):
        return ["str_", str.__str__(scalar)]
    if isinstance(scalar, bytes):
        return ["bytes_", bytes(scalar)]
    descr = _descr(scalar.dtype)
    return [descr, (_without_padding(_numpy().asarray(scalar)) if scalar.dtype.names else scalar).tobytes()]


def _make_scalar(state: list[Any], trust: TypeTrust) -> object:
    descr, data = state
    if descr == "str_" and type(data) is str:
        return _numpy().str_(data)
    if descr == "bytes_" and type(data) is bytes:
        return _numpy().bytes_(data)
    return _make_array([descr, [], "C", data], trust)[()]


_ENUM: Final = ClassFamily(
    Ext.ENUM, _take_enum, _make_enum, lambda state: state[1] if state[2] is None else state[2]
)
_DATACLASS: Final = ClassFamily(Ext.DATACLASS, _take_dataclass, _make_dataclass)
_MODEL: Final = ClassFamily(Ext.PYDANTIC, _take_model, _make_model)
_NAMEDTUPLE: Final = ClassFamily(Ext.NAMEDTUPLE, _take_namedtuple, _make_namedtuple)
_ARRAY: Final = ClassFamily(Ext.NDARRAY, _take_array, _make_array)
_SCALAR: Final = ClassFamily(Ext.NUMPY_SCALAR, _take_scalar, _make_scalar)

BY_CODE: Final[dict[int, ClassFamily]] = {
    family.code: family for family in (_ENUM, _DATACLASS, _MODEL, _NAMEDTUPLE, _ARRAY, _SCALAR)
}


def family_of(cls: type) -> ClassFamily | None:
    """The family that knows how to take an instance of exactly this class apart, if one does."""
    if issubclass(cls, Enum):
        return _ENUM
    if _is_model(cls):
        return _MODEL
    if dataclasses.is_dataclass(cls) and _is_plain_class(cls):
        return _DATACLASS
    if _is_namedtuple(cls):
        return _NAMEDTUPLE
    numpy = sys.modules.get("numpy")
    if numpy is not None and cls is numpy.ndarray:
        return _ARRAY
    if numpy is not None and issubclass(cls, numpy.generic) and cls is not numpy.object_:
        return _SCALAR
    return None
