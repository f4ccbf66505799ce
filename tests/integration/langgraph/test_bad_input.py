"""What may not get into a checkpoint, or out of one: a typed error, and all else stays as it was."""

import asyncio
import operator
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, StateUpdate
from typing_extensions import TypedDict

from agentref import AgentRefState, Externalized, Inline, InlineSizeExceeded
from agentref.adapters.langgraph import LangGraphAdapter, externalize
from agentref.errors import (
    UnknownBackendError,
    ValueTooLargeError,
)
from agentref.storage import CAS, FilesystemCAS

AT: Any = {"configurable": {"thread_id": "the-thread"}}
LIMIT = 1000
BIG = "needle" * 500  # over the limit, and under what the checkpointer externalizes of itself


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints.sqlite"


@pytest.fixture
def inner(database: Path) -> Iterator[SqliteSaver]:
    connection = sqlite3.connect(database, check_same_thread=False)
    yield SqliteSaver(connection)
    connection.close()


@pytest.fixture
def cas(tmp_path: Path) -> Iterator[CAS]:
    with FilesystemCAS(tmp_path / "blobs", backend_id="the-store") as store:
        yield store


def bytes_of(database: Path) -> bytes:
    return b"".join(path.read_bytes() for path in database.parent.glob(f"{database.name}*"))


# --- an inline value over the limit


class State(AgentRefState):
    docs: Externalized[list[str]]
    answer: Inline[str]
    notes: Annotated[Inline[list[str]], operator.add]


class Plan:
    """What the nodes of a run do: the first one gets its turn after a good step."""

    def __init__(self) -> None:
        self.node: Callable[[Any], Any] = lambda state: {"notes": ["good"]}
        self.route: Callable[[Any], Any] = lambda state: "last"


def typed_graph(plan: Plan, adapter: LangGraphAdapter, saver: Any, *, wrapped: bool) -> Any:
    def acting(state: Any) -> Any:
        return plan.node(state)

    def acting_on_state(state: State) -> Any:
        return plan.node(state)

    def routing(state: Any) -> Any:
        return plan.route(state)

    builder = StateGraph(adapter.schema())
    builder.add_node("first", adapter.wrap_node(lambda state: {"docs": [*state["docs"], "first"]}))
    builder.add_node("act", adapter.wrap_node(acting_on_state) if wrapped else acting)
    builder.add_node("last", adapter.wrap_node(lambda state: {"notes": ["last"]}))
    builder.add_edge(START, "first").add_edge("first", "act")
    builder.add_conditional_edges("act", adapter.wrap_router(routing) if wrapped else routing, ["last"])
    return builder.compile(checkpointer=saver)


def acts(node: Callable[[Any], Any]) -> Callable[[Any, Plan], Any]:
    def play(graph: Any, plan: Plan) -> Any:
        plan.node = node
        return graph.invoke({"docs": ["input"]}, AT, durability="sync")

    return play


def routes(route: Callable[[Any], Any]) -> Callable[[Any, Plan], Any]:
    def play(graph: Any, plan: Plan) -> Any:
        plan.route = route
        return graph.invoke({"docs": ["input"]}, AT, durability="sync")

    return play


def grow(state: Any) -> None:
    state["notes"].append(BIG)


def assign(state: State) -> None:
    state.answer = BIG


INLINE_WAYS: dict[str, Callable[[Any, Plan], Any]] = {
    "node": acts(lambda _: {"answer": BIG}),
    "node, by reducer": acts(lambda _: {"notes": [BIG]}),
    "node, state object": acts(lambda _: State(answer=BIG)),
    "command": acts(lambda _: Command(update={"answer": BIG})),
    "command, list": acts(lambda _: [Command(update=[("answer", BIG)])]),
    "send of a command": acts(lambda _: Command(goto=Send("last", {"docs": [], "answer": BIG}))),
    "send of a router": routes(lambda _: [Send("last", {"docs": [], "answer": BIG})]),
    "input": lambda graph, plan: graph.invoke({"answer": BIG}, AT),
    "input, state object": lambda graph, plan: graph.invoke(State(answer=BIG), AT),
    "input, streamed": lambda graph, plan: list(graph.stream({"notes": [BIG]}, AT)),
    "command from outside": lambda graph, plan: graph.invoke(
        Command(update={"answer": BIG}, goto="act"), AT
    ),
    "update_state": lambda graph, plan: graph.update_state(AT, {"answer": BIG}),
    "update_state, as node": lambda graph, plan: graph.update_state(AT, {"notes": [BIG]}, as_node="act"),
    "bulk_update_state": lambda graph, plan: graph.bulk_update_state(
        AT, [[StateUpdate({"answer": BIG}, "act")]]
    ),
}
WRAPPED_WAYS: dict[str, Callable[[Any, Plan], Any]] = {
    **INLINE_WAYS,
    "growth in place": acts(grow),
    "assignment": acts(assign),
}
ALL_WAYS = [(way, False) for way in INLINE_WAYS] + [(way, True) for way in WRAPPED_WAYS]


@pytest.mark.parametrize(("way", "wrapped"), ALL_WAYS)
def test_an_oversized_inline_value_is_refused_and_no_checkpoint_changes(
    inner: SqliteSaver, cas: CAS, database: Path, way: str, wrapped: bool
) -> None:
    adapter = LangGraphAdapter(State, backend=cas, inline_threshold_bytes=LIMIT)
    plan = Plan()
    graph = typed_graph(plan, adapter, adapter.checkpointer(inner), wrapped=wrapped)
    graph.invoke({"docs": ["input"], "answer": "small"}, AT)
    before = {each.config["configurable"]["checkpoint_id"]: each for each in graph.get_state_history(AT)}

    with pytest.raises(
        InlineSizeExceeded, match=r"is 3,0\d\d bytes.*1,000 bytes.*Externalized\["
    ) as caught:
        WRAPPED_WAYS[way](graph, plan)

    assert (caught.value.field in ("answer", "notes"), caught.value.limit) == (True, LIMIT)
    assert len(BIG) < caught.value.size < len(BIG) + 100
    assert repr(caught.value.field) in str(caught.value)
    assert b"needleneedle" not in bytes_of(database)
    after = {each.config["configurable"]["checkpoint_id"]: each for each in graph.get_state_history(AT)}
    for name, snapshot in before.items():
        assert after[name].values == snapshot.values
        assert adapter.hydrate(after[name].values) == adapter.hydrate(snapshot.values)
    assert all(each.values.get("answer", "small") == "small" for each in after.values())
    # And the thread goes on.
    plan.__init__()
    final = adapter.hydrate(graph.invoke({"docs": ["again"]}, AT))
    assert final["docs"] == ["again", "first"]
    assert final["notes"][-2:] == ["good", "last"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_typed_subgraph_is_held_to_its_limit_too(
    inner: SqliteSaver, cas: CAS, database: Path, wrapped: bool
) -> None:
    adapter = LangGraphAdapter(State, backend=cas, inline_threshold_bytes=LIMIT)
    plan = Plan()
    sub = typed_graph(plan, adapter, None, wrapped=wrapped)
    builder = StateGraph(adapter.schema()).add_node("sub", sub).add_edge(START, "sub")
    graph = builder.compile(checkpointer=adapter.checkpointer(inner))
    graph.invoke({"docs": ["input"], "answer": "small"}, AT)
    before = graph.get_state(AT).values
    plan.node = lambda _: {"answer": BIG}
    with pytest.raises(InlineSizeExceeded, match="'answer'"):
        graph.invoke({"notes": ["n"]}, AT, durability="sync")
    values = graph.get_state(AT).values
    assert (values["answer"], values["docs"]) == ("small", before["docs"])


# --- a value over the limit of the store


class Docs(TypedDict, total=False):
    document: Any
    log: Annotated[list[str], operator.add]


def plain_graph(saver: Any, made: Any = None) -> Any:
    def make(state: Docs) -> Docs:
        return {"log": ["made"]} if made is None else {"document": made, "log": ["made"]}

    return StateGraph(Docs).add_node("make", make).add_edge(START, "make").compile(checkpointer=saver)


LARGE_WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "node": lambda saver, value: plain_graph(saver, value).invoke({"log": []}, AT),
    "node, sync": lambda saver, value: plain_graph(saver, value).invoke({"log": []}, AT, durability="sync"),
    "node, exit": lambda saver, value: plain_graph(saver, value).invoke({"log": []}, AT, durability="exit"),
    "input": lambda saver, value: plain_graph(saver).invoke({"document": value}, AT),
    "update_state": lambda saver, value: plain_graph(saver).update_state(AT, {"document": value}),
    "reducer": lambda saver, value: plain_graph(saver).invoke({"log": [value]}, AT),
}


@pytest.mark.parametrize("way", LARGE_WAYS)
def test_a_value_over_the_limit_of_the_store_is_refused_and_the_thread_is_intact(
    inner: SqliteSaver, database: Path, tmp_path: Path, way: str
) -> None:
    with FilesystemCAS(tmp_path / "small", max_value_bytes=50_000) as cas:
        saver = externalize(inner, backend=cas)
        plain_graph(saver, "x" * 40_000).invoke({"log": ["one"]}, AT)
        before, blobs = plain_graph(saver).get_state(AT), set(cas.iter_hashes())
        with pytest.raises(ValueTooLargeError, match=r"over the limit of 50,000\b.*max_value_bytes"):
            LARGE_WAYS[way](saver, "needle" * 10_000)
        assert b"needleneedle" not in bytes_of(database)
        assert cas.verify().ok and set(cas.iter_hashes()) >= blobs
        assert plain_graph(saver).get_state(before.config).values == before.values
        assert plain_graph(saver).get_state(AT).values["document"] == "x" * 40_000
        assert plain_graph(saver, "y" * 45_000).invoke({"log": []}, AT)["document"] == "y" * 45_000


def test_a_value_that_was_stored_under_a_higher_limit_is_not_read_under_a_lower_one(
    inner: SqliteSaver, tmp_path: Path
) -> None:
    with FilesystemCAS(tmp_path / "store") as cas:
        plain_graph(externalize(inner, backend=cas), "x" * 60_000).invoke({"log": []}, AT)
    with FilesystemCAS(tmp_path / "store", max_value_bytes=50_000) as cas:
        saver = externalize(inner, backend=cas)
        for read in (
            lambda: plain_graph(saver).get_state(AT),
            lambda: plain_graph(saver).invoke({"log": []}, AT),
        ):
            with pytest.raises(ValueTooLargeError, match=r"[0-9a-f]{64}.*max_value_bytes"):
                read()


# --- a ref whose store is not configured


def test_the_error_for_a_store_that_is_not_configured_says_how_to_configure_it(
    inner: SqliteSaver, cas: CAS, tmp_path: Path
) -> None:
    plain_graph(externalize(inner, backend=cas), "x" * 9000).invoke({"log": ["one"]}, AT)
    kept = len(list(inner.list(AT)))
    with FilesystemCAS(tmp_path / "elsewhere", backend_id="elsewhere") as elsewhere:
        lost = externalize(inner, backend=elsewhere)
        for use in (
            lambda: plain_graph(lost).get_state(AT),
            lambda: list(plain_graph(lost).get_state_history(AT)),
            lambda: plain_graph(lost).invoke({"log": ["two"]}, AT),
            lambda: plain_graph(lost).update_state(AT, {"log": ["two"]}),
            lambda: asyncio.run(lost.runtime.aload_many([cas.dump("a value")])),
        ):
            with pytest.raises(
                UnknownBackendError, match=r"[0-9a-f]{64}.*'the-store'.*also=\[FilesystemCAS"
            ):
                use()
        assert len(list(inner.list(AT))) == kept
        # As the message says.
        graph = plain_graph(externalize(inner, backend=elsewhere, also=[cas]))
        assert graph.invoke({"log": ["two"]}, AT) == {
            "document": "x" * 9000,
            "log": ["one", "made", "two", "made"],
        }
