"""A model context whose `load_state` fails or is cancelled: it has what it had."""

import asyncio
import json

import pytest
from autogen_core.model_context import UnboundedChatCompletionContext
from autogen_core.models import UserMessage

from agentref.adapters.autogen import AgentRefChatCompletionContext, AutoGenAdapter
from agentref.errors import AgentRefError, StoreUnavailableError
from agentref.storage import InMemoryCAS

from .conftest import Failing, Slow, payload

MINE = [UserMessage(content=text, source="user") for text in ("mine", "to be kept")]


async def of_autogen():
    context = UnboundedChatCompletionContext()
    for number in range(40):
        await context.add_message(UserMessage(content=payload(5000, number), source="user"))
    return await context.save_state()


async def with_mine(adapter, begun):
    context = AgentRefChatCompletionContext(adapter, initial_messages=MINE[:1])
    if begun:
        await context.get_messages()
    return context


@pytest.mark.parametrize("begun", [True, False])
def test_a_store_that_is_down(begun, run):
    async def scenario():
        cas = Failing()
        context = await with_mine(AutoGenAdapter(backend=cas), begun)
        cas.down = True
        with pytest.raises(StoreUnavailableError):
            await context.load_state(await of_autogen())
        assert await context.get_messages() == MINE[:1]
        await context.add_message(MINE[1])
        assert await context.get_messages() == MINE
        cas.down = False
        await context.load_state(await of_autogen())
        assert len(await context.get_messages()) == 40

    run(scenario())


@pytest.mark.parametrize("begun", [True, False])
def test_a_load_that_is_cancelled(begun, run):
    async def scenario():
        cas = Slow()
        context = await with_mine(AutoGenAdapter(backend=cas), begun)
        cas.go.clear()
        loading = asyncio.create_task(context.load_state(await of_autogen()))
        await asyncio.to_thread(cas.entered.wait)
        await context.add_message(MINE[1])
        assert await context.get_messages() == MINE
        loading.cancel()
        cas.go.set()
        with pytest.raises(asyncio.CancelledError):
            await loading
        assert await context.get_messages() == MINE

    run(scenario())


@pytest.mark.parametrize("begun", [True, False])
def test_a_state_that_is_none(begun, run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        context = await with_mine(adapter, begun)
        other = AgentRefChatCompletionContext(adapter)
        await other.load_state(await of_autogen())
        state = json.loads(json.dumps(await other.save_state()))
        for messages in ([*state["messages"], {"type": "x"}], [3], None, [{"__agentref__": [1]}]):
            with pytest.raises(AgentRefError):
                await context.load_state({**state, "messages": messages})
            assert await context.get_messages() == MINE[:1]
            with pytest.raises(AgentRefError):
                await context.load_state({"messages": messages})
            assert await context.get_messages() == MINE[:1]

    run(scenario())
