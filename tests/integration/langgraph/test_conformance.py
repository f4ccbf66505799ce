"""LangGraph's own conformance suite over wrapped savers, with every value externalized."""

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from agentref.adapters.langgraph import externalize
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS

BASE = {"put": 17, "put_writes": 10, "get_tuple": 10, "list": 16, "delete_thread": 5}
OFFERED = {"copy_thread": 8, "prune": 8, "delete_for_runs": 7}


class SyncFace(BaseCheckpointSaver[Any]):
    """The sync methods of a saver under async names: the suite knows only those."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        return self.saver.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        self.saver.put_writes(config, writes, task_id, task_path)

    async def aget_tuple(self, config: Any) -> Any:
        return self.saver.get_tuple(config)

    async def alist(self, config: Any, **how: Any) -> AsyncIterator[Any]:
        for item in self.saver.list(config, **how):
            yield item

    async def adelete_thread(self, thread_id: str) -> None:
        self.saver.delete_thread(thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self.saver.copy_thread(source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        self.saver.prune(thread_ids, strategy=strategy)

    async def adelete_for_runs(self, run_ids: Any) -> None:
        self.saver.delete_for_runs(run_ids)

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self.saver.get_next_version(current, channel)


@asynccontextmanager
async def memory(path: Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    yield InMemorySaver()


@asynccontextmanager
async def sqlite(path: Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    connection = sqlite3.connect(path / f"{uuid.uuid4()}.sqlite", check_same_thread=False)
    yield SqliteSaver(connection)
    connection.close()


@asynccontextmanager
async def async_sqlite(path: Path) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    async with aiosqlite.connect(path / f"{uuid.uuid4()}.sqlite") as connection:
        yield AsyncSqliteSaver(connection)


@pytest.fixture(params=["in memory", "on disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CAS]:
    with InMemoryCAS() if request.param == "in memory" else FilesystemCAS(tmp_path / "blobs") as made:
        yield made


@pytest.mark.parametrize(
    ("inner", "through"),
    [(memory, None), (memory, SyncFace), (sqlite, SyncFace), (async_sqlite, None)],
    ids=["memory", "memory-sync-face", "sqlite-sync-face", "async-sqlite"],
)
def test_a_wrapped_saver_conforms_as_the_saver_does(
    inner: Any, through: Any, store: CAS, tmp_path: Path
) -> None:
    databases = tmp_path / "databases"
    databases.mkdir()

    def report_of(wrap: bool) -> dict[str, Any]:
        @checkpointer_test(name="under test")
        async def factory() -> AsyncIterator[BaseCheckpointSaver[Any]]:
            async with inner(databases) as raw:
                saver = externalize(raw, backend=store, inline_threshold_bytes=0) if wrap else raw
                yield through(saver) if through else saver

        report = asyncio.run(validate(factory)).to_dict()
        results: dict[str, Any] = report["results"]
        return results

    before = store.stats().counters
    dumped, loaded = before.values_dumped, before.values_loaded
    results = report_of(wrap=True)
    assert {n: r["tests_passed"] for n, r in results.items() if r["detected"]} == BASE | OFFERED
    assert not [failure for result in results.values() for failure in result["failures"]]
    after = store.stats().counters
    # The suite writes few values (about forty), but none of them may have gone around the store.
    assert after.values_dumped - dumped >= 30
    assert after.values_loaded - loaded >= 30
    alone = report_of(wrap=False)
    assert {name: alone[name] for name in BASE} == {name: results[name] for name in BASE}
