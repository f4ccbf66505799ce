"""What a state needs of a store, and no more. A CAS satisfies both protocols as it is."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from agentref.refs import ContentRef

__all__ = ["AsyncValueStore", "ValueStore"]


@runtime_checkable
class ValueStore(Protocol):
    """Keeps values under the names of their content."""

    def dump(self, value: object, /) -> ContentRef:
        """Store `value` durably and name it. Equal values have equal refs."""
        ...

    def dump_many(self, values: Sequence[object], /) -> Sequence[ContentRef]:
        """`dump` of each, in order, for the price of one batch: all of them are stored, or it raises."""
        ...

    def load(self, ref: ContentRef, /) -> object:
        """A fresh value, equal to the one that was dumped. `BlobNotFoundError` when it is gone."""
        ...

    def load_many(self, refs: Sequence[ContentRef], /) -> Sequence[object]:
        """`load` of each, in order, for the price of one batch."""
        ...

    def size_of(self, value: object, /) -> int:
        """The encoded size of `value` in bytes. Stores nothing, does no I/O."""
        ...


@runtime_checkable
class AsyncValueStore(Protocol):
    """The same for an event loop: nothing here blocks it for I/O."""

    async def adump_many(self, values: Sequence[object], /) -> Sequence[ContentRef]:
        """As `ValueStore.dump_many`."""
        ...

    async def aload_many(self, refs: Sequence[ContentRef], /) -> Sequence[object]:
        """As `ValueStore.load_many`."""
        ...

    def size_of(self, value: object, /) -> int:
        """As `ValueStore.size_of`."""
        ...
