"""AG2's history storages, with ours around them: the same history, and no payload inside."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import pytest
from ag2 import Agent
from ag2.events import (
    BaseEvent,
    BinaryInput,
    BinaryType,
    HumanMessage,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextInput,
    ToolCallEvent,
    ToolErrorEvent,
    ToolResult,
    ToolResultEvent,
    UsageEvent,
)
from ag2.events._serialization import deserialize_value, serialize_value
from ag2.history import MemoryStorage
from ag2.stream import MemoryStream
from ag2.testing import TestConfig

from agentref.adapters.ag2 import AgentRefStorage, StoredEvent
from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    InvalidInputError,
    InvalidRefError,
    MalformedBlobError,
    StoreUnavailableError,
    UntrustedRefError,
    UntrustedTypeError,
)
from agentref.storage import FilesystemCAS, InMemoryCAS

ROOT = Path(__file__).parents[3]
MARK = "the payload that must not leak "
LARGE = MARK * 40_000
KEY = b"k" * 32


class JsonFiles:
    """A storage as AG2's own one for Redis is, over files: events as JSON, each on a line."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(exist_ok=True)

    def _file(self, stream_id):
        return self.directory / f"{stream_id}.jsonl"

    async def save_event(self, event, context):
        with self._file(context.stream.id).open("a") as file:
            file.write(json.dumps(serialize_value(event)) + "\n")

    async def get_history(self, stream_id):
        lines = self._file(stream_id).read_text().splitlines() if self._file(stream_id).exists() else []
        return [deserialize_value(json.loads(line)) for line in lines]

    async def set_history(self, stream_id, events):
        self._file(stream_id).write_text("".join(json.dumps(serialize_value(e)) + "\n" for e in events))

    async def drop_history(self, stream_id):
        self._file(stream_id).unlink(missing_ok=True)


class Mood(Enum):
    GOOD = "good"


@dataclass
class Detail:
    text: str
    mood: Mood


class OwnEvent(BaseEvent):
    detail: Detail
    note: str = ""


def lookup(query: str) -> str:
    """Find something."""
    return LARGE


def agent(*turns):
    call = ToolCallEvent(name="lookup", arguments=json.dumps({"query": LARGE}))
    return Agent("reader", config=TestConfig(*(turns or (call, LARGE))), tools=[lookup])


def context(stream_id):
    return SimpleNamespace(stream=SimpleNamespace(id=stream_id))


def events():
    picture = BinaryInput(
        b"\x89PNG" + bytes(range(256)) * 100, media_type="image/png", kind=BinaryType.IMAGE
    )
    return [
        ModelRequest([TextInput(LARGE), picture]),
        ModelRequest([TextInput("small")]),
        ModelResponse(ModelMessage(LARGE, metadata={"a": [1, None, {"b": LARGE}]})),
        ToolCallEvent(
            name="f", arguments=json.dumps({"q": LARGE}), vendor_metadata={"__agentref__": [1, "x"]}
        ),
        ToolResultEvent(parent_id="1", name="f", result=ToolResult(LARGE, metadata={"n": 1})),
        ToolErrorEvent(parent_id="1", name="f", error=Exception(LARGE), result=ToolResult(LARGE)),
        HumanMessage(LARGE, parent_id="7"),
        UsageEvent(),
    ]


@pytest.fixture(params=["in memory", "files"])
def inner(request, tmp_path):
    return MemoryStorage() if request.param == "in memory" else JsonFiles(tmp_path / "streams")


async def saved(storage, stream_id, given):
    for event in given:
        await storage.save_event(event, context(stream_id))


def test_every_event_comes_back_and_the_inner_storage_holds_no_payload(inner):
    async def scenario():
        cas, stream_id = InMemoryCAS(), uuid.uuid4()
        storage = AgentRefStorage(inner, backend=cas)
        given = events()
        await saved(storage, stream_id, given)
        got = list(await storage.get_history(stream_id))
        assert got == given
        assert [event.to_dict() for event in got] == [event.to_dict() for event in given]
        kept = list(await inner.get_history(stream_id))
        assert MARK not in json.dumps([serialize_value(event) for event in kept])
        assert [type(event) is StoredEvent for event in kept] == [True, False, *[True] * 5, False]
        assert cas.stats().counters.values_dumped > 0 and cas.stats().counters.values_loaded > 0
        await storage.set_history(stream_id, given[2:5])
        assert list(await storage.get_history(stream_id)) == given[2:5]
        await storage.drop_history(stream_id)
        assert list(await storage.get_history(stream_id)) == []

    asyncio.run(scenario())


def test_an_agent_works_on_a_stream_of_ours(inner, tmp_path):
    async def scenario():
        cas = FilesystemCAS(tmp_path / "store")
        stream = MemoryStream(AgentRefStorage(inner, backend=cas))
        reply = await agent().ask(LARGE, stream=stream)
        assert reply.body == LARGE
        again = MemoryStream(AgentRefStorage(inner, backend=cas), id=stream.id)
        assert await (await agent("I remember").ask("go on", stream=again)).content() == "I remember"
        history = list(await again.history.get_events())
        assert [e.content for e in history if isinstance(e, ModelResponse)] == [None, LARGE, "I remember"]
        kept = json.dumps([serialize_value(event) for event in await inner.get_history(stream.id)])
        assert MARK not in kept and len(kept) < 8_000

    asyncio.run(scenario())


RESUME = """
import asyncio, sys, uuid
sys.path.insert(0, sys.argv[4])
from tests.integration.ag2.test_storage import JsonFiles, LARGE
from ag2.events import ModelResponse
from agentref.adapters.ag2 import AgentRefStorage
from agentref.storage import FilesystemCAS

async def main():
    storage = AgentRefStorage(JsonFiles(sys.argv[1]), backend=FilesystemCAS(sys.argv[2]))
    history = list(await storage.get_history(uuid.UUID(sys.argv[3])))
    print(sum(isinstance(e, ModelResponse) and e.content == LARGE for e in history), len(history))

asyncio.run(main())
"""


def test_a_new_process_reads_the_history_and_no_file_but_the_store_holds_the_payload(tmp_path):
    async def scenario():
        with FilesystemCAS(tmp_path / "store") as cas:
            stream = MemoryStream(AgentRefStorage(JsonFiles(tmp_path / "streams"), backend=cas))
            await agent().ask(LARGE, stream=stream)
            return stream.id

    stream_id = asyncio.run(scenario())
    done = subprocess.run(
        [sys.executable, "-c", RESUME, tmp_path / "streams", tmp_path / "store", str(stream_id), ROOT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "1" and int(done.stdout.split()[1]) >= 5
    files = list((tmp_path / "streams").iterdir())
    assert files and not any(MARK in file.read_text() for file in files)


def test_events_of_a_user_are_named_first(caplog):
    async def scenario():
        event = OwnEvent(detail=Detail(LARGE, Mood.GOOD), note="x")
        for types, kept_as in (([], OwnEvent), ([OwnEvent, Detail, Mood], StoredEvent)):
            inner, stream_id = MemoryStorage(), uuid.uuid4()
            storage = AgentRefStorage(inner, backend=InMemoryCAS(), event_types=types)
            with caplog.at_level(logging.WARNING, "agentref.adapters.ag2"):
                await saved(storage, stream_id, [event, event])
            assert {type(kept) for kept in await inner.get_history(stream_id)} == {kept_as}
            assert list(await storage.get_history(stream_id)) == [event, event]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "OwnEvent" in caplog.text

    asyncio.run(scenario())


def tagged(event):
    event._tag = "by a middleware"
    return event


@pytest.mark.parametrize(
    "event",
    [
        tagged(ToolCallEvent(name="f", arguments=LARGE)),
        ToolErrorEvent(parent_id="1", error=KeyError(LARGE), result=ToolResult("failed")),
        ToolCallEvent(name="f", vendor_metadata={"object": object(), "text": LARGE}),
        ToolCallEvent(name="f", vendor_metadata={1: LARGE}),
        ToolCallEvent(name="f", vendor_metadata={"n": float("nan"), "text": LARGE}),
        ToolCallEvent(name="f", vendor_metadata={"__dataclass__": "os.system", "data": {"x": LARGE}}),
    ],
)
def test_an_event_that_would_come_back_as_another_is_kept_as_it_is(event):
    async def scenario():
        inner, stream_id = MemoryStorage(), uuid.uuid4()
        storage = AgentRefStorage(inner, backend=InMemoryCAS())
        await saved(storage, stream_id, [event])
        assert next(iter(await storage.get_history(stream_id))) is event
        assert next(iter(await inner.get_history(stream_id))) is event

    asyncio.run(scenario())


class Down(InMemoryCAS):
    down = False

    def store(self, *args, **options):
        if self.down:
            raise StoreUnavailableError("The store is down.")
        return super().store(*args, **options)

    def load_many(self, *args, **options):
        if self.down:
            raise StoreUnavailableError("The store is down.")
        return super().load_many(*args, **options)


def test_a_store_that_is_down_leaves_the_history_as_it_was():
    async def scenario():
        cas, inner, stream_id = Down(), MemoryStorage(), uuid.uuid4()
        storage = AgentRefStorage(inner, backend=cas)
        await saved(storage, stream_id, events()[:2])
        before = list(await inner.get_history(stream_id))
        cas.down = True
        for call in (
            storage.save_event(events()[0], context(stream_id)),
            storage.set_history(stream_id, events()),
            storage.get_history(stream_id),
        ):
            with pytest.raises(StoreUnavailableError):
                await call
        assert list(await inner.get_history(stream_id)) == before

    asyncio.run(scenario())


REF = {"__agentref__": [1, "0" * 64, "agr1", 9, None]}


@pytest.mark.parametrize(
    ("kind", "data", "keys", "error"),
    [
        ("subprocess.Popen", "{}", (), UntrustedTypeError),
        ("ag2.agent.Agent", "{}", (), UntrustedTypeError),
        ("ag2.events.types.Usage", "{}", (), UntrustedTypeError),
        ("ag2.nowhere.Event", "{}", (), UntrustedTypeError),
        (7, "{}", (), MalformedBlobError),
        ("ag2.events.types.HumanMessage", "{", (), MalformedBlobError),
        ("ag2.events.types.HumanMessage", "[]", (), MalformedBlobError),
        ("ag2.events.types.HumanMessage", json.dumps({"content": REF}), (), BlobNotFoundError),
        ("ag2.events.types.HumanMessage", json.dumps({"content": REF}), KEY, UntrustedRefError),
        (
            "ag2.events.types.HumanMessage",
            json.dumps({"content": {"__agentref__": 1}}),
            (),
            InvalidRefError,
        ),
        (
            "ag2.events.types.HumanMessage",
            json.dumps({"content": {"__dataclass__": "subprocess.Popen", "data": {"args": ["false"]}}}),
            (),
            UntrustedTypeError,
        ),
        (
            "ag2.events.types.HumanMessage",
            json.dumps({"content": {"__event__": "tests.nothing.Event"}}),
            (),
            UntrustedTypeError,
        ),
    ],
)
def test_an_edited_history_is_a_typed_error_and_constructs_nothing(kind, data, keys, error):
    async def scenario():
        inner, stream_id = MemoryStorage(), uuid.uuid4()
        await inner.set_history(stream_id, [StoredEvent(kind=kind, data=data)])
        with pytest.raises(error):
            await AgentRefStorage(inner, backend=InMemoryCAS(), keys=keys).get_history(stream_id)

    asyncio.run(scenario())


def test_another_tenant_reads_nothing():
    async def scenario():
        cas, inner, stream_id = InMemoryCAS(), MemoryStorage(), uuid.uuid4()
        ann, bob = (AgentRefStorage(inner, backend=cas, keys=KEY, tenant=name) for name in ("ann", "bob"))
        await saved(ann, stream_id, events()[:1])
        with pytest.raises(UntrustedRefError):
            await bob.get_history(stream_id)
        assert list(await ann.get_history(stream_id)) == events()[:1]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("inner", "options", "error"),
    [
        (MemoryStorage(), {}, ConfigurationError),
        (object(), {"backend": InMemoryCAS()}, InvalidInputError),
        (MemoryStorage(), {"backend": "files"}, InvalidInputError),
        (MemoryStorage(), {"backend": InMemoryCAS(), "event_types": [int]}, InvalidInputError),
        (MemoryStorage(), {"backend": InMemoryCAS(), "event_types": ["Event"]}, InvalidInputError),
        (MemoryStorage(), {"backend": InMemoryCAS(), "threshold_bytes": -1}, InvalidInputError),
        (MemoryStorage(), {"backend": InMemoryCAS(), "tenant": "ann"}, InvalidInputError),
        (MemoryStorage(), {"backend": InMemoryCAS(), "namespace": ""}, InvalidInputError),
        (MemoryStorage(), {"backend": InMemoryCAS(), "namespace": "a:b"}, InvalidInputError),
        (MemoryStorage(), {"backend": InMemoryCAS(), "namespace": 7}, InvalidInputError),
    ],
)
def test_bad_arguments(inner, options, error):
    with pytest.raises(error):
        AgentRefStorage(inner, **options)
