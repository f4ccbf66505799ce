"""Typed state under `adapter.checkpointer`: checkpoints keep what nodes, reducers and inputs stored."""

import operator
import sqlite3
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter, externalize
from agentref.adapters.langgraph.within import refs_within
from agentref.errors import ConfigurationError
from agentref.refs import ContentRef
from agentref.storage import FilesystemCAS, InMemoryCAS

FOREVER = float("inf")


class Report(AgentRefState):
    topic: Inline[str]
    document: Externalized[str] = ""
    log: Annotated[Externalized[list[str]], operator.add]
    answers: Annotated[Inline[list[str]], operator.add]


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", 0.005)


@pytest.fixture(params=["memory", "filesystem"])
def cas(request, tmp_path):
    with InMemoryCAS() if request.param == "memory" else FilesystemCAS(tmp_path / "store") as made:
        yield made


@pytest.fixture(params=["memory", "sqlite"])
def inner(request, tmp_path):
    if request.param == "memory":
        yield InMemorySaver()
        return
    with closing(sqlite3.connect(tmp_path / "checkpoints.db", check_same_thread=False)) as connection:
        yield SqliteSaver(connection)


def config(thread):
    return {"configurable": {"thread_id": thread}}


def sweep(cas):
    time.sleep(0.3)  # the lease is 0.12 s
    report = cas.prune_expired(grace=0)
    assert cas.verify().ok
    return report


def graph_of(adapter, saver):
    """Every way in: inputs, nodes wrapped and not, reducers, messages to nodes, a question."""
    builder = StateGraph(adapter.schema())

    @adapter.node
    def write(state: Report) -> dict:
        return {"document": f"about {state.topic} " * 200, "log": ["written " * 50]}

    @adapter.wrap_router
    def spread(state):
        return [Send("read", {"document": f"part {part} " * 300, "topic": "t" * 20}) for part in range(20)]

    @adapter.node
    def read(state):
        answer = interrupt("which?") if state["document"].startswith("part 3 ") else ""
        return {"log": [state["document"][:300]], "answers": [answer]}

    builder.add_node("write", write)
    builder.add_node("plain", lambda state: {"log": ["not wrapped " * 50]})
    builder.add_node("read", read)
    builder.add_edge(START, "write")
    builder.add_edge(START, "plain")
    builder.add_conditional_edges("write", spread, ["read"])
    return builder.compile(checkpointer=saver)


def history(adapter, graph, thread):
    return [adapter.hydrate(state.values) for state in graph.get_state_history(config(thread))]


def test_a_thread_lives_by_its_pins_and_is_freed_with_them(cas, inner, short_lease):
    adapter = LangGraphAdapter(Report, backend=cas)
    saver = adapter.checkpointer(inner)
    graph = graph_of(adapter, saver)
    for thread, topic in (("one", "a"), ("two", "a"), ("three", "b")):
        graph.invoke({"topic": topic, "document": "first " * 500}, config(thread))
    sweep(cas)
    # The messages that wait for their nodes are refs in a list, which is itself over the threshold.
    for thread in ("one", "two", "three"):
        graph.invoke(Command(resume="this"), config(thread))
    correction = {"document": "corrected " * 300, "log": ["updated " * 100]}
    graph.update_state(config("one"), correction, as_node="plain")
    before = {thread: history(adapter, graph, thread) for thread in ("one", "two", "three")}
    sweep(cas)
    saver.delete_thread("one")
    assert sweep(cas).removed > 0
    saver.copy_thread("two", "copy")
    saver.delete_thread("two")
    sweep(cas)
    assert history(adapter, graph, "copy") == before["two"]
    assert history(adapter, graph, "three") == before["three"]
    assert "".join(before["three"][0]["log"]).count("part") > 20
    saver.prune(["copy"])
    sweep(cas)
    assert history(adapter, graph, "copy") == before["two"][:1]
    for thread in ("copy", "three"):
        saver.delete_thread(thread)
    sweep(cas)
    assert cas.stats().blobs == 0


def test_what_an_input_was_given_by_ref_is_kept(cas, inner, short_lease):
    adapter = LangGraphAdapter(Report, backend=cas)
    saver = adapter.checkpointer(inner)
    graph = graph_of(adapter, saver)
    graph.invoke(adapter.externalize({"topic": "t" * 5000, "document": "given " * 500}), config("t"))
    sweep(cas)
    states = list(graph.get_state_history(config("t")))
    assert adapter.hydrate(graph.invoke(Command(resume="x"), states[0].config))["answers"].count("x") == 1
    assert adapter.hydrate(graph.get_state(states[-2].config)).values["document"] == "given " * 500
    saver.delete_thread("t")
    sweep(cas)
    assert cas.stats().blobs == 0


def test_refs_that_a_subgraph_keeps_for_itself_are_kept(cas, inner, short_lease):
    adapter = LangGraphAdapter(Report, backend=cas)
    saver = adapter.checkpointer(inner)

    class Kept(TypedDict, total=False):
        found: Any
        answer: str

    below = StateGraph(Kept)
    ref = cas.dump("kept by ref " * 100, ttl=0.1)
    below.add_node("find", lambda state: {"found": {"deep": [{"inside": ref}], "padding": "p" * 5000}})
    below.add_node("ask", lambda state: {"answer": interrupt("?")})
    below.add_edge(START, "find")
    below.add_edge("find", "ask")
    builder = StateGraph(adapter.schema())
    builder.add_node("below", below.compile())
    builder.add_edge(START, "below")
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"topic": "t"}, config("t"))
    sweep(cas)
    state = graph.get_state(config("t"), subgraphs=True).tasks[0].state
    assert cas.load(state.values["found"]["deep"][0]["inside"]) == "kept by ref " * 100
    saver.delete_thread("t")
    sweep(cas)
    assert cas.stats().blobs == 0


def test_a_ref_waits_for_the_end_of_a_run_of_which_nothing_else_is_saved(monkeypatch):
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", 0.25)  # the lease is 6 s
    cas = InMemoryCAS()
    adapter = LangGraphAdapter(Report, backend=cas)
    builder = StateGraph(adapter.schema())

    def wait(state):
        time.sleep(3.6)
        cas.prune_expired(grace=0)
        return {"answers": ["waited"]}

    builder.add_node("write", adapter.wrap_node(lambda state: {"document": "text " * 500, "log": ["line"]}))
    builder.add_node("first", wait)
    builder.add_node("second", wait)
    builder.add_edge(START, "write")
    builder.add_edge("write", "first")
    builder.add_edge("first", "second")
    graph = builder.compile(checkpointer=adapter.checkpointer(InMemorySaver()))
    graph.invoke({"topic": "t"}, config("t"), durability="exit")
    assert adapter.hydrate(graph.get_state(config("t"))).values["document"] == "text " * 500


def lives(cas):
    return {info.expires_at for info in cas._store.scan()}


def test_without_a_checkpointer_of_the_adapter_nothing_has_an_end():
    cas = InMemoryCAS()
    adapter = LangGraphAdapter(Report, backend=cas)
    graph_of(adapter, InMemorySaver()).invoke({"topic": "t", "document": "x" * 5000}, config("t"))
    assert lives(cas) == {FOREVER}
    adapter.checkpointer(InMemorySaver())
    assert lives(cas) == {FOREVER}
    adapter.externalize({"document": "from now on " * 500})
    assert len(lives(cas)) == 2


@pytest.mark.parametrize("other", ["plain", "externalized", "another store"])
def test_a_node_does_not_store_for_a_saver_that_would_not_pin(other):
    cas, ran = InMemoryCAS(), []
    adapter = LangGraphAdapter(Report, backend=cas)
    builder = StateGraph(adapter.schema())
    builder.add_node("write", adapter.wrap_node(lambda state: ran.append(1) or {"document": "text " * 500}))
    builder.add_edge(START, "write")
    adapter.checkpointer(InMemorySaver())
    saver = {
        "plain": InMemorySaver,
        "externalized": lambda: externalize(InMemorySaver(), backend=cas),
        "another store": lambda: LangGraphAdapter(Report, backend=InMemoryCAS()).checkpointer(
            InMemorySaver()
        ),
    }[other]()
    with pytest.raises(ConfigurationError, match="adapter of its own"):
        builder.compile(checkpointer=saver).invoke({"topic": "t"}, config("t"))
    assert not ran
    shown = builder.compile().invoke({"topic": "t"})  # nothing is saved: the ref is good for a day
    assert adapter.hydrate(shown)["document"] == "text " * 500


@dataclass
class Box:
    content: Any


class Model(BaseModel):
    content: Any


def test_refs_are_found_wherever_they_are():
    ref = ContentRef(b"\1" * 32, "agr1", 1, None)
    loop = [ref]
    loop.append(loop)
    state = Report(topic="t", document="d")
    for value in (
        ref, [ref], (ref,), {ref}, {"k": ref}, {ref: 1}, deque([ref]), Box(ref), Model(content=[ref]), loop,
        Send("n", {"k": [Box(ref)]}), Command(update={"k": ref}), Command(goto=Send("n", ref)),
    ):  # fmt: skip
        assert list(refs_within(value)) == [ref], value
    for value in (None, "text", {"digest": ref.digest}, ref.to_dict(), object(), Box, Model, state):
        assert list(refs_within(value)) == []
