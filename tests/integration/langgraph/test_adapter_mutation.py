"""A change in place is written back, or it is an error: also beside an update, and never for a message."""

import operator
from typing import Annotated, Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Overwrite, Send

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter
from agentref.errors import InPlaceMutationError
from agentref.storage import InMemoryCAS


class State(AgentRefState):
    docs: Externalized[list[str]]
    log: Annotated[Externalized[list[Any]], operator.add]
    done: Inline[bool]


def run(node: Any, *, sends: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    adapter = LangGraphAdapter(State, backend=InMemoryCAS())
    builder = StateGraph(adapter.schema())
    builder.add_node("node", adapter.wrap_node(node))
    if sends is None:
        builder.add_edge(START, "node")
    else:
        builder.add_conditional_edges(
            START, adapter.wrap_router(lambda _: [Send("node", each) for each in sends]), ["node"]
        )
    result = builder.compile().invoke({"docs": ["state"], "log": [["a"]], "done": False})
    hydrated: dict[str, Any] = adapter.hydrate(result)
    return hydrated


def test_a_change_of_a_reduced_field_beside_an_update_of_it_is_an_error() -> None:
    def appends(state: Any) -> Any:
        state["log"].append("changed")
        return {"log": ["new"]}

    def changes_deeply(state: Any) -> Any:
        state["log"][0].append("changed")
        return {"log": []}

    def returns_what_it_changed(state: Any) -> Any:
        state["log"].append("changed")
        return {"log": state["log"]}

    for node in (appends, changes_deeply, returns_what_it_changed):
        with pytest.raises(InPlaceMutationError, match=r"'log'.*Overwrite"):
            run(node)


def test_a_reduced_field_that_was_only_read_takes_an_update() -> None:
    assert run(lambda state: {"log": [len(state["log"])]})["log"] == [["a"], 1]


def test_a_reduced_field_may_be_changed_and_overwritten() -> None:
    def overwrites(state: Any) -> Any:
        state["log"].append("changed")
        return {"log": Overwrite(state["log"])}

    assert run(overwrites)["log"] == [["a"], "changed"]


def test_what_came_by_a_send_is_no_part_of_the_state() -> None:
    def changes(state: Any) -> Any:
        state["docs"].append("changed")
        return {"log": [len(state["docs"])]}

    result = run(changes, sends=[{"docs": ["message"]}, {"docs": ["other", "message"]}])
    assert result["docs"] == ["state"]
    assert result["log"] == [["a"], 2, 3]


def test_a_field_that_is_set_on_a_message_is_an_error() -> None:
    def sets(state: State) -> Any:
        state.docs = ["lost"]
        return {"done": True}

    with pytest.raises(InPlaceMutationError, match=r"docs.*Send"):
        run(sets, sends=[{"docs": ["message"]}])
