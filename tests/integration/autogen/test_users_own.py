"""What AutoGen loads, the adapter loads: states of agents, contexts and managers of a user's own."""

import json

import pytest
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_agentchat.teams._group_chat._round_robin_group_chat import RoundRobinGroupChatManager
from autogen_core import SingleThreadedAgentRuntime
from autogen_core.model_context import UnboundedChatCompletionContext

from agentref.adapters.autogen import AgentRefChatCompletionContext, AutoGenAdapter
from agentref.storage import InMemoryCAS

from .conftest import ScriptedClient, agents, payload, round_robin

ADAPTER = AutoGenAdapter(backend=InMemoryCAS())


class Items(UnboundedChatCompletionContext):
    """Calls its messages something else."""

    async def save_state(self):
        return {"items": (await super().save_state())["messages"]}

    async def load_state(self, state):
        await super().load_state({"messages": state["items"]})


class Numbered(UnboundedChatCompletionContext):
    """Has a dict for its messages."""

    async def save_state(self):
        return {"messages": dict(enumerate((await super().save_state())["messages"]))}

    async def load_state(self, state):
        await super().load_state({"messages": list(state["messages"].values())})


class Sealing(UnboundedChatCompletionContext):
    """Saves through the adapter itself."""

    async def save_state(self):
        messages = (await super().save_state())["messages"]
        return {"messages": await ADAPTER.aexternalize_message_history(messages)}

    async def load_state(self, state):
        await super().load_state({"messages": ADAPTER.hydrate_message_history(state["messages"])})


class Noting(BaseChatAgent):
    """Has no state."""

    def __init__(self):
        super().__init__("noting", "notes")
        self.history = None

    produced_message_types = (TextMessage,)

    async def on_messages(self, messages, cancellation_token):
        self.history = [{"text": message.content} for message in messages]
        return Response(chat_message=TextMessage(content="noted", source=self.name))

    async def on_reset(self, cancellation_token):
        self.history = []


class SavesOnly(Noting):
    """What it saves is for people to look at."""

    async def save_state(self):
        return {"history": len(self.history or ()), "messages": {"a": 1}}


class Late(Noting):
    """Cannot save before it has run."""

    async def save_state(self):
        return {"text": self.history[0]["text"]}

    async def load_state(self, state):
        self.history = [dict(state)]


class SealingAgent(Noting):
    """Saves through the adapter itself."""

    async def save_state(self):
        return {"messages": await ADAPTER.aexternalize_message_history(self.history or [])}

    async def load_state(self, state):
        self.history = ADAPTER.hydrate_message_history(state["messages"])


class Manager(RoundRobinGroupChatManager):
    async def save_state(self):
        return {"of_ours": dict(await super().save_state()), "type": f"Manager {id(self)}"}

    async def load_state(self, state):
        await super().load_state(state["of_ours"])


class Managed(RoundRobinGroupChat):
    """A team whose manager is of a class of the user's own."""

    def _create_group_chat_manager_factory(self, *args, **options):
        make = super()._create_group_chat_manager_factory(*args, **options)

        def factory():
            manager = make()
            manager.__class__ = Manager
            return manager

        return factory


def with_context(cls, *, around=False):
    inner = AgentRefChatCompletionContext(ADAPTER, cls()) if around else cls()
    return AssistantAgent("reader", ScriptedClient(), model_context=inner)


def in_a_team(*members, team=RoundRobinGroupChat, **options):
    return team([*members, *agents("writer")], max_turns=2, **options)


MADE = {
    "context with items": lambda: with_context(Items),
    "context with a dict": lambda: with_context(Numbered),
    "context that seals": lambda: with_context(Sealing),
    "context that seals, in a team": lambda: in_a_team(with_context(Sealing)),
    "context with items, in ours": lambda: with_context(Items, around=True),
    "manager": lambda: in_a_team(*agents("reader"), team=Managed),
    "agent without state": lambda: in_a_team(Noting()),
    "agent that saves only": lambda: in_a_team(SavesOnly()),
    "agent that seals": lambda: in_a_team(SealingAgent()),
    "agent that cannot save yet": lambda: in_a_team(Late()),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_autogen_loads_is_loaded(kind, run):
    async def scenario():
        first, stock, ours, again = (MADE[kind]() for _ in range(4))
        await first.run(task=payload(300_000))
        state = json.loads(json.dumps(await first.save_state()))
        await stock.load_state(state)
        await ADAPTER.load_state(ours, state)
        await ADAPTER.load_state(again, json.loads(json.dumps(await ADAPTER.save_state(first))))
        for other in (ours, again):
            wanted, got = [json.loads(json.dumps(await each.save_state())) for each in (stock, other)]
            if kind == "manager":
                for saved in (wanted, got):
                    del saved["agent_states"]["RoundRobinGroupChatManager"]["type"]
            assert got == wanted

    run(scenario())


def test_an_agent_that_seals_in_a_runtime(run):
    def made():
        runtime = SingleThreadedAgentRuntime()
        return runtime, in_a_team(SealingAgent(), runtime=runtime)

    async def scenario():
        runtime, team = made()
        runtime.start()
        await team.run(task=payload(300_000))
        await runtime.stop_when_idle()
        state = json.loads(json.dumps(await ADAPTER.save_state(runtime)))
        before = await team.save_state()
        await ADAPTER.load_state(runtime, state)
        assert await team.save_state() == before
        await ADAPTER.load_state(made()[0], state)

    run(scenario())


def test_a_state_without_types_and_versions(run):
    def without(part):
        if not isinstance(part, dict):
            return part
        left = {key: without(value) for key, value in part.items()}
        return {key: value for key, value in left.items() if "version" not in part or key not in extra}

    extra = ("type", "version")

    async def scenario():
        team, other = round_robin(), round_robin()
        await team.run(task=payload(10_000))
        state = without(json.loads(json.dumps(await team.save_state())))
        assert "TeamState" not in json.dumps(state)
        await ADAPTER.load_state(other, ADAPTER.externalize_state(state))
        assert await other.save_state() == await team.save_state()

    run(scenario())
