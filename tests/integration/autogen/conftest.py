"""Real agents and teams of AutoGen, with a model that answers from a list."""

import asyncio
import json
import random
import threading
from pathlib import Path

import pytest
from autogen_agentchat.agents import AssistantAgent, SocietyOfMindAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import (
    DiGraphBuilder,
    GraphFlow,
    MagenticOneGroupChat,
    RoundRobinGroupChat,
    SelectorGroupChat,
    Swarm,
)
from autogen_core.models import ChatCompletionClient, CreateResult, RequestUsage

from agentref.adapters.autogen import AutoGenAdapter
from agentref.errors import StoreUnavailableError
from agentref.storage import FilesystemCAS, InMemoryCAS

MARK = "the payload that must not leak "


def payload(size=1_000_000, seed=0):
    """A text that does not compress to nothing, and that a search finds in many places."""
    noise = random.Random(seed)
    parts = []
    while sum(map(len, parts)) < size:
        parts.append(MARK + noise.randbytes(100).hex())
    return "".join(parts)[:size]


class ScriptedClient(ChatCompletionClient):
    """Answers from a list, over and over; remembers what it was shown."""

    def __init__(self, *answers):
        self.answers = list(answers) or ["noted"]
        self.shown = []

    async def create(self, messages, **options):
        self.shown.append(list(messages))
        answer = self.answers[(len(self.shown) - 1) % len(self.answers)]
        return CreateResult(
            finish_reason="stop" if isinstance(answer, str) else "function_calls",
            content=answer,
            usage=RequestUsage(prompt_tokens=0, completion_tokens=0),
            cached=False,
        )

    async def create_stream(self, messages, **options):
        yield await self.create(messages)

    async def close(self):
        pass

    def actual_usage(self):
        return RequestUsage(prompt_tokens=0, completion_tokens=0)

    total_usage = actual_usage

    def count_tokens(self, messages, **options):
        return sum(len(str(message.content)) // 4 for message in messages)

    def remaining_tokens(self, messages, **options):
        return 2000 - self.count_tokens(messages)

    @property
    def model_info(self):
        return {
            "vision": True,
            "function_calling": True,
            "json_output": True,
            "family": "unknown",
            "structured_output": True,
        }

    capabilities = model_info


LEDGER = json.dumps(
    {
        name: {"reason": "because", "answer": answer}
        for name, answer in {
            "is_request_satisfied": False,
            "is_in_loop": False,
            "is_progress_being_made": True,
            "next_speaker": "reader",
            "instruction_or_question": "go on",
        }.items()
    }
)


def agents(*names, context=None):
    return [
        AssistantAgent(
            name,
            ScriptedClient(f"{name} has read it"),
            description=name,
            model_context=context() if context else None,
        )
        for name in names or ("reader", "writer", "critic")
    ]


def round_robin(turns=4, **options):
    return RoundRobinGroupChat(agents(**options), termination_condition=MaxMessageTermination(turns))


def selector(turns=4):
    return SelectorGroupChat(
        agents(), ScriptedClient("writer"), termination_condition=MaxMessageTermination(turns)
    )


def swarm(turns=3):
    return Swarm(agents(), termination_condition=MaxMessageTermination(turns))


def graph():
    one, two, three = agents()
    builder = DiGraphBuilder()
    builder.add_node(one).add_node(two).add_node(three)
    builder.add_edge(one, two).add_edge(two, three)
    return GraphFlow([one, two, three], builder.build(), termination_condition=MaxMessageTermination(6))


def magentic():
    return MagenticOneGroupChat(
        agents(),
        ScriptedClient("the facts", "the plan", LEDGER),
        termination_condition=MaxMessageTermination(5),
    )


def society():
    inner = RoundRobinGroupChat(
        agents("inside", "also_inside"), termination_condition=MaxMessageTermination(3)
    )
    mind = SocietyOfMindAgent("mind", inner, ScriptedClient("the society says yes"))
    return RoundRobinGroupChat([mind, *agents("reader")], termination_condition=MaxMessageTermination(3))


def nested():
    inner = RoundRobinGroupChat(
        agents("inside", "also_inside"),
        termination_condition=MaxMessageTermination(3),
        name="inner_team",
        description="a team",
    )
    return RoundRobinGroupChat([inner, *agents("reader")], termination_condition=MaxMessageTermination(5))


TEAMS = {
    "round robin": round_robin,
    "selector": selector,
    "swarm": swarm,
    "graph": graph,
    "magentic one": magentic,
    "society of mind": society,
    "team in a team": nested,
}


class Failing(InMemoryCAS):
    """A store that is down for as long as it is told."""

    def __init__(self, **options):
        super().__init__(**options)
        self.down = False

    def _check_up(self):
        if self.down:
            raise StoreUnavailableError("The store is down.")

    def store(self, *args, **options):
        self._check_up()
        return super().store(*args, **options)

    def load_many(self, *args, **options):
        self._check_up()
        return super().load_many(*args, **options)


class Slow(InMemoryCAS):
    """A store whose verbs wait until they are let go."""

    def __init__(self):
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()

    def store(self, *args, **options):
        self.entered.set()
        assert self.go.wait(60)
        return super().store(*args, **options)


@pytest.fixture
def cas(tmp_path):
    with FilesystemCAS(tmp_path / "state_blobs") as store:
        yield store


@pytest.fixture
def adapter(cas):
    return AutoGenAdapter(backend=cas)


@pytest.fixture
def run():
    return asyncio.run


def on_disk(path: Path) -> int:
    return sum(each.stat().st_size for each in Path(path).rglob("*") if each.is_file())
