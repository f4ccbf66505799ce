"""Where batches are in a pack, and what it costs to tell when a part of the pack is no batch."""

import os
import zlib
from types import SimpleNamespace

import pytest

from agentref.refs import Digest
from agentref.storage import _batches
from agentref.storage._batches import Batch, batch_parts, intact_end, read_batches

NAME = "0123456789abcdef"


@pytest.fixture
def pack(tmp_path):
    descriptor = os.open(tmp_path / NAME, os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def append(pack: int, *datas: bytes) -> Batch:
    begin = os.fstat(pack).st_size
    blobs = {Digest(os.urandom(32)): data for data in datas}
    batch, parts = batch_parts(blobs, NAME, begin, stored_at=1.0, expires_at=2.0)
    os.pwrite(pack, b"".join(parts), begin)
    return batch


def begins(pack: int) -> list[int]:
    return [batch.begin for batch in read_batches(pack, NAME, 0, os.fstat(pack).st_size)]


@pytest.mark.parametrize("place", range(0, 40 + 2 * 36, 3))
def test_a_batch_whose_head_or_list_is_damaged_is_passed_over(pack, place):
    first, second, third = append(pack, b"one"), append(pack, b"two", b"more"), append(pack, b"three")
    at = second.begin + place
    os.pwrite(pack, bytes([os.pread(pack, 1, at)[0] ^ 1]), at)
    assert begins(pack) == [first.begin, third.begin]


def test_bytes_that_are_damaged_are_found_by_who_reads_them(pack):
    first, second = append(pack, b"one"), append(pack, b"two")
    os.pwrite(pack, b"!", second.end - 1)
    assert begins(pack) == [first.begin, second.begin]
    assert intact_end(pack, NAME, 0, second.end) == first.end


def test_to_pass_over_what_only_looks_like_batches_is_linear(pack, monkeypatch):
    whole = append(pack, b"one")
    head = os.pread(pack, 40, whole.begin)
    # A writer who was killed while he stored this: each piece claims a list that reaches to the end of it.
    pieces = 20_000
    claims = [head[:16] + (pieces - n).to_bytes(4, "big") + head[20:] for n in range(pieces)]
    os.pwrite(pack, b"".join(claims), whole.end)
    last = append(pack, b"last")

    checked = 0

    def counted(data: bytes, value: int = 0) -> int:
        nonlocal checked
        checked += len(data)
        return zlib.crc32(data, value)

    monkeypatch.setattr(_batches, "zlib", SimpleNamespace(crc32=counted))
    assert begins(pack) == [whole.begin, last.begin]
    assert checked < 2 * os.fstat(pack).st_size
