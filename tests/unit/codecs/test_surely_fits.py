"""What fits is told by a look; what is told so does fit."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentref.codecs import surely_fits
from agentref.storage import InMemoryCAS

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=60), st.binary(max_size=60)
)
values = st.one_of(
    scalars,
    st.lists(st.text(max_size=30), max_size=40),
    st.lists(st.integers(-(2**70), 2**70), max_size=40),
    st.lists(st.floats(), max_size=40),
    st.lists(scalars, max_size=10),
    st.dictionaries(st.text(max_size=5), scalars, max_size=5),
)
CAS = InMemoryCAS()


@given(values, st.integers(0, 3000))
@settings(deadline=None, max_examples=400)
def test_what_is_said_to_fit_fits(value, limit):
    assert not surely_fits(value, limit) or CAS.size_of(value) <= limit


@pytest.mark.parametrize(
    "value",
    [None, True, 1.5, 7, -(2**63), "text", "\U0001f600" * 100, [], ["a"] * 100, [1] * 100, [0.5] * 100],
    ids=repr,
)
def test_what_a_checkpoint_mostly_carries_is_told(value):
    assert surely_fits(value, 64 * 1024)


@pytest.mark.parametrize(
    "value", ["x" * 20_000, ["x" * 200] * 100, [1] * 3000, 2**70, [2**70], {}, b"", [None]]
)
def test_what_cannot_be_told_is_to_be_encoded(value):
    assert not surely_fits(value, 64 * 1024)
