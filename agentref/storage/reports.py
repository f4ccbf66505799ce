"""What a store tells about itself."""

from dataclasses import dataclass

__all__ = ["Counters", "PruneReport", "StoreStats", "VerifyReport"]


@dataclass
class Counters:
    """What this object did since it was made. Exact in one thread; a hint among several.

    Bytes offered are of canonical blobs before deduplication and compression, bytes stored after.
    """

    values_dumped: int = 0
    values_loaded: int = 0
    blobs_offered: int = 0
    blobs_stored: int = 0
    bytes_offered: int = 0
    bytes_stored: int = 0
    blobs_fetched: int = 0
    bytes_fetched: int = 0


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What is in a store.

    Attributes:
        blobs: how many there are.
        stored_bytes: their size as kept, compressed; without the store's own index.
        counters: what was done through this object; `bytes_offered / bytes_stored` is what
            deduplication and compression saved together.
    """

    blobs: int
    stored_bytes: int
    counters: Counters


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What re-hashing every byte found.

    Attributes:
        checked: blobs read and hashed.
        checked_bytes: their stored size.
        corrupt: digests of blobs whose bytes are damaged.
        missing: digests of blobs that are not here, and to which an intact blob links whose own life
            lasts, or that something needs; and of those that are listed without their bytes.
        damaged_aliases: names of which the store keeps what no name can stand for.
    """

    checked: int
    checked_bytes: int
    corrupt: tuple[str, ...]
    missing: tuple[str, ...]
    damaged_aliases: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged and nothing is missing."""
        return not (self.corrupt or self.missing or self.damaged_aliases)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune found and did, in blobs; under `dry_run`, what it would have done.

    Attributes:
        dry_run: whether nothing was changed.
        expired: those whose own life has ended.
        needed: of these, those that something which lives needs: they stay.
        condemned: those that were not needed, and are to go after the grace time.
        waiting: those that are condemned, now or before, and still here.
        removed: those that went.
        removed_bytes: their size as kept; the disk may give it back later.
        forgotten: aliases and pins dropped, whose life had ended.
    """

    dry_run: bool
    expired: int
    needed: int
    condemned: int
    waiting: int
    removed: int
    removed_bytes: int
    forgotten: int
