"""Objects of users' classes: dataclasses, named tuples, pydantic models, LangChain's messages."""

import dataclasses
import functools
from collections import deque, namedtuple
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Self, TypeVar

import pytest
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel

from agentref.chunks import TreeBuilder
from agentref.codecs import Extension, ValueCodec
from agentref.errors import MalformedBlobError, UnsupportedTypeError, UntrustedTypeError
from agentref.storage import InMemoryCAS


@dataclasses.dataclass
class Plain:
    a: Any
    b: list[int] = dataclasses.field(default_factory=list)
    derived: int = dataclasses.field(init=False, default=3)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    a: Any
    b: Any = None


@dataclasses.dataclass(slots=True)
class Hollow:
    a: int
    never_set: int = dataclasses.field(init=False)


@dataclasses.dataclass
class Made:
    a: int

    def __new__(cls, a: int) -> Self:
        return object.__new__(cls)


@dataclasses.dataclass
class Derived:
    a: int

    def __post_init__(self) -> None:
        self.twice = 2 * self.a


class Undecorated(Plain):
    def __init__(self) -> None:
        super().__init__(1)
        self.extra = [1]


@dataclasses.dataclass
class Cached:
    a: int

    @functools.cached_property
    def twice(self) -> int:
        return 2 * self.a


@dataclasses.dataclass
class OfFrozenset(frozenset):
    a: int = 0


@dataclasses.dataclass
class OfDeque(deque):
    a: int = 0


@dataclasses.dataclass
class OfError(Exception):
    a: int = 0


class Point(NamedTuple):
    x: Any
    y: Any = 0


Old = namedtuple("Old", "a b")  # noqa: PYI024  (still written so)


class TupleWithAttributes(tuple):  # noqa: SLOT001
    _fields = ("a", "b")


class Inner(BaseModel):
    x: int = 1


class Model(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)
    name: str = Field(alias="Name")
    items: list[Inner] = []
    point: Point | None = None
    plain: Any = None
    _secret: int = PrivateAttr(default=5)


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: tuple[int, ...] = ()


class Root(RootModel[list[Inner]]):
    pass


Item = TypeVar("Item")


class Box(BaseModel, Generic[Item]):
    item: Item


IntBox = Box[int]


class Grown(BaseModel):
    x: int
    y: int | None = None


def model() -> Model:
    made = Model(
        Name="n", items=[Inner(), Inner(x=2)], point=Point(1, (2,)), plain=Plain({1}), other={"e": 1}
    )
    made._secret = 9
    return made


OBJECTS = [
    Plain((1,), [2]),
    Frozen(a=Frozen(a=Plain(1)), b={Frozen(a=1): [Frozen(a="x" * 20_000)]}),
    Hollow(1),
    Point([1], Plain("x" * 9000)),
    Old(1, Old(2, ())),
    {Point(1, 2): Frozen(a=1)},
    Cached(1),
    model(),
    Model.model_construct(name="unchecked"),
    FrozenModel(x=(1, 2)),
    {FrozenModel(x=(1,)): 1},
    Root([Inner(x=5)]),
    Box[int](item=1),
    Box(item="x"),
    [Inner(x=n) for n in range(3000)],
    HumanMessage("hi", id="1", name="me", response_metadata={"a": (1, 2)}),
    SystemMessage([{"type": "text", "text": "x" * 20_000}]),
    AIMessage(
        "x",
        tool_calls=[{"name": "f", "args": {"a": [1]}, "id": "c1"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        additional_kwargs={"k": None},
    ),
    AIMessageChunk(content="x", tool_call_chunks=[{"name": "f", "args": "{", "id": "1", "index": 0}]),
    ToolMessage("x", tool_call_id="c1", artifact={"rows": ({1, 2}, b"raw")}, status="error"),
    RemoveMessage(id="1"),
    Document("x" * 20_000, metadata={"source": "s", "n": 1}, id="d"),
]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_an_object_comes_back_as_it_was(cas: InMemoryCAS, same, value: object) -> None:
    assert same(cas.load(cas.dump(value)), value)
    nested = {"a": [(value, {"b": value})], "z": list(range(9000))}
    assert same(cas.load(cas.dump(nested)), nested)


def test_no_constructor_of_an_object_runs(cas: InMemoryCAS, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = cas.dump_many([Plain(1), Derived.__new__(Derived), Point(1), FrozenModel(x=(1,))])

    def run(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a constructor ran")

    for cls in (Plain, Derived, FrozenModel):
        monkeypatch.setattr(cls, "__init__", run)
    monkeypatch.setattr(Derived, "__post_init__", run)
    assert len(cas.load_many(refs)) == 4


def test_a_model_that_was_loaded_still_validates_and_copies(cas: InMemoryCAS) -> None:
    loaded = cas.load(cas.dump(model()))
    assert loaded.model_copy() == model()
    assert loaded.model_dump(by_alias=True) == model().model_dump(by_alias=True)
    assert loaded._secret == 9
    assert loaded.model_extra == {"other": {"e": 1}}


def test_a_dataclass_with_a_new_of_its_own_comes_back(cas: InMemoryCAS) -> None:
    assert cas.load(cas.dump(Made(1))) == Made(1)


def _kept_or_refused(cas: InMemoryCAS, value: object, part: Callable[[Any], object]) -> bool:
    try:
        ref = cas.dump(value)
    except UnsupportedTypeError:
        return cas.stats().blobs == 0
    return part(cas.load(ref)) == part(value)


@pytest.mark.parametrize("cls", [Undecorated, functools.partial(Derived, 2)], ids=["subclass", "post_init"])
def test_attributes_beyond_the_fields_are_kept_or_refused(cas: InMemoryCAS, cls) -> None:
    assert _kept_or_refused(cas, cls(), vars)


def _tuple_with_attributes() -> TupleWithAttributes:
    made = TupleWithAttributes((1, 2))
    made.note = "x"
    return made


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (OfFrozenset([1, 2]), frozenset),
        (OfDeque([1, 2]), list),
        (OfError(4), lambda error: error.args),
        (_tuple_with_attributes(), vars),
    ],
    ids=["frozenset", "deque", "exception", "tuple"],
)
def test_what_a_builtin_base_holds_is_kept_or_refused(cas: InMemoryCAS, value, part) -> None:
    assert _kept_or_refused(cas, value, part)


def test_fields_added_later_get_their_defaults(cas: InMemoryCAS, monkeypatch: pytest.MonkeyPatch) -> None:
    old_plain = dataclasses.make_dataclass("Plain", ["a"], namespace={"__module__": __name__})
    old_grown = type("Grown", (BaseModel,), {"__module__": __name__, "__annotations__": {"x": int}})
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "Plain", old_plain)
        patch.setitem(globals(), "Grown", old_grown)
        refs = cas.dump_many([old_plain(1), old_grown(x=2)])
    plain, grown = cas.load_many(refs)
    assert plain == Plain(1)
    assert type(grown) is Grown
    assert grown == Grown(x=2)


def test_fields_that_are_gone_are_an_error_and_never_dropped(
    cas: InMemoryCAS, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = cas.dump_many([Plain(1, [2]), Grown(x=1, y=2), Point(1, 2)])
    monkeypatch.setitem(
        globals(), "Plain", dataclasses.make_dataclass("Plain", ["a"], namespace={"__module__": __name__})
    )
    monkeypatch.setitem(
        globals(),
        "Grown",
        type("Grown", (BaseModel,), {"__module__": __name__, "__annotations__": {"x": int}}),
    )
    monkeypatch.setitem(globals(), "Point", NamedTuple("Point", [("x", int)]))
    for ref in refs:
        with pytest.raises(MalformedBlobError):
            cas.load(ref)


def test_a_class_that_is_gone_is_an_error_that_names_it(
    cas: InMemoryCAS, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = cas.dump(Plain(1))
    monkeypatch.delitem(globals(), "Plain")
    with pytest.raises(UntrustedTypeError, match="Plain"):
        cas.load(ref)


def test_only_the_allowed_classes_go_in_and_come_out() -> None:
    cas = InMemoryCAS()
    strict = cas.with_codec(ValueCodec(allow=[Plain, f"{__name__}:Point"]))
    for value in (Plain(1), Point(1)):
        assert strict.load(strict.dump(value)) == value
    with pytest.raises(UnsupportedTypeError, match="allowed"):
        strict.dump(Inner())
    ref = cas.dump(Inner())
    with pytest.raises(UntrustedTypeError, match="allowed"):
        strict.load(ref)


class Handle:
    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.number == self.number

    __hash__ = None


def test_an_extension_teaches_a_type() -> None:
    extension = Extension(
        "test.Handle", Handle, lambda handle: [handle.number], lambda state: Handle(*state)
    )
    cas = InMemoryCAS(codec=ValueCodec(extensions=[extension]))
    value = {"a": [Handle(1), (Handle(2),)], "b": list(range(9000))}
    ref = cas.dump(value)
    assert cas.load(ref) == value
    with pytest.raises(UntrustedTypeError, match=r"test\.Handle"):
        cas.with_codec(ValueCodec()).load(ref)


class Foreign:
    """A serializer that knows `Handle`, and fails in its own ways."""

    def dumps_typed(self, obj: object) -> tuple[str, bytes]:
        if not isinstance(obj, Handle):
            raise RuntimeError("never heard of it")  # noqa: TRY004
        return "handle", str(obj.number).encode()

    def loads_typed(self, data: tuple[str, bytes]) -> object:
        if data[0] != "handle":
            raise NotImplementedError(data[0])
        return Handle(int(data[1]))


def test_a_foreign_serializer_is_asked_last() -> None:
    cas = InMemoryCAS(codec=ValueCodec(foreign=Foreign()))
    value = [Plain(1), Handle(3), (Handle(4),)]
    ref = cas.dump(value)
    assert cas.load(ref) == value
    with pytest.raises(UnsupportedTypeError):
        cas.dump([object()])
    with pytest.raises(UntrustedTypeError):
        cas.with_codec(ValueCodec()).load(ref)


def test_a_size_is_told_without_storing(cas: InMemoryCAS) -> None:
    for value in OBJECTS:
        assert cas.size_of(value) == ValueCodec().encode(value, TreeBuilder()).size
    assert cas.stats().blobs == 0
    assert cas.size_of(OBJECTS[0]) == cas.dump(OBJECTS[0]).size
