"""Keys are data: every one comes back as it was, and none is taken for another."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentref.coherence.keys import MAX_KEY_BYTES, decode_key, encode_key, key_range
from agentref.errors import InvalidInputError, InvalidKeyError

PARTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\0", "\n", "/", "\xff", "\u00fe", "a\0b", "\U0010ffff", "e\u0301", "\u00e9"]
)
KEYS = st.lists(PARTS, min_size=1, max_size=5).filter(any).map(tuple)


@given(KEYS)
def test_a_key_comes_back(key):
    assert decode_key(encode_key(key)) == key


@given(KEYS, KEYS)
@example(("a", "b"), ("a/b",))
@example(("a", ""), ("a",))
@example(("a\xff",), ("a", ""))
@example(("user1", "memories"), ("user2", "memories"))
def test_different_keys_have_different_bytes(one, other):
    assert (encode_key(one) == encode_key(other)) == (one == other)


@given(KEYS, KEYS)
@example(("a",), ("ab",))
@example(("a",), ("a", ""))
@example(("a", "b"), ("a",))
@example(("\U0010ffff",), ("\U0010ffff", "\U0010ffff"))
def test_a_range_holds_the_keys_that_begin_with_these_parts(prefix, key):
    first, stop = key_range(prefix)
    assert (first <= encode_key(key) < stop) == (key[: len(prefix)] == prefix)


@given(KEYS)
def test_the_range_of_no_parts_holds_all(key):
    first, stop = key_range(())
    assert first <= encode_key(key) < stop


@given(KEYS, KEYS)
def test_what_begins_alike_stands_together(prefix, other):
    """No other key is between two of one prefix."""
    inside = [encode_key((*prefix, *rest)) for rest in ((), ("",), ("\U0010ffff",))]
    code = encode_key(other)
    assert other[: len(prefix)] == prefix or not min(inside) < code < max(inside)


@given(st.binary(max_size=12) | st.lists(st.sampled_from([b"a", b"\xff", b"\xc3\xa9"])).map(b"".join))
@example(b"\xff")
@example(b"\xff\xff")
@example(b"a\xff" * 33)
@example(b"a" * MAX_KEY_BYTES + b"\xff")
@example(b"\xed\xa0\x80\xff")
def test_bytes_stand_for_one_key_or_for_none(encoded):
    try:
        key = decode_key(encoded)
    except InvalidKeyError:
        return
    assert encode_key(key) == encoded


@pytest.mark.parametrize(
    "bad",
    [
        (),
        ("",),
        ("", ""),
        "text",
        ["a"],
        None,
        1,
        ("a", 1),
        ("a", None),
        (b"a",),
        ("\ud800",),
        ("a", "x\udfff"),
        ("a",) * 33,
        ("x" * MAX_KEY_BYTES,),
        ("é" * 512,),
        (("a",),),
    ],
)
def test_what_is_no_key_is_refused(bad):
    with pytest.raises(InvalidKeyError) as caught:
        encode_key(bad)
    assert isinstance(caught.value, InvalidInputError)
    assert len(str(caught.value)) < 400
    if bad != ():
        with pytest.raises(InvalidKeyError):
            key_range(bad)


def test_a_key_may_have_so_many_bytes_and_parts():
    assert len(encode_key(("x" * (MAX_KEY_BYTES - 1),))) == MAX_KEY_BYTES
    assert decode_key(encode_key(("", *["a"] * 31))) == ("", *["a"] * 31)


def test_a_text_that_takes_itself_for_another_is_what_is_written_in_it():
    class Folded(str):
        __slots__ = ()

        def __eq__(self, other):
            return str.lower(self) == str.lower(other)

        def __hash__(self):
            return hash(str.lower(self))

    for first, second in ((Folded("PLAN"), "plan"), ("task", Folded("TASK"))):
        assert encode_key((first,)) == str.encode(first) + b"\xff"
        assert encode_key((second,)) == str.encode(second) + b"\xff"
