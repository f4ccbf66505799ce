"""A store as a whole: how much is in it, and whether all of it is sound."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from agentref.chunks import unpack_blob
from agentref.errors import IntegrityError
from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage.frames import open_frame
from agentref.storage.protocol import FOREVER, BlobInfo, BlobStore
from agentref.storage.reports import Counters, StoreStats, VerifyReport

__all__ = ["is_listed", "pages", "store_stats", "verify_store"]

_SCAN_PAGE: Final = 1000
_VERIFY_PAGE: Final = 256


def pages(
    store: BlobStore, limit: int = _SCAN_PAGE, *, expires_by: float = FOREVER
) -> Iterator[Sequence[BlobInfo]]:
    """All of a store in digest order, `limit` blobs at a time; or only those whose life ends by then."""
    after: Digest | None = None
    while page := store.scan(after=after, limit=limit, expires_by=expires_by):
        yield page
        after = page[-1].digest


def store_stats(store: BlobStore, counters: Counters) -> StoreStats:
    """What the index says."""
    blobs = stored = 0
    for page in pages(store):
        blobs += len(page)
        stored += sum([info.stored_size for info in page])
    return StoreStats(blobs, stored, counters)


def verify_store(store: BlobStore, progress: Callable[[int], None] | None) -> VerifyReport:
    """Read and re-hash all of it, and look for what is linked to."""
    checked = size = 0
    corrupt: list[str] = []
    missing: set[Digest] = set()
    for page in pages(store, _VERIFY_PAGE):
        digests = [info.digest for info in page]
        frames = store.fetch(digests)
        # Listed, but without bytes: lost, unless somebody removed it just now.
        missing.update(digest for digest in digests if digest not in frames and is_listed(store, digest))
        needed: set[Digest] = set()
        for digest, frame in frames.items():
            checked += 1
            size += len(frame)
            try:
                needed.update(link.digest for link in unpack_blob(*open_frame(digest, frame)).links)
            except IntegrityError:
                corrupt.append(digest.hex())
        missing.update(needed - store.stat(needed).keys())
        if progress is not None:
            progress(checked)
    return VerifyReport(checked, size, tuple(corrupt), tuple(sorted(digest.hex() for digest in missing)))


def is_listed(store: BlobStore, digest: Digest) -> bool:
    """Whether the index has it, even if its bytes are lost."""
    number = int.from_bytes(digest, "big")
    before = Digest((number - 1).to_bytes(DIGEST_SIZE, "big")) if number else None
    page = store.scan(after=before, limit=1)
    return bool(page) and page[0].digest == digest
