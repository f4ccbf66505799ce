"""Where the messages of a model context are cut, at any threshold: none is lost, shown twice or moved."""

import json
import random

import pytest
from autogen_core.models import FunctionExecutionResult, FunctionExecutionResultMessage, UserMessage

from agentref.adapters.autogen import AgentRefChatCompletionContext, AutoGenAdapter
from agentref.storage import InMemoryCAS


def messages(threshold, seed):
    """Some smaller than a stub and over the threshold, some with a few of those in them."""
    noise = random.Random(seed)
    for number in range(60):
        if noise.random() < 0.3:
            results = [
                FunctionExecutionResult(
                    content=f"{number}-" + "r" * noise.randint(threshold - 2, threshold + 10),
                    name="t",
                    call_id=str(call),
                )
                for call in range(noise.randint(1, 9))
            ]
            yield FunctionExecutionResultMessage(content=results)
        else:
            size, source = noise.choice([2, threshold + 4, threshold + 9]), noise.choice([1, threshold + 4])
            yield UserMessage(content=f"{number}" + "x" * size, source="u" * source)


@pytest.mark.parametrize("threshold", [1, 16, 64, 150])
@pytest.mark.parametrize("seed", range(4))
def test_every_message_is_there_once_and_in_its_place(threshold, seed, run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS(), threshold_bytes=threshold)
        context, other = AgentRefChatCompletionContext(adapter), AgentRefChatCompletionContext(adapter)
        added = []
        for message in messages(threshold, seed):
            await context.add_message(message)
            added.append(message)
            assert await context.get_messages() == added
        await other.load_state(json.loads(json.dumps(await context.save_state())))
        assert await other.get_messages() == added
        for message in messages(threshold, seed + 9):  # and goes on from there
            await other.add_message(message)
            added.append(message)
            assert await other.get_messages() == added

    run(scenario())
