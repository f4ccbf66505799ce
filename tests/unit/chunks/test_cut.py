"""Where things are cut: within bounds, by content alone, and the same from a stream as from memory."""

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentref.chunks import WHOLE_BYTES, cut_bytes, cut_stream
from agentref.chunks.cut import cut_items, cut_links, cut_rows, cut_tail

KIB = 1024


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Dribble(io.RawIOBase):
    """A file that gives little at a time, as a socket does."""

    def __init__(self, data: bytes, seed: int = 1) -> None:
        super().__init__()
        self._file = io.BytesIO(data)
        self._random = random.Random(seed)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, self._random.choice([1, 100, 5000, 70_000])) if size > 0 else -1)

    def readinto(self, buffer) -> int:
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)


SIZES = [0, 1, WHOLE_BYTES - 1, WHOLE_BYTES, WHOLE_BYTES + 1, 400_000, 1 << 20, 3_000_001]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fill", ["noise", "zeros"])
def test_a_stream_is_cut_as_its_bytes_are(size: int, fill: str) -> None:
    data = noise(size) if fill == "noise" else bytes(size)
    chunks = [bytes(chunk) for chunk in cut_bytes(memoryview(data))]
    assert b"".join(chunks) == data
    assert list(cut_stream(io.BytesIO(data))) == chunks
    assert list(cut_stream(Dribble(data))) == chunks


@pytest.mark.parametrize("size", SIZES)
def test_chunks_are_within_their_bounds(size: int) -> None:
    sizes = [len(chunk) for chunk in cut_bytes(memoryview(noise(size)))]
    if size <= WHOLE_BYTES:
        assert sizes == ([size] if size else [])
    else:
        assert all(16 * KIB <= length <= 256 * KIB for length in sizes[:-1])
        assert sizes[-1] <= 256 * KIB


def test_a_view_with_gaps_is_cut_as_what_it_shows() -> None:
    data = noise(2_000_000)
    view = memoryview(data)[::2]
    assert b"".join(bytes(chunk) for chunk in cut_bytes(view)) == data[::2]


@pytest.mark.parametrize("at", [0, 1, 1_000_000, 1_999_999])
@pytest.mark.parametrize("edit", ["insert", "delete", "change", "append"])
def test_an_edit_of_bytes_leaves_the_other_chunks(at: int, edit: str) -> None:
    data = noise(2_000_000)
    new = {
        "insert": data[:at] + b"new" + data[at:],
        "delete": data[:at] + data[at + 1 :],
        "change": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
        "append": data + b"more" * 10,
    }[edit]
    before = {bytes(chunk) for chunk in cut_bytes(memoryview(data))}
    after = {bytes(chunk) for chunk in cut_bytes(memoryview(new))}
    assert len(after - before) <= 4


@given(st.integers(0, 3_000_000), st.integers(0, 600_000))
@settings(max_examples=50)
def test_rows_are_cut_between_rows(size: int, row: int) -> None:
    data = memoryview(bytes(size))
    chunks = list(cut_rows(data, row))
    assert sum(map(len, chunks)) == size
    assert all(0 < len(chunk) <= 256 * KIB for chunk in chunks)
    if 0 < row <= 256 * KIB:
        assert all(len(chunk) % row == 0 for chunk in chunks[:-1])


items = st.lists(st.binary(min_size=1, max_size=200).map(lambda part: part * 40), min_size=1, max_size=80)


def all_cuts(parts: list[bytes]) -> list[int]:
    ends = cut_items(parts, list(map(len, parts)))
    return ends + cut_tail(parts, ends[-1] if ends else 0)


@given(items)
def test_leaves_hold_all_elements_in_order_within_bounds(elements: list[bytes]) -> None:
    weights = list(map(len, elements))
    ends = all_cuts(elements)
    assert ends[-1:] == [len(elements)]
    assert sorted(set(ends)) == ends
    begin = 0
    for end in ends:
        weight = sum(weights[begin:end])
        assert weight < 64 * KIB + max(weights, default=0)
        if end != len(elements):
            assert weight >= 2 * KIB
        begin = end


def elements(count: int) -> list[bytes]:
    chance = random.Random(5)
    return [b"%d " % number + chance.randbytes(chance.randrange(50, 900)) for number in range(count)]


def leaves(parts: list[bytes]) -> set[bytes]:
    ends = all_cuts(parts)
    return {b"".join(parts[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)}


@pytest.mark.parametrize("at", [0, 1, 500, 999])
@pytest.mark.parametrize("edit", ["insert", "delete", "change", "append", "move"])
def test_an_edit_of_a_list_leaves_the_other_leaves(at: int, edit: str) -> None:
    parts = elements(1000)
    new = list(parts)
    if edit == "insert":
        new.insert(at, b"new " * 50)
    elif edit == "delete":
        del new[at]
    elif edit == "change":
        new[at] = b"changed " * 30
    elif edit == "append":
        new.append(b"more " * 30)
    else:
        new.append(new.pop(at))
    assert len(leaves(parts)) > 15
    assert len(leaves(new) - leaves(parts)) <= 6


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=200))
def test_nodes_hold_all_links_in_order_within_bounds(digests: list[bytes]) -> None:
    ends = cut_links(digests)
    assert ends[-1:] == ([len(digests)] if digests else [])
    counts = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    assert all(4 <= count <= 32 for count in counts[:-1])
    assert all(1 <= count <= 32 for count in counts[-1:])
