"""Real savers, driven sync and async, raw and wrapped, with one vocabulary for both."""

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Interrupt, StateSnapshot

from agentref.adapters.langgraph import externalize
from agentref.coherence import Coordinator
from agentref.coherence.memory import MemoryTable
from agentref.errors import AgentRefError, StoreUnavailableError
from agentref.refs import ContentRef
from agentref.storage import CAS, InMemoryCAS

THRESHOLD = 4096
VOLATILE = {"id", "config", "parent_config", "metadata", "state"}


def scrub(value: Any) -> Any:
    """Without what differs between two runs of one graph: ids, times, namespaces with ids."""
    if isinstance(value, Interrupt):
        return {"interrupted with": scrub(value.value)}
    if isinstance(value, dict):
        if {"id", "value"} <= value.keys():  # an interrupt, as the stream of tasks shows it
            return {"interrupted with": scrub(value["value"])}
        return {k: scrub(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return [scrub(v) for v in value]
    return value


def scrub_chunk(mode: str, chunk: Any) -> Any:
    if mode in ("checkpoints", "tasks"):
        chunk = {k: v for k, v in chunk.items() if k not in VOLATILE}
        chunk["tasks"] = [{k: v for k, v in t.items() if k not in VOLATILE} for t in chunk.get("tasks", ())]
    return scrub(chunk)


def scrub_state(state: StateSnapshot) -> dict[str, Any]:
    """The visible parts of a snapshot, comparable between two runs."""
    metadata = state.metadata or {}
    return {
        "values": scrub(state.values),
        "next": sorted(state.next),
        "step": metadata.get("step"),
        "source": metadata.get("source"),
        "interrupts": sorted(repr(scrub(i)) for i in state.interrupts),
        "tasks": sorted(
            (
                {
                    "name": task.name,
                    "error": task.error and str(task.error),
                    "result": scrub(task.result),
                    "state": scrub_state(task.state) if isinstance(task.state, StateSnapshot) else None,
                }
                for task in state.tasks
            ),
            key=repr,
        ),
    }


def ref_of(stored: object) -> ContentRef | None:
    """The ref that stands at a stored position, if one does."""
    if isinstance(stored, _DeltaSnapshot):
        stored = stored.value
    try:
        return ContentRef.from_dict(stored)
    except AgentRefError:
        return None


@dataclass
class Face:
    """One kind of saver and one colour of its interface; opens any number of fresh savers."""

    kind: str
    directory: Path
    loop: asyncio.AbstractEventLoop | None = None
    databases: dict[int, Path] = field(default_factory=dict)
    closers: list[Callable[[], Any]] = field(default_factory=list)

    def wait(self, result: Any) -> Any:
        return self.loop.run_until_complete(result) if self.loop else result

    def open(self, database: Path | None = None) -> BaseCheckpointSaver[str]:
        """A new saver: empty, or over an existing database file."""
        if self.kind.startswith("memory"):
            return InMemorySaver()
        path = database or self.directory / f"{secrets.token_hex(4)}.sqlite"
        saver: BaseCheckpointSaver[str]
        if self.loop is None:
            connection = sqlite3.connect(path, check_same_thread=False)
            saver = SqliteSaver(connection)
            self.closers.append(connection.close)
        else:
            saver = self.wait(self._open_async(path))
            self.closers.append(lambda: self.wait(saver.conn.close()))  # type: ignore[attr-defined]
        self.databases[id(saver)] = path
        return saver

    @staticmethod
    async def _open_async(path: Path) -> AsyncSqliteSaver:
        return AsyncSqliteSaver(await aiosqlite.connect(path))

    def bytes_in(self, saver: BaseCheckpointSaver[str]) -> bytes:
        """Everything that the saver itself keeps."""
        if isinstance(saver, InMemorySaver):
            kept = [value[1] for value in saver.blobs.values()]
            kept += [write[2][1] for writes in saver.writes.values() for write in writes.values()]
            for namespaces in saver.storage.values():
                for checkpoints in namespaces.values():
                    kept += [part[1] for c in checkpoints.values() for part in c[:2]]
            return b"\n".join(kept)
        path = self.databases[id(saver)]
        return b"".join(p.read_bytes() for p in sorted(path.parent.glob(f"{path.name}*")))

    def tuples(self, saver: BaseCheckpointSaver[str], config: Any = None, **how: Any) -> list[Any]:
        if self.loop is None:
            return list(saver.list(config, **how))

        async def collect() -> list[Any]:
            return [t async for t in saver.alist(config, **how)]

        return self.wait(collect())

    def refs_in(self, inner: BaseCheckpointSaver[str]) -> list[tuple[str, ContentRef]]:
        """(channel, ref) of every placeholder that the inner saver holds."""
        found = []
        for stored in self.tuples(inner):
            pairs = list(stored.checkpoint["channel_values"].items())
            pairs += [(channel, value) for _, channel, value in stored.pending_writes or ()]
            found += [(channel, ref) for channel, value in pairs if (ref := ref_of(value))]
        return found

    def close(self) -> None:
        for close in self.closers:
            close()
        if self.loop:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()


@dataclass
class Run:
    """LangGraph's verbs over one saver: sync and async look the same from here."""

    face: Face
    saver: BaseCheckpointSaver[str]

    @staticmethod
    def at(thread: str | dict[str, Any], **configurable: Any) -> Any:
        if isinstance(thread, dict):
            return thread
        return {"configurable": {"thread_id": thread, **configurable}}

    def invoke(self, graph: Any, value: Any, thread: str | dict[str, Any] = "t", **how: Any) -> Any:
        call = graph.ainvoke if self.face.loop else graph.invoke
        return scrub(self.face.wait(call(value, self.at(thread), **how)))

    def stream(self, graph: Any, value: Any, thread: str | dict[str, Any] = "t", **how: Any) -> list[Any]:
        """Scrubbed chunks as (mode, chunk), or (namespace, mode, chunk) with subgraphs."""
        how.setdefault("stream_mode", ["values", "updates", "checkpoints", "tasks"])
        if self.face.loop is None:
            raw = list(graph.stream(value, self.at(thread), **how))
        else:

            async def collect() -> list[Any]:
                return [chunk async for chunk in graph.astream(value, self.at(thread), **how)]

            raw = self.face.wait(collect())
        return [
            (*([part.split(":")[0] for part in ns] for ns in rest), mode, scrub_chunk(mode, chunk))
            for *rest, mode, chunk in raw
        ]

    def snapshot(self, graph: Any, thread: str | dict[str, Any] = "t", **how: Any) -> StateSnapshot:
        call = graph.aget_state if self.face.loop else graph.get_state
        result = self.face.wait(call(self.at(thread), **how))
        assert isinstance(result, StateSnapshot)
        return result

    def state(self, graph: Any, thread: str | dict[str, Any] = "t", **how: Any) -> dict[str, Any]:
        return scrub_state(self.snapshot(graph, thread, **how))

    def snapshots(self, graph: Any, thread: str = "t", **how: Any) -> list[StateSnapshot]:
        if self.face.loop is None:
            return list(graph.get_state_history(self.at(thread), **how))

        async def collect() -> list[StateSnapshot]:
            return [s async for s in graph.aget_state_history(self.at(thread), **how)]

        result: list[StateSnapshot] = self.face.wait(collect())
        return result

    def history(self, graph: Any, thread: str = "t", **how: Any) -> list[dict[str, Any]]:
        return [scrub_state(s) for s in self.snapshots(graph, thread, **how)]

    def update(self, graph: Any, values: Any, thread: str | dict[str, Any] = "t", **how: Any) -> Any:
        call = graph.aupdate_state if self.face.loop else graph.update_state
        return self.face.wait(call(self.at(thread), values, **how))

    def delete(self, thread: str) -> None:
        call = self.saver.adelete_thread if self.face.loop else self.saver.delete_thread
        self.face.wait(call(thread))

    def put(self, config: Any, checkpoint: Any, metadata: Any, versions: Any) -> Any:
        call = self.saver.aput if self.face.loop else self.saver.put
        return self.face.wait(call(config, checkpoint, metadata, versions))

    def put_writes(self, config: Any, writes: Any, task: str, path: str = "") -> None:
        call = self.saver.aput_writes if self.face.loop else self.saver.put_writes
        self.face.wait(call(config, writes, task, path))

    def get(self, config: Any) -> Any:
        call = self.saver.aget_tuple if self.face.loop else self.saver.get_tuple
        return self.face.wait(call(config))

    def tuples(self, config: Any = None, **how: Any) -> list[Any]:
        return self.face.tuples(self.saver, config, **how)


@dataclass
class Wrapped(Run):
    """A run over a wrapped saver, with what is underneath at hand."""

    inner: BaseCheckpointSaver[str]
    cas: CAS


@pytest.fixture(params=["memory", "memory-async", "sqlite", "sqlite-async"])
def face(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Face]:
    loop = asyncio.new_event_loop() if request.param.endswith("-async") else None
    opened = Face(request.param, tmp_path, loop)
    yield opened
    opened.close()


@pytest.fixture(params=[0, THRESHOLD], ids=["everything", "large-only"])
def threshold(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def cas() -> Iterator[CAS]:
    store = InMemoryCAS()
    yield store
    store.close()


@pytest.fixture
def payload() -> Callable[[], str]:
    """Makes texts over the threshold, such that no stretch of one occurs anywhere else."""

    def make() -> str:
        return secrets.token_hex(THRESHOLD * 3 // 4)

    return make


@pytest.fixture
def stock(face: Face) -> Run:
    return Run(face, face.open())


@pytest.fixture
def wrap(face: Face, cas: CAS) -> Callable[..., Wrapped]:
    """Wraps a saver (a fresh one if none is given) over the test's store."""

    def make(
        inner: BaseCheckpointSaver[str] | None = None, threshold: int = 0, store: CAS | None = None
    ) -> Wrapped:
        inner = inner or face.open()
        backend = store or cas
        saver = externalize(inner, backend=backend, inline_threshold_bytes=threshold)
        return Wrapped(face, saver, inner, backend)

    return make


@pytest.fixture
def twin(face: Face, stock: Run, wrap: Callable[..., Wrapped], threshold: int) -> Callable[..., Wrapped]:
    """Plays a scenario on the raw and on the wrapped saver: the outcome must be the same, and
    the payloads must be in the raw saver's bytes and not in those of the wrapped one."""

    def play(scenario: Callable[[Run], Any], *payloads: str) -> Wrapped:
        expected = scenario(stock)
        wrapped = wrap(threshold=threshold)
        assert scenario(wrapped) == expected
        refs = face.refs_in(wrapped.inner)
        assert refs or not payloads
        assert all(wrapped.cas.exists(ref.hash) for _, ref in refs)
        in_stock, in_wrapped = face.bytes_in(stock.saver), face.bytes_in(wrapped.inner)
        for text in payloads:
            assert text[:16].encode() in in_stock
            assert text[:16].encode() not in in_wrapped
        return wrapped

    return play


class Table(MemoryTable):
    """One that cannot be reached at times."""

    reachable = True

    def _check_open(self) -> None:
        super()._check_open()
        if not self.reachable:
            raise StoreUnavailableError("The database is out of reach.")


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def coordinator(table: Table) -> Coordinator:
    return Coordinator(table)


@pytest.fixture(params=["memory", "sqlite"])
def memory_or_sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseCheckpointSaver[Any]]:
    """A saver whose checkpoints end with the process, and one whose checkpoints do not."""
    if request.param == "memory":
        yield InMemorySaver()
        return
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        yield saver
