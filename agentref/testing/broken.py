"""Blob stores that break one promise each: a suite is worth something if it rejects every one of them.

`BROKEN` names, for each test of `BlobStoreContract`, a store that it must reject.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from agentref.refs import Digest
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.protocol import FOREVER, BlobInfo
from agentref.testing.broken_lives import BROKEN_LIVES

__all__ = ["BROKEN"]


class Nameless(MemoryBlobStore):
    """Has a new name every time it is asked."""

    @property
    def store_id(self) -> str:
        """Not the store's own."""
        return f"mem-{time.perf_counter_ns()}"


class Garbling(MemoryBlobStore):
    """Keeps text as text."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """Bytes that are no UTF-8 are lost."""
        return {d: b.decode(errors="ignore").encode() for d, b in super().fetch(digests).items()}


class InventingFetch(MemoryBlobStore):
    """Answers for blobs that it does not have."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """Absent is empty."""
        return dict.fromkeys(digests, b"") | dict(super().fetch(digests))


class InventingStat(MemoryBlobStore):
    """Knows of blobs that it does not have."""

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """Absent is of size 0."""
        return {d: BlobInfo(d, 0, 0.0, FOREVER) for d in digests} | dict(super().stat(digests))


class Standstill(MemoryBlobStore):
    """Removes without saying so."""

    def epoch(self) -> int:
        """Always the same."""
        return 0


class Overwriting(MemoryBlobStore):
    """Writes the bytes again whenever it is given them."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """The last bytes win."""
        super().store(blobs, expires_at=expires_at)
        super().replace(blobs)


class SignedPeek(MemoryBlobStore):
    """Reads bytes as C's `char`."""

    def peek(self, digests: Collection[Digest], /) -> Mapping[Digest, int]:
        """From -128 to 127."""
        return {digest: (byte + 128) % 256 - 128 for digest, byte in super().peek(digests).items()}


class PeeksForTruth(MemoryBlobStore):
    """Has no first byte of no bytes."""

    def peek(self, digests: Collection[Digest], /) -> Mapping[Digest, int]:
        """Leaves empty blobs out."""
        return {digest: byte for digest, byte in super().peek(digests).items() if byte >= 0}


class InsertionOrder(MemoryBlobStore):
    """Lists blobs as they came."""

    def scan(self, *, after: Digest | None = None, limit: int = 1000, **also: Any) -> Sequence[BlobInfo]:
        """No order of names."""
        page = super().scan(after=after, limit=limit, **also)
        return sorted(page, key=lambda info: info.digest[8:])


class OverlappingPages(MemoryBlobStore):
    """Loses a blob between two pages."""

    def scan(self, *, after: Digest | None = None, limit: int = 1000, **also: Any) -> Sequence[BlobInfo]:
        """Skips the first one after `after`."""
        return super().scan(after=after, limit=limit, **also)[0 if after is None else 1 :]


class AnchoredScan(MemoryBlobStore):
    """Can go on only after a blob that is here."""

    def scan(self, *, after: Digest | None = None, limit: int = 1000, **also: Any) -> Sequence[BlobInfo]:
        """A cursor that is gone starts from the beginning."""
        known = after is not None and after in self.stat([after])
        return super().scan(after=after if known else None, limit=limit, **also)


class NeverEmpty(MemoryBlobStore):
    """Lists a header of its own."""

    def scan(self, *, after: Digest | None = None, limit: int = 1000, **also: Any) -> Sequence[BlobInfo]:
        """One that nobody stored."""
        return super().scan(after=after, limit=limit, **also) or [
            BlobInfo(Digest(bytes(32)), 0, 0.0, FOREVER)
        ]


class RemovesNothing(MemoryBlobStore):
    """Keeps everything."""

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """Only says that it does."""
        return 0 if asked else len(super().stat(digests))


class CountsRequests(MemoryBlobStore):
    """Counts what it was asked to remove."""

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """Also what was not here."""
        super().remove(digests, **asked)
        return len(digests)


class Buried(MemoryBlobStore):
    """Marks what was removed, and never takes it back."""

    def __init__(self) -> None:
        super().__init__()
        self._dead: set[Digest] = set()

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """Remembers."""
        self._dead.update(digests)
        return super().remove(digests, **asked)

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Passes over the dead."""
        super().store({d: b for d, b in blobs.items() if d not in self._dead}, expires_at=expires_at)


class NeedsOne(MemoryBlobStore):
    """Builds a query that is wrong for an empty batch."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """Falls over nothing."""
        next(iter(digests))
        return super().fetch(digests)


class EmptyIsAbsent(MemoryBlobStore):
    """Takes no bytes for no blob."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """Asks for truth instead of presence."""
        return {digest: data for digest, data in super().fetch(digests).items() if data}


class CutsOff(MemoryBlobStore):
    """Has a column that is too narrow."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """At most 64 KiB."""
        return {digest: data[:65536] for digest, data in super().fetch(digests).items()}


class FirstThousand(MemoryBlobStore):
    """Has a limit on the parameters of a query, and keeps silent about it."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """At most 999 of them."""
        return super().fetch(list(digests)[:999])


class NeverReplaces(MemoryBlobStore):
    """Trusts what is here."""

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Is `store`."""
        self.store(blobs)


class OnlyReplaces(MemoryBlobStore):
    """Is an UPDATE that finds no row."""

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Passes over what is absent."""
        here = self.stat(blobs.keys())
        super().replace({digest: data for digest, data in blobs.items() if digest in here})


class HalfABatch(MemoryBlobStore):
    """Commits after each blob."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Keeps the blobs before the one that fails."""
        for digest, data in blobs.items():
            super().store({digest: data}, expires_at=expires_at)


class AnyName(MemoryBlobStore):
    """Looks names up without looking at them."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """What is no digest is merely absent."""
        return super().fetch([d for d in digests if len(d or b"") == 32])


class LiveView(MemoryBlobStore):
    """Returns a window on the store instead of an answer."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """Empties itself when a blob goes."""
        self._shown = dict(super().fetch(digests))
        return self._shown

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """Also from what was returned."""
        for digest in digests:
            self._shown.pop(digest, None)
        return super().remove(digests, **asked)


class NeverClosed(MemoryBlobStore):
    """Works on after `close`."""

    def close(self) -> None:
        """Does nothing."""


class LostUpdate(MemoryBlobStore):
    """Reads, waits and writes the whole without a lock."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """The last of two writers undoes what the first one did."""
        before = dict(self._entries)
        time.sleep(0.001)
        super().store(blobs, expires_at=expires_at)
        mine = {digest: self._entries[digest] for digest in blobs if digest in self._entries}
        self._entries = before | mine


class ThreadBlind(MemoryBlobStore):
    """Compares lives without a lock."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Decides on what it read, then writes what somebody else has lengthened since."""
        lives = {digest: info.expires_at for digest, info in self.stat(blobs.keys()).items()}
        time.sleep(0.02 * (10 - expires_at % 10))  # who read the shortest life writes last
        super().remove(blobs.keys())
        longest = max([*lives.values(), expires_at])
        super().store(blobs, expires_at=longest)


BROKEN: Final[Mapping[str, type[MemoryBlobStore]]] = {
    **BROKEN_LIVES,
    "test_it_has_every_verb_and_one_name": Nameless,
    "test_what_was_stored_is_fetched": Garbling,
    "test_fetch_leaves_out_what_is_absent": InventingFetch,
    "test_stat_leaves_out_what_is_absent": InventingStat,
    "test_storing_again_keeps_the_bytes_that_are_here": Overwriting,
    "test_peek_tells_the_first_byte": SignedPeek,
    "test_peek_tells_an_empty_blob_from_an_absent_one": PeeksForTruth,
    "test_scan_lists_all_in_the_order_of_their_names": InsertionOrder,
    "test_pages_of_a_scan_leave_no_gap_and_overlap_nowhere": OverlappingPages,
    "test_a_scan_goes_on_after_a_name_that_is_gone": AnchoredScan,
    "test_a_scan_of_nothing_is_empty": NeverEmpty,
    "test_what_was_removed_is_absent_everywhere": RemovesNothing,
    "test_removing_what_is_absent_counts_nothing": CountsRequests,
    "test_the_epoch_moves_when_a_blob_goes_and_only_then": Standstill,
    "test_what_was_removed_can_be_stored_anew": Buried,
    "test_an_empty_batch_is_fine": NeedsOne,
    "test_an_empty_blob_is_a_blob": EmptyIsAbsent,
    "test_a_blob_of_a_megabyte_comes_back_whole": CutsOff,
    "test_a_batch_may_hold_thousands": FirstThousand,
    "test_a_name_given_twice_counts_once": CountsRequests,
    "test_replace_overwrites": NeverReplaces,
    "test_replace_stores_what_is_absent": OnlyReplaces,
    "test_a_batch_that_fails_keeps_nothing": HalfABatch,
    "test_a_name_that_is_no_digest_is_refused": AnyName,
    "test_what_was_fetched_stays_when_the_blob_goes": LiveView,
    "test_a_closed_store_says_so": NeverClosed,
    "test_threads_that_store_different_blobs_lose_none": LostUpdate,
    "test_threads_that_store_the_same_blobs_agree": ThreadBlind,
}
