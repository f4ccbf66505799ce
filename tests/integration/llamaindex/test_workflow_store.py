"""`AgentRefWorkflowStore` under a real server over SQLite: no payload in a table, all of it comes back."""

import asyncio
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from llama_agents.client.protocol.serializable_events import EventEnvelopeWithMetadata
from llama_agents.server import (
    HandlerQuery,
    MemoryWorkflowStore,
    PersistentHandler,
    SqliteWorkflowStore,
    WorkflowServer,
)
from workflows import Context, Workflow, step
from workflows.context import JsonSerializer, PickleSerializer
from workflows.context.state_store import DictState, InMemoryStateStore
from workflows.events import Event, StartEvent, StopEvent

from agentref.adapters.llamaindex import AgentRefSerializer, AgentRefStateStorage, AgentRefWorkflowStore
from agentref.errors import ConfigurationError, InvalidInputError, StoreUnavailableError

from .conftest import run, tables

ROOT = Path(__file__).parents[3]
FORGED = {"__agentref__": [1, "00" * 32, "agr1", 10, None]}
MARKED = {"agentref": 1, "tree": {"__agentref__": [1, "00" * 32, "agr1", 10, None]}}


class Middle(Event):
    """Carries the payload from step to step."""

    payload: str


class Shown(Event):
    """Goes to the event stream."""

    payload: str


class Finished(StopEvent):
    """A result of a class of its own."""

    payload: str


def workflow_of(text: str, result: Any) -> Workflow:
    ends: Any = Finished if result is Finished else StopEvent

    class Three(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Middle:
            await ctx.store.set("docs", [{"text": text}])
            ctx.write_event_to_stream(Shown(payload=text))
            return Middle(payload=text)

        @step
        async def last(self, ctx: Context, ev: Middle) -> ends:
            docs = await ctx.store.get("docs")
            assert docs[0]["text"] == ev.payload
            return Finished(payload=text) if result is Finished else StopEvent(result=result)

    return Three()


async def played(server: WorkflowServer, name: str) -> tuple[Any, list[Any]]:
    """Run a workflow over HTTP: its handler as the server shows it, and its events."""
    async with (
        server.contextmanager(),
        httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://test") as client,
    ):
        done = (await client.post(f"/workflows/{name}/run", json={})).json()
        async with client.stream(
            "GET", f"/events/{done['handler_id']}", params={"sse": "false", "after_sequence": "-1"}
        ) as streamed:
            events = [json.loads(line) async for line in streamed.aiter_lines() if line]
        return done, events


@pytest.fixture
def inner(tmp_path: Path) -> SqliteWorkflowStore:
    return SqliteWorkflowStore(str(tmp_path / "workflows.db"), poll_interval=0.05)


@pytest.fixture
def store(inner: Any, cas: Any) -> AgentRefWorkflowStore:
    return AgentRefWorkflowStore(inner, backend=cas)


@pytest.mark.parametrize(
    "serializer", [JsonSerializer(), JsonSerializer(allowed_types=[]), PickleSerializer()]
)
@pytest.mark.parametrize("kind", ["plain", "of a class of its own"])
def test_no_table_holds_a_payload_and_the_server_shows_everything(  # noqa: PLR0917
    inner: Any, store: Any, text: str, in_files: Any, tmp_path: Path, serializer: Any, kind: str
) -> None:
    result = text if kind == "plain" else Finished
    server = WorkflowServer(workflow_store=store, serializer=serializer)
    server.add_workflow("three", workflow_of(text, result))
    done, events = run(played(server, "three"))
    assert done["status"] == "completed"
    assert text in json.dumps(done["result"])
    assert [event["value"].get("payload") for event in events if event["type"] == "Shown"] == [text]
    assert in_files(text) == []
    sizes = tables(tmp_path / "workflows.db")
    for table in ("ticks", "events", "handlers", "workflow_state"):
        assert 0 < sizes[table] < 12_000, sizes


def test_without_it_every_table_holds_the_payload(
    inner: Any, text: str, in_files: Any, tmp_path: Path
) -> None:
    server = WorkflowServer(workflow_store=inner)
    server.add_workflow("three", workflow_of(text, text))
    run(played(server, "three"))
    assert in_files(text) == ["workflows.db"]
    sizes = tables(tmp_path / "workflows.db")
    assert all(sizes[table] > 900_000 for table in ("ticks", "events", "handlers", "workflow_state")), sizes


def test_the_serializer_survives_allowed_types_in_the_server(
    inner: Any, cas: Any, text: str, tmp_path: Path
) -> None:
    """With the serializer alone: `with_types` is called, and ticks and state carry refs all the same."""
    serializer = AgentRefSerializer(cas, allowed_types=[])
    server = WorkflowServer(workflow_store=inner, serializer=serializer)
    server.add_workflow("three", workflow_of(text, "done"))
    done, _ = run(played(server, "three"))
    assert done["status"] == "completed"
    sizes = tables(tmp_path / "workflows.db")
    assert sizes["ticks"] < 12_000
    assert sizes["workflow_state"] < 2_000


def test_the_server_restarts_a_run_from_its_ticks(inner: Any, store: Any, cas: Any, text: str) -> None:
    async def scenario() -> None:
        server = WorkflowServer(workflow_store=store)
        server.add_workflow("three", workflow_of(text, "done"))
        await played(server, "three")
        (handler,) = await store.query(HandlerQuery(workflow_name_in=["three"]))
        ticks = await store.get_ticks(handler.run_id)
        assert [tick async for tick in store.stream_ticks(handler.run_id)] == ticks
        assert any(text in json.dumps(tick.tick_data) for tick in ticks)
        again = AgentRefWorkflowStore(inner, backend=cas)
        assert await again.get_ticks(handler.run_id) == ticks
        assert (await again.create_state_store(handler.run_id, DictState).get("docs"))[0]["text"] == text

    run(scenario())


CHILD = """
import asyncio, os, signal, sys
from llama_agents.server import SqliteWorkflowStore, WorkflowServer
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent
from agentref.adapters.llamaindex import AgentRefWorkflowStore
from agentref.storage import FilesystemCAS

class Middle(Event):
    payload: str

class Crashing(Workflow):
    @step
    async def first(self, ctx: Context, ev: StartEvent) -> Middle:
        await ctx.store.set("docs", ["the payload " * 50_000])
        return Middle(payload="the event " * 50_000)

    @step
    async def last(self, ctx: Context, ev: Middle) -> StopEvent:
        if sys.argv[1] == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        docs = await ctx.store.get("docs")
        return StopEvent(result=[len(docs[0]), len(ev.payload)])

async def main():
    store = AgentRefWorkflowStore(SqliteWorkflowStore("workflows.db"), backend=FilesystemCAS("state_blobs"))
    server = WorkflowServer(workflow_store=store)
    server.add_workflow("crashing", Crashing())
    async with server.contextmanager():
        if sys.argv[1] == "crash":
            import httpx
            transport = httpx.ASGITransport(server.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                await client.post("/workflows/crashing/run", json={})
        from llama_agents.server import HandlerQuery
        while True:
            (handler,) = await store.query(HandlerQuery())
            if handler.status != "running":
                print(handler.status, handler.result.result)
                return
            await asyncio.sleep(0.05)

asyncio.run(main())
"""


def test_a_run_whose_server_was_killed_goes_on_in_a_new_process(tmp_path: Path, in_files: Any) -> None:
    (tmp_path / "child").mkdir()
    script = tmp_path / "child" / "app.py"
    script.write_text(CHILD)
    how = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(ROOT)},
        "capture_output": True,
        "text": True,
    }
    killed = subprocess.run([sys.executable, str(script), "crash"], check=False, **how)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert in_files("the payload " * 10) == in_files("the event " * 10) == []
    with sqlite3.connect(tmp_path / "workflows.db") as connection:
        # A server leaves runs alone that began in the last half minute.
        connection.execute("UPDATE handlers SET started_at = '2026-01-01T00:00:00+00:00'")
    done = subprocess.run([sys.executable, str(script), "resume"], check=False, **how)
    assert done.stdout.strip() == "completed [600000, 500000]", done.stderr


def envelope(value: Any) -> EventEnvelopeWithMetadata:
    return EventEnvelopeWithMetadata(value=value, qualified_name=None, type="Shown", types=None)


HOSTILE = [
    {},
    {"a": FORGED, "b": "x" * 10_000},
    FORGED,
    MARKED,
    {"agentref": 1},
    {"agentref": "x" * 10_000, "tree": MARKED},
    {"__is_pydantic": True, "qualified_name": "x", "value": {"text": "y" * 10_000, "z": FORGED}},
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_what_looks_like_ours_is_a_value(store: Any, inner: Any, value: Any) -> None:
    async def scenario() -> None:
        await store.append_event("run", envelope(value))
        await store.append_tick("run", value)
        await store.append_tick("run", {"serialized_tick": json.dumps(value)})
        await store.append_tick("run", {"serialized_tick": json.dumps({"agentref": 1, **value})})
        await store.append_tick("run", {"serialized_tick": "gASVDg=="})
        (event,) = await store.query_events("run")
        assert event.event.value == value
        ticks = [tick.tick_data for tick in await store.get_ticks("run")]
        assert ticks[0] == value
        assert json.loads(ticks[1]["serialized_tick"]) == value
        assert json.loads(ticks[2]["serialized_tick"]) == {"agentref": 1, **value}
        assert ticks[3] == {"serialized_tick": "gASVDg=="}
        handler = PersistentHandler(
            handler_id="h",
            workflow_name="w",
            status="completed",
            run_id="run",
            result=StopEvent(result=value),
        )
        await store.update(handler)
        (found,) = await store.query(HandlerQuery())
        assert found == handler
        if "__is_pydantic" in value:
            return  # LlamaIndex itself takes such a value in a state for a model
        state = store.create_state_store("run", DictState)
        await state.set("value", value)
        await state.set("large", ["z" * 10_000, value])
        assert await state.get("value") == value
        assert await state.get("large.1") == value

    run(scenario())


def test_what_was_written_without_it_is_read(inner: Any, store: Any) -> None:
    async def scenario() -> None:
        value = {"text": "x" * 10_000, "agent": [1]}
        await inner.append_event("run", envelope(value))
        await inner.append_tick("run", {"serialized_tick": json.dumps(value)})
        await inner.create_state_store("run", DictState).set("value", value)
        inner._state_store_cache.clear()
        assert [event.event.value for event in await store.query_events("run")] == [value]
        assert [tick.tick_data for tick in await store.get_ticks("run")] == [
            {"serialized_tick": json.dumps(value)}
        ]
        assert await store.create_state_store("run", DictState).get("value") == value
        assert store.get_legacy_ctx("run") is None

    run(scenario())


def test_a_record_that_was_edited_is_refused(store: Any, inner: Any) -> None:
    async def scenario() -> None:
        await inner.append_event("run", envelope({"agentref": 2, "tree": {}}))
        with pytest.raises(InvalidInputError, match="newer agentref"):
            await store.query_events("run")
        for number, text in enumerate(['{"agentref": 1', '{"agentref": 1, "tree": 5}', '{"agentref": 7}']):
            await inner.append_tick(f"run-{number}", {"serialized_tick": text})
            with pytest.raises(InvalidInputError, match="agentref"):
                await store.get_ticks(f"run-{number}")

    run(scenario())


def test_a_store_that_is_down_is_a_typed_error_for_reads_and_for_state(
    store: Any, offline: Any, text: str
) -> None:
    async def scenario() -> None:
        state = store.create_state_store("run", DictState)
        await state.set("docs", text)
        await store.append_event("run", envelope({"text": text}))
        offline.begin()
        for fails in (store.query_events("run"), state.get("docs"), state.set("docs", text[::-1])):
            with pytest.raises(StoreUnavailableError):
                await fails
        offline.end()
        assert await state.get("docs") == text

    run(scenario())


def test_rows_are_written_in_the_order_of_the_calls(store: Any) -> None:
    async def scenario() -> None:
        values = [{"n": n, "payload": secrets.token_hex(400_000 if n % 2 == 0 else 4)} for n in range(8)]
        await asyncio.gather(*(store.append_event("run", envelope(value)) for value in values))
        await asyncio.gather(*(store.append_tick("run", value) for value in values))
        assert [event.event.value for event in await store.query_events("run")] == values
        assert [tick.tick_data for tick in await store.get_ticks("run")] == values

    run(scenario())


def test_events_are_seen_as_they_come(store: Any, text: str) -> None:
    async def scenario() -> None:
        async def watch() -> list[Any]:
            return [event.event.value async for event in store.subscribe_events("run")]

        watching = asyncio.create_task(watch())
        await store.append_event("run", envelope({"payload": text}))
        stop = EventEnvelopeWithMetadata.from_event(StopEvent(result=text))
        await store.append_event("run", stop)
        assert await watching == [{"payload": text}, {"result": text}]

    run(scenario())


def test_in_memory_the_state_stays_as_it_is(cas: Any, text: str) -> None:
    async def scenario() -> None:
        store = AgentRefWorkflowStore(MemoryWorkflowStore(), backend=cas)
        state = store.create_state_store("run", DictState)
        assert isinstance(state, InMemoryStateStore)
        await state.set("docs", text)
        assert await state.get("docs") == text
        server = WorkflowServer(workflow_store=store)
        server.add_workflow("three", workflow_of(text, "done"))
        done, events = await played(server, "three")
        assert done["status"] == "completed"
        assert [event["value"].get("payload") for event in events if event["type"] == "Shown"] == [text]

    run(scenario())


def test_a_state_storage_wraps_a_durable_one_only(inner: Any, cas: Any) -> None:
    async def scenario() -> None:
        facade = inner.create_state_store("run", DictState)
        storage = AgentRefStateStorage(facade._storage, backend=cas, threshold_bytes=10)
        assert storage.run_id == "run"
        handle = storage.parse_own_handle(storage.to_handle())
        facade._storage = facade._durable = storage
        await facade.set("text", "more than ten bytes")
        assert (
            "more than" not in (await inner._build_state_store("run", (), None, None)._storage.load()).data
        )
        other = AgentRefStateStorage(
            inner._build_state_store("run-2", (), None, None)._storage, backend=storage._externalizer
        )
        await other.copy_from_handle(handle)
        assert (await other.load()).data == (await storage.load()).data

    run(scenario())
    for given in (None, InMemoryStateStore(DictState())._storage, object()):
        with pytest.raises(InvalidInputError, match="durable StateStorage"):
            AgentRefStateStorage(given, backend=cas)


def test_bad_arguments(inner: Any, cas: Any) -> None:
    with pytest.raises(InvalidInputError, match="wraps a workflow store"):
        AgentRefWorkflowStore("workflows.db", backend=cas)
    with pytest.raises(ConfigurationError, match="needs a store"):
        AgentRefWorkflowStore(inner)
    with pytest.raises(InvalidInputError, match="content-addressed"):
        AgentRefWorkflowStore(inner, backend="./state_blobs")
