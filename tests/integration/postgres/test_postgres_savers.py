"""LangGraph's savers for PostgreSQL, wrapped, over a store in the same database."""

import asyncio
import operator
import time
from contextlib import asynccontextmanager
from typing import Annotated, Any

import psycopg
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from psycopg.rows import dict_row
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.storage import PostgresCAS

OWN = {"put": 17, "put_writes": 10, "get_tuple": 10, "list": 16, "delete_thread": 5, "prune": 8}
OFFERED = {"copy_thread": 8, "delete_for_runs": 7}
SECRET = "a payload that must not be in the checkpoint "


class SyncFace(BaseCheckpointSaver[Any]):
    """The sync methods of a saver under async names: the suite knows only those."""

    def __init__(self, saver):
        super().__init__(serde=saver.serde)
        self.saver = saver

    async def aput(self, config, checkpoint, metadata, new_versions):
        return self.saver.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(self, config, writes, task_id, task_path=""):
        self.saver.put_writes(config, writes, task_id, task_path)

    async def aget_tuple(self, config):
        return self.saver.get_tuple(config)

    async def alist(self, config, **how):
        for item in self.saver.list(config, **how):
            yield item

    async def adelete_thread(self, thread_id):
        self.saver.delete_thread(thread_id)

    async def aprune(self, thread_ids, *, strategy="keep_latest"):
        self.saver.prune(thread_ids, strategy=strategy)

    async def acopy_thread(self, source_thread_id, target_thread_id):
        self.saver.copy_thread(source_thread_id, target_thread_id)

    async def adelete_for_runs(self, run_ids):
        self.saver.delete_for_runs(run_ids)

    def get_next_version(self, current, channel):
        return self.saver.get_next_version(current, channel)


@asynccontextmanager
async def sync_saver(dsn):
    with PostgresSaver.from_conn_string(dsn) as saver:
        saver.setup()
        yield saver


@asynccontextmanager
async def async_saver(dsn):
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
        yield saver


@pytest.mark.parametrize(
    ("inner", "through"), [(sync_saver, SyncFace), (async_saver, None)], ids=["sync", "async"]
)
def test_a_wrapped_saver_conforms_as_the_saver_does(inner, through, databases):
    with PostgresCAS(databases.dsn()) as store:
        number = 0

        def report_of(wrap):
            @checkpointer_test(name="under test")
            async def factory():
                nonlocal number
                number += 1
                async with inner(databases.dsn(str(number))) as raw:
                    saver = externalize(raw, backend=store, inline_threshold_bytes=0) if wrap else raw
                    yield through(saver) if through else saver

            return asyncio.run(validate(factory)).to_dict()["results"]

        results = report_of(wrap=True)
        assert {n: r["tests_passed"] for n, r in results.items() if r["detected"]} == OWN | OFFERED
        assert not [failure for result in results.values() for failure in result["failures"]]
        assert store.stats().counters.values_dumped >= 30
        alone = report_of(wrap=False)
        assert {name: alone[name] for name in OWN} == {name: results[name] for name in OWN}


class Work(TypedDict, total=False):
    document: str
    pages: Annotated[list, operator.add]


def graph(saver):
    builder = StateGraph(Work)
    builder.add_node("add", lambda state: {"pages": [SECRET * 100], "document": state["document"] + SECRET})
    builder.add_edge(START, "add")
    return builder.compile(checkpointer=saver)


def config(thread):
    return {"configurable": {"thread_id": thread}}


@pytest.fixture
def saver(databases):
    with PostgresSaver.from_conn_string(databases.dsn()) as inner:
        inner.setup()
        with PostgresCAS(databases.dsn()) as cas:
            yield externalize(inner, backend=cas)


def test_no_payload_is_in_any_table_of_the_saver(saver, databases):
    graph(saver).invoke({"document": SECRET * 100, "pages": []}, config("t"))
    with psycopg.connect(databases.dsn(), row_factory=dict_row) as connection:
        for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes"):
            for row in connection.execute(f"SELECT * FROM {table}").fetchall():
                assert SECRET not in str(row), table
    assert graph(saver).get_state(config("t")).values["document"] == SECRET * 101


def test_a_string_with_a_nul_is_kept_where_the_saver_alone_refuses_it(saver):
    text = "a\0b" * 5000
    graph(saver).invoke({"document": text, "pages": []}, config("t"))
    assert graph(saver).get_state(config("t")).values["document"] == text + SECRET


def test_pruning_a_thread_and_then_the_store_frees_what_only_older_checkpoints_need(saver, monkeypatch):
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", 0.02)
    cas = saver.runtime.backend
    for _ in range(3):
        graph(saver).invoke({"document": SECRET * 200, "pages": []}, config("t"))
    latest = graph(saver).get_state(config("t")).values
    time.sleep(0.05)
    needed = cas.prune_expired(grace=0).needed
    saver.prune(["t"])
    assert 0 < cas.prune_expired(grace=0).removed < needed
    assert graph(saver).get_state(config("t")).values == latest
    saver.delete_thread("t")
    cas.prune_expired(grace=0)
    assert cas.stats().blobs == 0
