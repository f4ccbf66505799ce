"""Entries of the feed: small whatever was committed, and read back as they were or not at all."""

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentref.coherence.feed import Change, pack_entry, unpack_entry
from agentref.coherence.keys import encode_key
from agentref.errors import MalformedBlobError
from agentref.refs import ContentRef

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(0, 2**63 - 1)
REFS = st.builds(
    ContentRef,
    st.binary(min_size=32, max_size=32),
    st.just("json"),
    NUMBERS,
    st.none() | st.just("store:1"),
)
CHANGES = st.builds(
    Change,
    st.lists(TEXTS, min_size=1, max_size=3).filter(any).map(tuple),
    NUMBERS,
    st.none() | REFS,
    NUMBERS,
    TEXTS,
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.floats()
    | TEXTS
    | st.sampled_from([b"a\xff", b"", b"x" * 32]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=16,
)
GOOD = [encode_key(("a",)), 1, 0, "w", b"x" * 32, "json", 1, None]


@given(st.lists(CHANGES, max_size=4))
def test_an_entry_comes_back(changes):
    found = unpack_entry(pack_entry(changes), "here")
    assert found == [change._replace(cursor="here") for change in changes]
    assert [c.ref and c.ref.backend_id for c in found] == [c.ref and c.ref.backend_id for c in changes]


@given(
    st.binary(max_size=40)
    | ANYTHING.map(lambda item: msgpack.packb([1, item]))
    | ANYTHING.map(msgpack.packb)
)
def test_bytes_are_an_entry_or_damaged(entry):
    try:
        changes = unpack_entry(entry, "")
    except MalformedBlobError:
        return
    assert unpack_entry(pack_entry(changes), "") == changes


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        (0, 5),
        (0, "a"),
        (0, None),
        (0, b"a"),
        (0, b"\xff"),
        (1, "1"),
        (1, True),
        (2, 1.0),
        (3, b"w"),
        (3, None),
        (4, b"short"),
        (4, 1),
        (5, "JSON!"),
        (6, -1),
        (6, 2**63),
        (7, 1),
    ],
)
def test_a_change_with_a_wrong_part_is_damaged(place, bad):
    change = [*GOOD[:place], bad, *GOOD[place + 1 :]]
    unpack_entry(msgpack.packb([1, GOOD]), "")
    with pytest.raises(MalformedBlobError):
        unpack_entry(msgpack.packb([1, change]), "")


@pytest.mark.parametrize("format_", [0, 2, "1", None])
def test_another_format_is_not_guessed_at(format_):
    with pytest.raises(MalformedBlobError):
        unpack_entry(msgpack.packb([format_, GOOD]), "")


@given(st.integers(0, 2**63 - 1))
@example(2**63 - 1)
def test_an_invalidation_has_160_bytes_at_most(size):
    """With names of ordinary length, whatever the size of the content."""
    ref = ContentRef(b"x" * 32, "msgpack", size, "filesystem:0123456789ab")
    change = Change(("project-name", "artifact-name"), 10**9, ref, 10**6, "an-agent-of-some-framework")
    assert len(pack_entry([change])) <= 160
