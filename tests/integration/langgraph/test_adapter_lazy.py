"""Only what a node touches is fetched; what it changes in place is never lost in silence."""

import asyncio
import copy
import json
import logging
import operator
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Overwrite, Send

from agentref import AgentRefState, ContentRef, Externalized, Inline, field
from agentref.adapters.langgraph import LangGraphAdapter, LazyState
from agentref.errors import (
    BlobNotFoundError,
    InPlaceMutationError,
    InvalidInputError,
    UnknownFieldError,
    UnsetFieldError,
)
from agentref.storage import CAS
from agentref.storage.memory import MemoryBlobStore


class State(AgentRefState):
    question: Inline[str]
    docs: Externalized[list[str]]
    pages: Externalized[dict[str, str]]
    text: Externalized[str]
    log: Annotated[Externalized[list[str]], operator.add]
    answer: Inline[str]
    notes: Inline[list[str]]


class OnlyDocs(AgentRefState):
    docs: Externalized[list[str]]
    question: Inline[str]


GIVEN = {
    "question": "q",
    "docs": ["d1", "d2"],
    "pages": {"p": "a page"},
    "text": "a text",
    "log": ["began"],
    "notes": ["n"],
}


@pytest.fixture
def adapter(cas: CAS) -> LangGraphAdapter:
    return LangGraphAdapter(State, backend=cas)


@pytest.fixture
def after(adapter: LangGraphAdapter) -> Callable[..., dict[str, Any]]:
    """The values after one node, sync or async, of a graph that was given refs."""

    def play(node: Any, **how: Any) -> dict[str, Any]:
        builder = StateGraph(adapter.schema()).add_node("node", adapter.wrap_node(node, **how))
        graph = builder.add_edge(START, "node").compile()
        call = graph.ainvoke if asyncio.iscoroutinefunction(node) else graph.invoke
        given = adapter.externalize(GIVEN)
        outcome = asyncio.run(call(given)) if asyncio.iscoroutinefunction(node) else call(given)
        result = adapter.hydrate(outcome)
        assert isinstance(result, dict)
        return result

    return play


@pytest.fixture
def fetched(adapter: LangGraphAdapter, cas: CAS) -> Callable[..., int]:
    """How many values a touch of the state fetches."""

    def count(touch: Callable[[Any], Any]) -> int:
        loaded: list[int] = []

        def node(state: Any) -> None:
            before = cas.counters.values_loaded
            touch(state)
            loaded.append(cas.counters.values_loaded - before)

        adapter.wrap_node(node)(adapter.externalize(GIVEN))
        return loaded[0]

    return count


def keywords(**given: Any) -> Any:
    return given


TOUCHES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "nothing": (lambda state: None, 0),
    "an inline field": (lambda state: state["question"], 0),
    "one external field": (lambda state: state["docs"], 1),
    "one external field twice": (lambda state: (state["docs"], state.get("docs")), 1),
    "get": (lambda state: state.get("docs"), 1),
    "pop": (lambda state: state.pop("docs"), 1),
    "setdefault": (lambda state: state.setdefault("docs", []), 1),
    "in": (lambda state: "docs" in state, 0),
    "len": (len, 0),
    "iteration": (list, 0),
    "reversed": (lambda state: list(reversed(state)), 0),
    "keys": (lambda state: list(state.keys()), 0),
    "bool": (bool, 0),
    "repr": (repr, 0),
    "isinstance": (lambda state: isinstance(state, dict), 0),
    "copy": (lambda state: state.copy(), 0),
    "copy.copy": (copy.copy, 0),
    "assignment": (lambda state: state.update(docs=[]), 0),
    "values": (lambda state: list(state.values()), 4),
    "items": (lambda state: list(state.items()), 4),
    "dict": (dict, 4),
    "spread": (lambda state: {**state}, 4),
    "keyword arguments": (lambda state: keywords(**state), 4),
    "json": (json.dumps, 4),
    "equality": (lambda state: state == {}, 4),
    "or": (lambda state: state | {}, 4),
    "or, reflected": (lambda state: {} | state, 4),
    "update of another dict": ({}.update, 4),
    "deepcopy": (copy.deepcopy, 4),
    "pickle": (pickle.dumps, 4),
    "load": (lambda state: state.load("docs", "text"), 2),
    "load all": (lambda state: state.load(), 4),
}


@pytest.mark.parametrize("touch", TOUCHES)
def test_only_what_is_touched_is_fetched(fetched: Callable[..., int], touch: str) -> None:
    call, expected = TOUCHES[touch]
    assert fetched(call) == expected


def test_reading_all_fields_takes_one_batch(adapter: LangGraphAdapter) -> None:
    class Counting(MemoryBlobStore):
        calls = 0

        def fetch(self, digests: Any, /) -> Any:
            Counting.calls += 1
            return super().fetch(digests)

    adapter = LangGraphAdapter(State, backend=CAS(Counting()))
    adapter.wrap_node(lambda state: list(state.items())).invoke(adapter.externalize(GIVEN))
    assert Counting.calls == 1


VIEWS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "spread": lambda state: {**state},
    "items": lambda state: dict(state.items()),
    "values": lambda state: dict(zip(state, state.values(), strict=True)),
    "items one by one": lambda state: {name: state[name] for name in state},
    "copy": lambda state: dict(state.copy()),
    "deepcopy": copy.deepcopy,
    "json": lambda state: json.loads(json.dumps(state)),
    "json with indent": lambda state: json.loads(json.dumps(state, indent=1)),
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "or": lambda state: state | {},
    "or, reflected": lambda state: {} | state,
    "popitem": lambda state: dict(state.popitem() for _ in range(len(state))),
    "keyword arguments": lambda state: keywords(**state),
}


@pytest.mark.parametrize("view", VIEWS)
def test_whichever_way_it_is_read_the_state_has_values(adapter: LangGraphAdapter, view: str) -> None:
    seen: list[Any] = []
    given = adapter.externalize(GIVEN)
    adapter.wrap_node(lambda state: seen.append(VIEWS[view](state))).invoke(given)
    assert seen == [GIVEN]
    assert "ContentRef" not in repr(seen)
    assert isinstance(given["docs"], ContentRef), "what the graph gave is not touched"


def test_a_state_equals_the_dict_that_it_stands_for(adapter: LangGraphAdapter) -> None:
    def node(state: Any) -> None:
        assert state == GIVEN and state == GIVEN and state == state.copy()
        assert state != {} and not (state != GIVEN)  # noqa: SIM202
        assert isinstance(state, LazyState)
        match state:
            case {"docs": [first, *_], "question": "q"}:
                assert first == "d1"
            case _:
                pytest.fail("a mapping pattern did not match")

    adapter.wrap_node(node)(adapter.externalize(GIVEN))


def test_what_is_not_there_is_a_key_error_that_tells_why(adapter: LangGraphAdapter) -> None:
    def node(state: Any) -> None:
        with pytest.raises(UnsetFieldError, match="'docs' has no value yet") as unset:
            state["docs"]
        with pytest.raises(UnknownFieldError, match="Did you mean 'docs'"):
            state["dogs"]
        with pytest.raises(KeyError):
            state.pop("docs")
        assert isinstance(unset.value, KeyError)
        assert state.get("docs", 3) == state.pop("docs", 3) == 3

    adapter.wrap_node(node)({"question": "q"})


def test_a_blob_that_is_gone_breaks_only_the_nodes_that_need_it(
    adapter: LangGraphAdapter, cas: CAS
) -> None:
    given = adapter.externalize(GIVEN)
    cas.delete(given["docs"].hash)
    assert adapter.wrap_node(lambda state: {"answer": state["text"]}).invoke(given) == {"answer": "a text"}
    with pytest.raises(BlobNotFoundError, match=given["docs"].hash) as error:
        adapter.wrap_node(lambda state: state["docs"]).invoke(given)
    assert "docs" in "".join(error.value.__notes__)


# --- on the event loop


class SlowStore(MemoryBlobStore):
    """A store that takes its time, and knows which threads came."""

    def __init__(self) -> None:
        super().__init__()
        self.on_loop: list[bool] = []
        self.fetches = 0

    def fetch(self, digests: Sequence[Any], /) -> Any:
        self.fetches += 1
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.on_loop.append(False)
        else:
            self.on_loop.append(True)
        time.sleep(0.15)
        return super().fetch(digests)


@pytest.fixture
def slow() -> SlowStore:
    return SlowStore()


def arun(adapter: LangGraphAdapter, node: Any) -> None:
    builder = StateGraph(adapter.schema()).add_node("node", node).add_edge(START, "node")
    given = adapter.externalize({"docs": ["d1"], "text": "t", "question": "q"})
    asyncio.run(builder.compile().ainvoke(given))


def test_an_async_node_that_is_hinted_narrowly_finds_its_fields_loaded(
    slow: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = LangGraphAdapter(State, backend=CAS(slow))

    async def node(state: OnlyDocs) -> Any:
        return {"answer": state.docs[0]}

    arun(adapter, adapter.wrap_node(node))
    assert slow.on_loop == [False]
    assert caplog.records == []


def test_an_async_node_prefetches_what_it_asks_for_and_nothing_else(slow: SlowStore) -> None:
    adapter = LangGraphAdapter(State, backend=CAS(slow))
    loaded: list[int] = []

    async def node(state: Any) -> Any:
        loaded.append(adapter.backend.counters.values_loaded)
        return {"answer": state["docs"][0]}

    arun(adapter, adapter.wrap_node(node, prefetch=["docs"]))
    assert slow.on_loop == [False]
    assert loaded == [1]


@pytest.mark.parametrize("hinted", [True, False])
def test_an_async_node_can_await_what_it_needs(slow: SlowStore, hinted: bool) -> None:
    adapter = LangGraphAdapter(State, backend=CAS(slow))

    async def node(state: Any) -> Any:
        await state.aload("docs")
        return {"answer": state["docs"][0]}

    if hinted:
        node.__annotations__["state"] = State
    arun(adapter, adapter.wrap_node(node))
    assert slow.on_loop == [False]


def test_a_touch_that_holds_up_the_event_loop_is_logged_with_the_remedy(
    slow: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = LangGraphAdapter(State, backend=CAS(slow))

    async def greedy(state: Any) -> Any:
        return {"answer": state["docs"][0]}

    with caplog.at_level(logging.WARNING, "agentref"):
        arun(adapter, adapter.wrap_node(greedy))
    assert slow.on_loop == [True]
    assert "Node 'greedy' held up the event loop" in caplog.text
    assert "prefetch=[...]" in caplog.text and "docs" in caplog.text


def test_a_sync_node_may_take_its_time_in_an_async_graph(
    slow: SlowStore, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = LangGraphAdapter(State, backend=CAS(slow))
    arun(adapter, adapter.wrap_node(lambda state: {"answer": state["docs"][0]}))
    assert slow.on_loop == [False]
    assert caplog.records == []


@pytest.mark.parametrize(("name", "error"), [("dogs", UnknownFieldError), ("question", InvalidInputError)])
def test_only_external_fields_can_be_prefetched(
    adapter: LangGraphAdapter, name: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        adapter.wrap_node(lambda state: None, prefetch=[name])


# --- changes in place

Result = Callable[[], Any]
SILENT: dict[str, Result] = {
    "None": lambda: None,
    "a dict": lambda: {"answer": "a"},
    "a Command": lambda: Command(update={"answer": "a"}),
    "a Command with pairs": lambda: Command(update=[("answer", "a")]),
    "an empty Command": Command,
    "a list": lambda: [Command(), {"answer": "a"}],
}


@pytest.mark.parametrize("result", SILENT)
@pytest.mark.parametrize("form", ["dict", "state"])
def test_a_change_in_place_is_written_back(after: Callable[..., Any], result: str, form: str) -> None:
    def node(state: Any) -> Any:
        state["docs"].append("added")
        state["pages"]["p"] = "changed"
        assert state["text"] == "a text"
        return SILENT[result]()

    if form == "state":
        node.__annotations__["state"] = State
    outcome = after(node)
    assert outcome["docs"] == ["d1", "d2", "added"]
    assert outcome["pages"] == {"p": "changed"}
    assert ("answer" in outcome) == (
        "a dict" in result or "pairs" in result or result in ("a Command", "a list")
    )


def test_a_change_in_place_is_written_back_with_a_message_to_a_node(adapter: LangGraphAdapter) -> None:
    def first(state: Any) -> Any:
        state["docs"].append("added")
        return Send("second", {"question": "sent"})

    builder = StateGraph(adapter.schema()).add_node("first", adapter.wrap_node(first))
    builder.add_node("second", adapter.wrap_node(lambda arg: {"answer": arg["question"]}))
    outcome = adapter.hydrate(builder.add_edge(START, "first").compile().invoke(dict(GIVEN)))
    assert outcome["answer"] == "sent"
    assert outcome["docs"] == ["d1", "d2", "added"]


def test_a_change_after_taking_the_value_out_is_written_back(after: Callable[..., Any]) -> None:
    def node(state: Any) -> None:
        taken = state.pop("docs")
        taken.append("added")
        state.copy()["pages"]["p"] = "changed in a copy"

    outcome = after(node)
    assert outcome["docs"] == ["d1", "d2", "added"]
    assert outcome["pages"] == {"p": "changed in a copy"}


def test_what_the_node_returns_for_a_field_counts_and_not_its_change(after: Callable[..., Any]) -> None:
    def node(state: Any) -> Any:
        state["docs"].append("dropped")
        return {"docs": ["returned"], "log": ["returned"]}

    outcome = after(node)
    assert outcome["docs"] == ["returned"]
    assert outcome["log"] == ["began", "returned"]


def test_a_returned_value_that_was_changed_in_place_is_written_once(after: Callable[..., Any]) -> None:
    def node(state: Any) -> Any:
        docs = state["docs"]
        docs.append("added")
        return {"docs": docs}

    assert after(node)["docs"] == ["d1", "d2", "added"]


@pytest.mark.parametrize("form", ["dict", "state"])
def test_a_change_in_place_under_a_reducer_is_an_error(after: Callable[..., Any], form: str) -> None:
    def node(state: Any) -> Any:
        state["log"].append("lost?")
        return {"answer": "a"}

    if form == "state":
        node.__annotations__["state"] = State
    with pytest.raises(InPlaceMutationError, match=r"'node' changed 'log' .*reducer.*Overwrite"):
        after(node)


def test_reading_without_changing_writes_nothing(after: Callable[..., Any], cas: CAS) -> None:
    def node(state: Any) -> Any:
        for value in state.values():
            assert value
        state["log"].append("x")
        state["log"].pop()

    outcome = after(node)
    assert outcome == GIVEN


def test_a_change_inside_of_an_async_node_is_written_back(after: Callable[..., Any]) -> None:
    async def node(state: Any) -> None:
        await state.aload()
        state["docs"].append("added")

    assert after(node)["docs"] == ["d1", "d2", "added"]


def test_a_change_made_by_a_generator_is_written_back(adapter: LangGraphAdapter) -> None:
    def node(state: Any) -> Any:
        state["docs"].append("before")
        yield {"answer": "first"}
        state["docs"].append("after")
        yield {"answer": "second"}

    builder = StateGraph(adapter.schema()).add_node("node", adapter.wrap_node(node)).add_edge(START, "node")
    outcome = adapter.hydrate(builder.compile().invoke(dict(GIVEN)))
    assert outcome["docs"] == ["d1", "d2", "before", "after"]
    assert outcome["answer"] == "second"


def test_assigning_to_the_dict_is_no_update_as_in_langgraph(after: Callable[..., Any]) -> None:
    def node(state: Any) -> None:
        state["docs"] = state["docs"][:1]
        state["question"] = "shortened"

    assert after(node) == GIVEN


def test_returning_the_dict_writes_what_was_assigned(after: Callable[..., Any], cas: CAS) -> None:
    def node(state: Any) -> Any:
        state["docs"] = ["assigned"]
        del state["log"]  # it would be added to itself
        return state

    outcome = after(node)
    assert outcome == {**GIVEN, "docs": ["assigned"]}


def test_returning_the_untouched_dict_fetches_nothing(adapter: LangGraphAdapter, cas: CAS) -> None:
    given = adapter.externalize({name: value for name, value in GIVEN.items() if name != "log"})
    assert adapter.wrap_node(lambda state: state).invoke(given) == given
    assert cas.counters.values_loaded == 0


def test_what_is_set_on_a_state_object_is_written(after: Callable[..., Any]) -> None:
    def node(state: State) -> None:
        state.docs = ["set"]
        state.answer = "set too"
        state.pages["p"] = "changed"

    outcome = after(node)
    assert (outcome["docs"], outcome["answer"], outcome["pages"]) == (["set"], "set too", {"p": "changed"})


def test_returning_the_state_object_writes_what_was_set_and_no_more(
    after: Callable[..., Any], cas: CAS
) -> None:
    def node(state: State) -> State:
        assert state.text
        state.log = ["new"]  # what is returned is what the reducer gets
        state.answer = "a"
        return state

    outcome = after(node)
    assert outcome == {**GIVEN, "log": ["began", "new"], "answer": "a"}


def test_setting_a_reduced_field_without_returning_it_is_an_error(after: Callable[..., Any]) -> None:
    def node(state: State) -> Any:
        state.log = ["all of it, or new?"]
        return {"answer": "a"}

    with pytest.raises(InPlaceMutationError, match="'log'"):
        after(node)


def test_a_change_before_leaving_for_the_parent_graph_is_an_error(adapter: LangGraphAdapter) -> None:
    def leave(state: Any) -> Any:
        state["docs"].append("lost?")
        return Command(graph=Command.PARENT, goto="nowhere")

    with pytest.raises(InPlaceMutationError, match="left for another graph"):
        adapter.wrap_node(leave)(adapter.externalize(GIVEN))


def test_inline_values_are_the_live_objects_of_langgraph(after: Callable[..., Any]) -> None:
    def node(state: Any) -> None:
        state["notes"].append("live")

    assert after(node)["notes"] == ["n", "live"]


def test_two_fields_of_equal_content_are_told_apart(adapter: LangGraphAdapter) -> None:
    class Twins(AgentRefState):
        left: Externalized[list[str]]
        right: Externalized[list[str]]

    adapter = LangGraphAdapter(Twins, backend=adapter.backend)

    def node(state: Twins) -> None:
        assert state.left == state.right == ["same"]
        state.right.append("changed")

    builder = StateGraph(adapter.schema()).add_node("node", adapter.wrap_node(node)).add_edge(START, "node")
    ref = adapter.externalize({"left": ["same"]})["left"]
    outcome = adapter.hydrate(builder.compile().invoke({"left": ref, "right": ref}))
    assert outcome == {"left": ["same"], "right": ["same", "changed"]}


def test_defaults_are_there_for_every_form_of_node(cas: CAS) -> None:
    class WithDefaults(AgentRefState):
        tries: Inline[int] = 0
        pages: Externalized[list[str]] = field(default_factory=lambda: ["first"])
        log: Annotated[Externalized[list[str]], operator.add] = field(default_factory=lambda: ["zero"])

    adapter = LangGraphAdapter(WithDefaults, backend=cas)

    def one(state: Any) -> Any:
        state["pages"].append("changed in place")
        return {"tries": state["tries"] + 1, "log": ["one"]}

    def two(state: WithDefaults) -> Any:
        return {"tries": state.tries + 1, "log": Overwrite([*state.log, *state.pages])}

    builder = StateGraph(adapter.schema()).add_sequence([adapter.wrap_node(one), adapter.wrap_node(two)])
    graph = builder.add_edge(START, "one").compile()
    for _ in range(2):
        outcome = adapter.hydrate(graph.invoke({}))
        assert outcome["tries"] == 2
        assert outcome["log"] == ["zero", "one", "first", "changed in place"]


def test_a_node_that_fails_does_not_spoil_a_default_for_the_next_attempt(cas: CAS) -> None:
    class WithDefault(AgentRefState):
        pages: Externalized[list[str]] = field(default_factory=list)

    adapter = LangGraphAdapter(WithDefault, backend=cas)
    given: dict[str, Any] = {"pages": []}

    def node(state: Any) -> Any:
        state["pages"].append("x")
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            adapter.wrap_node(node)(given)
    assert given == {"pages": []}
