"""`AgentRefKVStore`: a key-value store of llama-index-core whose values carry refs."""

import asyncio
from collections.abc import Sequence
from typing import Any, Unpack

from llama_index.core.storage.kvstore.types import DEFAULT_BATCH_SIZE, DEFAULT_COLLECTION, BaseKVStore

from agentref.adapters.llamaindex.options import TreeOptions, externalizer_of, name_fault
from agentref.errors import AgentRefError, InvalidInputError
from agentref.storage import CAS
from agentref.trees import Externalizer

__all__ = ["AgentRefKVStore"]

Value = dict[str, Any]


class AgentRefKVStore(BaseKVStore):
    """A `BaseKVStore` around another one, in which large parts of the values get refs.

        kv_store = AgentRefKVStore(SimpleKVStore(), backend=FilesystemCAS("./state_blobs"))
        docstore = KVDocumentStore(kv_store)

    For document, index and chat stores over any key-value store. A value is written after all that it
    refers to. One from before is read, unless something in it looks like a ref. Deleting a key leaves
    content where it is. The async verbs do no I/O of the content store on the event loop.

    Args:
        inner: the store.
        backend: where large values go and come from; or an `Externalizer`.
        **options: settings of an `Externalizer`.
    """

    def __init__(
        self,
        inner: BaseKVStore,
        *,
        backend: CAS | Externalizer | None = None,
        **options: Unpack[TreeOptions],
    ) -> None:
        if not isinstance(inner, BaseKVStore):
            raise InvalidInputError(
                f"{type(self).__name__} wraps a key-value store, such as SimpleKVStore(), "
                f"not {inner!r:.80}."
            )
        self._inner = inner
        self._externalizer = externalizer_of(type(self).__name__, backend, options)

    @property
    def inner(self) -> BaseKVStore:
        """The store inside: what persists itself does so by this, `kv_store.inner.persist(path)`."""
        return self._inner

    def put(self, key: str, val: Value, collection: str = DEFAULT_COLLECTION) -> None:
        """Keep a value."""
        self._inner.put(key, self._externalizer.externalize(val, all_bytes=True), collection=collection)

    async def aput(self, key: str, val: Value, collection: str = DEFAULT_COLLECTION) -> None:
        """`put` for the event loop."""
        await self._inner.aput(
            key, await self._externalizer.aexternalize(val, all_bytes=True), collection=collection
        )

    def put_all(
        self,
        kv_pairs: Sequence[tuple[str, Value]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Keep many, as the store inside does it; what is large goes to the content store in one batch."""
        keys, values = _columns(kv_pairs)
        small = self._externalizer.externalize(values, all_bytes=True)
        self._inner.put_all(list(zip(keys, small, strict=True)), collection, batch_size)

    async def aput_all(
        self,
        kv_pairs: Sequence[tuple[str, Value]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """`put_all` for the event loop."""
        keys, values = _columns(kv_pairs)
        small = await self._externalizer.aexternalize(values, all_bytes=True)
        await self._inner.aput_all(list(zip(keys, small, strict=True)), collection, batch_size)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> Value | None:
        """The value of a key, or None. Raises what `Externalizer.rehydrate` does."""
        found: Value | None = self._externalizer.rehydrate(self._inner.get(key, collection=collection))
        return found

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> Value | None:
        """`get` for the event loop."""
        small = await self._inner.aget(key, collection=collection)
        found: Value | None = await self._externalizer.arehydrate(small)
        return found

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, Value]:
        """Every value of a collection, in one batch; all of it, or an error that names a key."""
        small = self._inner.get_all(collection=collection)
        try:
            return dict(zip(small, self._externalizer.rehydrate(tuple(small.values())), strict=True))
        except AgentRefError as error:
            name_fault(error, self._externalizer, _named(small))
            raise

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, Value]:
        """`get_all` for the event loop."""
        small = await self._inner.aget_all(collection=collection)
        try:
            return dict(zip(small, await self._externalizer.arehydrate(tuple(small.values())), strict=True))
        except AgentRefError as error:
            await asyncio.to_thread(name_fault, error, self._externalizer, _named(small))
            raise

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete a key; whether it was there."""
        return self._inner.delete(key, collection=collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """`delete` for the event loop."""
        return await self._inner.adelete(key, collection=collection)


def _columns(pairs: Sequence[tuple[str, Value]]) -> tuple[list[str], tuple[Value, ...]]:
    """A tuple of values, which is never cut into segments."""
    pairs = list(pairs)
    return [key for key, _ in pairs], tuple(value for _, value in pairs)


def _named(values: dict[str, Value]) -> list[tuple[str, Value]]:
    return [(f"the value of key {key!r:.200}", value) for key, value in values.items()]
