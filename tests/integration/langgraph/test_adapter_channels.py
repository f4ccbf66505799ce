"""Every way into the state ends in a channel: refs for external fields, a limit for inline ones."""

import asyncio
import operator
import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.channels import EphemeralValue, LastValue, Topic, UntrackedValue
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import InvalidUpdateError
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.managed import IsLastStep
from langgraph.types import Command, Overwrite, Send
from typing_extensions import TypedDict

from agentref import AgentRefState, ContentRef, Externalized, Inline, InlineSizeExceeded
from agentref.adapters.langgraph import LangGraphAdapter
from agentref.errors import (
    AgentRefError,
    ConfigurationError,
    InvalidInputError,
    StateDefinitionError,
    UnknownBackendError,
    UnsupportedTypeError,
    UntrustedTypeError,
)
from agentref.storage import CAS, InMemoryCAS

AT: Any = {"configurable": {"thread_id": "t"}}
LIMIT = 1000
BIG = "x" * LIMIT


class State(AgentRefState):
    docs: Externalized[list[str]]
    log: Annotated[Externalized[list[str]], operator.add]
    thread: Annotated[Externalized[list[AnyMessage]], add_messages]
    answer: Inline[str]
    notes: Annotated[Inline[list[str]], operator.add]
    blob: Externalized[dict[str, Any]]


@pytest.fixture
def adapter(cas: CAS) -> LangGraphAdapter:
    return LangGraphAdapter(State, backend=cas, inline_threshold_bytes=LIMIT)


def fan(adapter: LangGraphAdapter, *nodes: Any) -> Any:
    """A graph whose nodes all run in one step."""
    builder = StateGraph(adapter.schema())
    for index, node in enumerate(nodes):
        builder.add_node(f"n{index}", node).add_edge(START, f"n{index}")
    return builder


def writing(**update: Any) -> Callable[[Any], Any]:
    return lambda _: update


# --- external fields

WAYS: dict[str, Callable[[LangGraphAdapter, Any], Any]] = {
    "wrapped node": lambda adapter, value: fan(adapter, adapter.wrap_node(writing(docs=value))),
    "plain node": lambda adapter, value: fan(adapter, writing(docs=value)),
    "plain command": lambda adapter, value: fan(adapter, lambda _: Command(update={"docs": value})),
}


@pytest.mark.parametrize("way", WAYS)
def test_whoever_writes_an_external_field_the_graph_holds_a_ref(
    adapter: LangGraphAdapter, way: str
) -> None:
    graph = WAYS[way](adapter, ["d"]).compile()
    shown = graph.invoke({})
    assert shown["docs"] == adapter.backend.dump(["d"])
    assert isinstance(shown["docs"], ContentRef)
    assert adapter.hydrate(shown)["docs"] == ["d"]


def test_inputs_state_updates_and_commands_from_outside_become_refs(adapter: LangGraphAdapter) -> None:
    graph = fan(adapter, adapter.wrap_node(lambda state: None)).compile(checkpointer=InMemorySaver())
    assert isinstance(graph.invoke({"docs": ["input"]}, AT)["docs"], ContentRef)
    graph.update_state(AT, {"docs": ["updated"]})
    assert isinstance(graph.get_state(AT).values["docs"], ContentRef)
    graph.invoke(Command(update={"docs": ["commanded"]}, goto="n0"), AT)
    assert isinstance(graph.get_state(AT).values["docs"], ContentRef)
    history = [each.values["docs"] for each in graph.get_state_history(AT) if each.values.get("docs")]
    assert {type(each) for each in history} == {ContentRef}
    assert adapter.hydrate(history)[-1] == ["input"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_two_writes_in_one_step_follow_the_reducer_in_order(
    adapter: LangGraphAdapter, wrapped: bool
) -> None:
    nodes = [writing(log=[f"from {index}"]) for index in range(3)]
    graph = fan(adapter, *(map(adapter.wrap_node, nodes) if wrapped else nodes)).compile()
    assert adapter.hydrate(graph.invoke({"log": ["input"]}))["log"] == [
        "input",
        "from 0",
        "from 1",
        "from 2",
    ]


@pytest.mark.parametrize("wrapped", [True, False])
def test_two_writes_in_one_step_without_a_reducer_are_langgraphs_own_error(
    adapter: LangGraphAdapter, wrapped: bool
) -> None:
    class Stock(TypedDict):
        docs: list[str]

    nodes = [writing(docs=["a"]), writing(docs=["b"])]
    stock = StateGraph(Stock)
    for index, node in enumerate(nodes):
        stock.add_node(f"n{index}", node).add_edge(START, f"n{index}")
    with pytest.raises(InvalidUpdateError) as expected:
        stock.compile().invoke({"docs": []})
    with pytest.raises(InvalidUpdateError) as error:
        fan(adapter, *(map(adapter.wrap_node, nodes) if wrapped else nodes)).compile().invoke({})
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    "overwrite",
    [Overwrite(["new"]), {"__overwrite__": ["new"]}, {"type": "__overwrite__", "value": ["new"]}],
)
def test_overwrite_replaces_what_the_reducer_has(
    adapter: LangGraphAdapter, wrapped: bool, overwrite: Any
) -> None:
    nodes = [writing(log=["dropped"]), writing(log=overwrite), writing(log=["dropped too"])]
    graph = fan(adapter, *(map(adapter.wrap_node, nodes) if wrapped else nodes)).compile()
    assert adapter.hydrate(graph.invoke({"log": ["old"]}))["log"] == ["new"]


def test_overwriting_loads_nothing(adapter: LangGraphAdapter, cas: CAS) -> None:
    graph = fan(adapter, adapter.wrap_node(writing(log=Overwrite(["new"])))).compile()
    given = {"log": Overwrite(adapter.backend.dump(["old"]))}
    assert graph.invoke(given)["log"] == adapter.backend.dump(["new"])
    assert cas.counters.values_loaded == 0


def test_two_overwrites_in_one_step_are_langgraphs_own_error(adapter: LangGraphAdapter) -> None:
    nodes = [adapter.wrap_node(writing(log=Overwrite([name]))) for name in "ab"]
    with pytest.raises(InvalidUpdateError, match="only one Overwrite"):
        fan(adapter, *nodes).compile().invoke({})


def test_a_reducer_loads_once_and_stores_once_a_step(adapter: LangGraphAdapter, cas: CAS) -> None:
    nodes = [adapter.wrap_node(writing(log=[name])) for name in "abc"]
    graph = fan(adapter, *nodes).compile()
    given = adapter.externalize({"log": ["z"]})
    before = cas.counters.values_loaded
    assert adapter.hydrate(graph.invoke(given))["log"] == ["z", "a", "b", "c"]
    # The input is reduced into nothing, then three operands into it; hydrate loads the result.
    assert cas.counters.values_loaded - before == 1 + (1 + 3) + 1


def test_messages_are_merged_in_the_store(adapter: LangGraphAdapter) -> None:
    graph = fan(
        adapter, adapter.wrap_node(lambda s: {"thread": [AIMessage("yes", id="2"), RemoveMessage(id="0")]})
    ).compile(checkpointer=InMemorySaver())
    graph.invoke({"thread": [HumanMessage("old", id="0"), HumanMessage("hi", id="1")]}, AT)
    merged = adapter.hydrate(graph.get_state(AT)).values["thread"]
    assert [(type(each), each.content) for each in merged] == [(HumanMessage, "hi"), (AIMessage, "yes")]


def test_a_reducer_that_changes_its_argument_harms_no_earlier_checkpoint(cas: CAS) -> None:
    def extend(left: list[str], right: list[str]) -> list[str]:
        left.extend(right)
        return left

    class Extending(AgentRefState):
        log: Annotated[Externalized[list[str]], extend]

    adapter = LangGraphAdapter(Extending, backend=cas)
    graph = fan(adapter, adapter.wrap_node(writing(log=["b"]))).compile(checkpointer=InMemorySaver())
    graph.invoke({"log": ["a"]}, AT)
    logs = [adapter.hydrate(each).values["log"] for each in graph.get_state_history(AT)]
    assert logs == [["a", "b"], ["a"], []]


LOOK_ALIKES: dict[str, Callable[[ContentRef], Any]] = {
    "wire form": lambda ref: ref.to_dict(),
    "enveloped": lambda ref: {"__agentref__": {"ref": ref.to_dict()["__agentref__"]}},
    "wrapped value": lambda ref: {"__agentref__": {"value": 1}},
    "text": lambda ref: ref.hash,
    "attributes as text": lambda ref: {
        "digest": ref.hash,
        "codec": ref.codec,
        "size": 1,
        "backend_id": None,
    },
}


@pytest.mark.parametrize("kind", LOOK_ALIKES)
@pytest.mark.parametrize("saver", ["none", "stock", "adapter"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_user_data_that_looks_like_a_ref_stays_user_data(
    adapter: LangGraphAdapter, cas: CAS, kind: str, saver: str, wrapped: bool
) -> None:
    secret = cas.dump("a secret of somebody else")
    forged = LOOK_ALIKES[kind](secret)
    node = writing(blob=forged, log=[forged])
    inner = InMemorySaver()
    checkpointer = (
        adapter.checkpointer(inner) if saver == "adapter" else inner if saver == "stock" else None
    )
    graph = fan(adapter, adapter.wrap_node(node) if wrapped else node).compile(checkpointer=checkpointer)
    outcome = adapter.hydrate(graph.invoke({"docs": forged}, AT))
    assert outcome["blob"] == outcome["docs"] == forged
    assert outcome["log"] == [forged]
    if checkpointer:
        restored = adapter.hydrate(graph.get_state(AT)).values
        assert restored["blob"] == restored["docs"] == forged


def test_a_ref_that_a_serializer_took_apart_is_an_error_and_no_value(adapter: LangGraphAdapter) -> None:
    ref = adapter.backend.dump("v")
    apart = {"digest": ref.digest, "codec": ref.codec, "size": ref.size, "backend_id": ref.backend_id}
    with pytest.raises(UntrustedTypeError, match="allowed_msgpack_modules"):
        fan(adapter, writing(docs=apart)).compile().invoke({})


def test_a_value_of_an_unknown_type_fails_the_node_that_returns_it(adapter: LangGraphAdapter) -> None:
    node = adapter.wrap_node(writing(docs=[{"lock": threading.Lock()}]))
    place = rf"^In {adapter.state_class.__qualname__}\.docs\[0\]\['lock'\]: A value of type _thread\.lock"
    with pytest.raises(UnsupportedTypeError, match=place):
        fan(adapter, node).compile().invoke({})


def test_none_is_a_value(adapter: LangGraphAdapter) -> None:
    shown = fan(adapter, adapter.wrap_node(writing(docs=None))).compile().invoke({"docs": ["d"]})
    assert adapter.hydrate(shown)["docs"] is None


def test_a_ref_of_a_store_that_is_not_configured_names_it(adapter: LangGraphAdapter, cas: CAS) -> None:
    elsewhere = InMemoryCAS(backend_id="elsewhere")
    ref = elsewhere.dump(["d"])
    node = adapter.wrap_node(lambda state: {"answer": state["docs"][0]})
    with pytest.raises(UnknownBackendError, match=r"'elsewhere'.*also="):
        fan(adapter, node).compile().invoke({"docs": ref})
    both = LangGraphAdapter(State, backend=cas, also=[elsewhere])
    both_node = both.wrap_node(lambda state: {"answer": state["docs"][0]})
    assert fan(both, both_node).compile().invoke({"docs": ref})["answer"] == "d"


# --- inline fields

OVERSIZED: dict[str, Callable[[LangGraphAdapter], Any]] = {
    "wrapped node": lambda a: fan(a, a.wrap_node(writing(answer=BIG))),
    "wrapped node, state": lambda a: fan(a, a.wrap_node(lambda _: State(answer=BIG))),
    "wrapped node, set on the state": lambda a: fan(a, a.wrap_node(setting)),
    "wrapped command": lambda a: fan(a, a.wrap_node(lambda _: Command(update={"answer": BIG}))),
    "wrapped command, pairs": lambda a: fan(a, a.wrap_node(lambda _: Command(update=[("answer", BIG)]))),
    "wrapped list": lambda a: fan(a, a.wrap_node(lambda _: [Command(), {"answer": BIG}])),
    "wrapped send": lambda a: fan(a, a.wrap_node(lambda _: Send("n0", {"answer": BIG}))),
    "plain node": lambda a: fan(a, writing(answer=BIG)),
    "plain command": lambda a: fan(a, lambda _: Command(update={"answer": BIG})),
}


def setting(state: State) -> None:
    state.answer = BIG


@pytest.mark.parametrize("way", [way for way in OVERSIZED if way.startswith("wrapped")])
def test_a_wrapped_node_that_returns_an_oversized_inline_value_fails(
    adapter: LangGraphAdapter, way: str
) -> None:
    with pytest.raises(InlineSizeExceeded, match="'answer'"):
        OVERSIZED[way](adapter).compile().invoke({"docs": ["d"]})


@pytest.mark.parametrize("way", OVERSIZED)
@pytest.mark.parametrize("stock", [True, False], ids=["stock", "adapter"])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_an_oversized_inline_value_is_refused_and_the_thread_is_intact(
    adapter: LangGraphAdapter, way: str, stock: bool, durability: Any
) -> None:
    inner = InMemorySaver()
    graph = OVERSIZED[way](adapter).compile(checkpointer=inner if stock else adapter.checkpointer(inner))
    with pytest.raises(
        InlineSizeExceeded, match=r"'answer' is 1,0.. bytes, over the limit of 1,000"
    ) as error:
        graph.invoke({"docs": ["d"]}, AT, durability=durability)
    assert (error.value.field, error.value.limit) == ("answer", LIMIT)
    if durability != "exit":
        assert adapter.hydrate(graph.get_state(AT)).values["docs"] == ["d"]
    assert all("answer" not in each.checkpoint["channel_values"] for each in inner.list(AT))
    if not stock or way.startswith("wrapped"):
        kept = [write[2][1] for writes in inner.writes.values() for write in writes.values()]
        assert not any(BIG.encode() in each for each in kept)
        assert "answer" not in graph.get_state(AT).values
    graph.update_state(AT, {"answer": "mended"}, as_node="n0")
    assert graph.get_state(AT).values["answer"] == "mended"


@pytest.mark.parametrize("stock", [True, False])
def test_an_oversized_input_or_update_is_refused(adapter: LangGraphAdapter, stock: bool) -> None:
    inner = InMemorySaver()
    graph = fan(adapter, lambda _: None).compile(
        checkpointer=inner if stock else adapter.checkpointer(inner)
    )
    graph.invoke({"answer": "small"}, AT)
    for call in (
        lambda: graph.invoke({"answer": BIG}, AT),
        lambda: graph.update_state(AT, {"answer": BIG}),
        lambda: graph.invoke(Command(update={"answer": BIG}, goto="n0"), AT),
        lambda: asyncio.run(graph.ainvoke({"answer": BIG}, AT)),
    ):
        with pytest.raises(InlineSizeExceeded, match="'answer'"):
            call()
        if stock:
            graph.update_state(AT, {"answer": "small"}, as_node="n0")
        assert graph.get_state(AT).values["answer"] == "small"
    if not stock:
        assert not any(BIG.encode() in each[1] for each in inner.blobs.values())
    assert graph.invoke({"answer": "well again"}, AT)["answer"] == "well again"


def test_an_inline_list_may_not_grow_over_the_limit(adapter: LangGraphAdapter) -> None:
    graph = fan(adapter, adapter.wrap_node(writing(notes=["n" * 300]))).compile(
        checkpointer=InMemorySaver()
    )
    for length in (1, 2, 3):
        assert len(graph.invoke({"answer": "a"}, AT)["notes"]) == length
    with pytest.raises(InlineSizeExceeded, match="'notes'"):
        graph.invoke({"answer": "a"}, AT)
    graph.update_state(AT, {"notes": Overwrite(["mended"])}, as_node="n0")
    assert len(graph.invoke({"answer": "a"}, AT)["notes"]) == 2


def test_an_inline_value_may_not_grow_in_place_over_the_limit(adapter: LangGraphAdapter) -> None:
    def grow(state: Any) -> None:
        state["notes"].extend([BIG])

    graph = fan(adapter, adapter.wrap_node(grow)).compile(checkpointer=InMemorySaver())
    with pytest.raises(InlineSizeExceeded, match="'notes'"):
        graph.invoke({"notes": ["n"]}, AT)


@pytest.mark.parametrize("value", ["x" * (LIMIT - 20), None, 3, HumanMessage("hi"), {1, 2}, object()])
def test_what_fits_is_not_refused_whatever_its_type(adapter: LangGraphAdapter, value: Any) -> None:
    assert fan(adapter, adapter.wrap_node(writing(answer=value))).compile().invoke({})["answer"] is value


def test_fields_with_channels_of_their_own_stay_langgraphs(cas: CAS) -> None:
    class Own(AgentRefState):
        scratch: Annotated[Inline[str], UntrackedValue]
        signal: Annotated[Inline[str], EphemeralValue]
        topic: Annotated[Inline[list[str]], Topic(str)]
        delta: Annotated[Inline[list[str]], DeltaChannel(lambda left, right: sum(right, left))]
        last: Annotated[Inline[bool], *IsLastStep.__metadata__]
        docs: Externalized[list[str]]

    adapter = LangGraphAdapter(Own, backend=cas, inline_threshold_bytes=50)
    builder = StateGraph(adapter.schema())
    assert {name: type(channel) for name, channel in builder.channels.items() if name != "docs"} == {
        "scratch": UntrackedValue,
        "signal": EphemeralValue,
        "topic": Topic,
        "delta": DeltaChannel,
    }
    assert set(builder.managed) == {"last"}

    def node(state: Any) -> Any:
        assert state["last"] is False
        return {"scratch": BIG, "delta": [state["docs"][0]]}

    builder.add_node("node", adapter.wrap_node(node)).add_edge(START, "node")
    graph = builder.compile(checkpointer=adapter.checkpointer(InMemorySaver()))
    assert graph.invoke({"docs": ["d"], "delta": ["c"]}, AT)["scratch"] == BIG
    assert graph.get_state(AT).values["delta"] == ["c", "d"]


# --- what a class may declare


def one_argument(value: Any) -> Any:
    return value


WRONG: dict[str, tuple[Any, str]] = {
    "channel": (Annotated[Externalized[list[str]], Topic(str)], "cannot also have Topic"),
    "channel class": (Annotated[Externalized[str], LastValue], "cannot also have LastValue"),
    "delta": (
        Annotated[Externalized[list[str]], DeltaChannel(operator.add)],
        r"cannot also have DeltaChannel.*Write Annotated\[Externalized",
    ),
    "managed": (
        Annotated[Externalized[bool], *IsLastStep.__metadata__],
        "cannot also have IsLastStepManager",
    ),
    "one argument": (Annotated[Externalized[str], one_argument], "a reducer has two parameters"),
    "inline, one argument": (Annotated[Inline[str], one_argument], "a reducer has two parameters"),
    "reducer not last": (Annotated[Externalized[list[str]], operator.add, "doc"], "add. Write it last"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_langgraph_could_not_keep_is_refused_at_once(cas: CAS, kind: str) -> None:
    annotation, message = WRONG[kind]
    declared = type("Wrong", (AgentRefState,), {"__annotations__": {"field": annotation}})
    with pytest.raises(StateDefinitionError, match=rf"(?s)Wrong\.field.*{message}"):
        LangGraphAdapter(declared, backend=cas)


def test_an_adapter_says_what_it_needs(cas: CAS) -> None:
    for wrong in (dict, object(), "State", AgentRefState()):
        with pytest.raises(StateDefinitionError, match="no subclass of AgentRefState"):
            LangGraphAdapter(wrong, backend=cas)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="backend=FilesystemCAS"):
        LangGraphAdapter(State)
    with pytest.raises(InvalidInputError, match="FilesystemCAS"):
        LangGraphAdapter(State, backend="./state_blobs")  # type: ignore[arg-type]
    for wrong in (0, -1, 1.5, None, True):
        with pytest.raises(InvalidInputError, match="inline_threshold_bytes"):
            LangGraphAdapter(State, backend=cas, inline_threshold_bytes=wrong)  # type: ignore[arg-type]
    assert issubclass(StateDefinitionError, AgentRefError)


def test_the_schema_is_one_typed_dict_named_after_the_class(adapter: LangGraphAdapter) -> None:
    schema = adapter.schema()
    assert schema is adapter.schema() is adapter.schema(State)
    assert (schema.__name__, schema.__module__) == ("State", State.__module__)
    assert list(schema.__annotations__) == list(State.schema().fields)
    properties = (
        StateGraph(schema).add_node(setting).add_edge(START, "setting").compile().get_input_jsonschema()
    )
    assert properties["properties"]["docs"] == {
        "items": {"type": "string"},
        "title": "Docs",
        "type": "array",
    }


def test_a_narrower_schema_limits_input_and_output(adapter: LangGraphAdapter) -> None:
    class Narrow(AgentRefState):
        docs: Externalized[list[str]]
        log: Externalized[list[str]]

    narrow = adapter.schema(Narrow)
    builder = StateGraph(adapter.schema(), input_schema=narrow, output_schema=narrow)
    builder.add_node("n", adapter.wrap_node(writing(answer="a", log=["b"]))).add_edge(START, "n")
    outcome = adapter.hydrate(builder.compile().invoke({"docs": ["d"], "log": ["a"], "answer": "ignored"}))
    assert outcome == {"docs": ["d"], "log": ["a", "b"]}


def test_a_plain_typed_dict_may_name_the_same_fields(adapter: LangGraphAdapter) -> None:
    class Hint(TypedDict):
        docs: list[str]
        log: Annotated[list[str], operator.add]
        notes: Annotated[list[str], operator.add]

    def node(state: Hint) -> Any:
        return {"log": state["docs"], "notes": state["log"]}

    outcome = adapter.hydrate(
        fan(adapter, adapter.wrap_node(node)).compile().invoke({"docs": ["d"], "log": ["l"]})
    )
    assert outcome["log"] == ["l", "d"] and outcome["notes"] == ["l"]


def test_a_graph_of_another_schema_refuses_the_fields(adapter: LangGraphAdapter) -> None:
    class Stock(TypedDict):
        docs: list[str]

    def node(state: State) -> Any: ...

    with pytest.raises(ValueError, match="already exists with a different type"):
        StateGraph(Stock).add_node("node", adapter.wrap_node(node))


def test_one_adapter_serves_many_threads_and_graphs(adapter: LangGraphAdapter) -> None:
    def node(state: State) -> Any:
        return {"log": [state.docs[0]]}

    def play(name: str) -> Any:
        graph = fan(adapter, adapter.wrap_node(node)).compile()
        return adapter.hydrate(graph.invoke({"docs": [name], "log": [name]}))["log"]

    async def play_many() -> list[Any]:
        return list(await asyncio.gather(*(asyncio.to_thread(play, str(index)) for index in range(16))))

    assert asyncio.run(play_many()) == [[str(index)] * 2 for index in range(16)]
