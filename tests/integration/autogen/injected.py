"""A pytest plugin for AutoGen's own suites: all that they save goes through a store at threshold 1, and
each model context and memory that they make is one of ours around theirs.

Run by `test_upstream.py`. At the end it writes how often the store was asked into the file that
AGENTREF_INJECTED names.
"""

import functools
import json
import os
from pathlib import Path

import autogen_core.memory
import autogen_core.model_context
from autogen_agentchat.agents import (
    AssistantAgent,
    BaseChatAgent,
    CodeExecutorAgent,
    SocietyOfMindAgent,
    _assistant_agent,
    _code_executor_agent,
)
from autogen_agentchat.teams import BaseGroupChat
from autogen_core import SingleThreadedAgentRuntime

from agentref.adapters.autogen import (
    AgentRefChatCompletionContext,
    AgentRefMemory,
    AutoGenAdapter,
    register,
)
from agentref.storage import InMemoryCAS

CAS = InMemoryCAS()
ADAPTER = AutoGenAdapter(backend=CAS, threshold_bytes=1, segment=2)
CONTEXTS = [
    getattr(autogen_core.model_context, name)
    for name in autogen_core.model_context.__all__
    if name.endswith("ChatCompletionContext") and name != "ChatCompletionContext"
]
COUNTS = {"states saved": 0, "states loaded": 0, "contexts": 0, "memories": 0}


async def through_the_store(state):
    """As it comes back from a file of JSON."""
    return await ADAPTER.ahydrate_state(json.loads(json.dumps(await ADAPTER.aexternalize_state(state))))


def inject_states(cls):
    save, load = cls.save_state, cls.load_state

    @functools.wraps(save)
    async def save_state(self):
        COUNTS["states saved"] += 1
        return await through_the_store(await save(self))

    @functools.wraps(load)
    async def load_state(self, state):
        COUNTS["states loaded"] += 1
        await load(self, await through_the_store(dict(state)))

    cls.save_state, cls.load_state = save_state, load_state


def injected(cls, made, count):
    """A class that is AutoGen's in all but this: calling it makes one of ours. What is loaded from a config
    that names it is AutoGen's."""

    class Injecting(type(cls)):
        def __call__(self, *args, **options):
            COUNTS[count] += 1
            return made(*args, **options)

        def __instancecheck__(self, instance):
            return isinstance(getattr(instance, "_inner", instance), (cls, AgentRefMemory))

    return Injecting(cls.__name__, (cls,), {"__module__": cls.__module__, "_from_config": cls._from_config})


def context_around(cls, *args, **options):
    return AgentRefChatCompletionContext(ADAPTER, cls(*args, **options))


def pytest_configure(config):
    register(ADAPTER)
    for cls in (AssistantAgent, CodeExecutorAgent, SocietyOfMindAgent, BaseChatAgent, BaseGroupChat):
        if "save_state" in vars(cls):
            inject_states(cls)
    inject_states(SingleThreadedAgentRuntime)
    for cls in CONTEXTS:
        ours = injected(cls, functools.partial(context_around, cls), "contexts")
        for module in (autogen_core.model_context, _assistant_agent, _code_executor_agent):
            if hasattr(module, cls.__name__):
                setattr(module, cls.__name__, ours)
    autogen_core.memory.ListMemory = injected(
        autogen_core.memory.ListMemory, functools.partial(AgentRefMemory, ADAPTER), "memories"
    )


def pytest_unconfigure(config):
    counters = CAS.stats().counters
    found = {**COUNTS, "puts": counters.values_dumped, "gets": counters.values_loaded}
    Path(os.environ["AGENTREF_INJECTED"]).write_text(json.dumps(found), encoding="utf-8")
