"""Chat stores and memories of LlamaIndex with large messages, over SQLite and in memory."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.storage.chat_store import SimpleChatStore
from llama_index.core.storage.chat_store.base_db import MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore
from pydantic import BaseModel

from agentref.adapters.llamaindex import AgentRefAsyncDBChatStore, AgentRefChatStore
from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    InvalidInputError,
    StoreUnavailableError,
    UntrustedRefError,
)

from .conftest import run

FORGED = {"__agentref__": [1, "00" * 32, "agr1", 10, None]}


def message(text: str, role: MessageRole = MessageRole.USER, **kwargs: Any) -> ChatMessage:
    return ChatMessage(role=role, content=text, additional_kwargs=kwargs)


def messages_of(text: str) -> list[ChatMessage]:
    return [
        message("short"),
        message(text, MessageRole.ASSISTANT),
        ChatMessage(
            role=MessageRole.TOOL,
            blocks=[TextBlock(text="a picture"), ImageBlock(image=text.encode())],
            additional_kwargs={"tool_call_id": "1", "raw": {"output": text[::-1]}},
        ),
        message("a look-alike", forged=FORGED),
        message("another", agentref=1, message=FORGED),
        message("last", MessageRole.ASSISTANT),
    ]


@pytest.fixture
def store(cas: Any) -> AgentRefChatStore:
    return AgentRefChatStore(SimpleChatStore(), backend=cas)


def face_of(store: Any, is_async: bool) -> Any:
    """A function that calls the verbs of a chat store, sync or async."""
    names = {"add_message": "async_add_message"}

    def call(name: str, *args: Any) -> Any:
        if not is_async:
            return getattr(store, name)(*args)
        return asyncio.run(getattr(store, names.get(name, f"a{name}"))(*args))

    return call


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_every_verb_of_a_chat_store(store: Any, is_async: bool, text: str) -> None:
    call = face_of(store, is_async)
    messages = messages_of(text)
    call("set_messages", "ada", messages)
    assert call("get_messages", "ada") == messages
    call("add_message", "ada", message(text + "!"))
    assert call("get_messages", "ada") == [*messages, message(text + "!")]
    assert call("delete_last_message", "ada") == message(text + "!")
    assert call("delete_message", "ada", 1) == messages[1]
    assert call("delete_message", "ada", 99) is None
    assert call("get_keys") == ["ada"]
    assert call("delete_messages", "ada") == [messages[0], *messages[2:]]
    assert call("delete_messages", "ada") is None
    assert call("get_messages", "ada") == []


def test_what_it_persists_holds_no_payload(
    store: Any, cas: Any, text: str, tmp_path: Path, in_files: Any
) -> None:
    messages = messages_of(text)
    store.set_messages("ada", messages)
    path = tmp_path / "chat.json"
    store.inner.persist(str(path))
    assert in_files(text) == in_files(text[::-1]) == []
    assert path.stat().st_size < 6_000
    assert len(store.json()) < 6_000
    again = AgentRefChatStore(SimpleChatStore.from_persist_path(str(path)), backend=cas)
    assert again.get_messages("ada") == messages


def test_a_stand_in_has_the_role_of_its_message(store: Any, text: str) -> None:
    store.set_messages("ada", messages_of(text))
    assert [each.role for each in store.inner.get_messages("ada")] == [
        each.role for each in messages_of(text)
    ]
    assert store.inner.get_messages("ada")[0] == message("short")


def test_a_chat_memory_buffer_over_it(store: Any, text: str) -> None:
    memory = ChatMemoryBuffer.from_defaults(
        token_limit=2_000_000, chat_store=store, chat_store_key="ada", tokenizer_fn=str.split
    )
    memory.put(message(text))
    assert memory.get() == [message(text)]
    assert text[:30] not in json.dumps(store.inner.to_dict())


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'memory.db'}"


def test_every_verb_of_a_database_chat_store(
    database: str, cas: Any, text: str, in_files: Any, tmp_path: Path
) -> None:
    async def scenario() -> None:
        inner = SQLAlchemyChatStore("messages", database)
        store = AgentRefAsyncDBChatStore(inner, backend=cas)
        messages = messages_of(text)
        await store.set_messages("ada", messages[:2])
        await store.add_messages("ada", messages[2:4])
        for each in messages[4:]:
            await store.add_message("ada", each)
        assert await store.get_messages("ada") == messages
        assert await store.get_messages("ada", limit=2, offset=1) == messages[1:3]
        assert await store.count_messages("ada") == len(messages)
        assert await store.archive_oldest_messages("ada", 2) == messages[:2]
        assert await store.get_messages("ada", MessageStatus.ARCHIVED) == messages[:2]
        assert await store.delete_oldest_messages("ada", 1) == messages[2:3]
        assert await store.delete_message("ada", 2) == messages[1]
        assert await store.delete_message("ada", 99) is None
        assert await store.get_keys() == ["ada"]
        assert in_files(text) == in_files(text[::-1]) == []
        assert (tmp_path / "memory.db").stat().st_size < 40_000
        await store.delete_messages("ada")
        assert await store.count_messages("ada", None) == 0
        await inner._async_engine.dispose()

    run(scenario())


def test_a_memory_over_it_resumes(database: str, cas: Any, text: str, in_files: Any) -> None:
    async def scenario() -> None:
        for expected in ([], [message(text)], [message(text), message("second")]):
            inner = SQLAlchemyChatStore("messages", database)
            memory = Memory.from_defaults(
                session_id="ada",
                token_limit=4_000_000,
                tokenizer_fn=str.split,
                chat_store=AgentRefAsyncDBChatStore(inner, backend=cas),
            )
            assert await memory.aget() == expected
            await memory.aput(message("second" if expected else text))
            await inner._async_engine.dispose()
        assert in_files(text) == []

    run(scenario())


def test_errors_are_typed_and_leave_the_store_inside_as_it_was(
    store: Any, cas: Any, text: str, offline: Any
) -> None:
    store.set_messages("ada", messages_of(text))
    before = json.dumps(store.inner.to_dict())
    offline.begin()
    with pytest.raises(StoreUnavailableError):
        store.add_message("ada", message(text + "new"))
    with pytest.raises(StoreUnavailableError):
        store.get_messages("ada")
    store.inner.add_message("eve", message("small"))
    assert store.get_messages("eve") == [message("small")]
    offline.end()
    store.inner.delete_messages("eve")
    assert json.dumps(store.inner.to_dict()) == before
    store.inner.set_messages("ada", [message("", agentref=2)])
    with pytest.raises(InvalidInputError, match="newer agentref"):
        store.get_messages("ada")


def test_with_keys_what_another_tenant_wrote_is_refused(cas: Any, text: str) -> None:
    key = bytes(range(32))
    inner = SimpleChatStore()
    AgentRefChatStore(inner, backend=cas, keys=key, tenant="ada").add_message("key", message(text))
    with pytest.raises(UntrustedRefError):
        AgentRefChatStore(inner, backend=cas, keys=key, tenant="eve").get_messages("key")


def test_bad_arguments(cas: Any) -> None:
    with pytest.raises(InvalidInputError, match="take AgentRefAsyncDBChatStore"):
        AgentRefChatStore(SQLAlchemyChatStore("messages"), backend=cas)
    with pytest.raises(InvalidInputError, match="wraps an AsyncDBChatStore"):
        AgentRefAsyncDBChatStore(SimpleChatStore(), backend=cas)
    with pytest.raises(ConfigurationError, match="needs a store"):
        AgentRefChatStore(SimpleChatStore())


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_chat_of_which_one_message_is_gone_says_which(store: Any, cas: Any, is_async: bool) -> None:
    call = face_of(store, is_async)
    call("set_messages", "ada", [message("short"), message("first " * 2000)])
    before = set(cas.iter_hashes())
    call("add_message", "ada", message("lost " * 2000))
    for digest in set(cas.iter_hashes()) - before:
        cas.delete(digest)
    with pytest.raises(BlobNotFoundError) as caught:
        call("get_messages", "ada")
    assert "the message with index 2" in caught.value.__notes__[-1]
    with pytest.raises(BlobNotFoundError):
        call("delete_message", "ada", 2)
    assert call("get_messages", "ada") == [message("short"), message("first " * 2000)]


class Call(BaseModel):
    """What some clients leave among the arguments of a message."""

    name: str


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_is_no_json_is_handed_on(store: Any, is_async: bool) -> None:
    call = face_of(store, is_async)
    odd = [
        message("short", raw=object()),
        message("large " * 2000, raw=threading.Lock()),
        message("s", raw=b"\xff"),
    ]
    call("set_messages", "ada", odd)
    call("add_message", "ada", odd[0])
    assert call("get_messages", "ada") == [*odd, odd[0]]
    with pytest.raises(InvalidInputError, match="no JSON"):
        call("add_message", "ada", message("a look-alike", agentref=object()))


def test_an_object_in_a_large_message_comes_back_as_plain_data(store: Any) -> None:
    store.set_messages(
        "ada", [message("short", call=Call(name="x")), message("large " * 2000, call=Call(name="x"))]
    )
    short, large = store.get_messages("ada")
    assert short.additional_kwargs == {"call": Call(name="x")}
    assert large.additional_kwargs == {"call": {"name": "x"}}
