"""Arguments of the wrong kind or range to the ways into LangGraph: a typed error that names them."""

import math
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from agentref import AgentRefState, Externalized, Inline, field
from agentref.adapters.langgraph import LangGraphAdapter, externalize
from agentref.errors import (
    ConfigurationError,
    InvalidInputError,
    StateDefinitionError,
    UnknownFieldError,
)
from agentref.storage import InMemoryCAS

HOSTILE: dict[str, Callable[[], Any]] = {
    "negative": lambda: -1,
    "bool": lambda: True,
    "nan": lambda: math.nan,
    "text": lambda: "docs",
    "bytes": lambda: b"x",
    "huge": lambda: 10**30,
    "generator": lambda: (item for item in [1]),
    "list": lambda: [1],
    "dict": lambda: {"a": 1},
    "class": lambda: int,
    "object": object,
    "nothing": lambda: None,
}


class State(AgentRefState):
    docs: Externalized[Any]
    question: Inline[str]


def adapter() -> LangGraphAdapter:
    return LangGraphAdapter(State, backend=InMemoryCAS())


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_checkpointer_is_refused(name: str) -> None:
    for wrap in (lambda it: externalize(it, backend=InMemoryCAS()), adapter().checkpointer):
        with pytest.raises(
            InvalidInputError, match=r"^saver must be a LangGraph checkpointer.*InMemorySaver\(\)"
        ):
            wrap(HOSTILE[name]())


def test_the_class_of_a_checkpointer_is_none() -> None:
    with pytest.raises(InvalidInputError, match="not the class SqliteSaver"):
        externalize(SqliteSaver, backend=InMemoryCAS())  # type: ignore[arg-type]


def test_a_saver_that_was_not_entered_is_refused_with_the_way_to_enter_it() -> None:
    made: Any = SqliteSaver.from_conn_string(":memory:")
    with pytest.raises(InvalidInputError, match=r"`with \.\.\. as saver:`"):
        externalize(made, backend=InMemoryCAS())
    with made as saver:
        assert externalize(saver, backend=InMemoryCAS()).inner is saver


def test_a_saver_and_a_store_that_changed_places_are_refused() -> None:
    saver: Any = SqliteSaver(sqlite3.connect(":memory:"))
    store: Any = InMemoryCAS()
    with pytest.raises(InvalidInputError, match=r"^backend must be .* not SqliteSaver"):
        externalize(store, backend=saver)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "nothing"])
def test_what_is_no_store_is_refused_wherever_a_store_is_wanted(name: str) -> None:
    store = InMemoryCAS()
    for make in (
        lambda **how: externalize(InMemorySaver(), **how),
        lambda **how: LangGraphAdapter(State, **how),
    ):
        with pytest.raises(InvalidInputError, match=r"^backend must be a content-addressed store"):
            make(backend=HOSTILE[name]())
        with pytest.raises(InvalidInputError, match=r"^also\[1\] must be a content-addressed store"):
            make(backend=store, also=[store, HOSTILE[name]()])
        with pytest.raises(InvalidInputError, match=r"^also(\[0\])? must be"):
            make(backend=store, also=HOSTILE[name]())


def test_a_single_further_store_is_not_taken_for_several() -> None:
    store: Any = InMemoryCAS()
    for make in (
        lambda: externalize(InMemorySaver(), backend=store, also=store),
        lambda: LangGraphAdapter(State, backend=store, also=store),
    ):
        with pytest.raises(InvalidInputError, match=r"also=\[FilesystemCAS"):
            make()


def test_further_stores_from_a_generator_are_kept_for_the_checkpointer() -> None:
    old = InMemoryCAS(backend_id="old")
    both = LangGraphAdapter(State, backend=InMemoryCAS(), also=(store for store in [old]))
    assert both.checkpointer(InMemorySaver()).runtime.load_many([old.dump(["v"])]) == [["v"]]


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "huge"])
def test_a_threshold_that_is_no_size_is_refused(name: str) -> None:
    for make in (
        lambda how: externalize(InMemorySaver(), backend=InMemoryCAS(), inline_threshold_bytes=how),
        lambda how: LangGraphAdapter(State, backend=InMemoryCAS(), inline_threshold_bytes=how),
        lambda how: adapter().checkpointer(InMemorySaver(), inline_threshold_bytes=how),
        lambda how: State(docs=1).to_checkpoint_dict(InMemoryCAS(), inline_threshold_bytes=how),
    ):
        with pytest.raises(InvalidInputError, match="inline_threshold_bytes"):
            make(HOSTILE[name]())


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_state_class_is_refused(name: str) -> None:
    with pytest.raises(StateDefinitionError, match="no subclass of AgentRefState"):
        LangGraphAdapter(HOSTILE[name](), backend=InMemoryCAS())
    if name != "nothing":
        with pytest.raises(StateDefinitionError, match="no subclass of AgentRefState"):
            adapter().schema(HOSTILE[name]())


def test_a_state_class_without_a_field_is_refused() -> None:
    with pytest.raises(StateDefinitionError, match="declares no field"):
        LangGraphAdapter(AgentRefState, backend=InMemoryCAS())


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "nothing"])
def test_what_cannot_be_prefetched_is_refused(name: str) -> None:
    for wrap in (
        lambda names: adapter().wrap_node(lambda state: {}, prefetch=names),
        lambda names: adapter().node(prefetch=names)(lambda state: {}),
    ):
        with pytest.raises(
            (InvalidInputError, UnknownFieldError), match=r"prefetch=\['docs'\]|Its fields: docs"
        ):
            wrap(HOSTILE[name]())


def test_fields_to_prefetch_may_come_from_a_generator() -> None:
    cas = InMemoryCAS()
    seen = []
    node = LangGraphAdapter(State, backend=cas).wrap_node(
        lambda state: seen.append(cas.counters.values_loaded), prefetch=(name for name in ["docs"])
    )
    node.invoke({"docs": cas.dump(["d"])})
    assert seen == [1]


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "class"])
def test_what_is_no_node_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="A node is a function"):
        adapter().wrap_node(HOSTILE[name]())
    with pytest.raises(InvalidInputError, match="A node is a function"):
        adapter().wrap_router(HOSTILE[name]())


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "class"])
def test_a_default_factory_that_cannot_be_called_is_refused(name: str) -> None:
    with pytest.raises(StateDefinitionError, match="default_factory"):
        field(default_factory=HOSTILE[name]())


@pytest.mark.parametrize("default", [[1], {"a": 1}, {1}, bytearray(b"x")])
def test_a_default_that_instances_would_share_is_refused(default: Any) -> None:
    with pytest.raises(StateDefinitionError, match="shared by all instances"):
        field(default=default)


def test_field_takes_one_kind_of_default() -> None:
    for given in ({}, {"default": 1, "default_factory": list}):
        with pytest.raises(StateDefinitionError, match=r"either default= or default_factory="):
            field(**given)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_state_is_neither_stored_in_nor_loaded_from_what_is_no_store(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^store must be a content-addressed store"):
        State(docs=1).to_checkpoint_dict(HOSTILE[name]())
    state = State.from_checkpoint_dict({"docs": InMemoryCAS().dump(1).to_dict()}, HOSTILE[name]())
    with pytest.raises(ConfigurationError, match="no store"):
        state.load()
