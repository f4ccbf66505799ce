"""Workflows, state stores and content stores of LlamaIndex's and ours, and a search for payload in their
files.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_agents.server import SqliteWorkflowStore
from workflows import Context, Workflow, step
from workflows.context.state_store import DictState, InMemoryStateStore
from workflows.events import Event, StartEvent, StopEvent

from agentref import AgentRefState, Externalized, Inline, field
from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.errors import StoreUnavailableError
from agentref.storage import CAS, FilesystemCAS


class Research(AgentRefState):
    """The state of most tests. It has the fields of the sample, and one of each other kind."""

    current_step: Inline[str]
    counts: Inline[dict[str, Any]] = field(default_factory=dict)
    docs: Externalized[list[dict[str, Any]]]
    notes: Externalized[Any]
    log: Externalized[list[str]] = field(default_factory=list)


class Retrieved(Event):
    """Sent by the first step."""

    number: int = 0


class Noted(Event):
    """Sent by parallel steps."""


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a test's coroutine, on an event loop of its own."""
    return asyncio.run(coroutine)


def workflow_of(adapter: LlamaIndexAdapter[Any], text: str, *, typed: bool) -> Workflow:
    """Retrieves documents in one step, notes something in five parallel ones, and sums up in a last one."""
    state: Any = Context[adapter.schema()] if typed else Context

    class Researching(Workflow):
        @step
        async def retrieve(self, ctx: state, ev: StartEvent) -> Retrieved | None:
            store = adapter.context_store(ctx.store)
            await store.set("current_step", "retrieve")
            await store.set("docs", [{"id": "doc-1", "text": text}])
            for number in range(5):
                ctx.send_event(Retrieved(number=number))

        @step(num_workers=5)
        async def note(self, ctx: state, ev: Retrieved) -> Noted:
            async with adapter.context_store(ctx.store).edit_state() as state:
                await state.aload("log")
                state.log.append(f"note {ev.number}")
                state.counts["notes"] = state.counts.get("notes", 0) + 1
            return Noted()

        @step
        async def finish(self, ctx: state, ev: Noted) -> StopEvent | None:
            if ctx.collect_events(ev, [Noted] * 5) is None:
                return None
            store = adapter.context_store(ctx.store)
            docs = await store.get("docs")
            return StopEvent(result=[len(docs[0]["text"]), len(await store.get("log"))])

    return Researching()


class Offline:
    """Makes a store unreachable, and reachable again, as a server that is restarted is."""

    def __init__(self, cas: CAS, monkeypatch: pytest.MonkeyPatch) -> None:
        self._cas = cas
        self._monkeypatch = monkeypatch

    def begin(self) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise StoreUnavailableError("The store is out of reach.")

        for name in ("stat", "fetch", "store"):
            self._monkeypatch.setattr(self._cas._store, name, fail)

    def end(self) -> None:
        self._monkeypatch.undo()


@pytest.fixture
def cas(tmp_path: Path) -> Iterator[CAS]:
    with FilesystemCAS(tmp_path / "state_blobs") as store:
        yield store


@pytest.fixture
def offline(cas: CAS, monkeypatch: pytest.MonkeyPatch) -> Offline:
    return Offline(cas, monkeypatch)


@pytest.fixture
def text() -> str:
    """A megabyte, of which no stretch occurs anywhere else."""
    return secrets.token_hex(500_000)


@pytest.fixture
def adapter(cas: CAS) -> LlamaIndexAdapter[Research]:
    return LlamaIndexAdapter(Research, backend=cas)


@pytest.fixture(params=["dict", "typed", "sqlite-dict", "sqlite-typed"])
def state_store(request: pytest.FixtureRequest, adapter: Any, tmp_path: Path) -> Any:
    """A stock state store: in memory and in SQLite, untyped and typed."""
    model = adapter.schema() if request.param.endswith("typed") else DictState
    if not request.param.startswith("sqlite"):
        return InMemoryStateStore(model())
    server = SqliteWorkflowStore(str(tmp_path / "workflows.db"))
    return server.create_state_store("run-1", model)


@pytest.fixture
def in_files(tmp_path: Path) -> Callable[[str], list[str]]:
    """Which of the files of the test, except for those of the content store, hold a part of a text."""

    def search(text: str) -> list[str]:
        pieces = [text[begin : begin + 24].encode() for begin in (0, len(text) // 2, len(text) - 24)]
        return [
            path.name
            for path in sorted(tmp_path.iterdir())
            if path.is_file() and any(piece in path.read_bytes() for piece in pieces)
        ]

    return search


def tables(database: Path) -> dict[str, int]:
    """How many bytes each table of a SQLite database holds."""
    with sqlite3.connect(database) as connection:
        names = [
            row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            name: sum(
                len(str(cell)) for row in connection.execute(f'SELECT * FROM "{name}"') for cell in row
            )
            for name in names
        }
