"""Chat messages with refs in place of what is large in them, in the form of other chat messages."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from llama_index.core.llms import ChatMessage
from pydantic_core import PydanticSerializationError

from agentref.adapters.llamaindex.options import TreeOptions, externalizer_of, name_fault
from agentref.errors import AgentRefError, InvalidInputError
from agentref.storage import CAS
from agentref.trees import Externalizer

__all__ = ["Messages"]

_MARK: Final = "agentref"
_VERSION: Final = 1
_TREE: Final = "message"


class Messages:
    """Puts stand-ins in place of large messages, and messages in place of stand-ins. Thread-safe.

    A stand-in has the role of its message and no content: what it stands for is in `additional_kwargs`. A
    message that holds nothing large stays as it is, and so does one that cannot be dumped as JSON; one that
    looks like a stand-in gets one.
    """

    def __init__(self, owner: str, backend: CAS | Externalizer | None, options: TreeOptions) -> None:
        self._externalizer = externalizer_of(owner, backend, options)

    def shrunk(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The messages, or what stands for them, once that is stored; in one batch."""
        trees = _trees(messages)
        return _stand_ins(messages, trees, self._externalizer.externalize(trees, all_bytes=True))

    async def ashrunk(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """`shrunk` for the event loop."""
        trees = _trees(messages)
        return _stand_ins(messages, trees, await self._externalizer.aexternalize(trees, all_bytes=True))

    def whole(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The messages as they were, in one batch; all of them, or an error that says which cannot be."""
        parts = _parts(messages)
        try:
            found = self._externalizer.rehydrate(parts)
        except AgentRefError as error:
            name_fault(error, self._externalizer, _named(messages, parts))
            raise
        return _filled(messages, found)

    async def awhole(self, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
        """`whole` for the event loop."""
        parts = _parts(messages)
        try:
            found = await self._externalizer.arehydrate(parts)
        except AgentRefError as error:
            await asyncio.to_thread(name_fault, error, self._externalizer, _named(messages, parts))
            raise
        return _filled(messages, found)


def _trees(messages: Sequence[ChatMessage]) -> tuple[dict[str, Any] | None, ...]:
    """A tuple, which is never cut into segments: each message stands on its own."""
    return tuple(map(_tree, messages))


def _tree(message: ChatMessage) -> dict[str, Any] | None:
    """None for a message that holds what is no JSON: whether it can be kept is up to the store inside."""
    try:
        return message.model_dump(mode="json")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        if _is_stand_in(message):
            raise InvalidInputError(
                f"A chat message has {_MARK!r} among its additional_kwargs, and holds what is no JSON, so "
                f"it could not be told from one of agentref's: {error}. Use another name."
            ) from error
        return None


def _stand_ins(
    messages: Sequence[ChatMessage], trees: Sequence[Any], small: Sequence[Any]
) -> list[ChatMessage]:
    return [
        message
        if new is tree and not _is_stand_in(message)
        else ChatMessage(role=message.role, additional_kwargs={_MARK: _VERSION, _TREE: new})
        for message, tree, new in zip(messages, trees, small, strict=True)
    ]


def _is_stand_in(message: ChatMessage) -> bool:
    return _MARK in message.additional_kwargs


def _parts(messages: Sequence[ChatMessage]) -> tuple[Any, ...]:
    parts = []
    for message in messages:
        if not _is_stand_in(message):
            continue
        kwargs = message.additional_kwargs
        if kwargs.keys() != {_MARK, _TREE} or kwargs[_MARK] != _VERSION:
            raise InvalidInputError(
                f"A chat message is marked as one of agentref's and is none of version {_VERSION}. It was "
                f"edited, or written by a newer agentref."
            )
        parts.append(kwargs[_TREE])
    return tuple(parts)


def _named(messages: Sequence[ChatMessage], parts: Sequence[Any]) -> list[tuple[str, Any]]:
    indexes = [index for index, message in enumerate(messages) if _is_stand_in(message)]
    return [(f"the message with index {index}", part) for index, part in zip(indexes, parts, strict=True)]


def _filled(messages: Sequence[ChatMessage], found: Sequence[Any]) -> list[ChatMessage]:
    trees = iter(found)
    return [
        ChatMessage.model_validate(next(trees)) if _is_stand_in(message) else message
        for message in messages
    ]
