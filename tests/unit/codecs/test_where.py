"""An error of the encoder says where in the value the trouble sits, and finding out does no harm."""

import pickle
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from langgraph.types import Send
from pydantic import BaseModel, ConfigDict, PrivateAttr

from agentref.adapters.langgraph.serde import codec_for
from agentref.codecs import where
from agentref.errors import InvalidInputError, UnsupportedTypeError, ValueTooLargeError
from agentref.storage import InMemoryCAS


class Opaque:
    """Of no type that can be stored, and not to be disturbed."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")

    def __repr__(self) -> str:
        raise AssertionError

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    def __hash__(self) -> int:
        return 7


@dataclass
class Doc:
    handle: Any = None
    meta: Any = None

    @property
    def text(self) -> str:
        raise AssertionError


@dataclass(slots=True)
class Slotted:
    handle: Any
    unset: Any = field(init=False)


class Model(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)
    child: Any = None
    _secret: Any = PrivateAttr(default=None)


def _with_secret(secret: Any) -> Model:
    model = Model()
    model._secret = secret
    return model


class Pair(NamedTuple):
    left: Any
    right: Any


def _twice(part: Any, levels: int) -> Any:
    for _ in range(levels):
        part = [part, part]
    return part


def _around(bad: Any) -> Any:
    ring = Doc()
    ring.meta = [ring, {"back": ring}]
    return {"ring": (1, 2), "bad": bad, "last": ring}


PLACES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "list": (lambda bad: [1, bad], "[1]"),
    "dict": (lambda bad: {"a": 1, "b": bad}, "['b']"),
    "as in the documents": (
        lambda bad: {"docs": [{"n": n, "meta": Doc(bad if n == 17 else None)} for n in range(30)]},
        "['docs'][17]['meta'].handle",
    ),
    "other keys": (lambda bad: {1: {None: {2.5: {b"k": bad}}}}, "[1][None][2.5][b'k']"),
    "a key like a path": (lambda bad: {"a']['b": bad}, """["a']['b"]"""),
    "behind a key of no plain type": (lambda bad: {(1, 2): 1, (3, 4): bad}, "[<key 1>]"),
    "within a key": (lambda bad: {"a": 1, (bad, 2): 2}, "<key 1>[0]"),
    "set": (lambda bad: {"s": {bad}}, "['s']<element>"),
    "frozenset": (lambda bad: [frozenset([(bad,)])], "[0]<element>[0]"),
    "tuple": (lambda bad: (1, (bad,)), "[1][0]"),
    "deque": (lambda bad: deque([1, bad]), "[1]"),
    "ordered dict": (lambda bad: OrderedDict(a=bad), "['a']"),
    "defaultdict": (lambda bad: defaultdict(list, a=[bad]), "['a'][0]"),
    "named tuple": (lambda bad: [Pair(1, bad)], "[0].right"),
    "dataclass": (lambda bad: Doc(meta={"x": Doc(bad)}), ".meta['x'].handle"),
    "dataclass with slots": (Slotted, ".handle"),
    "model": (lambda bad: Model(child=[bad]), ".child[0]"),
    "what a model allows beside its fields": (lambda bad: Model(other=bad), ".other"),
    "private attribute of a model": (_with_secret, "._secret"),
    "late": (lambda bad: [*({"n": n} for n in range(5000)), [bad]], "[5000][0]"),
    "beside long text": (lambda bad: [{"t": "x" * 20_000, "bad": bad}], "[0]['bad']"),
    "beside a surrogate": (lambda bad: ["\ud800", {"t": "\ud800", "bad": [bad]}], "[1]['bad'][0]"),
    "beside a buffer": (lambda bad: [bytearray(b"x"), bad], "[1]"),
    "in a value that contains itself later": (_around, "['bad']"),
    "met by many ways": (
        lambda bad: [_twice([1], 12), _twice([bad], 20)],
        "[1]" + "[0]" * 21,
    ),
}


def refused(value: Any, **options: Any) -> UnsupportedTypeError:
    store = InMemoryCAS(**options)
    with pytest.raises(UnsupportedTypeError) as caught:
        store.dump(value)
    with pytest.raises(UnsupportedTypeError) as measured:
        store.size_of(value)
    assert str(measured.value) == str(caught.value)
    assert store.stats().blobs == 0
    return caught.value


@pytest.mark.parametrize("place", PLACES)
def test_the_place_of_what_cannot_be_stored_stands_in_front(place: str) -> None:
    wrap, path = PLACES[place]
    message = str(refused(wrap(Opaque())))
    assert message.startswith(f"In value{path}: A value of type {__name__}.Opaque cannot be stored")
    assert message.endswith(
        "Convert it to plain data (dict, list, str, bytes, numbers), a dataclass or a pydantic model."
    )


def test_what_is_itself_the_value_has_no_place() -> None:
    assert str(refused(Opaque())).startswith("A value of type ")


OTHER_REFUSALS: dict[str, Any] = {
    "a lambda for a factory": defaultdict(lambda: 1),
    "an array of objects": np.array([{}], dtype=object),
    "a memoryview": memoryview(b"x"),
    "a class that cannot be found": type("Lost", (Doc,), {"__module__": "nowhere"})(),
}


@pytest.mark.parametrize("bad", OTHER_REFUSALS)
def test_every_kind_of_refusal_has_its_place(bad: str) -> None:
    message = str(refused({"a": [Doc(meta=OTHER_REFUSALS[bad])]}))
    assert message.startswith("In value['a'][0].meta: ")


def test_of_several_values_the_one_is_named() -> None:
    with pytest.raises(UnsupportedTypeError, match=r"^In values\[1\]\['a'\]: A value of type"):
        InMemoryCAS().dump_many([1, {"a": Opaque()}, 3])
    with pytest.raises(UnsupportedTypeError, match=r"^In values\[2\]: A value of type"):
        InMemoryCAS().dump_many(iter([1, 2, Opaque()]))


def test_a_type_that_an_extension_takes_apart_is_entered() -> None:
    message = str(refused([Send("node", {"a": [Opaque()]})], codec=codec_for(None)))
    assert message.startswith("In value[0].arg['a'][0]: ")


class Picky:
    """A serializer of somebody else's."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        if type(obj) is range:
            return "range", b""
        raise TypeError("no")

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        raise NotImplementedError


def test_what_a_foreign_serializer_takes_is_not_to_blame() -> None:
    message = str(refused([range(1), {"a": range(2)}, Opaque()], codec=codec_for(Picky())))
    assert message.startswith("In value[2]: ")


def _deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = {"a": [value]}
    return value


def _cycle() -> Any:
    doc = Doc()
    doc.meta = {"parent": [doc]}
    return {"docs": [1, doc]}


ENDLESS: dict[str, tuple[Callable[[], Any], str]] = {
    "contains itself": (_cycle, r"In value\['docs'\]\[1\]\.meta\['parent'\]\[0\]: "),
    "deep": (lambda: _deep(2000), r"In value(\['a'\]\[0\])+.*\.\.\..*(\['a'\]\[0\])+: "),
    "deep, on another stack": (lambda: _deep(300_000), r"In value(\['a'\]\[0\])+.*\.\.\."),
    "tuples": (lambda: {"t": _nested_tuples(70)}, r"In value\['t'\](\[0\])+\.\.\."),
}


def _nested_tuples(levels: int) -> Any:
    value: Any = ()
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize("name", ENDLESS)
def test_what_is_too_deep_or_endless_says_where(name: str) -> None:
    make, pattern = ENDLESS[name]
    with pytest.raises(
        ValueTooLargeError, match=pattern + ".*nested too deeply, or contains itself"
    ) as caught:
        InMemoryCAS().dump(make())
    assert len(str(caught.value)) < 400


def test_what_is_too_large_names_its_largest_part_and_the_remedy() -> None:
    store = InMemoryCAS(max_value_bytes=50_000)
    value = {"a": ["x" * 20_000], "docs": [{"text": "y" * 90_000}]}
    with pytest.raises(ValueTooLargeError) as caught:
        store.dump(value)
    message = str(caught.value)
    assert "over the limit of 50,000. Split it, or raise max_value_bytes." in message
    assert message.endswith(" Its largest part is at ['docs'][0]['text']: 90,000 characters.")
    with pytest.raises(ValueTooLargeError, match=r"^In values\[1\]: .*\.array: 80,000 bytes\.$"):
        store.dump_many([1, Doc(meta=Pair(Model(array=np.zeros(10_000)), "x"))])


@pytest.mark.parametrize("value", ["x" * 90_000, ["x" * 1000] * 90, list(range(90_000))])
def test_where_no_part_stands_out_none_is_named(value: Any) -> None:
    with pytest.raises(ValueTooLargeError, match=r"raise max_value_bytes\.$"):
        InMemoryCAS(max_value_bytes=50_000).dump(value)


def test_a_value_of_too_many_parts_is_refused_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, "_STEPS", 100)
    assert str(refused([*[[]] * 50, [], [], {"a": Opaque()}])).startswith("In value[52]['a']: ")
    assert str(refused([*[[]] * 200, Opaque()])).startswith("A value of type ")


def test_a_search_that_fails_leaves_the_error_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(where, "_walk", fail)
    assert str(refused({"a": Opaque()})).startswith("A value of type ")


def test_an_error_with_a_place_travels_and_holds_no_part_of_the_value() -> None:
    error = refused({"a": threading.Lock()})
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), twin.message) == (type(error), str(error), error.message)
    assert error.args == (error.message,)


def test_an_error_that_is_about_something_else_gets_no_place() -> None:
    error = InvalidInputError("Something else.")
    assert not where.name_error(error, ["State.docs"])
    assert str(error) == "Something else."
