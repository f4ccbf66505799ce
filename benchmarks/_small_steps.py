"""Steps that touch nothing large, in each framework, over a state that holds something large."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypedDict

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.model_context import UnboundedChatCompletionContext
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.autogen import AgentRefChatCompletionContext, AutoGenAdapter
from agentref.adapters.langgraph import LangGraphAdapter
from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.storage import CAS
from benchmarks._autogen_worker import Model

__all__ = ["LIST", "STEPS", "TEXT", "autogen", "langgraph", "llamaindex"]

STEPS: Final = 200
TEXT: Final = "large " * 200_000
LIST: Final = [{"id": number, "text": "large " * 2_000} for number in range(100)]


class State(AgentRefState):
    """A counter, and something large."""

    count: Inline[int]
    docs: Externalized[Any]


class _Plain(TypedDict):
    count: int
    docs: Any


def langgraph(cas: CAS | None, saver: Any = None, large: Any = TEXT) -> Callable[[], object]:
    """A graph whose one node counts; its checkpoints are in memory if no saver is given."""
    saver = InMemorySaver() if saver is None else saver

    def work(state: Any) -> dict[str, int]:
        return {"count": state["count"] + 1}

    adapter = None if cas is None else LangGraphAdapter(State, backend=cas)
    graph = StateGraph(_Plain if adapter is None else adapter.schema())
    graph.add_node("work", work if adapter is None else adapter.wrap_node(work))
    graph.add_edge(START, "work")
    graph.add_conditional_edges("work", lambda state: "work" if state["count"] % STEPS else END)
    app = graph.compile(checkpointer=saver if adapter is None else adapter.checkpointer(saver))
    config: Any = {"configurable": {"thread_id": "one"}, "recursion_limit": STEPS + 1}
    app.invoke({"count": STEPS - 1, "docs": large}, config)
    return lambda: app.invoke({"count": 0}, config)


class _Again(Event):
    pass


def llamaindex(cas: CAS | None) -> Callable[[], object]:
    """A workflow whose one step counts."""
    adapter = None if cas is None else LlamaIndexAdapter(State, backend=cas)

    class Counting(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> _Again:  # noqa: ARG002
            store: Any = ctx.store if adapter is None else adapter.context_store(ctx.store)
            await store.set("count", 0)
            return _Again()

        @step
        async def work(self, ctx: Context, ev: _Again) -> _Again | StopEvent:  # noqa: ARG002
            store: Any = ctx.store if adapter is None else adapter.context_store(ctx.store)
            count = await store.get("count") + 1
            await store.set("count", count)
            return _Again() if count < STEPS else StopEvent()

    async def main() -> None:
        workflow = Counting(timeout=None)
        ctx: Context = Context(workflow)
        store: Any = ctx.store if adapter is None else adapter.context_store(ctx.store)
        await store.set("docs", TEXT)
        await workflow.run(ctx=ctx)

    return lambda: asyncio.run(main())


def autogen(cas: CAS | None) -> Callable[[], object]:
    """A team of two agents that say something short."""

    def agent(name: str) -> AssistantAgent:
        context = (
            UnboundedChatCompletionContext()
            if cas is None
            else AgentRefChatCompletionContext(AutoGenAdapter(backend=cas))
        )
        return AssistantAgent(name, Model(lambda _: "noted"), model_context=context)

    async def main() -> None:
        team = RoundRobinGroupChat([agent("one"), agent("other")], max_turns=STEPS // 4)
        await team.run(task="begin")

    return lambda: asyncio.run(main())
