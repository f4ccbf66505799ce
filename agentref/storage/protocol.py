"""What a blob store promises: batch verbs over opaque, named bytes.

A blob store moves bytes and keeps their lives. It neither hashes nor decodes: verification is done
once, above, for every store alike.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

from agentref.refs import Digest

__all__ = ["FOREVER", "BlobInfo", "BlobStore"]

FOREVER: Final = math.inf
"""An `expires_at` that never comes."""


class BlobInfo(NamedTuple):
    """What a store knows of one blob without reading it.

    `stored_size` is in bytes as kept. Times are seconds since the epoch, by the store's own clock;
    `expires_at` is `FOREVER` for a blob without an end.
    """

    digest: Digest
    stored_size: int
    touched_at: float
    expires_at: float


@runtime_checkable
class BlobStore(Protocol):
    """A set of immutable blobs. Safe for many threads and, unless it is in memory, many processes.

    Every verb takes a batch and costs one transaction or one round trip for all of it. All of them
    raise `StorageError` (or a subclass) when the store cannot do its work, and nothing else.
    """

    @property
    def store_id(self) -> str:
        """The store's own name: made when the store is created and kept inside of it."""
        ...

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """The bytes of each blob that is here. An absent blob is left out, never an error."""
        ...

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Keep all blobs, or raise and keep none of the new ones.

        On return they are durable (as far as the store is). A blob that is here keeps its bytes,
        is touched, and its `expires_at` becomes the later of the two: lives only lengthen.
        """
        ...

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Like `store`, but bytes that are here already are overwritten: the repair of a damaged blob.

        A blob that is here keeps its `expires_at`; one that is not lives for ever.
        """
        ...

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """What is known of each blob that is here. Reads no payload, writes nothing."""
        ...

    def epoch(self) -> int:
        """A number that moves whenever blobs are removed, by whomever. Costs one small look.

        What was seen to be here while it stood still is here: a writer need not ask again.
        """
        ...

    def scan(self, *, after: Digest | None = None, limit: int = 1000) -> Sequence[BlobInfo]:
        """The next `limit` blobs in digest order, from the first one after `after`."""
        ...

    def remove(self, digests: Collection[Digest], /, *, untouched_since: float = FOREVER) -> int:
        """Remove those that are here and were last touched before `untouched_since`.

        Returns how many went. Removing what is absent is not an error.
        """
        ...

    def close(self) -> None:
        """Release files and connections. Idempotent; any later verb raises `StoreUnavailableError`."""
        ...
