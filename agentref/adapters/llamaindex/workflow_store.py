"""`AgentRefWorkflowStore`: a store of llama-agents-server whose tables carry refs."""

# ruff: noqa: SLF001  (a facade says in private ways only where it keeps what)

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeAlias, Unpack
from weakref import WeakValueDictionary

from llama_agents.server import AbstractWorkflowStore, HandlerQuery, PersistentHandler
from llama_agents.server._store.abstract_workflow_store import (
    HandlerResultDecoder,
    StoredEvent,
    StoredTick,
    as_legacy_context_store,
)
from workflows.context.serializers import BaseSerializer
from workflows.context.state_store import StateStorage, StateStoreFacade

from agentref.adapters.llamaindex.options import TreeOptions, externalizer_of
from agentref.adapters.llamaindex.results import shrunk_handler, whole_handlers
from agentref.adapters.llamaindex.resuming import TICK, check_content
from agentref.adapters.llamaindex.state_storage import AgentRefStateStorage
from agentref.adapters.llamaindex.stored import Stored
from agentref.errors import InvalidInputError, StoreUnavailableError
from agentref.storage import CAS
from agentref.trees import Externalizer

__all__ = ["AgentRefWorkflowStore"]

_log: Final = logging.getLogger("agentref.adapters.llamaindex")
_PAGE: Final = 32
_PAUSES: Final = (0.1, 0.4, 1.0, 2.0, 2.0)  # seconds
_Locks: TypeAlias = WeakValueDictionary[tuple[int, str], asyncio.Lock]


class AgentRefWorkflowStore(AbstractWorkflowStore):
    """A server's workflow store with refs in place of large values: in ticks, events, state, results
    and errors.

        content = FilesystemCAS("./state_blobs")
        store = AgentRefWorkflowStore(SqliteWorkflowStore("workflows.db"), backend=content)
        server = WorkflowServer(workflow_store=store)

    Nothing of the content store's I/O happens on the event loop. A row is written after all that it refers
    to. What was written before the store was wrapped is read. Deleting a handler leaves content where it
    is. If runs are to be forgotten, give the backend a `default_ttl_seconds` that is longer than any run
    goes on, waits for a human say, and then is asked for: content lives from when it was written, and a run
    whose ticks are gone fails when it is resumed.

    A run whose ticks have a hole can never be resumed, and LlamaIndex goes on when one cannot be written.
    So while the content store cannot take what is large, ticks, events, results and errors are written with
    it, and a warning goes to the log `agentref.adapters.llamaindex`. State is not: there the step sees the
    error. Ticks are read with some seconds of patience (`get_ticks`). Whatever else the content store
    raises on reading comes out of the method that needed it.

    As with every workflow store, one instance serves one server.
    """

    def __init__(
        self,
        inner: AbstractWorkflowStore,
        *,
        backend: CAS | Externalizer | None = None,
        **options: Unpack[TreeOptions],
    ) -> None:
        if not isinstance(inner, AbstractWorkflowStore):
            raise InvalidInputError(
                f"{type(self).__name__} wraps a workflow store, such as "
                f"SqliteWorkflowStore('workflows.db'), not {inner!r:.80}."
            )
        self._inner = inner
        self._externalizer = externalizer_of(type(self).__name__, backend, options)
        self._stored = Stored(self._externalizer, or_large=True)
        super().__init__()
        # Rows of a run are written in the order of the calls: the first may take longest to externalize.
        self._tick_locks: _Locks = WeakValueDictionary()
        self._event_locks: _Locks = WeakValueDictionary()
        # One cache, so that what the store inside evicts is evicted.
        self._state_store_cache = inner._state_store_cache
        self.poll_interval = inner.poll_interval

    @property
    def inner(self) -> AbstractWorkflowStore:
        """The store inside, with whatever that has of its own."""
        return self._inner

    @property
    def result_decoder(self) -> HandlerResultDecoder | None:
        """How the server reads results; it sets this."""
        return self._inner.result_decoder

    @result_decoder.setter
    def result_decoder(self, decoder: HandlerResultDecoder | None) -> None:
        self._inner.result_decoder = decoder

    async def start(self) -> None:
        """Open what the store inside needs, and look whether the content store is the one that the runs
        which go on from here need: one that cannot be read when its server resumes it is failed for good.

        Raises `StorageError` if it is out of reach, `UnknownBackendError` if it is another one,
        `ConfigurationError` if refs are sealed and there is no key, and `UntrustedRefError` if none of them
        can be read with the keys given; then the server does not start, and the runs stay as they are. It
        reads all ticks and the state of the runs that are not done, and next to nothing of their content.
        """
        await self._inner.start()
        await check_content(self._inner, self._externalizer.backend, self._stored)

    def _build_state_store(
        self,
        run_id: str,
        namespace: tuple[str, ...],
        state_type: type[Any] | None,
        serializer: BaseSerializer | None,
    ) -> StateStoreFacade[Any]:
        facade = self._inner._build_state_store(run_id, namespace, state_type, serializer)
        if isinstance(facade._storage, StateStorage):
            # The facade stays what it is, since the server asks which kind that is.
            facade._storage = facade._durable = AgentRefStateStorage(
                facade._storage, backend=self._externalizer
            )
        return facade

    async def query(self, query: HandlerQuery) -> list[PersistentHandler]:
        """The handlers that match, with their results and errors."""
        return await whole_handlers(await self._inner.query(query), self._stored, self.result_decoder)

    async def update(self, handler: PersistentHandler) -> None:
        """Keep a handler."""
        await self._inner.update(await shrunk_handler(handler, self._stored))

    async def delete(self, query: HandlerQuery) -> int:
        """Delete the handlers that match; how many."""
        return await self._inner.delete(query)

    async def append_event(self, run_id: str, event: Any) -> None:
        """Keep an event of a run."""
        async with _lock_of(run_id, self._event_locks):
            value = await self._stored.shrunk(event.value)
            await self._inner.append_event(run_id, event.model_copy(update={"value": value}))

    async def query_events(
        self, run_id: str, after_sequence: int | None = None, limit: int | None = None
    ) -> list[StoredEvent]:
        """The events of a run, in order."""
        return await self._whole_events(await self._inner.query_events(run_id, after_sequence, limit))

    async def subscribe_events(
        self, run_id: str, after_sequence: int = -1
    ) -> AsyncGenerator[StoredEvent, None]:
        """The events of a run as they come."""
        async with aclosing(_generator(self._inner.subscribe_events(run_id, after_sequence))) as events:
            async for event in events:
                for whole in await self._whole_events([event]):
                    yield whole

    async def append_tick(self, run_id: str, tick_data: dict[str, Any]) -> None:
        """Keep a tick of a run."""
        async with _lock_of(run_id, self._tick_locks):
            await self._inner.append_tick(run_id, await self._shrunk_tick(tick_data))

    async def after_tick(self, run_id: str, tick_data: dict[str, Any]) -> None:
        """A tick has been worked off."""
        await self._inner.after_tick(run_id, await self._shrunk_tick(tick_data))

    async def get_ticks(self, run_id: str) -> list[StoredTick]:
        """The ticks of a run, in order. Waits some seconds for a content store that is out of reach, then
        raises `StoreUnavailableError`; LlamaIndex fails a run for good that it cannot resume."""
        return await self._whole_ticks(await self._inner.get_ticks(run_id))

    async def stream_ticks(self, run_id: str) -> AsyncGenerator[StoredTick, None]:
        """The ticks of a run, in order, a few at a time in memory. Waits and raises as `get_ticks`."""
        page: list[StoredTick] = []
        async with aclosing(_generator(self._inner.stream_ticks(run_id))) as ticks:
            async for tick in ticks:
                page.append(tick)
                if len(page) == _PAGE:
                    for whole in await self._whole_ticks(page):
                        yield whole
                    page = []
            for whole in await self._whole_ticks(page):
                yield whole

    def get_legacy_ctx(self, run_id: str) -> dict[str, Any] | None:
        """The context of a run that an early version of the store inside wrote, if that can have one."""
        legacy = as_legacy_context_store(self._inner)
        return None if legacy is None else legacy.get_legacy_ctx(run_id)

    async def _shrunk_tick(self, data: dict[str, Any]) -> dict[str, Any]:
        text = data.get(TICK)
        if data.keys() == {TICK} and isinstance(text, str):
            return {TICK: await self._stored.shrunk_text(text)}
        return await self._stored.shrunk(data)

    async def _whole_ticks(self, ticks: Sequence[StoredTick]) -> list[StoredTick]:
        is_text = [tick.tick_data.keys() == {TICK} for tick in ticks]
        texts = [tick.tick_data[TICK] for tick, text in zip(ticks, is_text, strict=True) if text]
        trees = [tick.tick_data for tick, text in zip(ticks, is_text, strict=True) if not text]
        whole_texts = iter(await _patiently(self._stored.whole_texts, texts) if texts else [])
        whole = iter(await _patiently(self._stored.whole, trees) if trees else [])
        return [
            tick.model_copy(update={"tick_data": {TICK: next(whole_texts)} if text else next(whole)})
            for tick, text in zip(ticks, is_text, strict=True)
        ]

    async def _whole_events(self, events: Sequence[StoredEvent]) -> list[StoredEvent]:
        values = await self._stored.whole([event.event.value for event in events]) if events else []
        return [
            event.model_copy(update={"event": event.event.model_copy(update={"value": value})})
            for event, value in zip(events, values, strict=True)
        ]


def _lock_of(run_id: str, locks: _Locks) -> asyncio.Lock:
    """The lock of a run in the running loop: one of another loop could not be waited for."""
    return locks.setdefault((id(asyncio.get_running_loop()), run_id), asyncio.Lock())


async def _patiently(read: Callable[[list[Any]], Awaitable[list[Any]]], kept: list[Any]) -> list[Any]:
    """What is read, for which a run is worth some seconds of waiting."""
    for pause in _PAUSES:
        try:
            return await read(kept)
        except StoreUnavailableError as error:
            _log.warning("Ticks of a run cannot be read, the next try is in %s s: %s", pause, error)
        await asyncio.sleep(pause)
    return await read(kept)


async def _generator(source: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """What can be closed, from what a store returns: its iterators are generators, but do not say so."""
    try:
        async for item in source:
            yield item
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
