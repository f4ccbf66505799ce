"""numpy arrays and scalars of every kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from agentref.errors import UnsupportedTypeError
from agentref.storage import InMemoryCAS

BASE = np.arange(24, dtype="<i4").reshape(2, 3, 4)
STRUCTURED = np.dtype([("a", "<i2"), ("b", "S3"), ("c", "<f4", (2,)), ("d", [("e", ">u8")])])

ARRAYS = {
    "scalar shape": np.array(1.5),
    "empty": np.zeros((0,)),
    "empty in the middle": np.zeros((3, 0, 2)),
    "C": BASE,
    "F": np.asfortranarray(BASE),
    "transposed": BASE.T,
    "strided": BASE[:, ::2, 1:],
    "reversed": BASE[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "read only": np.frombuffer(b"abcd", dtype="u1"),
    "big endian": BASE.astype(">f8"),
    "booleans": BASE > 3,
    "half": BASE.astype("f2"),
    "complex": BASE.astype("c8") * 1j,
    "text": np.array(["a", "grüße", ""]),
    "bytes": np.array([b"a", b"abc"]),
    "times": np.array(["2024-01-01T00:00", "NaT"], dtype="datetime64[us]"),
    "spans": np.array([1, -1], dtype="timedelta64[25s]"),
    "void": np.array([b"ab", b"cd"], dtype="V2"),
    "structured": np.zeros(5, STRUCTURED),
    "titles": np.zeros(2, dtype=[(("title", "a"), "i4")]),
    "nan": np.array([np.nan, -0.0, np.inf]),
    "over 8 KiB": np.arange(3000.0),
    "over 256 KiB": np.arange(100_000.0).reshape(1000, 100),
    "over 256 KiB, F": np.asfortranarray(np.arange(100_000.0).reshape(1000, 100)),
    "one long row": np.arange(100_000.0).reshape(1, -1),
    "one long column": np.arange(100_000.0).reshape(-1, 1),
    "64 dimensions": np.zeros((1,) * 32),
}

SCALARS = [
    np.float64(0.1), np.float32("nan"), np.float16(-0.0), np.int8(-1), np.uint64(2**64 - 1), np.bool_(True),
    np.complex64(1j), np.datetime64("NaT", "s"), np.datetime64(5, "ns"), np.timedelta64(3, "D"),
    np.str_("ü"),
    np.str_(""), np.bytes_(b""), np.bytes_(b"a"), np.void(b"ab"), np.zeros((), STRUCTURED)[()],
]  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_it_was(cas: InMemoryCAS, same, name: str) -> None:
    array = ARRAYS[name]
    for value in (array, [array], {"a": (array, [array])}):
        assert same(cas.load(cas.dump(value)), value)
    loaded = cas.load(cas.dump(array))
    assert loaded.flags.writeable
    assert cas.dump(loaded) == cas.dump(array)


@pytest.mark.parametrize("scalar", SCALARS, ids=repr)
def test_a_scalar_comes_back_as_it_was(cas: InMemoryCAS, same, scalar: np.generic) -> None:
    assert same(cas.load(cas.dump(scalar)), scalar)
    assert same(cas.load(cas.dump([{"s": scalar}])), [{"s": scalar}])


@pytest.mark.parametrize("scalar", [np.bytes_(b"a\0"), np.str_("a\0\0")], ids=repr)
def test_zeros_at_the_end_of_a_text_scalar_are_kept(cas: InMemoryCAS, scalar: np.generic) -> None:
    loaded = cas.load(cas.dump(scalar))
    assert type(loaded) is type(scalar)
    assert loaded == scalar
    assert len(loaded) == len(scalar)


@settings(max_examples=100)
@given(
    array=npst.arrays(
        npst.scalar_dtypes() | npst.array_dtypes(max_size=3),
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    ),
    order=st.sampled_from("CFT"),
)
def test_any_array_comes_back(same, array: np.ndarray, order: str) -> None:
    shaped = array.T if order == "T" else np.array(array, order=order)
    cas = InMemoryCAS()
    try:
        ref = cas.dump(shaped)
    except UnsupportedTypeError:
        assert shaped.dtype.itemsize == 0
        return
    assert same(cas.load(ref), shaped)


def _padded(garbage: int) -> np.ndarray:
    array = np.empty(4, np.dtype([("a", "i1"), ("b", [("c", "i1"), ("d", "i8")])], align=True))
    array.view(np.uint8)[:] = garbage
    array["a"] = 1
    array["b"]["c"] = 2
    array["b"]["d"] = 3
    return array


def test_padding_between_fields_is_no_part_of_the_value(cas: InMemoryCAS) -> None:
    assert cas.dump(_padded(0)) == cas.dump(_padded(255))
    assert cas.dump(_padded(0)[0]) == cas.dump(_padded(255)[0])
    assert (cas.load(cas.dump(_padded(7))) == _padded(0)).all()


OUT_OF_ORDER = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [4, 0]})
OVERLAPPING = np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]})


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()], dtype=object),
        np.zeros(2, dtype=[("a", "i4"), ("b", "O")]),
        np.array(["a"], dtype=np.dtypes.StringDType()),
        np.ma.masked_array([1], [True]),
        np.rec.array([(1,)], dtype=[("a", "i4")]),
        np.dtype("i4"),
        np.zeros(2, OUT_OF_ORDER),
        np.zeros(2, OVERLAPPING),
    ],
    ids=["objects", "field of objects", "strings", "masked", "records", "dtype", "order", "overlap"],
)
def test_an_array_that_could_not_come_back_is_refused(cas: InMemoryCAS, value: object) -> None:
    for wrapped in (value, [value], {"a": (value,)}):
        with pytest.raises(UnsupportedTypeError):
            cas.dump(wrapped)
    assert cas.stats().blobs == 0


def test_changed_rows_cost_their_chunk_and_no_more(cas: InMemoryCAS) -> None:
    array = np.random.default_rng(1).random((4000, 100))
    cas.dump(array)
    before = cas.stats().blobs
    array[2000, 5] = -1
    cas.dump(array)
    assert cas.stats().blobs - before <= 3
