"""Trees of blobs: whole, shallow, and no larger than what they stand for."""

import random

import pytest

from agentref.chunks import (
    MAX_BLOB_BYTES,
    MAX_DEPTH,
    IdentityMemo,
    Kind,
    Link,
    TreeBuilder,
    blob_digest,
    unpack_blob,
)
from agentref.errors import ValueTooLargeError


def read(builder: TreeBuilder, links: list[Link]) -> bytes:
    parts = []
    for link in links:
        pending = builder.blobs[link.digest]
        data = bytes(pending.canonical())
        assert blob_digest(pending.kind, data) == link.digest
        assert pending.size == len(data)
        blob = unpack_blob(pending.kind, data)
        assert blob.size == link.size
        parts.append(bytes(blob.payload) + read(builder, list(blob.links)))
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 1000, 262_144, 262_145, 1_000_000, 6_000_001])
@pytest.mark.parametrize("fill", ["noise", "zeros", "text"])
def test_what_links_lead_to_is_what_was_put_in(size: int, fill: str) -> None:
    builder = TreeBuilder()
    if fill == "text":
        text = "aü\N{GRINNING FACE}\ud800" * (size // 4)
        links = builder.raw(text)
        assert read(builder, links) == text.encode("utf-8", "surrogatepass")
    else:
        data = random.Random(1).randbytes(size) if fill == "noise" else bytes(size)
        links = builder.raw(data)
        assert read(builder, links) == data
        rows = builder.rows(memoryview(data), 1000)
        assert read(builder, list(rows)) == data
    assert len(links) <= 16


@pytest.mark.parametrize("count", [1, 16, 17, 33, 1000, 20_000])
def test_many_links_become_few(count: int) -> None:
    builder = TreeBuilder()
    leaves = [builder.value([b"%d" % number], []) for number in range(count)]
    top = builder.top(leaves)
    assert 1 <= len(top) <= 16
    assert read(builder, list(top)) == b"".join(b"%d" % number for number in range(count))


def test_equal_parts_are_kept_once() -> None:
    builder = TreeBuilder()
    assert builder.raw(b"x" * 9000) == builder.raw("x" * 9000)
    assert len(builder.blobs) == 1


def test_a_blob_over_the_limit_is_refused() -> None:
    builder = TreeBuilder()
    with pytest.raises(ValueTooLargeError, match="limit"):
        builder.value([bytes(MAX_BLOB_BYTES)], [])
    assert builder.value([bytes(MAX_BLOB_BYTES - 1)], []).size == MAX_BLOB_BYTES - 1


def test_a_tree_deeper_than_any_reader_goes_is_refused() -> None:
    builder = TreeBuilder()
    link = builder.value([b"leaf"], [])
    for _ in range(MAX_DEPTH - 1):
        link = builder.value([b"x"], [link])
    with pytest.raises(ValueTooLargeError, match="levels"):
        builder.value([b"x"], [link])


def test_children_come_before_their_parents() -> None:
    builder = TreeBuilder()
    builder.node(builder.raw(random.Random(1).randbytes(8_000_000)))
    seen = set()
    for digest, pending in builder.blobs.items():
        assert seen.issuperset(
            link.digest for link in unpack_blob(pending.kind, bytes(pending.canonical())).links
        )
        seen.add(digest)
    assert any(pending.kind is Kind.NODE for pending in builder.blobs.values())


def test_a_memo_knows_an_object_and_not_its_equals() -> None:
    memo = IdentityMemo(1000)
    first, second = bytes(bytearray(b"equal")), bytes(bytearray(b"equal"))
    memo.add(first, "known", 10)
    assert memo.get(first) == "known"
    assert memo.get(second) is None


def test_a_memo_lets_go_of_what_was_not_asked_for_lately() -> None:
    memo = IdentityMemo(1000)
    kept, forgotten = object(), object()
    memo.add(kept, 1, 100)
    memo.add(forgotten, 2, 100)
    for number in range(30):
        memo.add(f"{number}" * 2, number, 100)
        assert memo.get(kept) == 1
    assert memo.get(forgotten) is None
