"""Whether all of a store is sound."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from typing import Final

from agentref.chunks import unpack_blob
from agentref.errors import IntegrityError
from agentref.refs import Digest
from agentref.storage._alias_rows import is_sound
from agentref.storage.audit import is_listed, pages
from agentref.storage.frames import open_frame
from agentref.storage.marking import Candidates, mark, survey
from agentref.storage.protocol import BlobStore, RootStore
from agentref.storage.reports import VerifyReport

__all__ = ["verify_store"]

_PAGE: Final = 256


def verify_store(store: BlobStore, progress: Callable[[int], None] | None) -> VerifyReport:
    """Read and re-hash all of it, and look for what is linked to."""
    checked = size = 0
    corrupt: list[str] = []
    missing: set[Digest] = set()
    doubtful: dict[Digest, set[Digest]] = {}
    for page in pages(store, _PAGE):
        digests = [info.digest for info in page]
        frames = store.fetch(digests)
        # Listed, but without bytes: lost, unless somebody removed it just now.
        missing.update(digest for digest in digests if digest not in frames and is_listed(store, digest))
        needed: dict[Digest, set[Digest]] = {}
        for digest, frame in frames.items():
            checked += 1
            size += len(frame)
            try:
                needed[digest] = {link.digest for link in unpack_blob(*open_frame(digest, frame)).links}
            except IntegrityError:
                corrupt.append(digest.hex())
        absent = _absent(store, needed)
        now = store.clock() if absent else 0.0  # after the look: till then a life may have ended
        for info in page:
            if info.digest in absent:
                if info.expires_at > now:
                    missing |= absent[info.digest]
                else:
                    doubtful[info.digest] = absent[info.digest]
        if progress is not None:
            progress(checked)
    for digest in _needed_among(store, doubtful):
        missing |= doubtful[digest]
    hashes = tuple(sorted(digest.hex() for digest in missing))
    return VerifyReport(checked, size, tuple(corrupt), hashes, tuple(_damaged_aliases(store)))


def _absent(store: BlobStore, needed: Mapping[Digest, set[Digest]]) -> dict[Digest, set[Digest]]:
    """What is not here of what these link to."""
    linked = set().union(*needed.values())
    lost = linked - store.stat(linked).keys()
    return {digest: links & lost for digest, links in needed.items() if links & lost}


def _damaged_aliases(store: BlobStore) -> Iterator[str]:
    after: str | None = None
    while isinstance(store, RootStore) and (page := store.scan_aliases(after=after, limit=_PAGE)):
        yield from (row.name for row in page if not is_sound(row))
        after = page[-1].name


def _needed_among(store: BlobStore, doubtful: Collection[Digest]) -> list[Digest]:
    """Which of these, whose own life has ended, something still needs. A prune that was cut short may have
    removed what the others link to, and they will follow."""
    if not doubtful:
        return []
    now = store.clock()
    with closing(Candidates()) as candidates:
        survey(store, candidates, now)
        mark(store, candidates, damaged=lambda _: None)
        return [digest for digest in doubtful if candidates.is_needed(digest)]
