"""Checkpoint bytes and time of growing, and of unchanged, state on LangGraph's SqliteSaver."""

import operator
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from agentref.adapters.langgraph import externalize
from agentref.storage import FilesystemCAS
from benchmarks.measure import MB, Row, corpus, interleaved, ratio, scratch
from examples._demo.process import directory_bytes

__all__ = ["rows"]

_THREAD = "bench"


def _extend(state: list[Any], writes: Any) -> list[Any]:
    return [*(state or []), *(message for write in writes for message in write)]


class _Added(TypedDict):
    step: int
    messages: Annotated[list[Any], operator.add]


class _AddedById(TypedDict):
    step: int
    messages: Annotated[list[Any], add_messages]


class _Delta(TypedDict):
    step: int
    messages: Annotated[list[Any], DeltaChannel(_extend)]


class _Kept(TypedDict):
    step: int
    docs: Any


def _loop(schema: Any, node: Any, steps: int) -> Any:
    graph: Any = StateGraph(schema)
    graph.add_node("work", node)
    graph.add_edge(START, "work")
    graph.add_conditional_edges(
        "work", lambda state: "work" if state["step"] < steps else END, ["work", END]
    )
    return graph


def _run(graph: Any, given: dict[str, Any], directory: Path, *, agentref: bool) -> None:
    """One run with durable writes; everything is closed at the end, and so is SQLite's log."""
    directory.mkdir()
    with closing(sqlite3.connect(directory / "checkpoints.sqlite", check_same_thread=False)) as connection:
        saver: Any = SqliteSaver(connection)
        config = {"configurable": {"thread_id": _THREAD}, "recursion_limit": 1000}
        if agentref:
            with FilesystemCAS(directory / "state_blobs") as store:
                graph.compile(checkpointer=externalize(saver, backend=store)).invoke(given, config)
        else:
            graph.compile(checkpointer=saver).invoke(given, config)


def _talk(schema: Any, texts: list[str]) -> Any:
    def work(state: dict[str, Any]) -> dict[str, Any]:
        step = state["step"]
        return {"messages": [AIMessage(texts[step], id=f"message-{step}")], "step": step + 1}

    return _loop(schema, work, len(texts))


def _measure(
    graphs: dict[str, tuple[Any, bool]], given: dict[str, Any], rounds: int
) -> tuple[dict[str, int], dict[str, Any]]:
    """The bytes that each leaves on disk, and what each costs."""
    sizes: dict[str, int] = {}
    fresh = count()
    with scratch() as directory:

        def run(name: str) -> None:
            graph, agentref = graphs[name]
            target = directory / str(next(fresh))
            _run(graph, given, target, agentref=agentref)
            sizes[name] = directory_bytes(target)
            shutil.rmtree(target)

        costs = interleaved({name: partial(run, name) for name in graphs}, rounds)
    return sizes, costs


def _messages() -> Iterator[Row]:
    texts = [corpus().text(f"message {index}", 20_000) for index in range(100)]
    talks = {"add": _talk(_Added, texts), "by id": _talk(_AddedById, texts), "delta": _talk(_Delta, texts)}
    graphs = {
        "stock": (talks["add"], False),
        "agentref": (talks["add"], True),
        "stock, add_messages": (talks["by id"], False),
        "agentref, add_messages": (talks["by id"], True),
        "DeltaChannel": (talks["delta"], False),
        "DeltaChannel and agentref": (talks["delta"], True),
    }
    sizes, costs = _measure(graphs, {"messages": [], "step": 0}, 5)
    bars = {"agentref": 1.5, "agentref, add_messages": 1.5, "DeltaChannel and agentref": 1.2}
    what = "100 steps, one 20 KB message each"
    for name, size in sizes.items():
        yield Row(f"{what}: {name}", size / MB, "MB", at_most=bars.get(name))
    for name, base in (("agentref", "stock"), ("agentref, add_messages", "stock, add_messages")):
        yield Row(f"{what}: {name}, time / stock", ratio(costs[name], costs[base]), "x", at_most=1.0)
        yield Row(f"{what}: {name}, CPU / stock", ratio(costs[name], costs[base], cpu=True), "x")
    delta = ratio(costs["DeltaChannel and agentref"], costs["DeltaChannel"])
    yield Row(f"{what}: DeltaChannel and agentref, time / DeltaChannel alone", delta, "x")


def _unchanged() -> Iterator[Row]:
    docs = [
        {"id": index, "title": f"Document {index}", "text": corpus().text(f"document {index}", 10_000)}
        for index in range(500)
    ]
    text = "\n\n".join(str(doc["text"]) for doc in docs)

    def touch(state: dict[str, Any]) -> dict[str, Any]:
        return {"step": state["step"] + 1}

    def rewrite(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "step": state["step"] + 1}

    cases: list[tuple[str, Any, Any, float]] = [
        ("a 5 MB list of dicts, unchanged", docs, touch, 4.5),
        ("a 5 MB str, unchanged", text, touch, 2.0),
        ("a 5 MB list of dicts, nodes return {**state}", docs, rewrite, 5.0),
    ]
    for name, value, node, bar in cases:
        graph = _loop(_Kept, node, 30)
        sizes, costs = _measure(
            {"stock": (graph, False), "agentref": (graph, True)}, {"docs": value, "step": 0}, 3
        )
        yield Row(f"30 steps, {name}: stock", sizes["stock"] / MB, "MB")
        yield Row(f"30 steps, {name}: agentref", sizes["agentref"] / MB, "MB", at_most=bar)
        yield Row(f"30 steps, {name}: time / stock", ratio(costs["agentref"], costs["stock"]), "x")


def _short_messages() -> Iterator[Row]:
    texts = [corpus().text(f"short {index}", 2_000) for index in range(400)]
    added, delta = _talk(_Added, texts), _talk(_Delta, texts)
    graphs = {
        "agentref": (added, True),
        "DeltaChannel": (delta, False),
        "DeltaChannel and agentref": (delta, True),
    }
    sizes, costs = _measure(graphs, {"messages": [], "step": 0}, 3)
    what = "400 messages of 2 KB"
    for name, size in sizes.items():
        yield Row(f"{what}: {name}", size / MB, "MB")
    yield Row(
        f"{what}: agentref / DeltaChannel, bytes",
        sizes["agentref"] / sizes["DeltaChannel"],
        "x",
        at_most=1.0,
    )
    yield Row(
        f"{what}: agentref / DeltaChannel, time", ratio(costs["agentref"], costs["DeltaChannel"]), "x"
    )


def rows() -> Iterator[Row]:
    """All of the SqliteSaver's bars."""
    yield from _messages()
    yield from _unchanged()
    yield from _short_messages()
