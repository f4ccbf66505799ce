"""Whatever LangGraph takes for a node, a wrapped one is taken for just as well."""

import asyncio
import functools
import operator
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import pytest
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import InvalidUpdateError
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Command, Overwrite, RetryPolicy, Send, StreamWriter, interrupt
from typing_extensions import TypedDict

from agentref import AgentRefState, ContentRef, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter, LazyState
from agentref.errors import InvalidInputError, StateDefinitionError
from agentref.storage import CAS

AT: Any = {"configurable": {"thread_id": "t"}}


class State(AgentRefState):
    question: Inline[str]
    docs: Externalized[list[str]]
    page: Externalized[str]
    log: Annotated[Externalized[list[str]], operator.add]
    answer: Inline[str]
    messages: Annotated[Inline[list[AnyMessage]], add_messages]


class OnlyDocs(AgentRefState):
    docs: Externalized[list[str]]


class OnlyDocsDict(TypedDict):
    docs: list[str]


@pytest.fixture
def adapter(cas: CAS) -> LangGraphAdapter:
    return LangGraphAdapter(State, backend=cas)


def chain(adapter: LangGraphAdapter, *nodes: Any, **options: Any) -> Any:
    builder = StateGraph(adapter.schema(), **options)
    names = [f"n{index}" for index in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for left, right in zip([START, *names], names, strict=False):
        builder.add_edge(left, right)
    return builder


def run(adapter: LangGraphAdapter, node: Any, given: Any = None, **how: Any) -> dict[str, Any]:
    """The values after one node of the input, by `invoke` and by `ainvoke`, which must agree."""
    given = {"question": "q", "docs": ["d1", "d2"], "page": "a page"} if given is None else given
    graph = chain(adapter, node).compile(**how)
    outcome = adapter.hydrate(graph.invoke(given))
    assert adapter.hydrate(asyncio.run(graph.ainvoke(given))) == outcome
    return outcome


def count(state: Any) -> dict[str, Any]:
    return {"answer": f"{len(state['docs'])} docs", "docs": [*state["docs"], "new"]}


class Counter:
    def __call__(self, state: Any) -> dict[str, Any]:
        return count(state)

    def method(self, state: Any) -> dict[str, Any]:
        return count(state)


def count_with(state: Any, *, suffix: str) -> dict[str, Any]:
    return {**count(state), "page": state["page"] + suffix}


def count_in_parts(state: Any) -> Iterator[Any]:
    yield {"answer": "nothing yet"}
    yield count(state)


SYNC_NODES: dict[str, Any] = {
    "function": count,
    "callable object": Counter(),
    "bound method": Counter().method,
    "partial": functools.partial(count_with, suffix=" more"),
    "lambda": lambda state: count(state),  # noqa: PLW0108
    "generator": count_in_parts,
    "runnable": RunnableLambda(count),
    "sequence": RunnableLambda(lambda state: state) | RunnableLambda(count),
}


@pytest.mark.parametrize("kind", SYNC_NODES)
def test_a_sync_node_of_any_form_reads_values_and_writes_refs(adapter: LangGraphAdapter, kind: str) -> None:
    outcome = run(adapter, adapter.wrap_node(SYNC_NODES[kind]))
    assert outcome["answer"] == "2 docs"
    assert outcome["docs"] == ["d1", "d2", "new"]
    assert outcome["page"] == ("a page more" if kind == "partial" else "a page")


async def acount(state: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return count(state)


class AsyncCounter:
    async def __call__(self, state: Any) -> dict[str, Any]:
        return await acount(state)


async def acount_with(state: Any, *, suffix: str) -> dict[str, Any]:
    return {**await acount(state), "page": state["page"] + suffix}


async def acount_in_parts(state: Any) -> AsyncIterator[Any]:
    yield {"answer": "nothing yet"}
    yield await acount(state)


ASYNC_NODES: dict[str, Any] = {
    "function": acount,
    "callable object": AsyncCounter(),
    "partial": functools.partial(acount_with, suffix=" more"),
    "lambda": lambda state: acount(state),  # noqa: PLW0108
    "generator": acount_in_parts,
    "runnable": RunnableLambda(acount),
}


@pytest.mark.parametrize("kind", ASYNC_NODES)
def test_an_async_node_of_any_form_reads_values_and_writes_refs(
    adapter: LangGraphAdapter, kind: str
) -> None:
    graph = chain(adapter, adapter.wrap_node(ASYNC_NODES[kind])).compile()
    outcome = asyncio.run(graph.ainvoke({"docs": ["d1"], "page": "p"}))
    assert isinstance(outcome["docs"], ContentRef)
    assert adapter.hydrate(outcome)["docs"] == ["d1", "new"]
    assert outcome["answer"] == "1 docs"


def test_a_lambda_that_returns_a_coroutine_also_runs_without_a_loop(adapter: LangGraphAdapter) -> None:
    graph = chain(adapter, adapter.wrap_node(ASYNC_NODES["lambda"])).compile()
    assert graph.invoke({"docs": ["d1"]})["answer"] == "1 docs"


@pytest.mark.parametrize("node", [3, "name", None, {"a": count}])
def test_what_cannot_be_a_node_is_refused_when_it_is_wrapped(adapter: LangGraphAdapter, node: Any) -> None:
    with pytest.raises(InvalidInputError, match="a function or a Runnable"):
        adapter.wrap_node(node)


def test_a_node_keeps_its_name(adapter: LangGraphAdapter) -> None:
    def expected(node: Any) -> set[str]:
        return set(StateGraph(adapter.schema()).add_node(node).nodes)

    for kind, node in {**SYNC_NODES, **ASYNC_NODES}.items():
        assert expected(adapter.wrap_node(node)) == expected(node), kind


def test_the_decorator_wraps_with_and_without_options(adapter: LangGraphAdapter) -> None:
    @adapter.node
    def plain(state: Any) -> Any:
        return {"answer": state["page"]}

    @adapter.node(prefetch=["page"])
    def fetching(state: Any) -> Any:
        return {"answer": state["page"] + "!"}

    builder = StateGraph(adapter.schema()).add_sequence([plain, fetching]).add_edge(START, "plain")
    assert builder.compile().invoke({"page": "p"})["answer"] == "p!"


def test_everything_that_langgraph_injects_still_arrives(adapter: LangGraphAdapter) -> None:
    store = InMemoryStore()
    seen: dict[str, Any] = {}

    def node(
        state: Any, config: RunnableConfig, *, store: BaseStore, writer: StreamWriter, runtime: Runtime[Any]
    ) -> Any:
        seen.update(config=config, store=store, runtime=runtime, docs=state["docs"])
        writer({"progress": 1})
        return {"answer": runtime.context["who"]}

    graph = chain(adapter, adapter.wrap_node(node), context_schema=dict).compile(store=store)
    chunks = list(
        graph.stream({"docs": ["d"]}, AT, context={"who": "me"}, stream_mode=["custom", "values"])
    )
    assert ("custom", {"progress": 1}) in chunks
    assert chunks[-1][1]["answer"] == "me"
    assert seen["store"] is store and seen["docs"] == ["d"]
    assert seen["config"]["configurable"]["thread_id"] == "t"


def test_the_hint_of_the_first_parameter_chooses_what_is_read(adapter: LangGraphAdapter) -> None:
    seen: dict[str, Any] = {}

    def whole(state: State) -> Any:
        seen["whole"] = state
        assert state.docs == state["docs"] == ["d1"]
        assert "answer" not in state

    def narrow(state: OnlyDocs) -> Any:
        seen["narrow"] = state
        assert state.docs == ["d1"]

    def narrow_dict(state: OnlyDocsDict) -> Any:
        seen["narrow_dict"] = state
        assert state["docs"] == ["d1"]

    def unhinted(state) -> Any:  # type: ignore[no-untyped-def]
        seen["unhinted"] = state

    def schema_hint(state: adapter.schema()) -> Any:  # type: ignore[valid-type]
        seen["schema_hint"] = state

    def base(state: AgentRefState) -> Any:
        seen["base"] = state

    nodes = [whole, narrow, narrow_dict, unhinted, schema_hint, base]
    chain(adapter, *map(adapter.wrap_node, nodes)).compile().invoke({"docs": ["d1"], "question": "q"})
    assert {name: type(state) for name, state in seen.items()} == {
        "whole": State,
        "narrow": OnlyDocs,
        "narrow_dict": LazyState,
        "unhinted": LazyState,
        "schema_hint": LazyState,
        "base": State,
    }
    assert set(seen["narrow"]) == set(seen["narrow_dict"]) == {"docs"}
    assert set(seen["whole"]) == set(seen["unhinted"]) == {"docs", "question", "log", "messages"}


def test_a_hint_is_resolved_even_if_another_one_cannot_be(adapter: LangGraphAdapter) -> None:
    def node(state: "OnlyDocs", extra: "OnlyForTypeCheckers" = None) -> "AlsoNot":  # type: ignore[name-defined]  # noqa: F821
        assert type(state) is OnlyDocs
        return {"answer": state.docs[0]}

    assert chain(adapter, adapter.wrap_node(node)).compile().invoke({"docs": ["d"]})["answer"] == "d"


def test_a_state_class_that_langgraph_would_fill_with_refs_is_refused(adapter: LangGraphAdapter) -> None:
    from dataclasses import dataclass

    @dataclass
    class Foreign:
        docs: list[str]

    def node(state: Foreign) -> Any: ...

    with pytest.raises(
        StateDefinitionError, match=r"node: LangGraph would build a Foreign from refs for docs"
    ):
        adapter.wrap_node(node)


def test_a_narrow_class_with_other_fields_is_refused(adapter: LangGraphAdapter) -> None:
    class Other(AgentRefState):
        pages: Externalized[str]

    class Elsewhere(AgentRefState):
        docs: Inline[list[str]]

    def node(state: Other) -> Any: ...
    def moved(state: Elsewhere) -> Any: ...

    node.__annotations__["state"] = Other
    moved.__annotations__["state"] = Elsewhere
    with pytest.raises(StateDefinitionError, match=r"Other\.pages: .* State has no such field"):
        adapter.wrap_node(node)
    with pytest.raises(StateDefinitionError, match=r"docs is inline, but .* externalized"):
        adapter.wrap_node(moved)


def test_where_a_command_may_go_is_still_read_from_the_return_hint(adapter: LangGraphAdapter) -> None:
    def choose(state: State) -> Command[Literal["n1", "__end__"]]:
        return Command(goto="n1", update={"docs": ["by command"]})

    graph = StateGraph(adapter.schema()).add_node("choose", adapter.wrap_node(choose))
    graph.add_node("n1", adapter.wrap_node(count)).add_edge(START, "choose")
    assert graph.nodes["choose"].ends == ("n1", "__end__")
    assert graph.compile().invoke({})["answer"] == "1 docs"


UPDATES: dict[str, Any] = {
    "None": (lambda: None, ["d"], None),
    "dict": (lambda: {"docs": ["x"]}, ["x"], None),
    "unknown key": (lambda: {"docs": ["x"], "nobody": 1}, ["x"], None),
    "Command with a dict": (lambda: Command(update={"docs": ["x"]}), ["x"], None),
    "Command with pairs": (lambda: Command(update=[("docs", ["x"]), ("answer", "a")]), ["x"], "a"),
    "Command with a state": (lambda: Command(update=State(docs=["x"], answer="a")), ["x"], "a"),
    "Command without update": (Command, ["d"], None),
    "state": (lambda: State(docs=["x"], answer="a"), ["x"], "a"),
    "narrow state": (lambda: OnlyDocs(docs=["x"]), ["x"], None),
    "list": (lambda: [Command(update={"docs": ["x"]}), {"answer": "a"}], ["x"], "a"),
    "tuple": (lambda: (Command(update={"docs": ["x"]}), {"answer": "a"}), ["x"], "a"),
    "Overwrite": (lambda: {"docs": Overwrite(["x"])}, ["x"], None),
    "a runnable": (lambda: RunnableLambda(lambda state: {"docs": [*state["docs"], "x"]}), ["d", "x"], None),
}


@pytest.mark.parametrize("kind", UPDATES)
def test_a_node_may_return_whatever_langgraph_takes(adapter: LangGraphAdapter, kind: str) -> None:
    make, docs, answer = UPDATES[kind]

    def node(state: Any) -> Any:
        return make()

    graph = chain(adapter, adapter.wrap_node(node)).compile()
    shown = graph.invoke({"docs": ["d"]})
    assert isinstance(shown["docs"], ContentRef)
    assert adapter.hydrate(shown)["docs"] == docs
    assert shown.get("answer") == answer
    assert "nobody" not in shown


def test_an_object_of_a_foreign_class_is_an_update_as_in_langgraph(adapter: LangGraphAdapter) -> None:
    from pydantic import BaseModel

    class Update(BaseModel):
        docs: list[str]
        answer: str | None = None

    shown = (
        chain(adapter, adapter.wrap_node(lambda _: Update(docs=["x"]))).compile().invoke({"docs": ["d"]})
    )
    assert adapter.hydrate(shown)["docs"] == ["x"]
    assert "answer" not in shown


@pytest.mark.parametrize("result", ["text", 3, [{"docs": ["x"]}], object()])
def test_what_langgraph_refuses_it_still_refuses_itself(adapter: LangGraphAdapter, result: Any) -> None:
    graph = chain(adapter, adapter.wrap_node(lambda _: result)).compile()
    with pytest.raises(InvalidUpdateError, match="Expected dict"):
        graph.invoke({"docs": ["d"]})


def test_errors_and_interrupts_pass_and_a_retried_node_gets_fresh_values(adapter: LangGraphAdapter) -> None:
    attempts: list[list[str]] = []

    def flaky(state: Any) -> Any:
        attempts.append(list(state["docs"]))
        state["docs"].append("half done")
        if len(attempts) < 3:
            raise ConnectionError("flaky")
        return {"answer": interrupt("go on?")}

    builder = StateGraph(adapter.schema())
    builder.add_node("flaky", adapter.wrap_node(flaky), retry_policy=RetryPolicy(initial_interval=0.0))
    graph = builder.add_edge(START, "flaky").compile(checkpointer=InMemorySaver())
    paused = graph.invoke({"docs": ["d"]}, AT)
    assert paused["__interrupt__"][0].value == "go on?"
    assert attempts == [["d"], ["d"], ["d"]]
    done = adapter.hydrate(graph.invoke(Command(resume="yes"), AT))
    assert done["answer"] == "yes" and done["docs"] == ["d", "half done"]


def test_a_cached_node_is_not_run_again_for_the_same_content(adapter: LangGraphAdapter) -> None:
    calls: list[int] = []

    def node(state: Any) -> Any:
        calls.append(1)
        return {"page": "".join(state["docs"])}

    builder = StateGraph(adapter.schema())
    builder.add_node("node", adapter.wrap_node(node), cache_policy=CachePolicy())
    graph = builder.add_edge(START, "node").compile(cache=InMemoryCache())
    first, second, third = (adapter.hydrate(graph.invoke({"docs": docs})) for docs in (["a"], ["a"], ["b"]))
    assert first["page"] == second["page"] == "a" and third["page"] == "b"
    assert len(calls) == 2


def test_a_tool_node_reads_state_and_tools_get_it_injected(adapter: LangGraphAdapter) -> None:
    @tool
    def lookup(word: str, state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Look up a word."""
        return f"{word} in {state['docs']}"

    asking = AIMessage("", tool_calls=[{"name": "lookup", "args": {"word": "w"}, "id": "1"}])
    graph = chain(adapter, adapter.wrap_node(ToolNode([lookup]))).compile()
    given = {"messages": [asking], "docs": ["d"]}
    for outcome in graph.invoke(given), asyncio.run(graph.ainvoke(given)):
        assert outcome["messages"][-1].content == "w in ['d']"


def test_a_node_that_sends_reaches_nodes_with_values(adapter: LangGraphAdapter) -> None:
    def fan(state: Any) -> Any:
        return Command(goto=[Send("read", {"docs": [doc], "mark": "m"}) for doc in state["docs"]])

    def read(arg: Any) -> Any:
        assert isinstance(arg, LazyState)
        return {"log": [arg["mark"] + arg["docs"][0]]}

    builder = StateGraph(adapter.schema())
    builder.add_node("fan", adapter.wrap_node(fan), destinations=("read",))
    builder.add_node("read", adapter.wrap_node(read)).add_edge(START, "fan")
    outcome = adapter.hydrate(builder.compile().invoke({"docs": ["a", "b"]}))
    assert outcome["log"] == ["ma", "mb"]


@pytest.mark.parametrize("arg", ["text", ["list"], 3, None])
def test_a_message_that_is_no_state_arrives_as_it_is(adapter: LangGraphAdapter, arg: Any) -> None:
    builder = StateGraph(adapter.schema())
    builder.add_node("first", adapter.wrap_node(lambda _: Send("second", arg)))
    builder.add_node("second", adapter.wrap_node(lambda given: {"answer": repr(given)}))
    assert builder.add_edge(START, "first").compile().invoke({"docs": []})["answer"] == repr(arg)


def test_a_state_object_can_be_sent(adapter: LangGraphAdapter) -> None:
    def second(state: State) -> Any:
        return {"answer": state.docs[0] + state.question}

    builder = StateGraph(adapter.schema())
    builder.add_node("first", adapter.wrap_node(lambda _: Send("second", State(docs=["d"], question="q"))))
    builder.add_node("second", adapter.wrap_node(second))
    assert builder.add_edge(START, "first").compile().invoke({"docs": []})["answer"] == "dq"


def test_a_node_that_calls_a_subgraph_is_known_to_have_one(adapter: LangGraphAdapter) -> None:
    sub = chain(adapter, adapter.wrap_node(count)).compile()

    def calling(state: Any) -> Any:
        return sub.invoke({"docs": state["docs"]})

    graph = chain(adapter, adapter.wrap_node(calling)).compile()
    assert [name for name, _ in graph.get_subgraphs()] == ["n0"]
    assert adapter.hydrate(graph.invoke({"docs": ["d"]}))["docs"] == ["d", "new"]


class PlainState(TypedDict, total=False):
    docs: list[str]
    answer: str


def plain_subgraph() -> Any:
    def look(state: PlainState) -> Any:
        return {"answer": interrupt(f"{len(state['docs'])} docs, right?"), "docs": [*state["docs"], "sub"]}

    return StateGraph(PlainState).add_node("look", look).add_edge(START, "look").compile()


def typed_subgraph(adapter: LangGraphAdapter) -> Any:
    def look(state: Any) -> Any:
        return {"answer": interrupt(f"{len(state['docs'])} docs, right?"), "docs": [*state["docs"], "sub"]}

    return chain(adapter, adapter.wrap_node(look)).compile()


@pytest.mark.parametrize("kind", ["plain, wrapped", "typed, wrapped", "typed, as it is"])
@pytest.mark.parametrize("stock", [True, False], ids=["stock", "adapter"])
def test_a_subgraph_pauses_resumes_and_is_found(adapter: LangGraphAdapter, kind: str, stock: bool) -> None:
    sub = plain_subgraph() if kind.startswith("plain") else typed_subgraph(adapter)
    node = adapter.wrap_node(sub) if kind.endswith("wrapped") else sub
    saver: Any = InMemorySaver() if stock else adapter.checkpointer(InMemorySaver())
    graph = chain(adapter, node, adapter.wrap_node(count)).compile(checkpointer=saver)
    paused = graph.invoke({"docs": ["d"], "question": "q"}, AT)
    assert paused["__interrupt__"][0].value == "1 docs, right?"
    assert [name for name, _ in graph.get_subgraphs()] == ["n0"]
    inner = graph.get_state(AT, subgraphs=True).tasks[0].state
    assert adapter.hydrate(inner).values["docs"] == ["d"]
    namespaces = {len(ns) for ns, _ in graph.stream(Command(resume="yes"), AT, subgraphs=True)}
    assert namespaces == {0, 1}
    assert adapter.hydrate(graph.get_state(AT)).values["docs"] == ["d", "sub", "new"]


def test_a_typed_subgraph_gets_refs_and_not_values(cas: CAS) -> None:
    class Plain(AgentRefState):
        docs: Externalized[list[str]]
        answer: Inline[str]

    adapter = LangGraphAdapter(Plain, backend=cas)

    def nothing(state: Any) -> Any:
        return {"answer": "done"}

    for node in (sub := chain(adapter, adapter.wrap_node(nothing)).compile()), adapter.wrap_node(sub):
        graph = chain(adapter, node).compile()
        given = adapter.externalize({"docs": ["d"]})
        before = cas.counters.values_loaded
        assert graph.invoke(given)["docs"] == given["docs"]
        assert cas.counters.values_loaded == before


def test_a_command_for_the_parent_graph_leaves_with_plain_values(adapter: LangGraphAdapter) -> None:
    def leave(state: Any) -> Any:
        return Command(graph=Command.PARENT, update={"docs": [*state["docs"], "from below"]}, goto="n1")

    sub = chain(adapter, adapter.wrap_node(leave)).compile()
    builder = StateGraph(adapter.schema()).add_node("n0", sub).add_node("n1", adapter.wrap_node(count))
    outcome = adapter.hydrate(builder.add_edge(START, "n0").compile().invoke({"docs": ["d"]}))
    assert outcome["docs"] == ["d", "from below", "new"]


def test_a_plain_parent_graph_gets_plain_values_from_a_command(adapter: LangGraphAdapter) -> None:
    def leave(state: Any) -> Any:
        return Command(graph=Command.PARENT, update={"docs": ["from below"]}, goto="look")

    def look(state: PlainState) -> Any:
        return {"answer": state["docs"][0]}

    sub = chain(adapter, adapter.wrap_node(leave)).compile()
    builder = StateGraph(PlainState).add_node("sub", sub).add_node("look", look).add_edge(START, "sub")
    assert builder.compile().invoke({"docs": ["d"]}) == {"docs": ["from below"], "answer": "from below"}


def test_nodes_that_run_at_once_share_nothing(adapter: LangGraphAdapter) -> None:
    def changing(state: Any) -> Any:
        state["docs"].append("mine")
        return {"log": [str(len(state["docs"]))]}

    def reading(state: Any) -> Any:
        return {"log": [str(len(state["docs"]))]}

    builder = StateGraph(adapter.schema())
    builder.add_node("a", adapter.wrap_node(changing)).add_node("b", adapter.wrap_node(reading))
    builder.add_edge(START, "a").add_edge(START, "b").add_edge("a", END)
    outcome = adapter.hydrate(builder.compile().invoke({"docs": ["d"]}))
    assert outcome["log"] == ["2", "1"]
    assert outcome["docs"] == ["d", "mine"]
