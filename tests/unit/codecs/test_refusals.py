"""What cannot come back is refused before a byte is stored, and what was stored can be read."""

import datetime as dt
import math
import socket
import sys
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any

import msgpack
import pytest
from pydantic import BaseModel

from agentref.codecs import ValueCodec
from agentref.codecs.encode import Encoder
from agentref.errors import AgentRefError, UnsupportedTypeError, ValueTooLargeError
from agentref.storage import InMemoryCAS


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Mapping(dict):
    pass


class Items(list):
    pass


class Zone(dt.tzinfo):
    def utcoffset(self, _: object) -> dt.timedelta:
        return dt.timedelta(0)


class Anything:
    pass


@dataclass
class Node:
    child: Any = None


class Model(BaseModel):
    child: Any = None


def _local() -> object:
    @dataclass
    class Local:
        x: int = 0

    return Local()


def _local_enum() -> object:
    return Enum("LocalEnum", "A", module="somewhere.else").A


def _open_file():
    return open(__file__, encoding="utf-8")  # noqa: PTH123


REFUSED: dict[str, Callable[[], object]] = {
    "object": object,
    "instance": Anything,
    "class": lambda: Anything,
    "generator": lambda: (item for item in ()),
    "lambda": lambda: _local,
    "builtin": lambda: len,
    "module": lambda: sys,
    "ellipsis": lambda: ...,
    "not implemented": lambda: NotImplemented,
    "range": lambda: range(3),
    "slice": lambda: slice(3),
    "exception": lambda: ValueError("x"),
    "lock": threading.Lock,
    "dict view": {}.keys,
    "memoryview": lambda: memoryview(b"x"),
    "str subclass": lambda: Text("x"),
    "int subclass": lambda: Number(1),
    "dict subclass": lambda: Mapping(a=1),
    "list subclass": lambda: Items([1]),
    "local class": _local,
    "lost enum": _local_enum,
    "defaultdict of a lambda": lambda: defaultdict(lambda: 1),
    "zone": Zone,
    "time in a zone of one's own": lambda: dt.datetime(2024, 1, 1, tzinfo=Zone()),
    "ext type": lambda: msgpack.ExtType(10, b"\x91\x01"),
    "tree ext type": lambda: msgpack.ExtType(1, b"\x01"),
    "unknown ext type": lambda: msgpack.ExtType(99, b""),
    "timestamp": lambda: msgpack.Timestamp(1, 2),
}

PLACES: dict[str, Callable[[Any], object]] = {
    "bare": lambda bad: bad,
    "list": lambda bad: [bad],
    "late in a list": lambda bad: [*({"n": n} for n in range(2000)), bad],
    "among numbers": lambda bad: [*range(9000), bad],
    "dict": lambda bad: {"a": 1, "b": bad},
    "large dict": lambda bad: {**{str(n): "x" * 100 for n in range(300)}, "b": {"c": bad}},
    "tuple": lambda bad: (1, (bad,)),
    "beside long text": lambda bad: [{"t": "x" * 20_000, "bad": bad}],
    "beside a surrogate": lambda bad: ["\ud800", {"t": "\ud800", "bad": [bad]}],
    "deque": lambda bad: deque([bad]),
    "ordered dict": lambda bad: OrderedDict(a=bad),
    "dataclass": lambda bad: Node(Node(bad)),
    "model": lambda bad: Model(child=[bad]),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bad", REFUSED)
def test_it_is_refused_wherever_it_is(cas: InMemoryCAS, bad: str, place: str) -> None:
    value = PLACES[place](REFUSED[bad]())
    with pytest.raises(UnsupportedTypeError):
        cas.dump(value)
    with pytest.raises(UnsupportedTypeError):
        cas.dump_many(["good " * 9000, value])
    assert cas.stats().blobs == 0


UNHASHABLE = {
    "dict subclass",
    "list subclass",
    "slice",
    "dict view",
    "local class",
    "defaultdict of a lambda",
}


@pytest.mark.parametrize("bad", [bad for bad in REFUSED if bad not in UNHASHABLE])
def test_it_is_refused_as_a_key_and_in_a_set(cas: InMemoryCAS, bad: str) -> None:
    part = REFUSED[bad]()
    for value in (
        {part: 1},
        [{"a": {part: 1}}],
        {part},
        frozenset({part}),
        {(1, part): 2},
        {**{str(n): n for n in range(99)}, part: 1},
    ):
        with pytest.raises(UnsupportedTypeError):
            cas.dump(value)
    assert cas.stats().blobs == 0


def test_open_files_and_sockets_are_refused(cas: InMemoryCAS) -> None:
    with _open_file() as file, socket.socket() as connection:
        for value in (file, connection, [file], {"a": connection}):
            with pytest.raises(UnsupportedTypeError, match="Convert it to plain data"):
                cas.dump(value)


def test_the_message_names_the_type(cas: InMemoryCAS) -> None:
    with pytest.raises(UnsupportedTypeError, match=r"_thread\.lock"):
        cas.dump({"a": [threading.Lock()]})


def _itself_once() -> object:
    value: list[object] = []
    value.append(value)
    return value


def _itself_twice() -> object:
    value: list[object] = []
    value += [value, value]
    return value


def _itself_in_a_dict() -> object:
    value: dict[str, object] = {}
    value.update(a=value, b=[value, value])
    return value


def _itself_through_a_tuple() -> object:
    value: list[object] = []
    value.append((value, value))
    return value


def _itself_through_an_object() -> object:
    value = Node()
    value.child = [value, value]
    return value


def _itself_with_long_text() -> object:
    value: dict[str, object] = {"t": "x" * 20_000}
    value.update(a=value, b=value)
    return value


def _itself_with_a_buffer() -> object:
    value: list[object] = [bytearray(b"x")]
    value += [value, value]
    return value


@pytest.mark.parametrize(
    "make",
    [
        _itself_once,
        _itself_twice,
        _itself_in_a_dict,
        _itself_through_a_tuple,
        _itself_through_an_object,
        _itself_with_long_text,
        _itself_with_a_buffer,
    ],
)
def test_a_value_that_contains_itself_is_refused(cas: InMemoryCAS, make) -> None:
    with pytest.raises(ValueTooLargeError):
        cas.dump(make())
    assert cas.stats().blobs == 0


WRAPS: dict[str, Callable[[Any], object]] = {
    "list": lambda value: [value],
    "dict": lambda value: {"a": value},
    "tuple": lambda value: (value,),
    "frozenset": lambda value: frozenset({value}),
    "deque": lambda value: deque([value]),
    "dataclass": Node,
    "model": lambda value: Model.model_construct(child=value),
    "list and tuple": lambda value: [(value,)],
    "dict and list": lambda value: {"a": [value]},
    "ordered dict": lambda value: OrderedDict(a=value),
    "siblings": lambda value: [1, value, "x"],
    "broad": lambda value: [value, *({"n": n, "t": "x" * 90} for n in range(150))],
    "broad dict": lambda value: {"a": value, **{str(n): "x" * 400 for n in range(60)}},
    "broad tuple": lambda value: (value, *(f"{n:900}" for n in range(20))),
}
CORES: dict[str, object] = {
    "number": 1,
    "text": "x" * 200_000,
    "bytes": b"x" * 9000,
    "surrogate": "\ud800",
}


DEPTHS = {8, 15, 29, 30, 31, 32, 33, 62, 63, 64, 65, 66, 67, 510, 511, 512, 513}


def _unless_too_deep(cas: InMemoryCAS, value: object) -> bool:
    """Whether `value` was taken; then it comes back, and if not, nothing was stored."""
    try:
        ref = cas.dump(value)
    except ValueTooLargeError:
        assert cas.stats().blobs == 0
        return False
    loaded = cas.load(ref)
    assert cas.size_of(loaded) == ref.size
    assert cas.dump(loaded) == ref
    return True


@pytest.mark.parametrize(
    ("wrap", "core"),
    [
        (wrap, core)
        for wrap in WRAPS
        for core in CORES
        if not (wrap.startswith("broad") and core in {"bytes", "surrogate"})
    ],
)
def test_what_is_taken_at_any_depth_comes_back(wrap: str, core: str) -> None:
    value = CORES[core]
    for depth in range(1, 514 if core == "number" else 68):
        value = WRAPS[wrap](value)
        if depth in DEPTHS and not _unless_too_deep(InMemoryCAS(), value):
            assert depth > 28
            break


def _below(frames: int, call: Callable[[], object]) -> object:
    return call() if frames == 0 else _below(frames - 1, call)


@pytest.mark.parametrize("wrap", ["list", "tuple", "dataclass", "broad"])
def test_a_deep_stack_never_makes_sound_data_look_damaged(cas: InMemoryCAS, wrap: str) -> None:
    value: object = 1
    for _ in range(25):
        value = WRAPS[wrap](value)
    ref = cas.dump(value)
    room = sys.getrecursionlimit() - _stack_depth()
    for frames in range(max(room - 400, 0), room - 60, 20):
        try:
            assert _below(frames, lambda: cas.size_of(cas.load(ref))) == ref.size
        except (ValueTooLargeError, RecursionError):
            continue


def _stack_depth() -> int:
    frame, depth = sys._getframe(), 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


def test_refusals_deep_inside_take_no_longer_than_values() -> None:
    value: object = object()
    for _ in range(60):
        value = (value, [1])
    with pytest.raises(UnsupportedTypeError):
        InMemoryCAS().dump(value)


def test_a_key_that_fits_no_blob_is_refused(cas: InMemoryCAS) -> None:
    with pytest.raises(ValueTooLargeError, match="limit"):
        cas.dump({"k" * (17 << 20): 1})
    assert cas.stats().blobs == 0


def test_a_failing_property_does_not_pass_for_a_value(cas: InMemoryCAS) -> None:
    class Failing:
        @property
        def __dict__(self) -> dict:
            raise ValueError("no")

    with pytest.raises(AgentRefError):
        cas.dump([Failing()])
    assert math.isfinite(cas.stats().blobs)


@pytest.mark.parametrize("leaf", [1, bytearray(b"x")])
@pytest.mark.parametrize("way", [lambda x: [x, x], lambda x: {"a": x, "b": x}, lambda x: [x] * 1000])
def test_parts_that_are_shared_beyond_all_bounds_are_refused_at_once(leaf, way) -> None:
    value = way(leaf)
    for _ in range(40):
        value = way(value)
    with pytest.raises(ValueTooLargeError, match="shares its parts"):
        InMemoryCAS().dump({"deep": value})


def test_parts_that_are_shared_within_bounds_are_stored_each_time() -> None:
    doc = {"id": 1, "tags": ["a", "b"]}
    cas = InMemoryCAS()
    assert cas.load(cas.dump([doc] * 3000)) == [doc] * 3000


def test_a_list_that_another_thread_makes_longer_while_it_is_packed_is_packed_again() -> None:
    items: list[object] = [Decimal(n) for n in range(20)]
    changes = iter([1, 2])

    class Watched(Encoder):
        def _default(self, item: Any) -> Any:
            if next(changes, None):
                items.append(Decimal(99))  # as a thread may that runs now
            return super()._default(item)

    class Codec(ValueCodec):
        def encode(self, value: object, sink: Any) -> Any:
            return Watched(sink, self._taker).encode(value)

    cas = InMemoryCAS(codec=Codec())
    assert cas.load(cas.dump(items)) == items
    assert len(items) == 22
