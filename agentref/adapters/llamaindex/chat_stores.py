"""Chat stores of llama-index-core whose messages carry refs."""

from typing import Unpack

from llama_index.core.llms import ChatMessage
from llama_index.core.storage.chat_store import BaseChatStore, SimpleChatStore
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from pydantic import PrivateAttr, SerializeAsAny

from agentref.adapters.llamaindex.messages import Messages
from agentref.adapters.llamaindex.options import TreeOptions
from agentref.errors import InvalidInputError
from agentref.extras import require
from agentref.storage import CAS
from agentref.trees import Externalizer

__all__ = ["AgentRefAsyncDBChatStore", "AgentRefChatStore"]


class AgentRefChatStore(BaseChatStore):
    """A `BaseChatStore` around another one, in which large messages get refs.

        chat_store = AgentRefChatStore(SimpleChatStore(), backend=FilesystemCAS("./state_blobs"))
        memory = ChatMemoryBuffer.from_defaults(chat_store=chat_store, chat_store_key="user1")

    A text, image or tool result of more than the threshold goes to the content store, wherever in the
    message it is. Such a message comes back as a `ChatMessage` of plain data, as it does from a database:
    an object of a class of its own in `additional_kwargs`, a tool call say, as a dict. One that cannot be
    dumped as JSON is handed on as it is, and the store inside takes it or not.

    A message is written after all that it refers to; those from before are read. Deleting
    messages leaves content where it is. Dumped, it is dumped with the store inside, and so without payload:
    to restore it, load that one, and wrap it again.

    Args:
        inner: the store.
        backend: where large values go and come from; or an `Externalizer`.
        **options: settings of an `Externalizer`.

    Reading raises what `Externalizer.rehydrate` does. Raises `ConfigurationError` over a `SimpleChatStore`
    with pydantic 2.14 or later, which cannot dump one.
    """

    inner: SerializeAsAny[BaseChatStore]
    _messages: Messages = PrivateAttr()

    def __init__(
        self,
        inner: BaseChatStore,
        *,
        backend: CAS | Externalizer | None = None,
        **options: Unpack[TreeOptions],
    ) -> None:
        if not isinstance(inner, BaseChatStore):
            raise InvalidInputError(
                f"AgentRefChatStore wraps a chat store, such as SimpleChatStore(), not {inner!r:.80}. For "
                f"an AsyncDBChatStore, take AgentRefAsyncDBChatStore."
            )
        if isinstance(inner, SimpleChatStore):
            require(
                extra="llamaindex", distribution="pydantic", module="pydantic", since="2.11", before="2.14"
            )
        super().__init__(inner=inner)  # type: ignore[call-arg]  # a model's own
        self._messages = Messages("AgentRefChatStore", backend, options)

    @classmethod
    def class_name(cls) -> str:
        """The name of the component."""
        return "AgentRefChatStore"

    def set_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """Replace the messages of a key."""
        self.inner.set_messages(key, self._messages.shrunk(messages))

    async def aset_messages(self, key: str, messages: list[ChatMessage]) -> None:
        """`set_messages` for the event loop."""
        await self.inner.aset_messages(key, await self._messages.ashrunk(messages))

    def get_messages(self, key: str) -> list[ChatMessage]:
        """The messages of a key."""
        return self._messages.whole(self.inner.get_messages(key))

    async def aget_messages(self, key: str) -> list[ChatMessage]:
        """`get_messages` for the event loop."""
        return await self._messages.awhole(await self.inner.aget_messages(key))

    def add_message(self, key: str, message: ChatMessage) -> None:
        """Append a message."""
        (small,) = self._messages.shrunk([message])
        self.inner.add_message(key, small)

    async def async_add_message(self, key: str, message: ChatMessage) -> None:
        """`add_message` for the event loop."""
        (small,) = await self._messages.ashrunk([message])
        await self.inner.async_add_message(key, small)

    def delete_messages(self, key: str) -> list[ChatMessage] | None:
        """Delete the messages of a key, and return them."""
        found = self.inner.delete_messages(key)
        return None if found is None else self._messages.whole(found)

    async def adelete_messages(self, key: str) -> list[ChatMessage] | None:
        """`delete_messages` for the event loop."""
        found = await self.inner.adelete_messages(key)
        return None if found is None else await self._messages.awhole(found)

    def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete one message, and return it."""
        return self._one(self.inner.delete_message(key, idx))

    async def adelete_message(self, key: str, idx: int) -> ChatMessage | None:
        """`delete_message` for the event loop."""
        return await self._aone(await self.inner.adelete_message(key, idx))

    def delete_last_message(self, key: str) -> ChatMessage | None:
        """Delete the last message, and return it."""
        return self._one(self.inner.delete_last_message(key))

    async def adelete_last_message(self, key: str) -> ChatMessage | None:
        """`delete_last_message` for the event loop."""
        return await self._aone(await self.inner.adelete_last_message(key))

    def get_keys(self) -> list[str]:
        """All keys."""
        return self.inner.get_keys()

    async def aget_keys(self) -> list[str]:
        """`get_keys` for the event loop."""
        return await self.inner.aget_keys()

    def _one(self, message: ChatMessage | None) -> ChatMessage | None:
        return None if message is None else self._messages.whole([message])[0]

    async def _aone(self, message: ChatMessage | None) -> ChatMessage | None:
        return None if message is None else (await self._messages.awhole([message]))[0]


class AgentRefAsyncDBChatStore(AsyncDBChatStore):
    """An `AsyncDBChatStore` around another one, in which large messages get refs: for `Memory`.

        chat_store = AgentRefAsyncDBChatStore(SQLAlchemyChatStore("messages"),
        backend=FilesystemCAS("./state_blobs")) memory = Memory.from_defaults(session_id="user1",
        chat_store=chat_store)

    As `AgentRefChatStore`; nothing of the content store's I/O happens on the event loop.
    """

    inner: SerializeAsAny[AsyncDBChatStore]
    _messages: Messages = PrivateAttr()

    def __init__(
        self,
        inner: AsyncDBChatStore,
        *,
        backend: CAS | Externalizer | None = None,
        **options: Unpack[TreeOptions],
    ) -> None:
        if not isinstance(inner, AsyncDBChatStore):
            raise InvalidInputError(
                f"AgentRefAsyncDBChatStore wraps an AsyncDBChatStore, such as "
                f"SQLAlchemyChatStore('messages'), not {inner!r:.80}."
            )
        super().__init__(inner=inner)  # type: ignore[call-arg]  # a model's own
        self._messages = Messages("AgentRefAsyncDBChatStore", backend, options)

    @classmethod
    def class_name(cls) -> str:
        """The name of the component."""
        return "AgentRefAsyncDBChatStore"

    async def get_messages(
        self,
        key: str,
        status: MessageStatus | None = MessageStatus.ACTIVE,
        limit: int | None = None,
        offset: int | None = None,
    ) -> list[ChatMessage]:
        """The messages of a key."""
        return await self._messages.awhole(await self.inner.get_messages(key, status, limit, offset))

    async def count_messages(self, key: str, status: MessageStatus | None = MessageStatus.ACTIVE) -> int:
        """How many messages a key has. Loads nothing."""
        return await self.inner.count_messages(key, status)

    async def add_message(
        self, key: str, message: ChatMessage, status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append a message."""
        (small,) = await self._messages.ashrunk([message])
        await self.inner.add_message(key, small, status)

    async def add_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Append messages."""
        await self.inner.add_messages(key, await self._messages.ashrunk(messages), status)

    async def set_messages(
        self, key: str, messages: list[ChatMessage], status: MessageStatus = MessageStatus.ACTIVE
    ) -> None:
        """Replace the messages of a key."""
        await self.inner.set_messages(key, await self._messages.ashrunk(messages), status)

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        """Delete one message, and return it."""
        found = await self.inner.delete_message(key, idx)
        return None if found is None else (await self._messages.awhole([found]))[0]

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        """Delete the messages of a key."""
        await self.inner.delete_messages(key, status)

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Delete the oldest messages of a key, and return them."""
        return await self._messages.awhole(await self.inner.delete_oldest_messages(key, n))

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        """Archive the oldest messages of a key, and return them."""
        return await self._messages.awhole(await self.inner.archive_oldest_messages(key, n))

    async def get_keys(self) -> list[str]:
        """All keys."""
        return await self.inner.get_keys()
