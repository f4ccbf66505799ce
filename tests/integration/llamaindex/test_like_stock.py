"""The context store next to LlamaIndex's own: whatever is set and got, the outcome is the same."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from workflows.context.state_store import DictState, InMemoryStateStore

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.errors import AgentRefError
from agentref.storage import InMemoryCAS

from .conftest import run


class State(AgentRefState):
    """One field of each kind."""

    inline: Inline[Any]
    external: Externalized[Any]


SEGMENTS = st.sampled_from(["a", "b", "0", "1", "-1", "items", "__agentref__", ""])
PATHS = st.tuples(st.sampled_from(["inline", "external"]), st.lists(SEGMENTS, max_size=3)).map(
    lambda parts: ".".join([parts[0], *parts[1]])
)
VALUES = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from(["", "text"]),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "0", "__agentref__"]), parts, max_size=3)
    ),
    max_leaves=6,
)
ACTS = st.lists(
    st.tuples(st.just("set"), PATHS, VALUES) | st.tuples(st.just("get"), PATHS, VALUES), max_size=12
)


async def outcome(store: Any, act: str, path: str, value: Any) -> tuple[str, Any]:
    expected = AgentRefError if store is OURS else (ValueError, AttributeError, TypeError, LookupError)
    try:
        if act == "set":
            return "set", await store.set(path, value)
        found = await store.get(path, value)
        # A method of a dict or list is an attribute like any other to LlamaIndex.
        return "got", getattr(found, "__name__", found)
    except expected:
        return "raised", None


OURS: Any = LlamaIndexAdapter(State, backend=InMemoryCAS()).context_store(InMemoryStateStore(DictState()))


@given(ACTS)
def test_it_does_what_the_stock_store_does(acts: list[tuple[str, str, Any]]) -> None:
    async def scenario() -> None:
        stock: Any = InMemoryStateStore(DictState())
        await OURS.clear()
        for act in acts:
            assert await outcome(OURS, *act) == await outcome(stock, *act), act
        state = await OURS.get_state()
        assert dict(state) == dict((await stock.get_state()).items())

    run(scenario())
