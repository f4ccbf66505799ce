"""The wire format is pinned: what is written today is what was written, and all of it is still read."""

import base64
import json
import runpy
from pathlib import Path

import pytest

from agentref.chunks import Kind, blob_digest
from agentref.refs import ContentRef, parse_digest
from agentref.storage import CAS
from agentref.storage.frames import pack_frame
from agentref.storage.memory import MemoryBlobStore

GOLDEN = Path(__file__).parents[2] / "golden"
SCRIPT = runpy.run_path(str(GOLDEN / "regenerate.py"))
VALUES = SCRIPT["values"]()
PINNED = json.loads((GOLDEN / SCRIPT["GOLDEN"]).read_text(encoding="utf-8"))


def test_every_value_is_pinned() -> None:
    assert list(PINNED) == list(VALUES)
    assert sum("bytes" in entry for entry in PINNED.values()) > 40


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_written_as_ever(name: str) -> None:
    assert SCRIPT["golden"](VALUES[name]) == PINNED[name]


@pytest.mark.parametrize("name", [name for name, entry in PINNED.items() if "bytes" in entry])
def test_bytes_written_long_ago_are_read(same, name: str) -> None:
    entry = PINNED[name]
    store = MemoryBlobStore()
    for digest, kind, data in entry["bytes"]:
        raw = base64.b64decode(data)
        assert blob_digest(Kind[kind], raw).hex() == digest
        store.store({parse_digest(digest): pack_frame(Kind[kind], raw, 1)})
    ref = ContentRef(parse_digest(entry["digest"]), entry["codec"], entry["size"])
    assert same(CAS(store).load(ref), VALUES[name])
