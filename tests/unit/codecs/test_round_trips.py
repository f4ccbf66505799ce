"""What goes in comes out: the same types, the same values, all the way down."""

import datetime as dt
from collections import OrderedDict, defaultdict, deque
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentref.storage import InMemoryCAS


class Colour(Enum):
    RED = "red"
    CRIMSON = "red"  # noqa: PIE796  (an alias)
    WEIGHT = (1, [2])
    NOT_A_NUMBER = float("nan")


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


class Rights(Flag):
    READ = 1
    WRITE = 2
    BOTH = 3


class Bits(IntFlag):
    A = 1
    B = 4


BERLIN = ZoneInfo("Europe/Berlin")

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    1 << 20_000,
    -(1 << 100_000),
    0.0,
    -0.0,
    float("nan"),
    float("-inf"),
    5e-324,
    complex(-0.0, float("nan")),
    "",
    "\0",
    "\ud800",
    "\ud83d\ude00",
    "\N{GRINNING FACE}",
    b"",
    b"\0",
    bytearray(),
    bytearray(b"x"),
    bytearray(b"x" * 20_000),
    [],
    {},
    (),
    set(),
    frozenset(),
    [1, True, 1.0, "1", b"1", None],
    {1: "int", "1": "str", 1.5: "float", None: "none", (1, ("a",)): "tuple", b"k": "bytes"},
    {frozenset({1, "a"}): 1, Colour.RED: 2, Level.LOW: 3, dt.date(2020, 1, 1): 4, UUID(int=1): 5},
    {"z": 1, "a": 2},
    {float("nan"): 1, Decimal("NaN"): 2},
    [bytearray(b"a"), b"a", {"k": bytearray(b"b")}, [[bytearray(b"c")]], (bytearray(b"d"),)],
    (1, (2, [3, (4,)])),
    {1, "a", b"a", None, 2.5, (1, 2), frozenset({(), frozenset()})},
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
    dt.datetime(2024, 1, 1, fold=1),
    dt.datetime.min,
    dt.datetime.max,
    dt.datetime.now(dt.UTC),
    dt.datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC")),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5, seconds=1, microseconds=2))),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(0), "GMT")),
    dt.date.min,
    dt.time(1, 2, 3, 4, tzinfo=dt.UTC, fold=1),
    dt.timedelta.min,
    dt.timedelta.max,
    dt.timedelta.resolution,
    dt.UTC,
    dt.timezone(dt.timedelta(hours=-23, minutes=-59), "\ud800"),
    BERLIN,
    [Decimal(text) for text in ("1.10", "-0", "0E-10", "1E+1000000", "NaN", "-sNaN123", "Infinity")],
    Decimal("9" * 20_000),
    uuid4(),
    [PurePosixPath("/a"), PureWindowsPath("C:/a"), Path("rel/../x"), Path(), PurePath("\udc80")],
    deque([1, [2]], maxlen=2),
    deque(maxlen=0),
    deque([1]),
    OrderedDict([("b", 1), ("a", OrderedDict())]),
    defaultdict(list, {"a": [1]}),
    defaultdict(None, {"a": 1}),
    [Colour.RED, Colour.CRIMSON, Colour.WEIGHT, Colour.NOT_A_NUMBER, Level.LOW, Word.YES],
    [Rights.READ | Rights.WRITE, Rights(0), ~Rights.READ, Bits.A | Bits.B, Bits(77), Bits(-1)],
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_it_was(cas: InMemoryCAS, same, value: object) -> None:
    assert same(cas.load(cas.dump(value)), value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        lambda value: {"k": value},
        lambda value: (value, [value, (value,)]),
        lambda value: deque([{"a": [value]}]),
        lambda value: [{"text": "x" * 10_000, "v": value}] * 3,
        lambda value: {"a": list(range(10_000)), "v": value, "z": "\ud800" * 5000},
        lambda value: [{"n": number, "v": value} for number in range(200)],
    ],
    ids=["list", "dict", "tuple", "deque", "records", "tree", "leaves"],
)
def test_a_value_comes_back_from_within_anything(cas: InMemoryCAS, same, value: object, wrap) -> None:
    whole = wrap(value)
    assert same(cas.load(cas.dump(whole)), whole)


KEYS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.sampled_from([*Colour, *Level, Rights.BOTH]),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
LONG_TEXTS = st.builds(
    lambda part, times: part * times,
    st.text(st.characters(codec=None, categories=None), min_size=1, max_size=4),
    st.sampled_from([3000, 9000, 70_000]),
)
LEAVES = (
    KEYS
    | LONG_TEXTS
    | LONG_TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | LONG_TEXTS.map(lambda text: bytearray(text.encode("utf-8", "surrogatepass")))
    | st.builds(lambda item, times: [item] * times, KEYS, st.sampled_from([20, 3000, 17_000]))
    | st.sampled_from([2, 9000]).map(lambda count: list(range(count)))
    | st.sampled_from([33, 900]).map(
        lambda count: {f"key {n}": {"n": n, "x": "y" * (n % 40)} for n in range(count)}
    )
    | st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=True)
    | st.timedeltas()
    | st.complex_numbers()
)


def _containers(inner):
    return (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=4).map(tuple)
        | st.lists(inner, max_size=3).map(deque)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict)
        | st.sets(KEYS | LONG_TEXTS, max_size=4)
        | st.dictionaries(LONG_TEXTS | KEYS, inner, max_size=2)
    )


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(value=st.recursive(LEAVES, _containers, max_leaves=8))
def test_any_mixture_comes_back_as_it_was(same, value: object) -> None:
    cas = InMemoryCAS()
    ref = cas.dump(value)
    loaded = cas.load(ref)
    assert same(loaded, value)
    before = cas.stats().blobs
    assert cas.dump(loaded) == ref
    assert cas.stats().blobs == before


SIZES = [0, 1, 8191, 8192, 8193, 16_383, 16_384, 16_385, 70_000, 262_143, 262_144, 262_145, 600_000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("character", ["x", "ü", "\ud800", "\N{GRINNING FACE}"], ids=ascii)
def test_text_of_any_length_comes_back(cas: InMemoryCAS, same, size: int, character: str) -> None:
    text = (character * size)[:size]
    for value in ([text, {"a": text}, ({text}, text.encode("utf-8", "surrogatepass"))], text):
        assert same(cas.load(cas.dump(value)), value)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 31, 32, 33, 1023, 1024, 1025, 65_535, 65_536])
def test_collections_of_any_length_come_back(cas: InMemoryCAS, count: int) -> None:
    for value in (
        list(range(count)),
        [float(n) for n in range(count)],
        [str(n) for n in range(count)],
        {n: n for n in range(count)},
        {str(n): {"n": n} for n in range(min(count, 2000))},
        tuple(range(count)),
        [[n] for n in range(min(count, 5000))],
    ):
        loaded = cas.load(cas.dump(value))
        assert loaded == value
        assert type(loaded) is type(value)
    assert cas.load(cas.dump(set(range(count)))) == set(range(count))


def test_what_is_loaded_shares_nothing_with_what_was_dumped_or_loaded_before(cas: InMemoryCAS) -> None:
    value = {"list": [[1], [2]], "again": None}
    value["again"] = value["list"]
    ref = cas.dump(value)
    first, second = cas.load(ref), cas.load(ref)
    first["list"][0].append("changed")
    assert first["again"] == [[1], [2]]
    assert second == value == {"list": [[1], [2]], "again": [[1], [2]]}
