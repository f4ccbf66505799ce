"""A content store that is away for a while, under a real server: no run is lost by it."""

import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from llama_agents.client.protocol.serializable_events import EventEnvelopeWithMetadata
from llama_agents.server import HandlerQuery, PersistentHandler, SqliteWorkflowStore, WorkflowServer
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from agentref.adapters.llamaindex import AgentRefWorkflowStore
from agentref.errors import (
    ConfigurationError,
    StoreUnavailableError,
    UnknownBackendError,
    UntrustedRefError,
)
from agentref.storage import FilesystemCAS

from .conftest import run

MARKED = {"agentref": 1, "tree": {"__agentref__": [1, "00" * 32, "agr1", 10, None]}}


class Large(Event):
    """What a step hands on while the content store is away."""

    payload: str


class Waiting(Event):
    """What the run waits with when its server goes away."""


@pytest.fixture
def inner(tmp_path: Any) -> SqliteWorkflowStore:
    return SqliteWorkflowStore(str(tmp_path / "workflows.db"), poll_interval=0.05)


@pytest.fixture
def store(inner: Any, cas: Any) -> AgentRefWorkflowStore:
    return AgentRefWorkflowStore(inner, backend=cas)


def aged(database: Path) -> None:
    """Let the runs be old: a server that starts leaves those alone that began in the last half minute."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE handlers SET started_at = '2026-01-01T00:00:00+00:00'")


def workflow_of(text: str, offline: Any, held: asyncio.Event | None) -> Workflow:
    class Interrupted(Workflow):
        @step
        async def first(self, ctx: Context, ev: StartEvent) -> Large:
            offline.begin()
            return Large(payload=text)

        @step
        async def second(self, ctx: Context, ev: Large) -> Waiting:
            offline.end()
            return Waiting()

        @step
        async def last(self, ctx: Context, ev: Waiting) -> StopEvent:
            if held is not None:
                held.set()
                await asyncio.sleep(3600)
            return StopEvent(result="done")

    return Interrupted(timeout=None)


async def handler_of(store: Any, status: str) -> PersistentHandler:
    """The one handler, once it is so."""
    async with asyncio.timeout(30):
        while True:
            found = await store.query(HandlerQuery())
            if found and found[0].status != "running":
                assert found[0].status == status, found[0].error
                return found[0]
            await asyncio.sleep(0.05)


async def interrupted(store: Any, database: Path, text: str, offline: Any) -> None:
    """A run that its server leaves in its last step."""
    held = asyncio.Event()
    server = WorkflowServer(workflow_store=store)
    server.add_workflow("interrupted", workflow_of(text, offline, held))
    transport = httpx.ASGITransport(server.app)
    async with (
        server.contextmanager(),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        await client.post("/workflows/interrupted/run-nowait", json={})
        await asyncio.wait_for(held.wait(), 30)
    aged(database)


class Online:
    """In the place of `Offline`: the store stays there."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


def test_a_run_that_an_outage_was_in_the_middle_of_is_resumed(  # noqa: PLR0917
    inner: Any, store: Any, cas: Any, offline: Any, text: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await interrupted(store, tmp_path / "workflows.db", text, offline)
        again = AgentRefWorkflowStore(inner, backend=cas)
        server = WorkflowServer(workflow_store=again)
        server.add_workflow("interrupted", workflow_of(text, offline, None))
        async with server.contextmanager():
            assert (await handler_of(again, "completed")).result == StopEvent(result="done")

    run(scenario())


def test_a_server_does_not_start_without_what_its_runs_need(  # noqa: PLR0917
    inner: Any, store: Any, cas: Any, offline: Any, text: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await interrupted(store, tmp_path / "workflows.db", text, Online())
        offline.begin()
        with pytest.raises(StoreUnavailableError):
            await WorkflowServer(workflow_store=AgentRefWorkflowStore(inner, backend=cas)).start()
        offline.end()
        with FilesystemCAS(tmp_path / "another") as another:
            server = WorkflowServer(workflow_store=AgentRefWorkflowStore(inner, backend=another))
            server.add_workflow("interrupted", workflow_of(text, Online(), None))
            with pytest.raises(UnknownBackendError) as raised:
                await server.start()
            assert "needs it to go on" in raised.value.__notes__[0]
            await asyncio.sleep(0.2)
            (handler,) = await inner.query(HandlerQuery())
            assert handler.status == "running"
            both = AgentRefWorkflowStore(inner, backend=another, also=[cas])
            server = WorkflowServer(workflow_store=both)
            server.add_workflow("interrupted", workflow_of(text, Online(), None))
            async with server.contextmanager():
                await handler_of(both, "completed")

    run(scenario())


def test_one_run_that_cannot_be_read_keeps_no_server_from_starting(
    inner: Any, store: Any, cas: Any, text: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await interrupted(store, tmp_path / "workflows.db", text, Online())
        for digest in list(cas.iter_hashes()):
            cas.delete(digest)
        again = AgentRefWorkflowStore(inner, backend=cas)
        server = WorkflowServer(workflow_store=again)
        server.add_workflow("interrupted", workflow_of(text, Online(), None))
        async with server.contextmanager():
            await handler_of(again, "failed")

    run(scenario())


@pytest.mark.parametrize(
    "value", [{"text": "x" * 9000}, {**MARKED, "text": "x" * 9000}, MARKED], ids=range(3)
)
def test_what_cannot_be_externalized_is_written_whole_and_said_so(
    store: Any, offline: Any, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        offline.begin()
        event = EventEnvelopeWithMetadata(value=value, qualified_name=None, type="Shown", types=None)
        handler = PersistentHandler(
            handler_id="h",
            workflow_name="w",
            status="completed",
            run_id="run",
            result=StopEvent(result=value),
        )
        await store.append_event("run", event)
        await store.append_tick("run", {"serialized_tick": json.dumps(value)})
        await store.append_tick("run", value)
        await store.after_tick("run", value)
        await store.update(handler)
        assert [stored.event.value for stored in await store.query_events("run")] == [value]
        first, second = (tick.tick_data for tick in await store.get_ticks("run"))
        assert json.loads(first["serialized_tick"]) == second == value
        assert await store.query(HandlerQuery()) == [handler]

    run(scenario())
    assert ("StoreUnavailableError" in caplog.text or "out of reach" in caplog.text) is ("text" in value)


def test_inline_fields_of_typed_state_need_no_content_store(
    store: Any, adapter: Any, offline: Any, text: str, in_files: Any
) -> None:
    async def scenario() -> None:
        typed = store.create_state_store("run-1", adapter.schema())
        context = adapter.context_store(typed)
        large = {f"note {number}": "inline " * 1000 for number in range(8)}
        await context.set("counts", large)
        await context.set("docs", [{"text": text}])
        offline.begin()
        await context.set("current_step", "second")
        assert await context.get("current_step") == "second"
        assert await context.get("counts") == large
        with pytest.raises(StoreUnavailableError):
            await context.get("docs")
        offline.end()
        assert await context.get("docs") == [{"text": text}]
        # What went past the adapter is kept out of the record all the same.
        await typed.set("notes", text)
        assert await context.get("notes") == text

    run(scenario())
    assert in_files(text) == []


SEALED: dict[str, Any] = {"keys": b"k" * 32, "tenant": "ada"}


async def running(store: Any, run_id: str, *texts: str, **more: Any) -> None:
    handler = PersistentHandler(
        handler_id=run_id, workflow_name="w", status="running", run_id=run_id, **more
    )
    await store.update(handler)
    for text in texts:
        await store.append_tick(run_id, {"serialized_tick": json.dumps({"text": text})})


@pytest.mark.parametrize(
    ("given", "raised"),
    [
        ({"keys": b"z" * 32, "tenant": "ada"}, UntrustedRefError),
        ({"keys": b"k" * 32, "tenant": "eve"}, UntrustedRefError),
        ({}, ConfigurationError),
    ],
    ids=["another key", "another tenant", "no key"],
)
def test_a_server_does_not_start_without_the_keys_of_its_runs(
    inner: Any, cas: Any, text: str, given: Any, raised: type[Exception]
) -> None:
    async def scenario() -> None:
        await running(AgentRefWorkflowStore(inner, backend=cas, **SEALED), "run", text)
        with pytest.raises(raised):
            await AgentRefWorkflowStore(inner, backend=cas, **given).start()
        rotated = AgentRefWorkflowStore(inner, backend=cas, keys=[b"z" * 32, b"k" * 32], tenant="ada")
        await rotated.start()
        # One run that was written under a key that nobody has is lost alone.
        await running(AgentRefWorkflowStore(inner, backend=cas, keys=b"x" * 32, tenant="ada"), "lost", text)
        await rotated.start()

    run(scenario())


@pytest.mark.parametrize("where", ["later tick", "state", "idle"])
def test_a_server_does_not_start_without_a_store_that_some_record_needs(
    inner: Any, cas: Any, text: str, tmp_path: Path, where: str
) -> None:
    async def scenario() -> None:
        ours = AgentRefWorkflowStore(inner, backend=cas)
        with FilesystemCAS(tmp_path / "another") as another:
            both = AgentRefWorkflowStore(inner, backend=another, also=[cas])
            idle = {"idle_since": datetime.now(UTC)} if where == "idle" else {}
            await running(ours, "run", text, **idle)
            if where == "state":
                await both.create_state_store("run").set("notes", text + "more")
            else:
                await both.append_tick("run", {"serialized_tick": json.dumps({"more": text + "more"})})
            with pytest.raises(UnknownBackendError):
                await ours.start()
            await both.start()

    run(scenario())


def test_ticks_wait_for_a_store_that_is_away_for_a_moment(
    store: Any, offline: Any, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        ticks = [{"serialized_tick": json.dumps({"text": text})}, {"text": text + "more"}]
        for tick in ticks:
            await store.append_tick("run", tick)
        for read in (store.get_ticks, lambda run_id: streamed(store, run_id)):
            offline.begin()
            reading = asyncio.create_task(read("run"))
            async with asyncio.timeout(30):
                while True:
                    await asyncio.sleep(0.01)
                    if "the next try is in" in caplog.text:
                        break
            assert not reading.done()
            offline.end()
            assert [tick.tick_data for tick in await reading] == ticks
            caplog.clear()
        offline.begin()
        with pytest.raises(StoreUnavailableError):
            await store.get_ticks("run")

    run(scenario())


async def streamed(store: Any, run_id: str) -> list[Any]:
    return [tick async for tick in store.stream_ticks(run_id)]
