"""A blob store in memory: for tests, for short-lived graphs, and as the model of the others."""

import heapq
import threading
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from agentref.errors import StoreUnavailableError
from agentref.refs import Digest
from agentref.storage._arguments import check_digest, check_limit, check_time, unique_digests, valid_blobs
from agentref.storage._fork import watch_forks
from agentref.storage.protocol import FOREVER, BlobInfo

__all__ = ["MemoryBlobStore"]

_FORK_PATIENCE = 5.0


class _Entry(NamedTuple):
    data: bytes
    touched_at: float
    expires_at: float


class MemoryBlobStore:
    """Blobs in a dict. Safe for threads; a forked child goes on with a copy of its own.

    Nothing is durable: everything is gone with the object, or at `close()`.
    """

    def __init__(self) -> None:
        self._entries: dict[Digest, _Entry] = {}
        self._lock = threading.Lock()
        self._held_for_fork = False
        self._closed = False
        self._epoch = 0
        self._store_id = f"mem-{uuid.uuid4().hex[:12]}"
        watch_forks(self)

    @property
    def store_id(self) -> str:
        """`mem-` and 12 hex digits, new for each object."""
        return self._store_id

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """The bytes of each blob that is here; the very objects that were stored, no copies."""
        wanted = unique_digests(digests)
        with self._lock:
            entries = self._open_entries()
            return {digest: entries[digest].data for digest in wanted if digest in entries}

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Keep all blobs; a blob that is here keeps its bytes, is touched, and lives at least as long."""
        check_time("expires_at", expires_at)
        self._keep(valid_blobs(blobs), expires_at, overwrite=False)

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Overwrite the bytes of blobs that are here, whose lives go on; store the others for ever."""
        self._keep(valid_blobs(blobs), FOREVER, overwrite=True)

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """What is known of each blob that is here."""
        wanted = unique_digests(digests)
        with self._lock:
            entries = self._open_entries()
            return {digest: _info(digest, entries[digest]) for digest in wanted if digest in entries}

    def epoch(self) -> int:
        """How many removals took something away."""
        with self._lock:
            self._open_entries()
            return self._epoch

    def scan(self, *, after: Digest | None = None, limit: int = 1000) -> Sequence[BlobInfo]:
        """The next `limit` blobs in digest order. Costs time in proportion to the whole store."""
        check_limit(limit)
        if after is not None:
            check_digest(after)
        with self._lock:
            entries = self._open_entries()
            page = heapq.nsmallest(limit, (d for d in entries if after is None or d > after))
            return [_info(digest, entries[digest]) for digest in page]

    def remove(self, digests: Collection[Digest], /, *, untouched_since: float = FOREVER) -> int:
        """Remove those that were last touched before `untouched_since`; says how many."""
        check_time("untouched_since", untouched_since)
        wanted = unique_digests(digests)
        with self._lock:
            entries = self._open_entries()
            old = [d for d in wanted if d in entries and entries[d].touched_at < untouched_since]
            for digest in old:
                del entries[digest]
            self._epoch += bool(old)
            return len(old)

    def close(self) -> None:
        """Forget every blob. Idempotent; later verbs raise `StoreUnavailableError`."""
        with self._lock:
            self._closed = True
            self._entries = {}

    def _keep(self, blobs: dict[Digest, bytes], expires_at: float, *, overwrite: bool) -> None:
        now = time.time()
        with self._lock:
            entries = self._open_entries()
            for digest, data in blobs.items():
                old = entries.get(digest)
                if old is None:
                    entries[digest] = _Entry(data, now, expires_at)
                    continue
                entries[digest] = _Entry(
                    data if overwrite else old.data,
                    max(old.touched_at, now),
                    old.expires_at if overwrite else max(old.expires_at, expires_at),
                )

    def _open_entries(self) -> dict[Digest, _Entry]:
        if self._closed:
            raise StoreUnavailableError(f"The blob store {self._store_id} is closed.")
        return self._entries

    def before_fork(self) -> None:
        """Let no thread be half-way through a change that the child would inherit."""
        self._held_for_fork = self._lock.acquire(timeout=_FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._held_for_fork:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """A lock of the child's own."""
        self._lock = threading.Lock()


def _info(digest: Digest, entry: _Entry) -> BlobInfo:
    return BlobInfo(digest, len(entry.data), entry.touched_at, entry.expires_at)
