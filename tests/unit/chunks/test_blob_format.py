"""Blobs: canonical bytes, their digests, and a parser that believes nothing."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from agentref.chunks import Kind, Link, blob_digest, link_table, read_varint, unpack_blob, varint
from agentref.errors import MalformedBlobError
from agentref.refs import Digest

digests = st.binary(min_size=32, max_size=32).map(Digest)
links = st.builds(Link, digests, st.integers(1, 2**62))


@given(st.integers(0, 2**63 - 1))
def test_a_number_is_read_as_written(number: int) -> None:
    data = varint(number)
    assert read_varint(data, 0) == (number, len(data))
    assert read_varint(b"xx" + data + b"yy", 2) == (number, 2 + len(data))


@given(st.binary(max_size=12))
def test_only_the_shortest_form_of_a_number_is_read(data: bytes) -> None:
    try:
        number, end = read_varint(data, 0)
    except MalformedBlobError:
        return
    assert varint(number) == data[:end]


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\xff\x80\x00", b"\xff" * 20, b"\x80" * 9 + b"\x01"]
)
def test_a_number_that_is_cut_off_or_padded_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedBlobError):
        read_varint(data, 0)


@given(st.lists(links, max_size=40), st.binary(max_size=50))
def test_a_value_blob_is_parsed_into_what_it_was_made_of(children: list[Link], payload: bytes) -> None:
    blob = unpack_blob(Kind.VALUE, link_table(children) + payload)
    assert blob.links == tuple(children)
    assert bytes(blob.payload) == payload
    assert blob.size == len(payload) + sum(link.size for link in children)


@given(st.lists(links, min_size=1, max_size=40))
def test_a_node_holds_links_and_nothing_else(children: list[Link]) -> None:
    table = link_table(children)
    assert unpack_blob(Kind.NODE, table).links == tuple(children)
    for bad in (table + b"\0", table[:-1], b"\0", b""):
        with pytest.raises(MalformedBlobError):
            unpack_blob(Kind.NODE, bad)


def test_a_raw_blob_is_its_bytes() -> None:
    blob = unpack_blob(Kind.RAW, b"\xff\x01")
    assert (blob.links, blob.payload, blob.size) == ((), b"\xff\x01", 2)


@given(st.binary(max_size=120), st.sampled_from([Kind.VALUE, Kind.NODE]))
def test_any_bytes_are_parsed_or_refused_and_have_one_reading(data: bytes, kind: Kind) -> None:
    try:
        blob = unpack_blob(kind, data)
    except MalformedBlobError:
        return
    assert link_table(blob.links) + bytes(blob.payload) == data


@pytest.mark.parametrize("count", [1, 2, 2**18, 2**18 + 1, 2**40])
def test_a_table_that_claims_more_links_than_it_holds_is_refused(count: int) -> None:
    with pytest.raises(MalformedBlobError):
        unpack_blob(Kind.VALUE, varint(count) + b"x" * 32)


def test_a_link_to_nothing_is_refused() -> None:
    with pytest.raises(MalformedBlobError):
        unpack_blob(Kind.VALUE, varint(1) + bytes(32) + varint(0))


def test_raw_bytes_have_their_plain_hash_and_each_kind_its_own() -> None:
    data = b"the same bytes"
    assert blob_digest(Kind.RAW, data) == blake3(data).digest()
    assert len({blob_digest(kind, data) for kind in Kind}) == 3
    assert blob_digest(Kind.VALUE, memoryview(data)) == blob_digest(Kind.VALUE, data)
