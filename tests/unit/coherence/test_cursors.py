"""Cursors name a feed and a place in it, and are believed neither."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentref.coherence.cursors import check_position, place_in, written
from agentref.errors import CursorTooOldError, InvalidInputError

IDS = st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True)


@given(IDS, st.integers(0, 2**63 - 1))
def test_a_cursor_comes_back(table_id, position):
    place = place_in(written(table_id, position), table_id)
    assert check_position(place, first=0, last=2**63 - 1) == position


@given(IDS, st.text())
def test_a_place_is_data(table_id, place):
    if len(place) < 4000:
        assert place_in(written(table_id, place), table_id) == place


@given(IDS, IDS)
def test_the_cursor_of_another_table_is_told_apart(one, other):
    cursor = written(one, 1)
    if one == other:
        assert place_in(cursor, other) == "1"
    else:
        with pytest.raises(CursorTooOldError):
            place_in(cursor, other)


@pytest.mark.parametrize("bad", ["", "no slash", None, 1, b"t/1", ("t", 1), "t/" + "1" * 70_000])
def test_what_is_no_cursor_is_refused(bad):
    with pytest.raises(InvalidInputError) as caught:
        place_in(bad, "t")
    assert len(str(caught.value)) < 300


@given(st.text() | st.integers(-100, 100).map(str))
def test_a_place_is_a_position_that_the_feed_knows_or_refused(place):
    try:
        position = check_position(place, first=10, last=20)
    except InvalidInputError:
        assert not (place.isascii() and place.isdigit() and len(place) < 20)
    except CursorTooOldError:
        assert not 10 <= int(place) <= 20
    else:
        assert 10 <= position == int(place) <= 20


@pytest.mark.parametrize(
    "place", ["", "-1", "+1", "1.0", " 1", "1_0", "0x1", "\u0661", "\u00b2", "9" * 20, "1\n"]
)
def test_a_place_is_decimal(place):
    with pytest.raises(InvalidInputError):
        check_position(place, first=0, last=10**30)
