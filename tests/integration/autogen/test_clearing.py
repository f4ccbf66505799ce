"""What has an owner and is cleared while the store cannot let go: it has all that it had."""

import asyncio
import json
import threading

import pytest
from autogen_core.memory import MemoryContent
from autogen_core.model_context import UnboundedChatCompletionContext
from autogen_core.models import UserMessage

from agentref.adapters.autogen import AgentRefChatCompletionContext, AgentRefMemory, AutoGenAdapter
from agentref.errors import StoreUnavailableError
from agentref.storage import InMemoryCAS

from .conftest import payload


class Clinging(InMemoryCAS):
    """Lets go of pins when it is told to, or fails to."""

    def __init__(self):
        super().__init__()
        self.down, self.entered, self.go = True, threading.Event(), threading.Event()

    def unpin(self, *owners):
        self.entered.set()
        assert self.go.wait(60)
        if self.down:
            raise StoreUnavailableError("The store is down.")
        return super().unpin(*owners)


class Own(UnboundedChatCompletionContext):
    """A context of a user's own."""


class Context:
    def __init__(self, adapter, inner=None):
        self.holder = AgentRefChatCompletionContext(adapter, inner, owner="holder")

    async def add(self, number, size):
        await self.holder.add_message(UserMessage(content=payload(size, number), source="user"))

    async def saved(self):
        other = AgentRefChatCompletionContext(self.holder._adapter)
        await other.load_state(json.loads(json.dumps(await self.holder.save_state())))
        return [message.content for message in await other.get_messages()]

    async def held(self):
        return [message.content for message in await self.holder.get_messages()]


class Memories:
    def __init__(self, adapter):
        self.holder = AgentRefMemory(adapter, owner="holder")

    async def add(self, number, size):
        await self.holder.add(MemoryContent(content=payload(size, number), mime_type="text/plain"))

    async def held(self):
        return [content.content for content in (await self.holder.query()).results]

    saved = held


KINDS = {
    "context": Context,
    "memory": Memories,
    "a context of a user's own": lambda adapter: Context(adapter, Own()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["down", "down and cancelled", "cancelled"])
@pytest.mark.parametrize("before", [[100_000, 10], [100_000], [10]])
@pytest.mark.parametrize("size", [100_000, 10])
def test_a_clear_that_does_not_let_go(kind, how, before, size, run):
    """Something is added meanwhile, and waits for it if it has to be stored."""

    async def scenario():
        cas = Clinging()
        holder = KINDS[kind](AutoGenAdapter(backend=cas))
        for number, each in enumerate(before):
            await holder.add(number, each)
        had = await holder.held()
        clearing = asyncio.create_task(holder.holder.clear())
        await asyncio.to_thread(cas.entered.wait)
        adding = asyncio.create_task(holder.add(9, size))
        await asyncio.sleep(0)
        if "cancelled" in how:
            clearing.cancel()
        cas.down = "down" in how
        cas.go.set()
        await asyncio.wait([clearing])
        await adding
        if how == "down":
            assert isinstance(clearing.exception(), StoreUnavailableError)
        else:
            assert clearing.cancelled()
        if cas.down:
            assert await holder.held() == await holder.saved() == [*had, payload(size, 9)]
        elif isinstance(holder, Memories) or holder.holder._kept is not None:
            assert await holder.held() == await holder.saved() == [payload(size, 9)]
        cas.down = False
        await holder.holder.clear()
        assert await holder.held() == [] and not list(cas.iter_pins())

    run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_a_clear_that_is_cancelled_while_it_waits_for_its_turn(kind, run):
    async def scenario():
        cas = Clinging()
        holder = KINDS[kind](AutoGenAdapter(backend=cas))
        await holder.add(0, 100_000)
        async with holder.holder._owned._turn():
            clearing = asyncio.create_task(holder.holder.clear())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            clearing.cancel()
            await asyncio.wait([clearing])
        assert clearing.cancelled() and not cas.entered.is_set()
        assert await holder.held() == await holder.saved() == [payload(100_000)]

    run(scenario())
