"""States that were edited, cut short, mistaken or taken from another tenant; stores that are down."""

import asyncio
import json

import pytest
from autogen_agentchat.agents import AssistantAgent, SocietyOfMindAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import SingleThreadedAgentRuntime
from autogen_core.models import UserMessage

from agentref.adapters.autogen import AgentRefChatCompletionContext, AutoGenAdapter
from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    InvalidDigestError,
    InvalidInputError,
    InvalidRefError,
    StoreUnavailableError,
    UnknownBackendError,
    UntrustedRefError,
    ValueTooLargeError,
)
from agentref.storage import InMemoryCAS

from .conftest import TEAMS, Failing, ScriptedClient, agents, payload, round_robin

KEY, OTHER = b"k" * 32, b"o" * 32


async def worked(text=None):
    team = round_robin()
    await team.run(task=payload() if text is None else text)
    return team


async def refused(adapter, state, error, said=None):
    """The team refuses the state, and is as it was."""
    team = await worked("what it knew")
    before = await team.save_state()
    with pytest.raises(error, match=said):
        await adapter.load_state(team, state)
    assert await team.save_state() == before
    assert (await team.run(task="go on")).messages[-1].to_text()


def each_ref(part):
    """Every dict in a state that is a ref."""
    if isinstance(part, dict):
        if "__agentref__" in part:
            yield part
        for value in part.values():
            yield from each_ref(value)
    elif isinstance(part, list):
        for value in part:
            yield from each_ref(value)


def test_a_store_that_is_down_while_saving_and_loading(run):
    async def scenario():
        cas = Failing()
        adapter = AutoGenAdapter(backend=cas)
        team = await worked()
        before = await team.save_state()
        state = await adapter.save_state(team)
        cas.down = True
        with pytest.raises(StoreUnavailableError):
            await adapter.save_state(team)
        assert await team.save_state() == before
        await refused(adapter, state, StoreUnavailableError)
        with pytest.raises(StoreUnavailableError):
            adapter.externalize_message_history([{"content": payload()}])
        cas.down = False
        await adapter.load_state(team, state)

    run(scenario())


# What becomes of it without seals, and with.
EDITS = {
    "another digest": (lambda body: body.__setitem__(1, "0" * 64), BlobNotFoundError, UntrustedRefError),
    "no digest": (lambda body: body.__setitem__(1, "../../etc"), InvalidDigestError, InvalidDigestError),
    "another store": (lambda body: body.__setitem__(4, "x"), UnknownBackendError, UntrustedRefError),
    "another codec": (lambda body: body.__setitem__(2, "pickle"), InvalidRefError, UntrustedRefError),
    "cut short": (lambda body: body.__delitem__(slice(2, None)), InvalidRefError, InvalidRefError),
    "version": (lambda body: body.__setitem__(0, 99), InvalidRefError, InvalidRefError),
    "size": (lambda body: body.__setitem__(3, -1), InvalidRefError, InvalidRefError),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("keys", [(), KEY], ids=["unsealed", "sealed"])
def test_an_edited_ref_is_a_typed_error_and_the_team_is_unharmed(edit, keys, run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS(), keys=keys)
        state = json.loads(json.dumps(await adapter.save_state(await worked())))
        change, unsealed, sealed = EDITS[edit]
        change(next(each_ref(state))["__agentref__"])
        await refused(adapter, state, sealed if keys else unsealed)

    run(scenario())


def test_states_of_another_tenant_or_with_other_keys_or_none(run):
    async def scenario():
        cas = InMemoryCAS()
        ann = AutoGenAdapter(backend=cas, keys=KEY, tenant="ann")
        state = json.loads(json.dumps(await ann.save_state(await worked())))
        await refused(AutoGenAdapter(backend=cas, keys=KEY, tenant="bob"), state, UntrustedRefError)
        await refused(AutoGenAdapter(backend=cas, keys=OTHER, tenant="ann"), state, UntrustedRefError)
        await refused(AutoGenAdapter(backend=cas), state, ConfigurationError)
        unsealed = json.loads(json.dumps(await AutoGenAdapter(backend=cas).save_state(await worked())))
        await refused(ann, unsealed, UntrustedRefError)
        await AutoGenAdapter(backend=cas, keys=[OTHER, KEY], tenant="ann").load_state(round_robin(), state)

    run(scenario())


def test_a_payload_that_is_gone(run):
    async def scenario():
        state = await AutoGenAdapter(backend=InMemoryCAS(backend_id="a")).save_state(await worked())
        await refused(AutoGenAdapter(backend=InMemoryCAS(backend_id="a")), state, BlobNotFoundError)
        await refused(AutoGenAdapter(backend=InMemoryCAS(backend_id="b")), state, UnknownBackendError)

    run(scenario())


def test_a_state_that_asks_for_more_than_the_bound(run):
    async def scenario():
        cas = InMemoryCAS()
        state = await AutoGenAdapter(backend=cas).save_state(await worked())
        await refused(AutoGenAdapter(backend=cas, max_bytes=100_000), state, ValueTooLargeError)

    run(scenario())


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ('{"type": "TeamState"}', InvalidInputError, "json.loads"),
        (None, InvalidInputError, "dict"),
        ([], InvalidInputError, "dict"),
        ({}, InvalidInputError, "TeamState"),
        ({"type": "AssistantAgentState", "llm_context": {"messages": []}}, InvalidInputError, "TeamState"),
        ({"type": "TeamState", "agent_states": {}}, ValueError, "not found"),
        ({"type": "TeamState", "agent_states": 7}, ValueError, None),
    ],
)
def test_what_is_no_state_of_a_team(state, error, said, run):
    run(refused(AutoGenAdapter(backend=InMemoryCAS()), state, error, said))


def test_a_state_that_ends_in_the_middle_leaves_the_team_as_it_was(run):
    """AutoGen loads agent by agent: the first one would have it already."""

    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        state = json.loads(json.dumps(await adapter.save_state(await worked())))
        del state["agent_states"]["critic"]
        await refused(adapter, state, ValueError, "critic")

    run(scenario())


def test_an_agent_does_not_take_the_state_of_a_team(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        (agent,) = agents("reader")
        await agent.run(task="what it knew")
        before = await agent.save_state()
        with pytest.raises(InvalidInputError, match="AssistantAgentState"):
            await adapter.load_state(agent, await adapter.save_state(await worked()))
        assert await agent.save_state() == before

    run(scenario())


@pytest.mark.parametrize("keys", [(), KEY], ids=["unsealed", "sealed"])
def test_a_look_alike_in_a_state_that_autogen_saved_is_taken_for_a_ref(keys, run):
    """As the page says: there, nothing was escaped. Loaded by AutoGen and saved again, it is data."""

    async def scenario():
        cas = InMemoryCAS()
        adapter, other = AutoGenAdapter(backend=cas, keys=keys), AutoGenAdapter(backend=cas)
        planted = other.externalize_state({"p": payload(9000)})["p"]
        state = await (await worked("small")).save_state()
        thread = state["agent_states"][MANAGER]["message_thread"]
        thread[0]["metadata"] = {"note": dict(planted)}
        team = round_robin()
        if keys:
            await refused(adapter, state, UntrustedRefError)
        else:
            await adapter.load_state(team, state)
            assert (await team.save_state())["agent_states"][MANAGER]["message_thread"][0]["metadata"] == {
                "note": payload(9000)
            }
        thread[0].update(metadata={}, content=json.dumps(planted))
        await team.load_state(state)
        again = round_robin()
        await adapter.load_state(again, json.loads(json.dumps(await adapter.save_state(team))))
        assert await again.save_state() == state

    run(scenario())


MANAGER = "RoundRobinGroupChatManager"
DAMAGES = {
    "another agent's kind": lambda states: states["reader"].update(agent_state={"type": "TeamState"}),
    "an empty agent": lambda states: states["reader"].update(agent_state={}),
    "no agent": lambda states: states["reader"].pop("agent_state"),
    "an empty context": lambda states: states["reader"]["agent_state"].update(llm_context={}),
    "no context": lambda states: states["reader"]["agent_state"].pop("llm_context"),
    "messages that are none": lambda states: states["reader"]["agent_state"].update(
        llm_context={"messages": None}
    ),
    "no buffer": lambda states: states["reader"].pop("message_buffer"),
    "no thread": lambda states: states[MANAGER].pop("message_thread"),
    "an agent's for the manager": lambda states: states.update({MANAGER: states["reader"]}),
    "another's for an agent": lambda states: states.update(reader=states[MANAGER]),
    "no manager": lambda states: states.pop(MANAGER),
    "nothing for an agent": lambda states: states.update(reader=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_part_of_a_state_that_autogen_would_take_for_one_without_messages(damage, run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        state = await (await worked("small")).save_state()
        DAMAGES[damage](state["agent_states"])
        said = MANAGER if "manager" in damage or "thread" in damage else "'reader'"
        await refused(
            adapter, json.loads(json.dumps(adapter.externalize_state(state))), InvalidInputError, said
        )

    run(scenario())


def test_a_state_of_a_team_of_another_class(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        for name in ("selector", "swarm", "graph", "magentic one"):
            state = json.loads(json.dumps(await adapter.save_state(TEAMS[name]())))
            await refused(adapter, state, InvalidInputError, MANAGER)

    run(scenario())


def test_a_participant_that_is_of_another_kind_now(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        inner = RoundRobinGroupChat(
            agents("one"), name="reader", termination_condition=MaxMessageTermination(2)
        )
        team = RoundRobinGroupChat([inner, *agents("writer", "critic")])
        await refused(adapter, await adapter.save_state(team), InvalidInputError, "'TeamState'")
        mind = SocietyOfMindAgent("reader", inner, ScriptedClient())
        team = RoundRobinGroupChat([mind, *agents("writer", "critic")])
        before = await team.save_state()
        for other in (await worked("x"), RoundRobinGroupChat([inner, *agents("writer", "critic")])):
            with pytest.raises(InvalidInputError, match="'SocietyOfMindAgentState'"):
                await adapter.load_state(team, await adapter.save_state(other))
        damaged = json.loads(json.dumps(before))
        damaged["agent_states"]["reader"]["agent_state"]["inner_team_state"]["agent_states"]["one"] = {}
        with pytest.raises(InvalidInputError, match="'inner_team_state'"):
            await adapter.load_state(team, damaged)
        assert await team.save_state() == before

    run(scenario())


class Own(AssistantAgent):
    """An agent of a user's own that loads what its older versions saved."""

    loaded = None

    async def load_state(self, state):
        self.loaded = state


def test_an_agent_of_a_users_own_loads_what_it_likes(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        own = Own("reader", ScriptedClient())
        team = RoundRobinGroupChat([own, *agents("writer", "critic")])
        state = await (await worked("small")).save_state()
        state["agent_states"]["reader"]["agent_state"] = {"type": "of last year"}
        await adapter.load_state(team, adapter.externalize_state(state))
        await adapter.load_state(own, {"anything": payload()})
        assert own.loaded == {"anything": payload()}

    run(scenario())


def test_a_state_of_a_runtime_that_was_edited(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        runtime = SingleThreadedAgentRuntime()
        team = RoundRobinGroupChat(
            agents("reader"), runtime=runtime, termination_condition=MaxMessageTermination(2)
        )
        runtime.start()
        await team.run(task="what it knew")
        await runtime.stop_when_idle()
        before = await runtime.save_state()
        state = json.loads(json.dumps(before))
        await adapter.load_state(runtime, state)
        (container,) = (each for each in state.values() if each["type"] == "ChatAgentContainerState")
        del container["message_buffer"]
        with pytest.raises(InvalidInputError, match="message_buffer"):
            await adapter.load_state(runtime, state)
        assert await runtime.save_state() == before

    run(scenario())


def test_a_state_that_was_externalized_twice(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        state = await adapter.save_state(await worked())
        assert adapter.externalize_state(state) == state  # in this process that does nothing
        twice = adapter.externalize_state(json.loads(json.dumps(state)))
        await refused(adapter, json.loads(json.dumps(twice)), InvalidRefError, "twice")

    run(scenario())


@pytest.mark.parametrize("given", [object(), None, "team", RoundRobinGroupChat])
def test_what_has_no_state(given, run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        for verb in (adapter.save_state(given), adapter.load_state(given, {})):
            with pytest.raises((InvalidInputError, TypeError)):
                await verb

    run(scenario())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ConfigurationError),
        ({"backend": "./state_blobs"}, InvalidInputError),
        ({"backend": InMemoryCAS(), "also": InMemoryCAS()}, InvalidInputError),
        ({"backend": InMemoryCAS(), "threshold_bytes": -1}, InvalidInputError),
        ({"backend": InMemoryCAS(), "threshold_bytes": True}, InvalidInputError),
        ({"backend": InMemoryCAS(), "segment": 1}, InvalidInputError),
        ({"backend": InMemoryCAS(), "keys": b"short"}, InvalidInputError),
        ({"backend": InMemoryCAS(), "tenant": "ann"}, InvalidInputError),
        ({"backend": InMemoryCAS(), "max_bytes": 0}, InvalidInputError),
        ({"backend": InMemoryCAS(), "custom_message_types": [int]}, InvalidInputError),
        ({"backend": InMemoryCAS(), "custom_message_types": ["TextMessage"]}, InvalidInputError),
    ],
)
def test_bad_arguments(options, error):
    with pytest.raises(error):
        AutoGenAdapter(**options)


@pytest.mark.parametrize("state", [None, [], "x", 5, {"type": "Other", "messages": []}])
def test_a_context_refuses_what_is_no_state_of_one_and_stays_as_it_was(cas, state):
    async def scenario():
        context = AgentRefChatCompletionContext(AutoGenAdapter(backend=cas))
        await context.add_message(UserMessage(content="what it knew", source="user"))
        before = await context.save_state()
        with pytest.raises(InvalidInputError, match="state of a model context"):
            await context.load_state(state)
        assert await context.save_state() == before
        assert [message.content for message in await context.get_messages()] == ["what it knew"]

    asyncio.run(scenario())
