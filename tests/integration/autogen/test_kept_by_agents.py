"""A save with an owner keeps what agents of a user's own have of an adapter, whenever and wherever they had
it saved."""

import asyncio
import gc
import json
import weakref

import pytest
from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import UserMessage

from agentref.adapters.autogen import AgentRefChatCompletionContext, AutoGenAdapter
from agentref.adapters.autogen.holding import tell
from agentref.errors import ConfigurationError
from agentref.storage import InMemoryCAS

from .conftest import payload


class Noting(BaseChatAgent):
    """Keeps what it hears, and saves it by the adapter: while it hears it, or in a thread."""

    def __init__(self, adapter, how="early", extra=None):
        super().__init__("noting", "notes")
        self.adapter, self.how, self.extra, self.history = adapter, how, extra, []

    produced_message_types = (TextMessage,)

    async def on_messages(self, messages, cancellation_token):
        self.history += [{"text": message.content} for message in messages]
        if self.how == "early":
            self.history = self.adapter.externalize_message_history(self.history)
        return Response(chat_message=TextMessage(content="noted", source=self.name))

    async def on_reset(self, cancellation_token):
        self.history = []

    async def save_state(self):
        loop, save = asyncio.get_running_loop(), self.adapter.externalize_message_history
        history = (
            self.history if self.how == "early" else await loop.run_in_executor(None, save, self.history)
        )
        return {"history": history, "extra": self.extra}

    async def load_state(self, state):
        self.history = self.adapter.hydrate_message_history(state["history"])


LOOK_ALIKES = {
    "none": None,
    "none of ours": {"__agentref__": ["0" * 64]},
    "of nothing that is there": {"__agentref__": [1, "0" * 64, "agr1", 3, None]},
}


@pytest.mark.parametrize("how", ["early", "in a thread"])
@pytest.mark.parametrize("extra", LOOK_ALIKES)
def test_it_is_pinned(how, extra, run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas)
        team, other = (
            RoundRobinGroupChat([Noting(adapter, how, LOOK_ALIKES[extra])], max_turns=1) for _ in range(2)
        )
        await team.run(task=payload(100_000))
        (agent,), (resumed,) = team._participants, other._participants
        state = json.loads(json.dumps(await adapter.save_state(team, owner="run")))
        needed = adapter.externalizer.refs((await agent.save_state())["history"])
        assert len(needed) == 1
        assert {ref.hash for ref in needed} < {pin.hash for pin in cas.iter_pins("run")}
        await adapter.load_state(other, state)
        assert resumed.history[0] == {"text": payload(100_000)}
        adapter.release("run")
        assert not list(cas.iter_pins())

    run(scenario())


class Background(Noting):
    """Starts a task in its save, which goes on to save a context of its own."""

    async def save_state(self):
        gate = asyncio.Event()

        async def go_on():
            await gate.wait()
            context = AgentRefChatCompletionContext(self.adapter)
            await context.add_message(UserMessage(content=payload(100_000, 7), source="user"))
            kept = Kept(await context.save_state())
            tell(kept)
            told = weakref.ref(kept)
            del kept
            gc.collect()
            return told() is not None

        self.gate, self.task = gate, asyncio.create_task(go_on())
        return {"history": []}


class Kept(dict):
    """A dict that can be asked whether anybody has it."""


@pytest.mark.parametrize("owner", ["run", None])
def test_a_task_that_outlives_the_save_that_it_was_started_in_tells_nobody(owner, run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        agent = Background(adapter)
        await adapter.save_state(agent, owner=owner)
        agent.gate.set()
        assert not await agent.task

    run(scenario())


def test_what_another_adapter_wrote_and_this_one_could_not_keep_is_refused(run):
    async def scenario():
        theirs = AutoGenAdapter(backend=InMemoryCAS(backend_id="theirs"))
        ours = InMemoryCAS(backend_id="ours")
        team = RoundRobinGroupChat([Noting(theirs)], max_turns=1)
        await team.run(task=payload(100_000))
        with pytest.raises(ConfigurationError, match="theirs"):
            await AutoGenAdapter(backend=ours).save_state(team, owner="run")
        assert not list(ours.iter_pins())
        await AutoGenAdapter(backend=ours).save_state(team)

    run(scenario())
