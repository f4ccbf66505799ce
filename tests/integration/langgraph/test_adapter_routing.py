"""Routers see values, keep their names and hints, and send by ref."""

import asyncio
import functools
from typing import Any, Literal

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from agentref import AgentRefState, Externalized, Inline, InlineSizeExceeded
from agentref.adapters.langgraph import LangGraphAdapter, LazyState
from agentref.errors import InPlaceMutationError
from agentref.storage import CAS

AT: Any = {"configurable": {"thread_id": "t"}}


class State(AgentRefState):
    docs: Externalized[list[str]]
    text: Externalized[str]
    answer: Inline[str]


class OnlyText(AgentRefState):
    text: Externalized[str]


@pytest.fixture
def adapter(cas: CAS) -> LangGraphAdapter:
    return LangGraphAdapter(State, backend=cas, inline_threshold_bytes=100)


def routed(adapter: LangGraphAdapter, router: Any, first: Any = None, **how: Any) -> Any:
    """A graph: first, then whichever of `few` and `many` the router chooses."""
    builder = StateGraph(adapter.schema())
    builder.add_node("first", adapter.wrap_node(first or (lambda state: {"docs": [*state["docs"], "new"]})))
    for name in ("few", "many"):
        builder.add_node(
            name, adapter.wrap_node(lambda arg, name=name: {"answer": f"{name}: {len(arg['docs'])}"})
        )
    builder.add_edge(START, "first").add_conditional_edges("first", router)
    return builder.compile(**how)


def choose(state: Any) -> Literal["few", "many"]:
    assert isinstance(state, LazyState)
    return "few" if len(state["docs"]) < 3 else "many"


class Chooser:
    def __call__(self, state: Any) -> Literal["few", "many"]:
        return choose(state)


async def achoose(state: Any) -> Literal["few", "many"]:
    return choose(state)


def choose_with(state: Any, config: RunnableConfig, *, least: int) -> str:
    assert config["configurable"]["thread_id"] == "t"
    return "few" if len(state["docs"]) < least else "many"


ROUTERS: dict[str, Any] = {
    "function": choose,
    "callable object": Chooser(),
    "lambda": lambda state: choose(state),  # noqa: PLW0108
    "lambda of a coroutine": lambda state: achoose(state),  # noqa: PLW0108
    "partial": functools.partial(choose_with, least=3),
    "runnable": RunnableLambda(choose),
    "async": achoose,
}


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_router_of_any_form_sees_what_its_node_wrote(adapter: LangGraphAdapter, kind: str) -> None:
    graph = routed(adapter, adapter.wrap_router(ROUTERS[kind]))
    assert asyncio.run(graph.ainvoke({"docs": ["1"]}, AT))["answer"] == "few: 2"
    if kind != "async":
        assert graph.invoke({"docs": ["1", "2"]}, AT)["answer"] == "many: 3"


def test_a_router_keeps_its_name_and_its_destinations(adapter: LangGraphAdapter) -> None:
    def branches(router: Any) -> Any:
        builder = routed(adapter, router).builder
        return {name: spec.ends for name, spec in builder.branches["first"].items()}

    for kind in ("function", "async"):
        assert branches(adapter.wrap_router(ROUTERS[kind])) == branches(ROUTERS[kind]), kind
    assert branches(adapter.wrap_router(choose)) == {"choose": {"few": "few", "many": "many"}}


def test_a_router_fetches_what_it_touches_and_nothing_else(adapter: LangGraphAdapter, cas: CAS) -> None:
    def narrow(state: OnlyText) -> str:
        assert list(state) == ["text"]
        return "few"

    given = adapter.externalize({"docs": ["1"], "text": "t"})
    for router in (lambda state: "few", narrow):
        graph = routed(adapter, adapter.wrap_router(router), first=lambda state: None)
        before = cas.counters.values_loaded
        graph.invoke(given)
        assert cas.counters.values_loaded - before == 1  # by the node that it chose


def test_a_router_hinted_with_the_state_gets_it(adapter: LangGraphAdapter) -> None:
    def typed(state: State) -> str:
        return "many" if state.docs == ["1", "new"] else END

    assert routed(adapter, adapter.wrap_router(typed)).invoke({"docs": ["1"]})["answer"] == "many: 2"


def test_what_a_router_sends_is_kept_by_ref(adapter: LangGraphAdapter) -> None:
    def fan(state: Any) -> Any:
        return [Send("few", {"docs": state["docs"], "mark": "m"}), END]

    saver = InMemorySaver()
    graph = routed(adapter, adapter.wrap_router(fan), checkpointer=saver, interrupt_before=["few"])
    graph.invoke({"docs": ["1"]}, AT)
    sent = [
        value.arg
        for each in saver.list(AT)
        for _, channel, value in each.pending_writes or ()
        if channel == "__pregel_tasks"
    ]
    assert sent == [{"docs": adapter.backend.dump(["1", "new"]), "mark": "m"}]
    assert graph.invoke(None, AT)["answer"] == "few: 2"


def test_a_router_that_sends_too_much_inline_is_refused(adapter: LangGraphAdapter) -> None:
    graph = routed(adapter, adapter.wrap_router(lambda state: Send("few", {"answer": "x" * 200})))
    with pytest.raises(InlineSizeExceeded, match="'answer'"):
        graph.invoke({"docs": ["1"]})


@pytest.mark.parametrize("form", ["dict", "state"])
def test_a_router_that_changes_a_value_is_an_error(adapter: LangGraphAdapter, form: str) -> None:
    def meddling(state: Any) -> str:
        state["docs"].append("lost?")
        return "few"

    if form == "state":
        meddling.__annotations__["state"] = State
    with pytest.raises(InPlaceMutationError, match=r"'meddling' changed docs.*cannot write"):
        routed(adapter, adapter.wrap_router(meddling)).invoke({"docs": ["1"]})


def test_a_router_from_the_start_sees_the_input(adapter: LangGraphAdapter) -> None:
    builder = StateGraph(adapter.schema())
    builder.add_node("few", adapter.wrap_node(lambda state: {"answer": "few"}))
    builder.add_conditional_edges(START, adapter.wrap_router(choose), {"few": "few", "many": END})
    graph = builder.compile()
    assert graph.invoke({"docs": ["1"]})["answer"] == "few"
    assert "answer" not in graph.invoke({"docs": ["1", "2", "3"]})
