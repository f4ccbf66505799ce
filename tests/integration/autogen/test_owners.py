"""Who keeps what: contexts, memories, agents that save through an adapter, and saves with an owner."""

import asyncio
import json

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.memory import Memory, MemoryContent
from autogen_core.model_context import UnboundedChatCompletionContext
from autogen_core.models import UserMessage

from agentref.adapters.autogen import (
    AgentRefChatCompletionContext,
    AgentRefMemory,
    AutoGenAdapter,
    registered,
)
from agentref.errors import BlobNotFoundError, ConfigurationError, InvalidInputError, MalformedBlobError
from agentref.storage import InMemoryCAS

from .conftest import ScriptedClient, Slow, payload, round_robin

KEY = b"k" * 32


def large(number=0):
    return UserMessage(content=payload(100_000, number), source="user")


def note(number=0):
    return MemoryContent(content=payload(10_000, number), mime_type="text/plain")


def pinned(cas, owner):
    return {pin.hash for pin in cas.iter_pins(owner)}


async def filled(adapter, **options):
    context = AgentRefChatCompletionContext(adapter, **options)
    for number in range(3):
        await context.add_message(large(number))
    await context.add_message(UserMessage(content="small", source="user"))
    return context


class Own(UnboundedChatCompletionContext):
    """A context of a user's own."""


@pytest.mark.parametrize("of", [UnboundedChatCompletionContext, Own])
@pytest.mark.parametrize("into", [UnboundedChatCompletionContext, Own])
def test_a_context_with_an_owner_keeps_what_it_loads(of, into, run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas)
        first = await filled(adapter, inner=of())
        state = json.loads(json.dumps(await first.save_state()))
        fork = AgentRefChatCompletionContext(adapter, into(), owner="fork")
        await fork.load_state(state)
        assert {ref.hash for ref in adapter.externalizer.refs(state)} <= pinned(cas, "fork")
        assert await fork.get_messages() == await first.get_messages()
        await fork.clear()
        assert not list(cas.iter_pins())

    run(scenario())


def test_a_context_with_an_owner_keeps_what_it_loads_for_itself(run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas)
        first = await filled(adapter, owner="first")
        fork = AgentRefChatCompletionContext(adapter, owner="fork")
        await fork.load_state(json.loads(json.dumps(await first.save_state())))
        assert pinned(cas, "fork") == pinned(cas, "first")
        assert len(pinned(cas, "fork")) == 3
        await first.clear()
        assert len(pinned(cas, "fork")) == 3 and not pinned(cas, "first")
        await fork.clear()
        assert not list(cas.iter_pins())

    run(scenario())


def test_a_context_with_an_owner_does_not_load_what_is_gone(run):
    async def scenario():
        state = await (await filled(AutoGenAdapter(backend=InMemoryCAS(backend_id="a")))).save_state()
        fork = await filled(AutoGenAdapter(backend=InMemoryCAS(backend_id="a")), owner="fork")
        await fork.add_message(large(9))
        before = await fork.get_messages()
        with pytest.raises(BlobNotFoundError):
            await fork.load_state(json.loads(json.dumps(edited(state))))
        assert await fork.get_messages() == before

    run(scenario())


def edited(state):
    state = json.loads(json.dumps(state))
    for message in state["messages"]:
        if "__agentref__" in message:
            message["__agentref__"][1] = "0" * 64
    return state


def test_a_memory_with_an_owner_keeps_what_its_config_names(run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas)
        memory = AgentRefMemory(adapter, owner="first")
        await memory.add(note())
        config = json.loads(memory.dump_component().model_dump_json())
        config["config"]["owner"] = "fork"
        with registered(adapter):
            fork = Memory.load_component(config)
        await memory.clear()
        assert len(pinned(cas, "fork")) == 1 and not pinned(cas, "first")
        assert fork.content == [note()]

    run(scenario())


@pytest.mark.parametrize("kind", ["context", "memory"])
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_clearing_while_something_is_being_added_leaves_no_pin(kind, is_cancelled, run):
    async def scenario():
        cas = Slow()
        adapter = AutoGenAdapter(backend=cas)
        cas.go.clear()
        if kind == "context":
            holder = AgentRefChatCompletionContext(adapter, owner="holder")
            adding = asyncio.create_task(holder.add_message(large()))
        else:
            holder = AgentRefMemory(adapter, owner="holder")
            adding = asyncio.create_task(holder.add(note()))
        await asyncio.to_thread(cas.entered.wait)
        clearing = asyncio.create_task(holder.clear())
        await asyncio.sleep(0)
        if is_cancelled:
            adding.cancel()
        cas.go.set()
        await asyncio.wait([adding])
        await clearing
        assert adding.cancelled() == is_cancelled
        assert not list(cas.iter_pins())
        assert (await holder.get_messages() if kind == "context" else holder.content) == []

    run(scenario())


class Wrapping(AssistantAgent):
    """An agent of a user's own around a team, whose state it saves by an adapter."""

    def __init__(self, adapter, how):
        super().__init__("wrapping", ScriptedClient())
        self.adapter, self.how = adapter, how
        self.team = round_robin(context=lambda: AgentRefChatCompletionContext(adapter))

    async def save_state(self):
        if self.how == "save_state":
            return {"team": await self.adapter.save_state(self.team)}
        if self.how == "externalize_state":
            return {"team": self.adapter.externalize_state(await self.team.save_state())}
        return {"team": await self.adapter.aexternalize_state(await self.team.save_state())}

    async def load_state(self, state):
        await self.adapter.load_state(self.team, state["team"])


@pytest.mark.parametrize("how", ["save_state", "externalize_state", "aexternalize_state"])
def test_a_save_with_an_owner_keeps_what_an_agent_in_it_saved_by_an_adapter(how, run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas)
        teams = [RoundRobinGroupChat([Wrapping(adapter, how)]) for _ in range(2)]
        agent, other = (team._participants[0] for team in teams)
        await agent.team.run(task=payload(100_000))
        state = await adapter.save_state(teams[0], owner="run")
        needed = adapter.externalizer.refs(await adapter.save_state(agent.team))
        for participant in agent.team._participants:
            needed += adapter.externalizer.refs(await participant.model_context.save_state())
        hashes = {ref.hash for ref in needed}
        assert len(hashes) >= 2 and hashes <= pinned(cas, "run")
        await adapter.load_state(teams[1], json.loads(json.dumps(state)))
        assert await other.team.save_state() == await agent.team.save_state()

    run(scenario())


def test_an_owner_of_another_adapter_than_that_of_a_context(run):
    """What could not be released is not pinned."""

    async def scenario():
        ours, theirs = InMemoryCAS(backend_id="ours"), InMemoryCAS(backend_id="theirs")
        context = await filled(AutoGenAdapter(backend=theirs))
        agent = AssistantAgent("reader", ScriptedClient(), model_context=context)
        adapter = AutoGenAdapter(backend=ours)
        with pytest.raises(ConfigurationError, match="'theirs'"):
            await adapter.save_state(agent, owner="run")
        assert not list(ours.iter_pins()) and not list(theirs.iter_pins())
        for sealed in (
            AutoGenAdapter(backend=theirs, keys=KEY),
            AutoGenAdapter(backend=theirs, keys=KEY, tenant="ann"),
        ):
            with pytest.raises(ConfigurationError, match="keys"):
                await sealed.save_state(agent, owner="run")
        state = await adapter.save_state(agent)
        assert json.loads(json.dumps(state))
        both = AutoGenAdapter(backend=ours, also=[theirs])
        await both.save_state(agent, owner="run")
        assert len(pinned(theirs, "run")) == 3
        both.release("run")
        assert not list(theirs.iter_pins())

    run(scenario())


def test_owners_of_two_tenants_are_two(run):
    async def scenario():
        cas = InMemoryCAS()
        ann, bob = (AutoGenAdapter(backend=cas, keys=KEY, tenant=name) for name in ("ann", "bob"))
        contexts = [await filled(adapter, owner="reader") for adapter in (ann, bob)]
        team = round_robin(context=lambda: AgentRefChatCompletionContext(ann))
        await team.run(task=payload(100_000))
        await ann.save_state(team, owner="run")
        bob.release("run")
        await contexts[1].clear()
        assert {pin.owner for pin in cas.iter_pins()} == {"%ann:reader", "%ann:run"}

    run(scenario())


@pytest.mark.parametrize("kind", ["context", "memory"])
def test_one_event_loop_after_another(kind):
    adapter = AutoGenAdapter(backend=InMemoryCAS())
    if kind == "context":
        holder = AgentRefChatCompletionContext(adapter, owner="holder")
    else:
        holder = AgentRefMemory(adapter, owner="holder")

    async def at_once():
        if kind == "context":
            await holder.add_message(large())
            await asyncio.gather(*(holder.save_state() for _ in range(3)))
            return len(await holder.get_messages())
        await asyncio.gather(*(holder.add(note(number)) for number in range(3)))
        return len((await holder.query()).results)

    counts = [asyncio.run(at_once()) for _ in range(2)]
    assert counts == ([1, 2] if kind == "context" else [3, 6])


@pytest.mark.parametrize("is_damaged", [True, False])
def test_a_load_that_is_refused_pins_nothing_and_says_why(is_damaged, run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas)
        context = AgentRefChatCompletionContext(adapter, owner="reader")
        agent = AssistantAgent("reader", ScriptedClient(), model_context=context)
        await agent.run(task=payload(9000))  # large, and in no segment yet
        had = await context.get_messages()
        other = AssistantAgent(
            "reader", ScriptedClient(), model_context=await filled(AutoGenAdapter(backend=cas))
        )
        state = json.loads(json.dumps(await adapter.save_state(other)))
        if is_damaged:
            state["llm_context"]["messages"].append({"no": "message"})
            with pytest.raises(MalformedBlobError):
                await adapter.load_state(agent, state)
        else:
            with pytest.raises(InvalidInputError, match="llm_context"):
                await adapter.load_state(agent, {"type": state["type"]})
        assert await context.get_messages() == had
        pins = pinned(cas, "reader")
        if is_damaged:  # and it got back what it had
            assert pins <= {ref.hash for ref in adapter.externalizer.refs(await context.save_state())}
        else:
            assert not pins

    run(scenario())
