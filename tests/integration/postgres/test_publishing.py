"""Checkpoints in PostgreSQL feed a coordinator, and a thread has one writer."""

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import channel_key, externalize
from agentref.coherence import Conflict, MemoryCoordinator, Reason
from agentref.storage import InMemoryCAS

CONFIG: Any = {"configurable": {"thread_id": "t"}}
LARGE = "the text of a large page. " * 400


class State(TypedDict, total=False):
    docs: str
    pages: list[str]


def graph_over(saver):
    def fetch(state):
        return {"docs": LARGE, "pages": [LARGE]}

    def forget(state):
        return {"pages": []}

    builder = StateGraph(State).add_sequence([fetch, forget]).add_edge(START, "fetch")
    return builder.compile(checkpointer=saver)


def workers_over(inner, coordinator):
    cas = InMemoryCAS()
    return [
        externalize(inner, backend=cas, coordinator=coordinator, worker=name, writer_lease=60.0)
        for name in ("first", "second")
    ]


def check(first, coordinator, since):
    changes = coordinator.changes(since=since).changes
    assert [(change.key[3], change.version, change.ref is not None) for change in changes] == [
        ("docs", 1, True),
        ("pages", 1, True),
        ("pages", 2, False),
    ]
    assert {change.writer for change in changes} == {"first"}
    assert first.peer("reader").value(channel_key("t", "docs")) == LARGE


def test_what_a_graph_saves_is_published_and_held(dsn):
    coordinator = MemoryCoordinator()
    since = coordinator.head()
    with PostgresSaver.from_conn_string(dsn) as inner:
        inner.setup()
        first, second = workers_over(inner, coordinator)
        graph_over(first).invoke({"docs": ""}, CONFIG)
        check(first, coordinator, since)
        with pytest.raises(Conflict) as caught:
            graph_over(second).invoke({"docs": ""}, CONFIG)
        assert (caught.value.reason, caught.value.holder) == (Reason.HELD_BY_OTHER, "first")
        first.delete_thread("t")
        assert not coordinator.read([channel_key("t", "docs")])[channel_key("t", "docs")].exists
        with second.writing("t"):
            graph_over(second).invoke({"docs": ""}, CONFIG)


def test_so_it_is_on_an_event_loop(dsn):
    coordinator = MemoryCoordinator()
    since = coordinator.head()

    async def run():
        async with AsyncPostgresSaver.from_conn_string(dsn) as inner:
            await inner.setup()
            first, second = workers_over(inner, coordinator)
            await graph_over(first).ainvoke({"docs": ""}, CONFIG)
            check(first, coordinator, since)
            with pytest.raises(Conflict) as caught:
                await graph_over(second).ainvoke({"docs": ""}, CONFIG)
            assert (caught.value.reason, caught.value.holder) == (Reason.HELD_BY_OTHER, "first")
            await first.adelete_thread("t")
            assert not coordinator.read([channel_key("t", "docs")])[channel_key("t", "docs")].exists
            async with second.writing("t"):
                await graph_over(second).ainvoke({"docs": ""}, CONFIG)

    asyncio.run(run())
