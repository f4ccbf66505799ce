"""A model context whose messages live in a store, and whose state names them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self, cast

from autogen_core import Component
from autogen_core.model_context import (
    BufferedChatCompletionContext,
    ChatCompletionContext,
    HeadAndTailChatCompletionContext,
    TokenLimitedChatCompletionContext,
    UnboundedChatCompletionContext,
)
from autogen_core.models import LLMMessage
from pydantic import BaseModel

from agentref.adapters.autogen.adapter import AutoGenAdapter
from agentref.adapters.autogen.holding import tell
from agentref.adapters.autogen.kinds import CONTEXT_STATE
from agentref.adapters.autogen.messages import dump_llm, load_llm
from agentref.adapters.autogen.owned import Owned
from agentref.adapters.autogen.registry import adapter_for
from agentref.adapters.autogen.sealing import SealedMessages
from agentref.errors import InvalidInputError, InvalidRefError

__all__ = ["AgentRefChatCompletionContext", "AgentRefChatCompletionContextConfig"]

_VIEWS: Final = frozenset(
    {
        BufferedChatCompletionContext,
        HeadAndTailChatCompletionContext,
        TokenLimitedChatCompletionContext,
        UnboundedChatCompletionContext,
    }
)
"""Contexts that keep all messages and show some. Of a subclass nobody knows what else it keeps."""


class AgentRefChatCompletionContextConfig(BaseModel):
    """What a dumped context says: names, and the context inside as it was dumped, with refs."""

    backend_id: str
    inner: dict[str, Any]
    owner: str | None = None


class AgentRefChatCompletionContext(ChatCompletionContext, Component[AgentRefChatCompletionContextConfig]):
    """A model context whose messages live in a store.

    What the model is shown is up to the context inside.

        context = AgentRefChatCompletionContext(adapter, BufferedChatCompletionContext(buffer_size=20))
        agent = AssistantAgent("writer", model_client, model_context=context)

    Around one of AutoGen's own contexts, segments with messages over the threshold are not in memory
    either: they are loaded each time that they are shown. A context of any other class keeps its messages
    itself; then only its saved state is externalized.

    `save_state` returns refs, so that a plain `agent.save_state()` is small. It is not enough for a team,
    whose manager keeps each message too: there, use `AutoGenAdapter.save_state`. `load_state` takes states
    of ours and states that AutoGen's contexts saved.

    Args:
        adapter: which store, and how.
        inner: what decides which messages are shown; all of them, if not given. It is used here alone.
        initial_messages: messages to begin with.
        owner: pins what is stored under this name, and what a state that is loaded refers to, until
            `clear`. Without, a saved state pins it if that
            has an owner.

    As a component: its config names the store by `backend_id`, and `load_component` asks `register`ed
    adapters for it. Dumping and loading one whose inner context has large initial messages blocks on the
    store.

    A message that is changed after it was added is saved as it is by then, until its segment is sealed;
    then it stays as it was. One of a class of your own stays in memory as the object that it is, and is
    saved as AutoGen saves it, as what it inherits from.

    For one event loop at a time, as AutoGen's own. A call that raises or is cancelled changed nothing.
    Raises `StorageError`, and when messages are loaded `BlobNotFoundError`, `IntegrityError`.
    """

    component_config_schema = AgentRefChatCompletionContextConfig
    component_provider_override = "agentref.adapters.autogen.AgentRefChatCompletionContext"

    def __init__(
        self,
        adapter: AutoGenAdapter,
        inner: ChatCompletionContext | None = None,
        *,
        initial_messages: Sequence[LLMMessage] | None = None,
        owner: str | None = None,
    ) -> None:
        given: Any = adapter
        if not isinstance(given, AutoGenAdapter):
            raise InvalidInputError(
                f"A context needs an AutoGenAdapter, which knows the store, not {type(given).__qualname__}."
            )
        if inner is None:
            inner = UnboundedChatCompletionContext(list(initial_messages or ()))
        elif initial_messages is not None:
            raise InvalidInputError("Give initial_messages to the context inside.")
        super().__init__()
        self._adapter = adapter
        self._external = adapter.externalizer
        self._inner = inner
        self._owned = Owned(self._external, owner)
        self._begun = False
        self._kept = self._empty() if type(inner) in _VIEWS else None

    async def add_message(self, message: LLMMessage) -> None:
        """Add a message. When a segment is full, it is stored before this returns."""
        if self._kept is None:
            await self._inner.add_message(message)
        else:
            await (await self._ready(self._kept)).add(message)

    async def get_messages(self) -> list[LLMMessage]:
        """What the context inside shows of the messages; loads what of that is in the store."""
        if self._kept is None:
            return await self._inner.get_messages()
        kept, last, first = await self._ready(self._kept), None, 0
        if isinstance(self._inner, BufferedChatCompletionContext):
            last = self._inner.dump_component().config["buffer_size"]
        elif isinstance(self._inner, HeadAndTailChatCompletionContext):
            sizes = self._inner.dump_component().config
            last, first = sizes["tail_size"], sizes["head_size"]
        return await self._shown(await kept.load(last, first))

    async def clear(self) -> None:
        """Forget all messages. What was stored stays in the store, but for the pins of `owner`.

        Cancelled while the store lets go of them, it has cleared if that succeeds.
        """
        if self._kept is not None:
            await (await self._ready(self._kept)).clear()
            return
        await self._owned.release()
        await self._inner.clear()

    async def save_state(self) -> Mapping[str, Any]:
        """A state that names the messages."""
        if self._kept is not None:
            messages = await (await self._ready(self._kept)).save()
            tell(messages)
            return {"type": CONTEXT_STATE, "messages": messages}
        inner = await self._owned.externalize(dict(await self._inner.save_state()))
        tell(inner)
        return {"type": CONTEXT_STATE, "inner": inner}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up a state that was saved here, in another process, or by a context of AutoGen's.

        Raises `InvalidInputError` for a state of something else, and what `AutoGenAdapter.load_state` does;
        then nothing was changed, unless a context of your own class changed something before it refused.
        """
        _check_state(state, any_type=self._kept is None)
        is_ours = state.get("type") == CONTEXT_STATE
        if self._kept is not None:
            await self._take(state, is_ours=is_ours)
        elif is_ours and "inner" in state:
            await self._inner.load_state(await self._loaded(state["inner"]))
        elif is_ours:
            messages = load_llm(await self._loaded(_messages(state)))
            await self._inner.load_state({"messages": [dump_llm(message) for message in messages]})
        else:
            await self._inner.load_state(state)

    async def _take(self, state: Mapping[str, Any], *, is_ours: bool) -> None:
        kept = self._empty()
        if is_ours and "inner" not in state:
            await kept.replace(_messages(state))
        else:
            plain = await self._loaded(state["inner"]) if is_ours else state
            kept.put(load_llm(_messages(plain)))
            await kept.seal()
        await self._inner.clear()
        self._kept, self._begun = kept, True

    async def _loaded(self, tree: Any) -> Any:
        """What an externalized tree stands for; an owner keeps what it refers to from now on."""
        loaded = await self._external.arehydrate(tree)
        await self._owned.pin(tree)
        return loaded

    def _empty(self) -> SealedMessages:
        return SealedMessages(
            self._owned, threshold_bytes=self._adapter.threshold_bytes, segment=self._adapter.segment
        )

    async def _ready(self, kept: SealedMessages) -> SealedMessages:
        """The messages, with those at first that the context inside was made with."""
        if not self._begun:
            # All of them, whatever the context inside would show.
            first: list[Any] = await UnboundedChatCompletionContext.get_messages(cast("Any", self._inner))
            # Of a context that was loaded from its config, they are data.
            kept.put(load_llm([each])[0] if isinstance(each, dict) else each for each in first)
            self._begun = True
            await self._inner.clear()
        return kept

    async def _shown(self, messages: Sequence[LLMMessage]) -> list[LLMMessage]:
        """What the context inside shows of these. It holds them for as long as that takes."""
        if type(self._inner) is UnboundedChatCompletionContext:  # all of them
            return list(messages)
        for message in messages:
            await self._inner.add_message(message)
        try:
            return list(await self._inner.get_messages())
        finally:
            await self._inner.clear()

    def _to_config(self) -> AgentRefChatCompletionContextConfig:
        inner = self._external.externalize(
            self._inner.dump_component().model_dump(), owner=self._owned.owner
        )
        return AgentRefChatCompletionContextConfig(
            backend_id=self._adapter.backend.backend_id, inner=inner, owner=self._owned.owner
        )

    @classmethod
    def _from_config(cls, config: AgentRefChatCompletionContextConfig) -> Self:
        adapter = adapter_for(config.backend_id)
        inner = ChatCompletionContext.load_component(adapter.externalizer.rehydrate(config.inner))
        return cls(adapter, inner, owner=config.owner)


def _check_state(state: object, *, any_type: bool) -> None:
    """A context of a user's own may have states of its own types."""
    kind = state.get("type", CONTEXT_STATE) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not (any_type or kind == CONTEXT_STATE):
        raise InvalidInputError(
            f"load_state() takes the state of a model context, as save_state() returned it; this is of "
            f"{kind!r:.80}."
        )


def _messages(state: Mapping[str, Any]) -> list[Any]:
    messages = state.get("messages")
    if not isinstance(messages, list):
        raise InvalidRefError("The state of a model context has a list of messages, and this one has none.")
    return messages
