"""Every path that a value can take into a checkpoint: the same as without agentref, minus the bytes."""

import ipaddress
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Overwrite, Send
from pydantic import BaseModel
from typing_extensions import TypedDict

Payload = Callable[[], str]
Twin = Callable[..., Any]


class Docs(TypedDict, total=False):
    question: str
    docs: list[dict[str, Any]]
    report: str
    steps: Annotated[list[str], operator.add]


def chain(state: type, *nodes: Callable[..., Any]) -> StateGraph[Any]:
    builder: StateGraph[Any] = StateGraph(state)
    for node in nodes:
        builder.add_node(node.__name__, node)
    builder.add_edge(START, nodes[0].__name__)
    for left, right in pairwise(nodes):
        builder.add_edge(left.__name__, right.__name__)
    return builder


def everything(run: Any, graph: Any, thread: str = "t") -> list[Any]:
    return [run.state(graph, thread), run.history(graph, thread)]


def test_checkpoint_values_leave_the_checkpoint_and_come_back(twin: Twin, payload: Payload) -> None:
    question, page, report = payload(), payload(), payload()

    def scenario(run: Any) -> Any:
        def retrieve(state: Docs) -> Docs:
            return {"docs": [{"text": page, "score": 0.5}], "steps": [state["question"][-8:]]}

        def rescore(state: Docs) -> Docs:
            return {"docs": [{**d, "score": 1.0} for d in state["docs"]], "steps": ["rescored"]}

        def answer(state: Docs) -> Docs:
            return {"report": report + state["docs"][0]["text"]}

        graph = chain(Docs, retrieve, rescore, answer).compile(checkpointer=run.saver)
        streamed = run.stream(graph, {"question": question})
        final = run.state(graph)
        assert final["values"]["report"] == report + page
        return [streamed, *everything(run, graph)]

    twin(scenario, question, page, report)


def test_a_part_that_only_the_inner_serializer_knows_does_not_keep_a_value_inline(
    twin: Twin, payload: Payload
) -> None:
    text = payload()

    def scenario(run: Any) -> Any:
        def find(state: Docs) -> Docs:
            return {
                "docs": [{"text": text, "by": re.compile("a+"), "at": ipaddress.ip_address("10.0.0.1")}]
            }

        graph = chain(Docs, find).compile(checkpointer=run.saver)
        run.invoke(graph, {"question": "q"})
        return everything(run, graph)

    twin(scenario, text)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_each_durability_mode_keeps_the_same_history(twin: Twin, payload: Payload, durability: str) -> None:
    page, more = payload(), payload()

    def scenario(run: Any) -> Any:
        def first(state: Docs) -> Docs:
            return {"docs": [{"text": page}], "steps": ["first"]}

        def second(state: Docs) -> Docs:
            return {"docs": [*state["docs"], {"text": more}], "steps": ["second"]}

        graph = chain(Docs, first, second).compile(checkpointer=run.saver)
        run.invoke(graph, {"question": "q"}, durability=durability)
        run.invoke(graph, {"question": "again"}, durability=durability)
        return everything(run, graph)

    twin(scenario, page, more)


def test_the_input_of_a_run_is_stored_by_ref(twin: Twin, payload: Payload) -> None:
    question = payload()

    def scenario(run: Any) -> Any:
        def never(state: Docs) -> Docs:
            raise AssertionError("the run stops before this node")

        graph = chain(Docs, never).compile(checkpointer=run.saver, interrupt_before=["never"])
        run.invoke(graph, {"question": question, "docs": [{"text": question}]})
        return everything(run, graph)

    wrapped = twin(scenario, question)
    assert "__start__" in {channel for channel, _ in wrapped.face.refs_in(wrapped.inner)}


def test_send_arguments_are_stored_by_ref_and_reach_their_node(twin: Twin, payload: Payload) -> None:
    pages = [payload() for _ in range(3)]

    def scenario(run: Any) -> Any:
        def plan(state: Docs) -> Docs:
            return {"question": "q"}

        def fan(state: Docs) -> list[Send]:
            return [Send("read", {"page": page, "nested": {"deep": [page]}}) for page in pages]

        def read(arg: dict[str, Any]) -> Docs:
            return {"steps": [arg["page"][-8:] + arg["nested"]["deep"][0][-8:]]}

        builder = chain(Docs, plan)
        builder.add_node("read", read)
        builder.add_conditional_edges("plan", fan, ["read"])
        graph = builder.compile(checkpointer=run.saver, interrupt_before=["read"])
        run.invoke(graph, {"question": "start"})
        paused = run.state(graph)
        final = run.invoke(graph, None)
        assert final["steps"] == [page[-8:] * 2 for page in pages]
        return [paused, *everything(run, graph)]

    wrapped = twin(scenario, *pages)
    assert "__pregel_tasks" in {channel for channel, _ in wrapped.face.refs_in(wrapped.inner)}


def test_a_command_with_goto_and_update_is_stored_by_ref(twin: Twin, payload: Payload) -> None:
    page = payload()

    def scenario(run: Any) -> Any:
        def route(state: Docs) -> Command[str]:
            return Command(goto="finish", update={"docs": [{"text": page}]})

        def finish(state: Docs) -> Docs:
            return {"steps": [str(len(state["docs"][0]["text"]))]}

        builder = StateGraph(Docs)
        builder.add_node("route", route, destinations=("finish",))
        builder.add_node("finish", finish)
        builder.add_edge(START, "route")
        graph = builder.compile(checkpointer=run.saver)
        run.invoke(graph, {"question": "q"})
        return everything(run, graph)

    twin(scenario, page)


def test_parallel_nodes_meet_in_their_reducer(twin: Twin, payload: Payload) -> None:
    texts = [payload() for _ in range(4)]

    class Parts(TypedDict, total=False):
        parts: Annotated[list[str], operator.add]
        total: int

    def scenario(run: Any) -> Any:
        def writer(text: str) -> Callable[[Parts], Parts]:
            return lambda state: {"parts": [text]}

        builder = StateGraph(Parts)
        builder.add_node("join", lambda state: {"total": sum(map(len, state["parts"]))})
        for i, text in enumerate(texts):
            builder.add_node(f"part{i}", writer(text))
            builder.add_edge(START, f"part{i}")
        builder.add_edge([f"part{i}" for i in range(len(texts))], "join")
        graph = builder.compile(checkpointer=run.saver)
        result = run.invoke(graph, {"parts": []})
        assert result["total"] == sum(map(len, texts)) and sorted(result["parts"]) == sorted(texts)
        return everything(run, graph)

    twin(scenario, *texts)


def concat(state: list[str], writes: list[list[str]]) -> list[str]:
    return [*state, *(item for write in writes for item in write)]


class Log(TypedDict, total=False):
    log: Annotated[list[str], DeltaChannel(concat, snapshot_frequency=3)]
    turn: int


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_a_delta_channel_replays_its_writes_and_snapshots(
    twin: Twin, payload: Payload, durability: str
) -> None:
    texts = [payload() for _ in range(8)]

    def scenario(run: Any) -> Any:
        def work(state: Log) -> Log:
            turn = state.get("turn", 0)
            return {"log": [texts[turn]], "turn": turn + 1}

        graph = chain(Log, work).compile(checkpointer=run.saver)
        for i in range(len(texts)):
            run.invoke(graph, {"log": [f"input {i}"]}, durability=durability)
        final = run.state(graph)["values"]["log"]
        assert final == [item for i, text in enumerate(texts) for item in (f"input {i}", text)]
        reset = run.invoke(graph, {"log": Overwrite([texts[0]]), "turn": 0}, durability=durability)
        assert reset["log"] == [texts[0], texts[0]]
        return everything(run, graph)

    twin(scenario, *texts)


def test_a_delta_snapshot_stays_a_snapshot_in_the_inner_saver(wrap: Any, payload: Payload) -> None:
    # A saver may look for the type: PostgresSaver marks such a channel, and refuses to prune it.
    run, text = wrap(), payload()
    graph = chain(Log, lambda_node := named("work", lambda state: {"log": [text]})).compile(
        checkpointer=run.saver
    )
    assert lambda_node.__name__ == "work"
    for _ in range(4):
        run.invoke(graph, {"log": []})
    stored = [t.checkpoint["channel_values"].get("log") for t in run.face.tuples(run.inner)]
    snapshots = [value for value in stored if value is not None]
    assert snapshots and {type(value).__name__ for value in snapshots} == {"_DeltaSnapshot"}
    assert text[:16].encode() not in run.face.bytes_in(run.inner)


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = name
    return function


@task
def shout(text: str) -> str:
    return text.upper()


def test_the_functional_api_keeps_task_results_and_previous_values(twin: Twin, payload: Payload) -> None:
    first, second = payload(), payload()

    def scenario(run: Any) -> Any:
        @entrypoint(checkpointer=run.saver)
        def flow(text: str, *, previous: list[str] | None = None) -> entrypoint.final[str, list[str]]:
            loud = shout(text).result()
            return entrypoint.final(value=loud + str(len(previous or [])), save=[*(previous or []), text])

        results = [run.invoke(flow, first), run.invoke(flow, second)]
        assert results == [first.upper() + "0", second.upper() + "1"]
        return [results, *everything(run, flow)]

    wrapped = twin(scenario, first, second)
    channels = {channel for channel, _ in wrapped.face.refs_in(wrapped.inner)}
    assert {"__previous__", "__return__", "__end__"} <= channels
    assert first.upper()[:16].encode() not in wrapped.face.bytes_in(wrapped.inner)


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def test_messages_keep_the_ids_that_add_messages_gave_them(twin: Twin, payload: Payload) -> None:
    asked, found, told = payload(), payload(), payload()

    def scenario(run: Any) -> Any:
        def call(state: Chat) -> dict[str, Any]:
            return {
                "messages": AIMessage("", tool_calls=[{"name": "find", "args": {"q": "x"}, "id": "call-1"}])
            }

        def find(state: Chat) -> dict[str, Any]:
            return {"messages": [ToolMessage(found, tool_call_id="call-1", artifact={"raw": [1, 2]})]}

        def tell(state: Chat) -> dict[str, Any]:
            return {"messages": AIMessage(told, usage_metadata=None)}

        graph = chain(Chat, call, find, tell).compile(checkpointer=run.saver)
        result = run.invoke(graph, {"messages": [HumanMessage(asked)]})
        ids = [m.id for m in result["messages"]]
        assert all(ids) and len(set(ids)) == 4
        for loaded in (run.state(graph)["values"], run.history(graph)[0]["values"]):
            assert loaded["messages"] == result["messages"]
        # A node may write a message by its id later: so the stored id must be the announced one.
        trimmed = run.invoke(graph, {"messages": [RemoveMessage(id=i) for i in ids[1:]]})
        shown = [[type(m).__name__, m.content, getattr(m, "artifact", None)] for m in trimmed["messages"]]
        assert trimmed["messages"][0] == result["messages"][0]
        return shown, [len(s["values"].get("messages", ())) for s in run.history(graph)]

    twin(scenario, asked, found, told)


@dataclass
class Page:
    text: str
    links: list[str] = field(default_factory=list)


@dataclass
class DataclassState:
    page: Page
    visits: Annotated[list[str], operator.add] = field(default_factory=list)


class Source(BaseModel):
    text: str
    tags: list[str] = []


class PydanticState(BaseModel):
    source: Source
    notes: Annotated[list[str], operator.add] = []


def test_a_dataclass_state_keeps_its_objects(twin: Twin, payload: Payload) -> None:
    text, more = payload(), payload()

    def scenario(run: Any) -> Any:
        def visit(state: DataclassState) -> dict[str, Any]:
            assert type(state.page) is Page
            return {"page": Page(more, [state.page.text[-8:]]), "visits": [type(state.page).__name__]}

        graph = chain(DataclassState, visit, named("again", partial(visit))).compile(checkpointer=run.saver)
        result = run.invoke(graph, DataclassState(Page(text)))
        assert type(run.state(graph)["values"]["page"]) is Page
        return [result, *everything(run, graph)]

    twin(scenario, text, more)


def test_a_pydantic_state_keeps_its_models(twin: Twin, payload: Payload) -> None:
    text = payload()

    def scenario(run: Any) -> Any:
        def note(state: PydanticState) -> dict[str, Any]:
            return {"source": Source(text=state.source.text, tags=["seen"]), "notes": [state.source.text]}

        graph = chain(PydanticState, note).compile(checkpointer=run.saver)
        result = run.invoke(graph, PydanticState(source=Source(text=text)))
        assert type(run.state(graph)["values"]["source"]) is Source
        return [result, *everything(run, graph)]

    twin(scenario, text)


@pytest.mark.parametrize("face", ["memory-async", "sqlite-async"], indirect=True)
def test_a_graph_of_async_nodes_streams_the_same(twin: Twin, payload: Payload) -> None:
    text = payload()

    def scenario(run: Any) -> Any:
        async def fetch(state: Docs) -> Docs:
            return {"docs": [{"text": text}], "steps": ["fetched"]}

        async def close(state: Docs) -> Docs:
            return {"report": state["docs"][0]["text"]}

        builder = chain(Docs, fetch, close)
        builder.add_edge("close", END)
        graph = builder.compile(checkpointer=run.saver)
        return [run.stream(graph, {"question": "q"}), *everything(run, graph)]

    twin(scenario, text)
