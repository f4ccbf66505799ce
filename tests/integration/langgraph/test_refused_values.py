"""A value that cannot be kept: the error says in which channel, and where in the value, it is."""

import asyncio
import operator
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter, externalize
from agentref.errors import AgentRefError, UnsupportedTypeError, ValueTooLargeError
from agentref.storage import CAS, InMemoryCAS

AT: Any = {"configurable": {"thread_id": "the-thread"}}


class Opaque:
    """Nobody knows this type."""


class Docs(TypedDict, total=False):
    docs: Any
    log: Annotated[list[Any], operator.add]


@pytest.fixture
def cas() -> CAS:
    return InMemoryCAS(max_value_bytes=50_000)


@pytest.fixture(params=["memory", "sqlite"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BaseCheckpointSaver[Any]]:
    if request.param == "memory":
        yield InMemorySaver()
        return
    connection = sqlite3.connect(tmp_path / "checkpoints.sqlite", check_same_thread=False)
    yield SqliteSaver(connection)
    connection.close()


def graph_over(saver: Any, update: Any = None) -> Any:
    builder = StateGraph(Docs).add_node("make", lambda state: update)
    return builder.add_edge(START, "make").compile(checkpointer=saver)


def notes_of(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


SIZES = {"small": "x", "large": "x" * 20_000}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_what_the_inner_saver_refuses_is_noted_with_its_channel_and_place(
    inner: BaseCheckpointSaver[Any], cas: CAS, size: str, durability: str
) -> None:
    value = [{"text": SIZES[size], "meta": Opaque()}]
    with pytest.raises(TypeError, match="not msgpack serializable") as stock:
        graph_over(InMemorySaver(), {"docs": value}).invoke({"log": []}, AT, durability=durability)
    with pytest.raises(TypeError) as caught:
        graph_over(externalize(inner, backend=cas), {"docs": value}).invoke(
            {"log": []}, AT, durability=durability
        )
    # As without agentref, with more to read.
    assert (type(caught.value), str(caught.value)) == (type(stock.value), str(stock.value))
    assert notes_of(caught.value).startswith(
        "In thread 'the-thread', channel docs[0]['meta']: "
        f"A value of type {__name__}.Opaque cannot be stored faithfully. Convert it"
    )


def test_inputs_and_updates_from_outside_are_noted_alike(inner: BaseCheckpointSaver[Any], cas: CAS) -> None:
    graph = graph_over(externalize(inner, backend=cas))
    with pytest.raises(TypeError) as caught:
        graph.invoke({"docs": {"handle": threading.Lock()}}, AT)
    assert "channel __start__['docs']['handle']: A value of type _thread.lock" in notes_of(caught.value)
    with pytest.raises(TypeError) as caught:
        graph.update_state(AT, {"log": [1, Opaque()]})
    assert "channel log[1]: " in notes_of(caught.value)


def test_what_is_sent_to_a_node_is_noted_alike(inner: BaseCheckpointSaver[Any], cas: CAS) -> None:
    builder = StateGraph(Docs).add_node("make", lambda state: {})
    builder.add_conditional_edges(START, lambda state: [Send("make", {"docs": Opaque()})], ["make"])
    graph = builder.compile(checkpointer=externalize(inner, backend=cas))
    with pytest.raises(TypeError) as caught:
        graph.invoke({"log": []}, AT)
    assert ".arg['docs']: A value of type" in notes_of(caught.value)


def test_the_async_verbs_note_alike(cas: CAS) -> None:
    async def run(value: Any, kind: type[Exception]) -> BaseException:
        async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
            graph = graph_over(externalize(saver, backend=cas), {"docs": value})
            with pytest.raises(kind) as caught:
                await graph.ainvoke({"log": []}, AT)
            return caught.value

    error = asyncio.run(run([Opaque()], TypeError))
    assert "In thread 'the-thread', channel docs[0]: A value of type" in notes_of(error)
    error = asyncio.run(run({"a": "x" * 60_000}, ValueTooLargeError))
    assert str(error).startswith("In thread 'the-thread', channel docs: The value is 60,0")


def test_a_pickling_saver_keeps_what_it_can_and_its_own_error_is_noted_where_it_cannot(cas: CAS) -> None:
    saver = externalize(InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=True)), backend=cas)
    kept = graph_over(saver, {"docs": [Opaque(), "x" * 9000]}).invoke({"log": []}, AT)
    assert type(kept["docs"][0]) is Opaque
    with pytest.raises(TypeError, match="pickle") as caught:
        graph_over(saver, {"docs": {"a": threading.Lock()}}).invoke({"log": []}, AT)
    assert "channel docs['a']: A value of type _thread.lock" in notes_of(caught.value)


def test_a_type_of_ours_that_only_the_saver_refuses_is_noted_with_its_channel(cas: CAS) -> None:
    with pytest.raises(TypeError) as caught:
        graph_over(externalize(InMemorySaver(), backend=cas), {"docs": [2**70]}).invoke({"log": []}, AT)
    assert notes_of(caught.value).startswith(
        "In thread 'the-thread', channel docs: the checkpointer's serializer refuses a list."
    )


def test_an_error_of_the_inner_saver_about_something_else_is_left_as_it_is(cas: CAS) -> None:
    class Full(InMemorySaver):
        def put_writes(self, *_: Any) -> None:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full") as caught:
        graph_over(externalize(Full(), backend=cas), {"docs": 1}).invoke({"log": []}, AT)
    assert "channel" not in notes_of(caught.value)


def test_a_strict_serializer_is_noted_alike(cas: CAS) -> None:
    strict = JsonPlusSerializer(allowed_msgpack_modules=[])
    saver = externalize(InMemorySaver(serde=strict), backend=cas)
    with pytest.raises(TypeError) as caught:
        graph_over(saver, {"docs": {"deep": [Opaque(), "x" * 9000]}}).invoke({"log": []}, AT)
    assert "channel docs['deep'][0]: A value of type" in notes_of(caught.value)


def endless() -> Any:
    parent: dict[str, Any] = {"name": "x"}
    parent["children"] = [{"parent": parent}]
    return parent


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"pages": ["short", "x" * 60_000]},
            r"channel docs: .* raise max_value_bytes\. Its largest part is at \['pages'\]\[1\]: 60,",
        ),
        (
            endless(),
            r"channel docs\['children'\]\[0\]\['parent'\]: .* contains itself\. Flatten",
        ),
    ],
    ids=["too large", "endless"],
)
def test_what_the_store_refuses_names_its_channel_and_the_remedy(
    inner: BaseCheckpointSaver[Any], cas: CAS, value: Any, message: str
) -> None:
    with pytest.raises(ValueTooLargeError, match=f"^In thread 'the-thread', {message}"):
        graph_over(externalize(inner, backend=cas), {"docs": value}).invoke({"log": []}, AT)


def extend(state: Any, writes: Any) -> list[Any]:
    return [*(state or []), *(item for write in writes for item in write)]


class Delta(TypedDict):
    pages: Annotated[list[Any], DeltaChannel(extend)]


def test_what_is_added_to_a_delta_channel_names_its_place(cas: CAS) -> None:
    builder = StateGraph(Delta).add_node("make", lambda state: {"pages": ["a", Opaque()]})
    graph = builder.add_edge(START, "make").compile(checkpointer=externalize(InMemorySaver(), backend=cas))
    with pytest.raises(TypeError) as caught:
        graph.invoke({"pages": []}, AT)
    assert "channel pages[1]: A value of type" in notes_of(caught.value)


# --- typed state


class State(AgentRefState):
    docs: Externalized[Any]
    log: Annotated[Externalized[list[Any]], operator.add]
    question: Inline[Any]


def typed_graph(cas: CAS, node: Any, *, wrapped: bool) -> Any:
    adapter = LangGraphAdapter(State, backend=cas)
    builder = StateGraph(adapter.schema())
    builder.add_node("act", adapter.wrap_node(node) if wrapped else node)
    return builder.add_edge(START, "act").compile(checkpointer=adapter.checkpointer(InMemorySaver()))


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    ("update", "place"),
    [
        ({"docs": [{"meta": Opaque()}]}, r"State\.docs\[0\]\['meta'\]"),
        ({"log": ["fine", Opaque()]}, r"State\.log\[1\]"),
    ],
    ids=["plain", "reduced"],
)
def test_a_typed_field_is_named_with_its_class_and_the_place(
    cas: CAS, wrapped: bool, update: Any, place: str
) -> None:
    graph = typed_graph(cas, lambda state: update, wrapped=wrapped)
    with pytest.raises(UnsupportedTypeError, match=rf"^In {place}: A value of type .*Opaque .*Convert it"):
        graph.invoke({"question": "q", "log": []}, AT)
    with pytest.raises(UnsupportedTypeError, match=rf"^In {place}: "):
        graph.invoke(update, {"configurable": {"thread_id": "as input"}})


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_typed_field_that_is_too_large_is_named(cas: CAS, wrapped: bool) -> None:
    graph = typed_graph(cas, lambda state: {"docs": [1, "x" * 60_000]}, wrapped=wrapped)
    with pytest.raises(ValueTooLargeError, match=r"^In State\.docs: .*max_value_bytes.* at \[1\]: 60,000"):
        graph.invoke({"question": "q"}, AT)


@pytest.mark.parametrize("wrapped", [True, False])
def test_an_inline_field_names_the_place_too(cas: CAS, wrapped: bool) -> None:
    graph = typed_graph(cas, lambda state: {"question": [Opaque()]}, wrapped=wrapped)
    with pytest.raises(TypeError) as caught:
        graph.invoke({"log": []}, AT)
    assert "channel question[0]: A value of type" in notes_of(caught.value)
    graph = typed_graph(cas, lambda state: {"question": endless()}, wrapped=wrapped)
    with pytest.raises(ValueTooLargeError, match=r"^In State\.question\['children'\]\[0\]\['parent'\]: "):
        graph.invoke({"log": []}, AT)


def test_what_a_node_put_into_a_loaded_value_is_named(cas: CAS) -> None:
    def spoil(state: State) -> None:
        state.docs.append({"handle": Opaque()})

    graph = typed_graph(cas, spoil, wrapped=True)
    with pytest.raises(UnsupportedTypeError, match=r"^In State\.docs\[1\]\['handle'\]: "):
        graph.invoke({"docs": ["d"]}, AT)


def test_a_state_object_names_the_field_and_the_place(cas: CAS) -> None:
    for name in ("docs", "question"):
        state = State(log=["fine"], **{name: {"a": (1, Opaque())}})
        with pytest.raises(UnsupportedTypeError, match=rf"^In State\.{name}\['a'\]\[1\]: A value of type"):
            state.to_checkpoint_dict(cas)
        with pytest.raises(AgentRefError, match=rf"^In State\.{name}\['a'\]\[1\]: A value of type"):
            asyncio.run(state.ato_checkpoint_dict(cas))
    with pytest.raises(ValueTooLargeError, match=r"^In State\.log: .*raise max_value_bytes"):
        State(docs=1, log=["x" * 60_000]).to_checkpoint_dict(cas)
