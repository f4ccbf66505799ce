"""Placeholders that somebody who can write to the database plants there: never data, never a path."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.codecs import CODEC_ID
from agentref.errors import (
    AgentRefError,
    BlobNotFoundError,
    InvalidDigestError,
    InvalidRefError,
    MalformedBlobError,
    UnknownBackendError,
    ValueTooLargeError,
)
from agentref.storage import CAS, FilesystemCAS

AT: Any = {"configurable": {"thread_id": "the-thread"}}


@pytest.fixture
def inner(tmp_path: Path) -> Iterator[SqliteSaver]:
    connection = sqlite3.connect(tmp_path / "checkpoints.sqlite", check_same_thread=False)
    yield SqliteSaver(connection)
    connection.close()


@pytest.fixture
def cas(tmp_path: Path) -> Iterator[CAS]:
    with FilesystemCAS(tmp_path / "blobs") as store:
        yield store


class Docs(TypedDict, total=False):
    document: Any
    log: list[str]


def graph_over(saver: Any) -> Any:
    builder = StateGraph(Docs).add_node("note", lambda state: {"log": ["noted"]})
    return builder.add_edge(START, "note").compile(checkpointer=saver)


DIGEST = "ab" * 32
REF = [1, DIGEST, CODEC_ID, 100, None]


def planted_ref(**changes: Any) -> Any:
    fields = dict(zip(("version", "digest", "codec", "size", "backend"), REF, strict=True))
    return {"__agentref__": list({**fields, **changes}.values())}


NO_DIGESTS = {
    "a path": "../../../../../../etc/passwd",
    "a path of the right length": "../" * 20 + "etc/",
    "an absolute path": "/" + "a" * 63,
    "a shard and a path": "ab/" + "cd" * 30 + "e",
    "one digit short": DIGEST[:-1],
    "one digit more": DIGEST + "a",
    "upper case": DIGEST.upper(),
    "no hex": "zz" * 32,
    "digits of another script": "\u0661" * 64,
    "a line behind": DIGEST + "\n",
    "a nul inside": DIGEST[:-1] + "\0",
    "empty": "",
    "bytes": bytes(32),
    "a number": 7,
    "a list": [DIGEST],
    "nothing": None,
    "SQL": "' OR 1=1 --".ljust(64),
}
PLANTED: dict[str, tuple[Any, type[AgentRefError]]] = {
    **{
        f"digest: {name}": (planted_ref(digest=bad), InvalidDigestError) for name, bad in NO_DIGESTS.items()
    },
    "a newer version": (planted_ref(version=2), InvalidRefError),
    "version true": (planted_ref(version=True), InvalidRefError),
    "an unknown codec": (planted_ref(codec="v99"), InvalidRefError),
    "a path for a codec": (planted_ref(codec="../v1"), InvalidRefError),
    "a negative size": (planted_ref(size=-1), InvalidRefError),
    "a huge size": (planted_ref(size=2**64 - 1), InvalidRefError),
    "a size over the limit": (planted_ref(size=2**40), ValueTooLargeError),
    "a size of text": (planted_ref(size="100"), InvalidRefError),
    "a path for a store": (planted_ref(backend="../../etc"), InvalidRefError),
    "another store": (planted_ref(backend="https://evil.example/x"), UnknownBackendError),
    "too little": ({"__agentref__": REF[:4]}, InvalidRefError),
    "too much": ({"__agentref__": [*REF, 1]}, InvalidRefError),
    "an empty list": ({"__agentref__": []}, InvalidRefError),
    "a ref to nothing": (planted_ref(), BlobNotFoundError),
    "an envelope with a broken ref": (
        {"__agentref__": {"ref": [1, "../x", "v1", 1, None]}},
        InvalidDigestError,
    ),
    "an envelope with no ref": ({"__agentref__": {"ref": None}}, InvalidRefError),
}


def plant(inner: SqliteSaver, value: Any, *, pending: bool = False) -> None:
    """A checkpoint as the inner saver keeps it, with the value where a ref may stand."""
    channels = {"log": ["x"]} if pending else {"log": ["x"], "document": value}
    checkpoint: Any = {
        **empty_checkpoint(),
        "channel_values": channels,
        "channel_versions": {name: inner.get_next_version(None, None) for name in channels},
    }
    config = {"configurable": {**AT["configurable"], "checkpoint_ns": ""}}
    at = inner.put(config, checkpoint, {"source": "loop", "step": 1}, checkpoint["channel_versions"])
    if pending:
        inner.put_writes(at, [("document", value)], "a task")


@pytest.mark.parametrize("place", ["channel", "snapshot", "write"])
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_placeholder_is_a_typed_error_and_nothing_is_written(
    inner: SqliteSaver, cas: CAS, name: str, place: str
) -> None:
    planted, kind = PLANTED[name]
    value = _DeltaSnapshot(planted) if place == "snapshot" else planted
    plant(inner, value, pending=place == "write")
    saver = externalize(inner, backend=cas)
    kept = len(list(inner.list(AT)))
    for read in (
        lambda: saver.get_tuple(AT),
        lambda: list(saver.list(AT)),
        lambda: graph_over(saver).get_state(AT),
        lambda: graph_over(saver).invoke({"log": []}, AT),
    ):
        with pytest.raises(kind) as caught:
            read()
        assert DIGEST in str(caught.value) or not isinstance(
            caught.value, BlobNotFoundError | UnknownBackendError
        )
    assert len(list(inner.list(AT))) == kept


@pytest.mark.parametrize("name", PLANTED)
def test_the_error_for_a_planted_placeholder_says_where_it_stands(
    inner: SqliteSaver, cas: CAS, name: str
) -> None:
    plant(inner, PLANTED[name][0])
    with pytest.raises(AgentRefError) as caught:
        externalize(inner, backend=cas).get_tuple(AT)
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "channel 'document' of thread 'the-thread'" in said


def test_a_planted_ref_with_another_size_gives_no_data(inner: SqliteSaver, cas: CAS) -> None:
    ref = cas.dump(["what is here"] * 1000)
    for size in (0, ref.size - 1, ref.size + 1, 10**8):
        plant(inner, planted_ref(digest=ref.hash, codec=ref.codec, size=size))
        with pytest.raises(
            MalformedBlobError, match=rf"'document' of thread 'the-thread' \(ref {ref.hash}\)"
        ):
            externalize(inner, backend=cas).get_tuple(AT)


LOOK_ALIKES = ["hello", "ref", None, 7, {}, {"other": 1}, {"ref": REF, "value": 1}]


@pytest.mark.parametrize("under_the_key", LOOK_ALIKES, ids=repr)
def test_what_a_thread_held_before_it_was_wrapped_is_read_as_it_is(
    inner: SqliteSaver, cas: CAS, under_the_key: Any
) -> None:
    value = {"__agentref__": under_the_key}
    plant(inner, value)
    found = externalize(inner, backend=cas).get_tuple(AT)
    assert found.checkpoint["channel_values"]["document"] == value
