"""Components: dumped as JSON, loaded in a new process; a config names a store, never where that is."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import ComponentModel
from autogen_core.memory import Memory, MemoryContent
from autogen_core.model_context import (
    BufferedChatCompletionContext,
    ChatCompletionContext,
    UnboundedChatCompletionContext,
)
from autogen_core.models import UserMessage

from agentref.adapters.autogen import (
    AgentRefChatCompletionContext,
    AgentRefMemory,
    AutoGenAdapter,
    register,
    registered,
    unregister,
)
from agentref.errors import (
    ConfigurationError,
    InvalidInputError,
    InvalidRefError,
    MalformedBlobError,
    UnknownBackendError,
    UntrustedRefError,
)
from agentref.storage import FilesystemCAS, InMemoryCAS

from .conftest import MARK, ScriptedClient, payload

ROOT = Path(__file__).parents[3]
LOAD = """
import asyncio, sys
from autogen_core import ComponentModel
from autogen_core.memory import Memory
from autogen_core.model_context import ChatCompletionContext
from agentref.adapters.autogen import AutoGenAdapter, register
from agentref.storage import FilesystemCAS

register(AutoGenAdapter(backend=FilesystemCAS(sys.argv[1], backend_id="files")))
kind = {"memory": Memory, "context": ChatCompletionContext}[sys.argv[2]]
component = kind.load_component(ComponentModel.model_validate_json(sys.stdin.read()))

async def main():
    if sys.argv[2] == "memory":
        print(component.name, *(len(each.content) for each in (await component.query()).results))
    else:
        print(*(len(each.content) for each in await component.get_messages()))
    print(component.dump_component().model_dump_json())

asyncio.run(main())
"""


@pytest.fixture
def files(tmp_path):
    with FilesystemCAS(tmp_path / "state_blobs", backend_id="files") as store:
        yield AutoGenAdapter(backend=store)


def in_a_new_process(tmp_path, kind, dumped):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "state_blobs", kind],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=dumped,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_memory_is_loaded_in_a_new_process(files, tmp_path, run):
    memory = AgentRefMemory(files, name="notes")
    for size in (1_000_000, 5):
        run(memory.add(MemoryContent(content=payload(size), mime_type="text/plain")))
    dumped = memory.dump_component().model_dump_json()
    assert MARK not in dumped
    assert in_a_new_process(tmp_path, "memory", dumped) == ["notes 1000000 5", dumped]


def test_a_context_is_loaded_in_a_new_process(files, tmp_path):
    initial = [UserMessage(content=payload(size), source="user") for size in (1_000_000, 5, 6)]
    context = AgentRefChatCompletionContext(files, BufferedChatCompletionContext(2, initial))
    dumped = context.dump_component().model_dump_json()
    assert MARK not in dumped
    assert in_a_new_process(tmp_path, "context", dumped) == ["5 6", dumped]


def test_the_config_says_nothing_about_the_place(files, tmp_path):
    for component in (AgentRefMemory(files), AgentRefChatCompletionContext(files)):
        model = component.dump_component()
        assert model.provider == f"agentref.adapters.autogen.{type(component).__name__}"
        assert model.config["backend_id"] == "files"
        assert str(tmp_path) not in model.model_dump_json()


def test_an_agent_with_both_is_dumped_without_payload(files, run):
    async def scenario():
        memory = AgentRefMemory(files)
        await memory.add(MemoryContent(content=payload(), mime_type="text/plain"))
        context = AgentRefChatCompletionContext(files, UnboundedChatCompletionContext())

        class Dumpable(ScriptedClient):
            def dump_component(self):
                return ComponentModel(provider="none", config={})

        agent = AssistantAgent("reader", Dumpable(), model_context=context, memory=[memory])
        await agent.run(task=payload(10_000, 1))
        assert MARK not in agent.dump_component().model_dump_json()

    run(scenario())


def test_a_store_that_nobody_registered(files, run):
    memory, context = AgentRefMemory(files), AgentRefChatCompletionContext(files)
    for component, kind in ((memory, Memory), (context, ChatCompletionContext)):
        with pytest.raises(UnknownBackendError, match=r"files.*register"):
            kind.load_component(component.dump_component())
        register(files)
        assert type(kind.load_component(component.dump_component())) is type(component)
        unregister(files)
        with pytest.raises(UnknownBackendError):
            kind.load_component(component.dump_component())


@pytest.mark.parametrize("name", ["/etc", "../state_blobs", "postgresql://u:p@h/db", "", "a" * 10_000])
def test_a_name_is_never_a_path(name, files):
    model = AgentRefMemory(files).dump_component()
    model.config["backend_id"] = name
    with registered(files), pytest.raises(UnknownBackendError):
        Memory.load_component(model)


def test_two_adapters_for_one_name():
    cas = InMemoryCAS()
    one, other = AutoGenAdapter(backend=cas), AutoGenAdapter(backend=cas)
    register(one)
    try:
        register(one)
        with pytest.raises(ConfigurationError, match="unregister"):
            register(other)
        unregister(other)
        model = AgentRefMemory(one).dump_component()
        with registered(other) as inside:
            assert Memory.load_component(model)._adapter is other is inside
        assert Memory.load_component(model)._adapter is one
    finally:
        unregister(one)
    for verb in (register, unregister):
        if verb is register:
            with pytest.raises(InvalidInputError):
                verb(cas)
    with pytest.raises(InvalidInputError), registered(cas):
        raise AssertionError


def test_a_store_answers_to_its_aliases():
    old = InMemoryCAS(backend_id="old")
    model = AgentRefMemory(AutoGenAdapter(backend=old)).dump_component()
    with registered(AutoGenAdapter(backend=InMemoryCAS(backend_id="new", backend_aliases=["old"]))):
        assert Memory.load_component(model).dump_component().config["backend_id"] == "new"


def test_registered_is_for_this_thread_only(files):
    seen = []

    def elsewhere():
        try:
            Memory.load_component(AgentRefMemory(files).dump_component())
        except UnknownBackendError as error:
            seen.append(error)

    with registered(files):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(seen) == 1


def test_tenants_of_one_store_are_told_apart(run):
    cas, key = InMemoryCAS(), b"k" * 32
    ann, bob = (AutoGenAdapter(backend=cas, keys=key, tenant=name) for name in ("ann", "bob"))
    memory = AgentRefMemory(ann, memory_contents=[MemoryContent(content="secret", mime_type="text/plain")])
    initial = [UserMessage(content=payload(10_000), source="user")]
    context = AgentRefChatCompletionContext(ann, initial_messages=initial)
    for component, kind in ((memory, Memory), (context, ChatCompletionContext)):
        model = json.loads(component.dump_component().model_dump_json())
        with registered(bob), pytest.raises(UntrustedRefError):
            kind.load_component(model)
        with registered(ann):
            kind.load_component(model)


@pytest.mark.parametrize(
    ("contents", "error"),
    [
        ([{"content": "inline"}], MalformedBlobError),
        (["inline"], MalformedBlobError),
        ([{"__agentref__": {"escaped": {"a": 1}}}], MalformedBlobError),
        ([{"__agentref__": "nonsense"}], InvalidRefError),
        ([{"__agentref__": [1, "../../etc", "x", 1, None]}], InvalidInputError),
    ],
)
def test_a_config_that_was_edited(contents, error, files):
    model = AgentRefMemory(files).dump_component()
    model.config["memory_contents"] = contents
    with registered(files), pytest.raises(error):
        Memory.load_component(model)


def test_a_ref_to_something_else_is_no_content(files):
    (ref,) = files.externalizer.externalize(["no content " * 1000])
    model = AgentRefMemory(files).dump_component()
    model.config["memory_contents"] = [dict(ref)]
    with registered(files):
        memory = Memory.load_component(model)
    with pytest.raises(MalformedBlobError):
        memory.content  # noqa: B018


@pytest.mark.parametrize("kind", [AgentRefMemory, AgentRefChatCompletionContext])
def test_a_store_is_no_adapter(kind):
    with pytest.raises(InvalidInputError, match="AutoGenAdapter"):
        kind(InMemoryCAS())
