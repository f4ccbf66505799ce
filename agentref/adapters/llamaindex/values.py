"""The stores of an adapter, as a state wants them: one place to dump, several to load from."""

from collections.abc import Sequence

from agentref.refs import ContentRef
from agentref.runtime import Outgoing, Runtime

__all__ = ["Values"]


class Values:
    """A `ValueStore` and an `AsyncValueStore`: writes to the backend, reads from whichever store a ref
    names.

    Thread-safe.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def dump(self, value: object, /) -> ContentRef:
        """Store a value durably."""
        return self._runtime.backend.dump(value)

    def dump_many(self, values: Sequence[object], /) -> list[ContentRef]:
        """The same for many, in one batch."""
        return self._runtime.backend.dump_many(values)

    async def adump_many(self, values: Sequence[object], /) -> list[ContentRef]:
        """`dump_many` for the event loop."""
        return await self._runtime.backend.adump_many(values)

    async def akeep_many(
        self, values: Sequence[object], owner: str, known: Sequence[ContentRef]
    ) -> list[ContentRef]:
        """`adump_many`, pinned for an owner, and with that the refs that are known. Raises
        `BlobNotFoundError` if one of these is gone."""
        ours = [ref for ref in known if self._runtime.store_for(ref) is self._runtime.backend]
        if ours:
            await self._runtime.backend.atouch(ours, ttl=self._runtime.lease_seconds)
        encoded = self._runtime.backend.encode(values)
        refs = list(encoded.refs)
        outgoing = Outgoing([*refs], [encoded] if refs else [])
        await self._runtime.akeep(outgoing, owner, [*refs, *known])
        return refs

    def load(self, ref: ContentRef, /) -> object:
        """The value of a ref."""
        return self.load_many([ref])[0]

    def load_many(self, refs: Sequence[ContentRef], /) -> list[object]:
        """The value of each ref, in one batch for each store."""
        return self._runtime.load_many(refs)

    async def aload_many(self, refs: Sequence[ContentRef], /) -> list[object]:
        """`load_many` for the event loop."""
        return await self._runtime.aload_many(refs)

    def size_of(self, value: object, /) -> int:
        """The encoded size in bytes. Stores nothing."""
        return self._runtime.backend.size_of(value)
