"""Message objects as plain data, marked, and back again: only types that AutoGen or the caller names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, MessageFactory
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResultMessage,
    LLMMessage,
    SystemMessage,
    UserMessage,
)
from pydantic import TypeAdapter, ValidationError

from agentref.errors import InvalidInputError, MalformedBlobError, UntrustedTypeError
from agentref.refs import REF_KEY
from agentref.trees import Stub

__all__ = ["MESSAGE_KEY", "Messages", "Placed", "dump_llm", "is_llm", "load_llm"]

MESSAGE_KEY: Final = "__autogen__"
"""A dict with exactly this key is a message object, or a user's dict that has this key."""

_CHAT, _LLM, _DICT = "chat", "llm", "dict"
_LLM_TYPES: Final = (SystemMessage, UserMessage, AssistantMessage, FunctionExecutionResultMessage)
_LLM_MESSAGES: Final[TypeAdapter[list[LLMMessage]]] = TypeAdapter(list[LLMMessage])


class Placed(dict[str, Any]):
    """In an externalized history: a message object as data. Equal to the plain dict that it is written as.

    Its type tells it from a user's dict in this process, as with `Stub`.
    """

    __slots__ = ()


class Messages:
    """Turns the items of a history into plain data and back.

    Args:
        custom_message_types: message classes besides AutoGen's own, as its teams take them.

    Immutable, thread-safe. Raises `InvalidInputError` for what is no message class.
    """

    def __init__(self, custom_message_types: Iterable[type[BaseAgentEvent | BaseChatMessage]] = ()) -> None:
        self._factory = MessageFactory()
        self._own: dict[str, type] = {}
        for kind in custom_message_types:
            try:
                self._factory.register(kind)
            except (AttributeError, TypeError, ValueError) as error:
                raise InvalidInputError(
                    f"custom_message_types: {kind!r:.80} cannot be registered: {error}"
                ) from error
            self._own[kind.__name__] = kind

    def plain(self, items: Sequence[Any]) -> list[Any]:
        """The items as data: stubs and dicts as they are, message objects and look-alikes of them marked.

        Raises `InvalidInputError` for an item that is neither, that no factory here could make again, that
        AutoGen itself cannot dump, or that is a ref in the form that JSON gives it.
        """
        return [self._plain(index, item) for index, item in enumerate(items)]

    def objects(self, items: Sequence[Any]) -> list[Any]:
        """What `plain` was given, of rehydrated items.

        Raises `UntrustedTypeError` for an object of a type that is not known here, `MalformedBlobError` for
        one that its own class refuses.
        """
        return [self._object(index, item) for index, item in enumerate(items)]

    def _plain(self, index: int, item: Any) -> Any:
        if isinstance(item, Stub):
            return item
        if isinstance(item, Placed):
            return dict(item)
        if isinstance(item, (BaseChatMessage, BaseAgentEvent)):
            self._check(index, item)
            return {MESSAGE_KEY: [_CHAT, _dumped(index, item.dump)]}
        if isinstance(item, _LLM_TYPES):
            if not is_llm(item):
                raise InvalidInputError(
                    f"messages[{index}] is of type {type(item).__qualname__}, which could not be made "
                    f"again: AutoGen knows its own messages to and from a model. Give one of those, or a "
                    f"dict."
                )
            return {MESSAGE_KEY: [_LLM, _dumped(index, item.model_dump)]}
        if not isinstance(item, dict):
            raise InvalidInputError(
                f"messages[{index}] is {type(item).__qualname__}, which is no message. Give dicts, or "
                f"messages "
                f"of autogen_agentchat or autogen_core."
            )
        if len(item) == 1 and REF_KEY in item:
            raise InvalidInputError(
                f"messages[{index}] has the form of a ref. An externalized history that comes back from "
                f"JSON "
                f"goes through adopt() before it is externalized again, or through "
                f"hydrate_message_history()."
            )
        return {MESSAGE_KEY: [_DICT, item]} if _is_marked(item) else item

    def _check(self, index: int, message: BaseChatMessage | BaseAgentEvent) -> None:
        """That the factory would make this very class of it again."""
        kind = type(message)
        name = getattr(message, "type", None)
        known = name == kind.__name__ and self._factory.is_registered(kind)
        ours = self._own.get(kind.__name__)
        if not known or (ours is not kind if ours else kind.__module__ != BaseChatMessage.__module__):
            raise InvalidInputError(
                f"messages[{index}] is of type {kind.__qualname__}, which could not be made again. Name "
                f"it: "
                f"AutoGenAdapter(custom_message_types=[{kind.__name__}])."
            )

    def _object(self, index: int, item: Any) -> Any:
        if not isinstance(item, dict) or not _is_marked(item):
            return item
        body = item[MESSAGE_KEY]
        if not isinstance(body, (list, tuple)) or len(body) != 2 or not isinstance(body[1], dict):
            raise MalformedBlobError(f"Message {index} of the history is marked as an object, and is none.")
        kind, data = body
        if kind == _DICT:
            return data
        if kind == _LLM:
            return load_llm([data], index)[0]
        if kind != _CHAT:
            raise MalformedBlobError(f"Message {index} of the history is of an unknown kind, {kind!r:.40}.")
        return self._chat(index, data)

    def _chat(self, index: int, data: dict[str, Any]) -> BaseChatMessage | BaseAgentEvent:
        try:
            return self._factory.create(data)
        except (ValidationError, OSError, SyntaxError) as error:  # the latter two: damaged images
            raise MalformedBlobError(
                f"Message {index} of the history is no {data.get('type')!r:.60}: {error}"
            ) from error
        except (ValueError, TypeError) as error:
            raise UntrustedTypeError(
                f"Message {index} of the history names a type that is not known here, "
                f"{data.get('type')!r:.60}. If it is yours: AutoGenAdapter(custom_message_types=[...])."
            ) from error


def is_llm(message: object) -> bool:
    """Whether it is a message to or from a model that comes back as what it was: a subclass does not."""
    return type(message) in _LLM_TYPES


def dump_llm(message: LLMMessage) -> dict[str, Any]:
    """A message to or from a model as plain data; images as base64."""
    return message.model_dump()


def load_llm(data: Sequence[Any], index: int = 0) -> list[LLMMessage]:
    """The messages that `dump_llm` wrote; `index` is what an error calls the first one. Raises
    `MalformedBlobError`."""
    try:
        return _LLM_MESSAGES.validate_python(list(data))
    except (ValueError, TypeError, OSError, SyntaxError) as error:  # the latter two: damaged images
        raise MalformedBlobError(
            f"From message {index} on, the history is not of messages to and from a model: {error!s:.400}"
        ) from error


def _dumped(index: int, dump: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """A message as AutoGen dumps it. That refuses bytes that are no text, say."""
    try:
        return dict(dump())
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"messages[{index}] cannot be dumped by AutoGen: {error!s:.200}") from error


def _is_marked(item: dict[Any, Any]) -> bool:
    return len(item) == 1 and MESSAGE_KEY in item
