"""Where the messages of a model context are cut, at any threshold: none is lost, shown twice or moved."""

import json
import random

import pytest
from autogen_core.model_context import HeadAndTailChatCompletionContext
from autogen_core.models import FunctionExecutionResult, FunctionExecutionResultMessage, UserMessage

from agentref.adapters.autogen import AgentRefChatCompletionContext, AutoGenAdapter
from agentref.errors import MalformedBlobError
from agentref.storage import InMemoryCAS

from .conftest import payload


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


@pytest.mark.parametrize("head", [1, 5, 40])
@pytest.mark.parametrize("size", [10, 3000, 100_000])
def test_a_head_and_a_tail_load_the_segments_that_they_show(head, size, run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas, segment=4)
        stock = HeadAndTailChatCompletionContext(head, 3)
        ours, other = (
            AgentRefChatCompletionContext(adapter, HeadAndTailChatCompletionContext(head, 3))
            for _ in range(2)
        )
        for number in range(60):
            message = UserMessage(content=payload(size, number), source="user")
            for context in (stock, ours):
                await context.add_message(message)
            assert await ours.get_messages() == await stock.get_messages()
        await other.load_state(json.loads(json.dumps(await ours.save_state())))
        before = cas.stats().counters.values_loaded
        assert await other.get_messages() == await stock.get_messages()
        if size == 100_000:  # each is a segment of its own
            assert cas.stats().counters.values_loaded - before == head + 3

    run(scenario())


@pytest.mark.parametrize("count", [2**30, 7])
def test_a_number_of_messages_that_is_not_true(count, run):
    """What is not loaded is not checked; it makes no list of any length, and shows no other message."""

    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        ours = AgentRefChatCompletionContext(adapter, HeadAndTailChatCompletionContext(2, 2))
        for number in range(9):
            await ours.add_message(UserMessage(content=payload(100_000, number), source="user"))
        true = await ours.get_messages()
        state = json.loads(json.dumps(await ours.save_state()))
        state["messages"][4]["__agentref__"][5] = count
        await ours.load_state(state)
        if count == 7:
            got = await ours.get_messages()
            assert [*got[:2], *got[3:]] == [*true[:2], *true[3:]]
            return
        with pytest.raises(MalformedBlobError):
            await ours.get_messages()

    run(scenario())
