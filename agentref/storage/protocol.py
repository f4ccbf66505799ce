"""What a blob store promises: batch verbs over opaque, named bytes, and what keeps them alive.

A blob store moves bytes and keeps their lives. It neither hashes nor decodes: verification is done
once, above, for every store alike, and so is telling what links to what.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, runtime_checkable

from agentref.refs import Digest

__all__ = ["FOREVER", "AliasRow", "BlobInfo", "BlobStore", "PinRow", "RootStore"]

FOREVER: Final = math.inf
"""An `expires_at` that never comes."""


class BlobInfo(NamedTuple):
    """What a store knows of one blob without reading it.

    `stored_size` is in bytes as kept. Times are seconds since the epoch, by the store's own clock;
    `expires_at` is `FOREVER` for a blob without an end. `condemned_at` is when a prune found that nothing
    needs the blob; None if none did, or if it was touched since. `place` orders blobs by where they are
    kept: what lies together is best removed together. 0 where that makes no difference.
    """

    digest: Digest
    stored_size: int
    touched_at: float
    expires_at: float
    condemned_at: float | None = None
    place: int = 0


class AliasRow(NamedTuple):
    """A name for content. `version` grows whenever a name is set: no two settings in a store, of whatever
    names, have the same, and none is 0."""

    name: str
    digest: Digest
    codec: str
    size: int
    version: int
    expires_at: float


class PinRow(NamedTuple):
    """One blob that an owner keeps alive, with all that it links to."""

    owner: str
    digest: Digest
    expires_at: float

    @staticmethod
    def each(owner: str, digests: Iterable[Digest], *, expires_at: float = FOREVER) -> "list[PinRow]":
        """What one owner pins."""
        return [PinRow(owner, digest, expires_at) for digest in digests]


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

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Which of them are here, each of which lives until `expires_at` at least from now on.

        Takes back what a prune has planned. Writes only what changes: nothing, if all live so long.
        """
        ...

    def peek(self, digests: Collection[Digest], /) -> Mapping[Digest, int]:
        """The first byte of each blob that is here; -1 for an empty one."""
        ...

    def epoch(self) -> int:
        """A number that moves whenever blobs are removed, by whomever. Costs one small look.

        What was seen to be here while it stood still is here: a writer need not ask again.
        """
        ...

    def clock(self) -> float:
        """Seconds since the epoch, by the clock that lives are measured with."""
        ...

    def scan(
        self, *, after: Digest | None = None, limit: int = 1000, expires_by: float = FOREVER
    ) -> Sequence[BlobInfo]:
        """The next `limit` blobs in digest order, from the first one after `after`: those of them whose
        life ends at `expires_by` or before."""
        ...

    def survey(self, see: Callable[[Sequence[BlobInfo], int], object], /, *, expires_by: float) -> None:
        """Show `see` the blobs whose life ends at `expires_by` or before and, if there are any, those of
        the others that link to others: a few thousand at a time, each once, in any order; and how many were
        looked at for them.

        Shows all that are here for as long as the call takes, and may show what comes and goes meanwhile.
        `see` may call verbs of this store; what it raises ends the survey.
        """
        ...

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """Note that nothing needs these, as far as one knows; those whose life ends later are left alone.

        Returns how many are condemned now that were not. They stay readable, and a touch, a put or a longer
        life takes it back.
        """
        ...

    def remove(
        self,
        digests: Collection[Digest],
        /,
        *,
        expires_by: float = FOREVER,
        condemned_by: float | None = None,
    ) -> int:
        """Remove those that are here, whose life ends at `expires_by` or before and that, where
        `condemned_by` is given, were condemned by then and not touched since.

        Returns how many went. Removing what is absent is not an error.
        """
        ...

    def close(self) -> None:
        """Release files and connections. Idempotent; any later verb raises `StoreUnavailableError`."""
        ...


@runtime_checkable
class RootStore(Protocol):
    """What keeps blobs alive beyond their own lives: aliases and pins. A blob store may be one too.

    Each verb is one transaction, durable and visible to all on return. A root does not look at what it
    names. What has expired is not there, for every verb but `forget`.
    """

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Let a name stand for content from now on; its `version` is ignored. Returns what stands there
        now, with its new version.

        `expect` is the version that has to stand there now, 0 for none: None is returned and nothing is
        changed if it does not.
        """
        ...

    def alias(self, name: str, /) -> AliasRow | None:
        """What a name stands for."""
        ...

    def delete_alias(self, name: str, /, *, expect: int | None = None) -> bool:
        """Whether the name was there, at the version expected if one is given; it is gone then."""
        ...

    def scan_aliases(
        self, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> Sequence[AliasRow]:
        """The next `limit` names with that prefix, in the order of their code points."""
        ...

    def pin(self, rows: Collection[PinRow], /) -> None:
        """Let owners keep blobs alive, besides what they keep already: all of these, or none. A pin's life
        only lengthens."""
        ...

    def store_pinned(
        self, blobs: Mapping[Digest, bytes], pins: Collection[PinRow], /, *, expires_at: float = FOREVER
    ) -> None:
        """`BlobStore.store`, and then `pin`, at less cost than the two where that can be. When it raises,
        no pin was set; blobs may have been kept."""
        ...

    def inherit_pins(self, heir: str, digests: Collection[Digest], /, *, parent: str) -> bool:
        """Let `heir` keep for ever what `parent` keeps of these for ever; whether that is all of them.

        Visible to all on return, and outlives any process. A power cut, or the crash of a server, may take
        it back, but not where it has not taken back as well that such a pin of `parent` was taken away.
        """
        ...

    def unpin(self, owners: Collection[str], /) -> int:
        """Take all pins of these owners away; returns how many pins there were."""
        ...

    def scan_pins(
        self, *, prefix: str = "", after: tuple[str, Digest] | None = None, limit: int = 1000
    ) -> Sequence[PinRow]:
        """The next `limit` pins of owners with that prefix, in the order of owner and digest."""
        ...

    def forget(self, *, expires_by: float) -> int:
        """Drop the aliases and pins whose life ended at `expires_by` or before; returns how many."""
        ...
