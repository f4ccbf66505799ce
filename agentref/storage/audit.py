"""A store as a whole: what is listed in it, and how much that is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage.frames import links_by_head
from agentref.storage.protocol import FOREVER, BlobInfo, BlobStore
from agentref.storage.reports import Counters, StoreStats

__all__ = ["is_listed", "pages", "store_stats", "survey_pages"]

_SCAN_PAGE: Final = 1000
_SURVEY_PAGE: Final = 2000


def pages(
    store: BlobStore, limit: int = _SCAN_PAGE, *, expires_by: float = FOREVER
) -> Iterator[Sequence[BlobInfo]]:
    """All of a store in digest order, `limit` blobs at a time; or only those whose life ends by then."""
    after: Digest | None = None
    while page := store.scan(after=after, limit=limit, expires_by=expires_by):
        yield page
        after = page[-1].digest


def survey_pages(
    store: BlobStore, see: Callable[[Sequence[BlobInfo], int], object], *, expires_by: float
) -> None:
    """The `survey` of a store that finds its blobs in digest order."""
    is_any = False
    for page in pages(store, _SURVEY_PAGE, expires_by=expires_by):
        see(page, len(page))
        is_any = True
    for page in pages(store, _SURVEY_PAGE) if is_any else ():
        living = [info for info in page if info.expires_at > expires_by]
        heads = store.peek([info.digest for info in living])
        linking = [info for info in living if links_by_head(heads.get(info.digest, -1))]
        see(linking, len(living))


def store_stats(store: BlobStore, counters: Counters) -> StoreStats:
    """What the index says."""
    blobs = stored = 0
    for page in pages(store):
        blobs += len(page)
        stored += sum([info.stored_size for info in page])
    return StoreStats(blobs, stored, counters)


def is_listed(store: BlobStore, digest: Digest) -> bool:
    """Whether the index has it, even if its bytes are lost."""
    number = int.from_bytes(digest, "big")
    before = Digest((number - 1).to_bytes(DIGEST_SIZE, "big")) if number else None
    page = store.scan(after=before, limit=1)
    return bool(page) and page[0].digest == digest
