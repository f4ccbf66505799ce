"""What codec tests share: a store to go through, and an equality that forgives nothing."""

import dataclasses
import datetime as dt
import math
from collections import OrderedDict, defaultdict, deque
from decimal import Decimal
from enum import Enum

import numpy as np
import pytest
from pydantic import BaseModel

from agentref.storage import InMemoryCAS


def same(a: object, b: object) -> bool:  # noqa: C901, PLR0912  (a table of cases)
    """Equal in type, in value and in every part, NaN to NaN and in the order of keys."""
    kind = type(a)
    if kind is not type(b):
        return False
    if kind is float:
        return math.copysign(1, a) == math.copysign(1, b) and (a == b or (math.isnan(a) and math.isnan(b)))
    if kind is complex:
        return same(a.real, b.real) and same(a.imag, b.imag)
    if kind in {list, tuple} or isinstance(a, tuple):
        return all_same(a, b)
    if kind is deque:
        return a.maxlen == b.maxlen and all_same(list(a), list(b))
    if kind in {dict, OrderedDict}:
        return all_same(list(a.items()), list(b.items()))
    if kind is defaultdict:
        return a.default_factory is b.default_factory and same(dict(a), dict(b))
    if kind in {set, frozenset}:
        return same_elements(list(a), list(b))
    if kind is Decimal:
        return a.as_tuple() == b.as_tuple()
    if kind in {dt.datetime, dt.time}:
        return (
            a.replace(tzinfo=None) == b.replace(tzinfo=None)
            and a.fold == b.fold
            and same(a.tzinfo, b.tzinfo)
        )
    if kind is dt.timezone:
        return a == b and a.tzname(None) == b.tzname(None)
    if kind is np.ndarray or isinstance(a, np.generic):
        return same_arrays(a, b)
    if isinstance(a, Enum):
        return a is b
    if isinstance(a, BaseModel):
        return all(same(part(a), part(b)) for part in MODEL_PARTS)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return all(same(getattr(a, name, same), getattr(b, name, same)) for name in names)
    return bool(a == b)


MODEL_PARTS = (
    lambda model: model.__dict__,
    lambda model: model.__pydantic_fields_set__,
    lambda model: model.__pydantic_extra__,
    lambda model: model.__pydantic_private__,
)


def all_same(a, b) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def same_elements(a: list, b: list) -> bool:
    if len(a) != len(b):
        return False
    for item in a:
        for index, other in enumerate(b):
            if same(item, other):
                del b[index]
                break
        else:
            return False
    return True


def same_arrays(a, b) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.flags.f_contiguous == b.flags.f_contiguous
        and a.tobytes() == b.tobytes()
    )


@pytest.fixture(scope="session", name="same")
def same_fixture():
    return same


@pytest.fixture
def cas() -> InMemoryCAS:
    return InMemoryCAS()
