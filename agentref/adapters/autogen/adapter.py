"""`AutoGenAdapter`: histories and saved states of AutoGen with refs in place of what is large."""

from collections.abc import Iterable, Sequence
from typing import Any

from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage

from agentref.adapters.autogen.histories import marked
from agentref.adapters.autogen.holding import holding, tell
from agentref.adapters.autogen.messages import Messages
from agentref.adapters.autogen.states import checked_state, load_or_restore, plain_state
from agentref.errors import ConfigurationError, InvalidInputError
from agentref.storage import CAS
from agentref.trees import (
    DEFAULT_MAX_BYTES,
    DEFAULT_SEGMENT,
    DEFAULT_THRESHOLD_BYTES,
    Externalizer,
    Stateful,
)

__all__ = ["AutoGenAdapter"]


class AutoGenAdapter:
    """Keeps the large parts of AutoGen's message histories and saved states in a store.

        adapter = AutoGenAdapter(backend=FilesystemCAS("./state_blobs"))
        state = await adapter.save_state(team)              # json.dumps(state) holds no payload
        await adapter.load_state(team_of_another_process, json.loads(text))

        history = adapter.externalize_message_history(messages, threshold_bytes=1024)
        messages = adapter.hydrate_message_history(history)

    Nothing of AutoGen is patched. What is saved is plain data, JSON-safe where AutoGen's own is.

    Args:
        backend: where values go, and come from.
        also: more stores, that are only read: the ones that older states refer to.
        threshold_bytes: texts and bytes that are larger get a ref.
        segment: messages in a sealed segment of a history, 2 or more.
        keys: secrets of 32 bytes. Each ref is sealed with the first one, and none is loaded that is not
            sealed with any of them: a state file comes back from outside.
        tenant: whose state this is, bound into the seals; needs keys.
        custom_message_types: message classes of your own that histories hold as objects.
        max_bytes: what one call may load.

    Thread-safe; the async twins do their I/O in a thread. Raises `ConfigurationError` without a backend,
    and `InvalidInputError`.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        backend: CAS | None = None,
        also: Iterable[CAS] = (),
        threshold_bytes: int = DEFAULT_THRESHOLD_BYTES,
        segment: int = DEFAULT_SEGMENT,
        keys: bytes | Sequence[bytes] = (),
        tenant: str = "",
        custom_message_types: Iterable[type[BaseAgentEvent | BaseChatMessage]] = (),
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if backend is None:
            raise ConfigurationError(
                "AutoGenAdapter needs a store for what is large: backend=FilesystemCAS('./state_blobs')."
            )
        if isinstance(also, Iterable):
            also = tuple(also)
        self._external = Externalizer(
            backend,
            also=also,
            threshold_bytes=threshold_bytes,
            segment=segment,
            keys=keys,
            tenant=tenant,
            max_bytes=max_bytes,
        )
        self._messages = Messages(custom_message_types)
        self._stores = {
            name for each in (*also, backend) for name in (each.backend_id, *each.backend_aliases)
        }
        self._limits = (threshold_bytes, segment)

    @property
    def backend(self) -> CAS:
        """The store."""
        return self._external.backend

    @property
    def threshold_bytes(self) -> int:
        """What is larger gets a ref, in bytes."""
        return self._limits[0]

    @property
    def segment(self) -> int:
        """Messages in a sealed segment."""
        return self._limits[1]

    @property
    def externalizer(self) -> Externalizer:
        """What turns trees to refs and back here: for component dumps, task results, data of your own."""
        return self._external

    def externalize_message_history(
        self,
        messages: Sequence[Any],
        *,
        threshold_bytes: int | None = None,
        segment: int | None = None,
        owner: str | None = None,
    ) -> list[Any]:
        """The history as plain data: segments of messages that were sealed, each a ref, and then those that
        are yet too few.

        Takes dicts, and message objects of `autogen_agentchat` and `autogen_core`; changes and reorders
        none. What it returned may be appended to, and externalized again: a segment is stored once, so that
        a thousand saves of a history cost about as much as the history. After a way through JSON, `adopt`
        comes first.

        Args:
            messages: any sequence of messages, or what this returned before, with more at its end.
            threshold_bytes: in place of the adapter's own.
            segment: the same.
            owner: pins what the result refers to under this name, until `release`.

        Raises `InvalidInputError` for what is no message, and `StorageError`; then nothing refers to what
        is not there.
        """
        items = self._messages.plain(_sequence(messages))
        history = self._external.externalize(
            items, owner=owner, threshold_bytes=threshold_bytes, segment=segment
        )
        return marked(_told(history))

    async def aexternalize_message_history(
        self,
        messages: Sequence[Any],
        *,
        threshold_bytes: int | None = None,
        segment: int | None = None,
        owner: str | None = None,
    ) -> list[Any]:
        """`externalize_message_history` for the event loop."""
        items = self._messages.plain(_sequence(messages))
        history = await self._external.aexternalize(
            items, owner=owner, threshold_bytes=threshold_bytes, segment=segment
        )
        return marked(_told(history))

    def hydrate_message_history(self, history: Sequence[Any]) -> list[Any]:
        """The messages of an externalized history, in order: dicts as dicts, objects as objects.

        Takes it as it was returned, or as it came back from JSON. Raises `InvalidRefError`,
        `UntrustedRefError`, `BlobNotFoundError`, `IntegrityError`, `UnknownBackendError`, `StorageError`.
        """
        return self._messages.objects(self._external.rehydrate(list(_sequence(history))))

    async def ahydrate_message_history(self, history: Sequence[Any]) -> list[Any]:
        """`hydrate_message_history` for the event loop."""
        return self._messages.objects(await self._external.arehydrate(list(_sequence(history))))

    def adopt(self, history: Sequence[Any]) -> list[Any]:
        """An externalized history that comes back from JSON, as `externalize_message_history` returned it:
        it can be appended to, and externalized again. Its refs are checked; nothing is loaded.

        Raises `InvalidRefError`, `UntrustedRefError`.
        """
        return marked(self._external.adopt(list(_sequence(history))))

    def externalize_state(self, state: Any, *, owner: str | None = None) -> Any:
        """What some `save_state()` returned, with refs in place of what is large. Raises as
        `Externalizer.externalize` does."""
        return _told(self._external.externalize(state, owner=owner))

    async def aexternalize_state(self, state: Any, *, owner: str | None = None) -> Any:
        """`externalize_state` for the event loop."""
        return _told(await self._external.aexternalize(state, owner=owner))

    def hydrate_state(self, state: Any) -> Any:
        """A state for `load_state()`, of one that was externalized; others come back as they are. Raises as
        `Externalizer.rehydrate` does."""
        return self._external.rehydrate(state)

    async def ahydrate_state(self, state: Any) -> Any:
        """`hydrate_state` for the event loop."""
        return await self._external.arehydrate(state)

    async def save_state(self, obj: Stateful, *, owner: str | None = None) -> Any:
        """The state of an agent, a team, a team of teams or a runtime, with refs in place of what is large.

        Args:
            obj: what has `save_state()` and `load_state()`. AutoGen asks that it does not run meanwhile.
            owner: pins what the state refers to under this name, until `release`: also what model contexts
                of ours hold, and what agents in it saved by an adapter, now or earlier. A dict of your own
                that reads as a ref is taken for one, and pins what it names if that is there.

        Raises `InvalidInputError`, `StorageError`, and `ConfigurationError` for an owner if a context or an
        agent in it has an adapter over a store that this one has not, or with other keys or another tenant.
        `obj` is only read.
        """
        with holding(is_pinning=owner is not None) as held:
            state = await plain_state(obj)
            held.look_through(state)
        if owner is not None:
            held.check(self._external, self._stores)
        state = await self._external.aexternalize(state, owner=owner)
        if owner is not None:
            await held.pin(self._external, owner)
        return _told(state)

    async def load_state(self, obj: Stateful, state: Any) -> None:
        """Give `obj` a state that `save_state` returned here or in another process, or one of AutoGen's
        own.

        All of it is loaded and checked before `obj` sees any of it, and if `obj` refuses it, `obj` gets
        back the state that it had, unless it could not save one. In a state of AutoGen's own nothing was
        escaped: a dict in it that looks like a ref is taken for one. Raises `InvalidInputError` for a state
        of something else, what `hydrate_message_history` raises, and what `obj` does.
        """
        loaded = await self._external.arehydrate(checked_state(obj, state))
        await load_or_restore(obj, loaded)

    def release(self, owner: str) -> None:
        """Let go of all that was saved for this owner. What nothing else keeps can be pruned."""
        self._external.release(owner)

    async def arelease(self, owner: str) -> None:
        """`release` for the event loop."""
        await self._external.arelease(owner)


def _told(tree: Any) -> Any:
    tell(tree)
    return tree


def _sequence(messages: Any) -> Sequence[Any]:
    if isinstance(messages, (list, tuple)):
        return messages
    raise InvalidInputError(f"A history is a list of messages, not {type(messages).__qualname__}.")
