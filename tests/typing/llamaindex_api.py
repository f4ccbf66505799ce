# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What type checkers see of the LlamaIndex adapter: states are of the class that it was made for."""

from typing import assert_type

from workflows import Context

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.llamaindex import AgentRefSerializer, ContextStore, LlamaIndexAdapter
from agentref.storage import InMemoryCAS


class Research(AgentRefState):
    """A state."""

    step: Inline[str]
    docs: Externalized[list[str]]


adapter = LlamaIndexAdapter(Research, backend=InMemoryCAS())
assert_type(adapter, LlamaIndexAdapter[Research])
assert_type(adapter.serializer(threshold_bytes=1, tenant="ada", keys=bytes(32)), AgentRefSerializer)


async def work(ctx: Context) -> None:
    """A step."""
    store = adapter.context_store(ctx.store)
    assert_type(store, ContextStore[Research])
    async with store.edit_state() as state:
        assert_type(state, Research)
        assert_type(state.docs, list[str])
    assert_type(await store.get_state(), Research)
