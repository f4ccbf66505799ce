"""The memory: what `ListMemory` does, with its contents in the store."""

import asyncio
import json
from datetime import datetime

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import Image
from autogen_core.memory import ListMemory, MemoryContent, MemoryMimeType
from autogen_core.model_context import UnboundedChatCompletionContext
from PIL import Image as Picture

from agentref.adapters.autogen import AgentRefMemory, AutoGenAdapter
from agentref.errors import StoreUnavailableError, UnsupportedTypeError
from agentref.storage import FilesystemCAS, InMemoryCAS

from .conftest import MARK, Failing, ScriptedClient, Slow, payload


def contents():
    return [
        MemoryContent(content=payload(), mime_type=MemoryMimeType.TEXT),
        MemoryContent(
            content="small", mime_type="text/x-own", metadata={"score": 0.5, "tags": ["a", None]}
        ),
        MemoryContent(content=b"\xff\x00bytes", mime_type=MemoryMimeType.BINARY),
        MemoryContent(content={"a": [1, {"b": None}], "data": "x"}, mime_type=MemoryMimeType.JSON),
        MemoryContent(content={"__agentref__": [1, "0" * 64, "x", 1, None]}, mime_type=MemoryMimeType.JSON),
        MemoryContent(content="", mime_type=MemoryMimeType.MARKDOWN, metadata={}),
    ]


@pytest.fixture
def memory(adapter):
    return AgentRefMemory(adapter, name="notes")


def test_it_does_what_the_memory_of_autogen_does(memory, run):
    async def scenario():
        stock = ListMemory(name="notes")
        for each in contents():
            await memory.add(each)
            await stock.add(each)
        assert await memory.query("whatever") == await stock.query("whatever")
        assert memory.content == stock.content and memory.name == stock.name
        assert [type(each.mime_type) for each in memory.content] == [
            type(each.mime_type) for each in stock.content
        ]
        ours, theirs = UnboundedChatCompletionContext(), UnboundedChatCompletionContext()
        assert await memory.update_context(ours) == await stock.update_context(theirs)
        assert await ours.get_messages() == await theirs.get_messages()
        memory.content = contents()[1:3]
        assert memory.content == contents()[1:3]
        await memory.clear()
        assert (await memory.query()).results == []
        assert await memory.update_context(ours) == await ListMemory().update_context(theirs)
        await memory.close()

    run(scenario())


def test_an_image_stays_one(memory, run):
    picture = Image(Picture.effect_noise((50, 50), 90))
    run(memory.add(MemoryContent(content=picture, mime_type=MemoryMimeType.IMAGE)))
    (again,) = memory.content
    assert isinstance(again.content, Image) and again.content.to_base64() == picture.to_base64()


@pytest.mark.parametrize("content", contents())
def test_a_dump_holds_no_content_of_any_size(content, adapter):
    memory = AgentRefMemory(adapter, memory_contents=[content] * 40)
    dumped = memory.dump_component().model_dump_json()
    assert len(dumped) < 40 * 200 + 1000
    for hidden in (MARK, "small", "text/x-own", "score", "bytes"):
        assert hidden not in dumped


def test_an_agent_is_dumped_without_its_memories(memory, run):
    async def scenario():
        await memory.add(contents()[0])
        agent = AssistantAgent("reader", ScriptedClient("read"), memory=[memory])
        result = await agent.run(task="what do you know?")
        assert MARK in agent._model_client.shown[0][-1].content
        assert result.messages[-1].to_text() == "read"
        assert MARK not in memory.dump_component().model_dump_json()

    run(scenario())


@pytest.mark.parametrize("value", [object(), datetime(2026, 1, 1), {1, 2}])
def test_what_is_no_plain_data_is_refused_and_not_added(value, memory, run):
    with pytest.raises(UnsupportedTypeError, match="MemoryContent"):
        run(memory.add(MemoryContent(content={"a": value}, mime_type="x")))
    assert memory.content == []


def test_contents_that_are_added_at_once_keep_their_order(memory, run):
    async def scenario():
        made = [MemoryContent(content=payload(n * 500, n), mime_type="text/plain") for n in range(20)]
        await asyncio.gather(*(memory.add(each) for each in made))
        assert (await memory.query()).results == made

    run(scenario())


def test_a_store_that_is_down_and_a_cancelled_call_add_nothing(run):
    async def scenario():
        down, slow = Failing(), Slow()
        memory = AgentRefMemory(AutoGenAdapter(backend=down))
        await memory.add(contents()[1])
        down.down = True
        with pytest.raises(StoreUnavailableError):
            await memory.add(contents()[0])
        with pytest.raises(StoreUnavailableError):
            await memory.query()
        down.down = False
        assert memory.content == contents()[1:2]

        memory = AgentRefMemory(AutoGenAdapter(backend=slow))
        slow.go.clear()
        adding = asyncio.create_task(memory.add(contents()[0]))
        await asyncio.to_thread(slow.entered.wait)
        assert (await memory.query()).results == memory.content == []
        adding.cancel()
        slow.go.set()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert memory.content == []

    run(scenario())


def test_an_owner_keeps_the_contents_until_they_are_cleared(tmp_path, run):
    async def scenario():
        with FilesystemCAS(tmp_path / "store") as cas:
            memory = AgentRefMemory(AutoGenAdapter(backend=cas), owner="notes")
            for each in contents():
                await memory.add(each)
            assert len(list(cas.iter_pins("notes"))) == len(contents())
            await memory.clear()
            assert not list(cas.iter_pins())

    run(scenario())


def test_nothing_is_in_memory_or_in_the_dump_but_refs(run):
    async def scenario():
        memory = AgentRefMemory(AutoGenAdapter(backend=InMemoryCAS()))
        await memory.add(contents()[0])
        assert len(json.dumps(memory._refs)) < 200

    run(scenario())
