"""Rows in the form in which they are stored; stored bytes are believed nothing."""

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentref.coherence.rows import (
    ABSENT,
    MAX_LEASES,
    Held,
    LeaseMode,
    Row,
    columns_of,
    pack_leases,
    ref_of,
    row_of,
    unpack_leases,
    versioned,
)
from agentref.errors import MalformedBlobError
from agentref.refs import ContentRef, Digest

TIMES = st.floats(0, 1e12)
HELD = st.builds(
    Held,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.sampled_from(LeaseMode),
    st.integers(0, 2**63 - 1),
    TIMES,
    TIMES,
    waits=st.booleans(),
    promised=st.booleans(),
).map(lambda held: held._replace(promised=False) if held.waits else held)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=14,
)


@given(st.lists(HELD, max_size=5).map(tuple))
def test_leases_come_back(leases):
    assert unpack_leases(pack_leases(leases)) == leases


def test_no_leases_take_no_place():
    assert pack_leases(()) is None
    assert unpack_leases(None) == ()


def test_as_many_as_there_can_be_come_back():
    """With one who waits."""
    leases = (Held("a", LeaseMode.SHARED, 1, 1.0, 1.0),) * MAX_LEASES + (
        Held("b", LeaseMode.EXCLUSIVE, 0, 1.0, 1.0, waits=True),
    )
    assert unpack_leases(pack_leases(leases)) == leases


@given(st.binary(max_size=30) | JSON.map(msgpack.packb))
@example(msgpack.packb([["a", "exclusive", float("inf"), 1.0, 1.0, False]]))
@example(msgpack.packb([["a", "exclusive", float("nan"), 1.0, 1.0, False]]))
@example(msgpack.packb([["a", [], 1, 1.0, 1.0, False]]))
@example(msgpack.packb([["a", "exclusive", 1, 1.0]]))
@example(msgpack.packb([1]))
@example(msgpack.packb([["a", "shared", 1, 1.0, 1.0, False]] * (MAX_LEASES + 2)))
@example(b"\x91" * 2000)
@example(b"")
def test_bytes_are_leases_or_damaged(packed):
    try:
        leases = unpack_leases(packed)
    except MalformedBlobError:
        return
    assert repr(unpack_leases(pack_leases(leases))) == repr(leases)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1), st.none() | st.just("store:1"))
def test_a_ref_comes_back(digest, size, backend_id):
    ref = ref_of(digest, "json", size, backend_id)
    assert ref == ContentRef(digest, "json", size)
    assert ref.backend_id == backend_id


@pytest.mark.parametrize(
    "columns",
    [
        (b"short", "json", 1, None),
        (1, "json", 1, None),
        (b"x" * 32, "", 1, None),
        (b"x" * 32, None, 1, None),
        (b"x" * 32, "json", -1, None),
        (b"x" * 32, "json", "1", None),
        (b"x" * 32, "json", 1, "\0"),
    ],
)
def test_a_damaged_ref_is_refused(columns):
    with pytest.raises(MalformedBlobError):
        ref_of(*columns)


def test_no_digest_is_no_ref():
    assert ref_of(None, "", 0, None) is None


def test_others_are_told_what_stands_there():
    ref = ContentRef(b"x" * 32, "json", 1)
    view = versioned("id", ("a",), Row(9, 3, 2, 5, ref, "writer", 7.0))
    assert view == ("id", ("a",), ref, 3, 2, "writer", 7.0)
    assert view.exists
    assert not versioned("id", ("a",), ABSENT).exists


def test_a_row_ends_with_the_first_of_its_leases():
    held = [Held("a", LeaseMode.SHARED, n, until, 1.0) for n, until in enumerate((5.0, 3.0, 4.0))]
    assert Row(leases=tuple(held)).until == 3.0
    assert ABSENT.until is None


@pytest.mark.parametrize(
    "damage",
    [
        {"revision": 0},
        {"version": -1},
        {"epoch": "1"},
        {"fence": 1.5},
        {"codec": None},
        {"digest": b"short"},
        {"writer": None},
        {"at": 1},
        {"leases": b"\xc1"},
    ],
)
def test_a_damaged_row_is_refused(damage):
    names = [
        "key",
        "revision",
        "version",
        "epoch",
        "fence",
        "digest",
        "codec",
        "size",
        "backend_id",
        "writer",
        "at",
        "leases",
    ]
    whole = dict(zip(names, (b"k", 1, 1, 0, 0, bytes(32), "agr1", 3, None, "a", 1.0, None), strict=True))
    assert row_of(tuple(whole.values())).version == 1
    with pytest.raises(MalformedBlobError):
        row_of(tuple({**whole, **damage}.values()))


@given(st.lists(HELD, max_size=3).map(tuple), st.booleans())
def test_rows_come_back_from_their_columns(leases, is_there):
    ref = ContentRef(Digest(bytes(32)), "agr1", 3, "store") if is_there else None
    row = Row(1, 2, 3, 4, ref, "writer", 5.0, leases)
    *columns, until, packed = columns_of(row)
    assert until == row.until
    assert row_of((b"key", *columns, packed)) == row
