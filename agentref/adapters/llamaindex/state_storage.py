"""`AgentRefStateStorage`: a durable state storage of LlamaIndex's whose records carry refs."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Unpack

from workflows.context.state_store import StateStorage
from workflows.context.state_store_integration import StateRecord

from agentref.adapters.llamaindex.models import CellModel
from agentref.adapters.llamaindex.options import TreeOptions, externalizer_of
from agentref.adapters.llamaindex.stored import Stored
from agentref.errors import InvalidInputError
from agentref.state import DEFAULT_INLINE_THRESHOLD_BYTES
from agentref.storage import CAS
from agentref.trees import Externalizer

__all__ = ["AgentRefStateStorage"]


class AgentRefStateStorage:
    """A `StateStorage` around another one, for a `StateStoreFacade`: large values of the state get refs.

        storage = AgentRefStateStorage(my_storage, backend=FilesystemCAS("./state_blobs"))
        store = StateStoreFacade(storage, MyState, serializer)

    Works under every serializer and state type, since it sees what they made. Nothing of the content
    store's I/O happens on the event loop. A record is written after all that it refers to; if the content
    store raises, the record before stands. Records from before are read. Handles are those of the storage
    inside.

    For the stores of llama-agents-server, `AgentRefWorkflowStore` puts this in place.

    Args:
        inner: the storage.
        backend: where large values go and come from; or an `Externalizer`.
        **options: settings of an `Externalizer`.
    """

    def __init__(
        self,
        inner: StateStorage,
        *,
        backend: CAS | Externalizer | None = None,
        **options: Unpack[TreeOptions],
    ) -> None:
        if isinstance(inner, type) or not isinstance(inner, StateStorage):
            raise InvalidInputError(
                f"{type(self).__name__} wraps a durable StateStorage, and {inner!r:.80} is none: what is "
                f"kept in memory only needs no refs."
            )
        self._inner = inner
        self._externalizer = externalizer_of(type(self).__name__, backend, options)
        self._stored = Stored(self._externalizer)

    @property
    def run_id(self) -> str:
        """The run whose state this is."""
        return self._inner.run_id

    async def load(self) -> StateRecord | None:
        """The record, its values in place of their refs. Raises what `Externalizer.rehydrate` does."""
        record = await self._inner.load()
        if record is None:
            return None
        (data,) = await self._stored.whole_texts([record.data])
        return record.model_copy(update={"data": data})

    async def save(self, record: StateRecord) -> None:
        """Keep a record, once all that is large in it is stored."""
        if isinstance(record.data, str):
            # What an adapter's model holds is inline or a ref already: to read it is not to need the store.
            of_adapter = record.state_module == CellModel.__module__
            small = await self._stored.shrunk_text(
                record.data, inline_bytes=DEFAULT_INLINE_THRESHOLD_BYTES if of_adapter else None
            )
            record = record.model_copy(update={"data": small})
        await self._inner.save(record)

    @asynccontextmanager
    async def session(self) -> AsyncGenerator["AgentRefStateStorage", None]:
        """A storage for one load and save, bound to a connection of the one inside."""
        async with self._inner.session() as bound:
            clone = object.__new__(type(self))
            clone._inner = bound  # type: ignore[assignment]  # of a durable storage, a durable one
            clone._externalizer, clone._stored = self._externalizer, self._stored
            yield clone

    def to_handle(self) -> dict[str, Any]:
        """How to find this state again."""
        return self._inner.to_handle()

    def parse_own_handle(self, payload: dict[str, Any]) -> Any | None:
        """What `to_handle` returned, for `copy_from_handle`; None for anything else."""
        return self._inner.parse_own_handle(payload)

    async def copy_from_handle(self, handle: Any) -> None:
        """Copy another run's state to this one. Moves no content."""
        await self._inner.copy_from_handle(handle)
