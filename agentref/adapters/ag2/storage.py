"""`AgentRefStorage`: around any history storage of AG2, which then gets events without payloads."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ag2.annotations import Context
from ag2.context import StreamId
from ag2.events import BaseEvent
from ag2.history import Storage

from agentref.adapters.ag2.events import EventTypes, StoredEvent, parsed
from agentref.adapters.ag2.turns import Turns
from agentref.errors import ConfigurationError, InvalidInputError
from agentref.storage import CAS
from agentref.trees import DEFAULT_MAX_BYTES, DEFAULT_THRESHOLD_BYTES, Externalizer

__all__ = ["AgentRefStorage"]

_VERBS: Final = ("save_event", "get_history", "set_history", "drop_history")
_NO_SEGMENTS: Final = 2**31 - 1  # an event is written once, and its lists do not grow


class AgentRefStorage(Storage):
    """A history storage that keeps what is large in events in a store.

        storage = AgentRefStorage(MemoryStorage(), backend=FilesystemCAS("./state_blobs"))
        stream = MemoryStream(storage)

    The storage inside gets an event as it is, if nothing in it is large; else a `StoredEvent` in its place,
    with the class and the fields of the event as JSON, and refs in that. An event that AG2's own codec
    would not bring back as it was is handed on as it is. What was in the inner storage before is read as it
    is.

    The history of a stream pins what it refers to, in a store that keeps pins; `drop_history` lets go of
    it. `set_history` pins what is new, and what it took away stays pinned until then. The owner of the pins
    is `ag2:NAMESPACE:STREAM`, after the tenant. So two storages with the same streams over one store, as
    while streams are moved, each need a `namespace`, or dropping one stream frees the other.

    What is written to one stream is written one after the other, in the order of the calls. The inner
    storage may call this one back while it writes.

    Args:
        inner: where events go, and come from.
        backend: where payloads go, and come from.
        also: more stores, that are only read: the ones that older events refer to.
        threshold_bytes: texts that are larger get a ref.
        keys, tenant: seals for the refs, as for `Externalizer`.
        namespace: what the inner storage is called among those over this store, the same in each process;
            its class, if not given. Without colons.
        event_types: classes of your own in events: event classes, dataclasses, pydantic models, enums.
            AG2's codec would construct any class that stored data names; here, only these and AG2's.
        max_bytes: what one `get_history` may load.

    Safe for the tasks of one event loop, and as safe as `inner` is beyond that: loops in several threads do
    not wait for each other. Raises `ConfigurationError`
    without a store, `InvalidInputError`.
    """

    def __init__(  # noqa: PLR0913
        self,
        inner: Storage,
        *,
        backend: CAS | None = None,
        also: Iterable[CAS] = (),
        threshold_bytes: int = DEFAULT_THRESHOLD_BYTES,
        keys: bytes | Sequence[bytes] = (),
        tenant: str = "",
        namespace: str | None = None,
        event_types: Iterable[type] = (),
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if backend is None:
            raise ConfigurationError(
                "AgentRefStorage needs a store for payloads: backend=FilesystemCAS('./state_blobs')."
            )
        if not all(callable(getattr(inner, verb, None)) for verb in _VERBS):
            raise InvalidInputError(
                f"inner is a history storage, with {', '.join(_VERBS)}, not {type(inner).__qualname__}."
            )
        called: Any = type(inner).__qualname__ if namespace is None else namespace
        if not isinstance(called, str) or not called or ":" in called:
            raise InvalidInputError(
                f"namespace must be a text without colons, and not empty, not {called!r:.60}. Leave it "
                f"out for the class of the storage inside."
            )
        self._inner = inner
        self._namespace = called
        self._turns = Turns()
        self._external = Externalizer(
            backend,
            also=also,
            threshold_bytes=threshold_bytes,
            segment=_NO_SEGMENTS,
            keys=keys,
            tenant=tenant,
            max_bytes=max_bytes,
        )
        self._types = EventTypes(event_types)
        self._threshold = threshold_bytes
        self._pins = backend.keeps_roots

    @property
    def inner(self) -> Storage:
        """The storage inside."""
        return self._inner

    @property
    def backend(self) -> CAS:
        """The store."""
        return self._external.backend

    async def save_event(self, event: BaseEvent, context: Context) -> None:
        """Append an event to the history of its stream. Payloads are stored before the inner storage gets
        it. Raises `StorageError`; then the history is as it was."""
        async with self._turns.of(context.stream.id):
            (stored,) = await self._stored(context.stream.id, [event])
            await self._inner.save_event(stored, context)

    async def get_history(self, stream_id: StreamId) -> Iterable[BaseEvent]:
        """The events of a stream, in order, with all their payloads, loaded in one batch.

        Raises `InvalidRefError`, `UntrustedRefError`, `UntrustedTypeError`, `BlobNotFoundError`,
        `IntegrityError`, `StorageError`.
        """
        events = list(await self._inner.get_history(stream_id))
        read = {
            index: parsed(event) for index, event in enumerate(events) if isinstance(event, StoredEvent)
        }
        loaded = await self._external.arehydrate({index: fields for index, (_, fields) in read.items()})
        for index, (kind, _) in read.items():
            events[index] = self._types.event(kind, loaded[index])
        return events

    async def set_history(self, stream_id: StreamId, events: Iterable[BaseEvent]) -> None:
        """Replace the history of a stream. Raises as `save_event` does."""
        given = list(events)
        async with self._turns.of(stream_id):
            await self._inner.set_history(stream_id, await self._stored(stream_id, given))

    async def drop_history(self, stream_id: StreamId) -> None:
        """Forget a stream, and let go of its payloads: `prune_expired` may take what nothing else keeps."""
        async with self._turns.of(stream_id):
            await self._inner.drop_history(stream_id)
            if self._pins:
                await self._external.arelease(self._owner(stream_id))

    def _owner(self, stream_id: StreamId) -> str:
        return f"ag2:{self._namespace}:{stream_id}"

    async def _stored(self, stream_id: StreamId, events: list[BaseEvent]) -> list[BaseEvent]:
        """What the inner storage gets: everything large is in the store when this returns."""
        datas: dict[int, Any] = {}
        for index, event in enumerate(events):
            # Out of an inner storage: what it refers to is to be pinned for this stream too.
            if isinstance(event, StoredEvent):
                datas[index] = self._external.adopt(parsed(event)[1])
            elif (data := self._types.data(event, self._threshold)) is not None:
                datas[index] = data
        owner = self._owner(stream_id) if self._pins else None
        trees = await self._external.aexternalize(datas, owner=owner) if datas else {}
        return [
            _with_refs(event, datas[index], trees[index]) if index in trees else event
            for index, event in enumerate(events)
        ]


def _with_refs(event: BaseEvent, data: Any, tree: Any) -> BaseEvent:
    """The event itself if nothing in it is large, or if it is one with refs already."""
    if tree is data or isinstance(event, StoredEvent):
        return event
    kind = type(event)
    return StoredEvent(
        kind=f"{kind.__module__}.{kind.__qualname__}", data=json.dumps(tree), created_at=event.created_at
    )
