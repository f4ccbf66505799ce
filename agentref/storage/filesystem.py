"""The local blob store: a SQLite index with names, lives and small blobs, and files for large ones."""

import os
import sqlite3
import time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agentref.errors import InvalidInputError
from agentref.refs import Digest
from agentref.storage import _blob_table as table
from agentref.storage._arguments import check_digest, check_limit, check_time, unique_digests, valid_blobs
from agentref.storage._failures import storage_errors
from agentref.storage._files import BlobFiles, Staging
from agentref.storage._index import open_index, read_store_id
from agentref.storage._sqlite import Database
from agentref.storage.protocol import FOREVER, BlobInfo

__all__ = ["FilesystemBlobStore"]

_MAX_BUSY_TIMEOUT: Final = 24 * 60 * 60
_MAX_LARGE_BLOB_BYTES: Final = 256 * 1024 * 1024


class FilesystemBlobStore:
    """Blobs in one directory, shared by any number of threads and processes of one machine.

    What `store` returned from survives `kill -9` and a power cut. A store may be used across a fork:
    the fork waits for verbs that run and closes the database, and both sides go on with their own.
    Not for network filesystems, where SQLite's locks do not hold.

    Args:
        root: a directory of the store's own. Anything else in it that is no store of ours is refused.
        create: make the directory and the store if they are not there.
        busy_timeout: seconds to wait for another writer before `StoreBusyError`.
        large_blob_bytes: blobs of at least this many stored bytes are files of their own. May differ
            from one opening to the next.

    Raises `StoreVersionError` for a directory, database or format that is not ours, and
    `StoreUnavailableError` if there is no store, or none that this user may write to.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        create: bool = True,
        busy_timeout: float = 60.0,
        large_blob_bytes: int = 128 * 1024,
    ) -> None:
        check_time("busy_timeout", busy_timeout)
        if not 0 <= busy_timeout <= _MAX_BUSY_TIMEOUT:
            raise InvalidInputError(
                f"busy_timeout must be from 0 to {_MAX_BUSY_TIMEOUT:,} s, not {busy_timeout!r:.40}."
            )
        if not 0 < large_blob_bytes <= _MAX_LARGE_BLOB_BYTES:
            raise InvalidInputError(
                f"large_blob_bytes must be 1 to {_MAX_LARGE_BLOB_BYTES:,}, not {large_blob_bytes!r:.40}."
            )
        self._root = Path(root).absolute()
        self._large = large_blob_bytes
        self._files = BlobFiles(self._root)
        with storage_errors(self._root):
            index = open_index(self._root, create=create, patience=busy_timeout)
            self._database = Database(index, busy_timeout=busy_timeout)
            self._finalizer = weakref.finalize(self, self._database.close, patience=0)
            with self._database.session(), self._database.read() as connection:
                self._store_id = read_store_id(connection, self._root)
            self._files.sweep_temporary()

    @property
    def store_id(self) -> str:
        """`fs-` and 12 hex digits, made with the store; a moved or copied directory keeps it."""
        return self._store_id

    @property
    def root(self) -> Path:
        """The store's directory, absolute."""
        return self._root

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """The bytes of each blob that is here, as they are: a damaged one is for the caller to notice."""
        found: dict[Digest, bytes] = {}
        wanted = unique_digests(digests)
        with self._verb():
            lost = self._fetch_into(found, wanted)
            if lost:
                # A `replace` may have turned the file into a row between our look at the two.
                self._fetch_into(found, lost)
        return found

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Keep all blobs, durably, or raise and keep none of the new ones: one transaction, one sync.

        Each large blob adds a sync of its file, each directory that such files go to one of its own.
        A blob that is here is only touched; one whose file is lost or cut short is written anew.
        """
        check_time("expires_at", expires_at)
        self._keep(valid_blobs(blobs), expires_at, overwrite=False)

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Overwrite the bytes of blobs that are here, whose lives go on; store the others for ever."""
        self._keep(valid_blobs(blobs), FOREVER, overwrite=True)

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """What is known of each blob that is here.

        A blob whose file is lost or cut short counts as absent, so that a put stores it anew. One query,
        and for each blob that is a file one look at its size.
        """
        wanted = unique_digests(digests)
        with self._verb():
            with self._database.read() as connection:
                rows = table.rows(connection, wanted)
            return {row.digest: row.info for row in rows if self._is_whole(row)}

    def epoch(self) -> int:
        """How many removals took something away, in any process: one row."""
        with self._verb(), self._database.read() as connection:
            return table.epoch(connection)

    def scan(self, *, after: Digest | None = None, limit: int = 1000) -> Sequence[BlobInfo]:
        """The next `limit` blobs in digest order, as the index has them.

        Files are not looked at: one that is lost is listed, so that a check of the store can miss it.
        """
        check_limit(limit)
        if after is not None:
            check_digest(after)
        with self._verb(), self._database.read() as connection:
            return table.page(connection, after, limit)

    def remove(self, digests: Collection[Digest], /, *, untouched_since: float = FOREVER) -> int:
        """Remove those that were last touched before `untouched_since`; says how many.

        The space goes back to the disk.
        """
        check_time("untouched_since", untouched_since)
        wanted = unique_digests(digests)
        with self._verb():
            if not wanted:
                return 0
            with self._database.write() as connection:
                old = [row for row in table.rows(connection, wanted) if row.touched_at < untouched_since]
                table.delete(connection, old)
            self._unlink_unowned([row.digest for row in old if row.payload_id is None])
            return len(old)

    def sweep(self) -> int:
        """Unlink blob files that no row stands for, as crashed writers leave them; says how many.

        Safe while others write. Costs a listing of every directory; temporary files need none of it,
        they are swept whenever a store is opened.
        """
        with self._verb():
            return sum(self._unlink_unowned(digests) for digests in self._files.listing())

    def close(self) -> None:
        """Wait for verbs that run, then release everything. Idempotent; safe from any thread."""
        with storage_errors(self._root):
            self._database.close()

    @contextmanager
    def _verb(self) -> Iterator[None]:
        with storage_errors(self._root), self._database.session():
            yield

    def _fetch_into(self, found: dict[Digest, bytes], wanted: list[Digest]) -> list[Digest]:
        """Add to `found` what is here; returns those whose row names a file that is not there."""
        with self._database.read() as connection:
            payloads = table.payloads(connection, wanted)
        lost: list[Digest] = []
        for digest, inline in payloads:
            data = self._files.read(digest) if inline is None else inline
            if data is None:
                lost.append(digest)
            else:
                found[digest] = data
        return lost

    def _is_whole(self, row: table.Row) -> bool:
        return row.payload_id is not None or self._files.size(row.digest) == row.stored_size

    def _keep(self, blobs: dict[Digest, bytes], expires_at: float, *, overwrite: bool) -> None:
        with self._verb():
            if not blobs:
                return
            large = [digest for digest, data in blobs.items() if len(data) >= self._large]
            if large and not overwrite:
                with self._database.read() as connection:
                    here = {row.digest for row in table.rows(connection, large) if self._is_whole(row)}
                large = [digest for digest in large if digest not in here]
            with self._files.stage() as staging:
                # The slow part, writing and syncing, is done before anyone has to wait for us.
                staging.add({digest: blobs[digest] for digest in large})
                try:
                    outdated = self._commit(blobs, staging, expires_at, overwrite=overwrite)
                except BaseException:
                    with suppress(OSError, sqlite3.Error):
                        self._unlink_unowned(staging.published)
                    raise
            self._unlink_unowned(outdated)

    def _commit(
        self, blobs: dict[Digest, bytes], staging: Staging, expires_at: float, *, overwrite: bool
    ) -> list[Digest]:
        """Touch what is here, write what is not; returns the digests whose file is no longer needed."""
        now = time.time()
        with self._database.write() as connection:
            known = {row.digest: row for row in table.rows(connection, blobs)}
            kept = set() if overwrite else {digest for digest, row in known.items() if self._is_whole(row)}
            table.touch(connection, kept, now=now, expires_at=expires_at)

            fresh = {digest: data for digest, data in blobs.items() if digest not in kept}
            renewed = [row for digest, row in known.items() if digest in fresh]
            if renewed:
                table.drop_payloads(connection, renewed)
            lives = dict.fromkeys(fresh, expires_at)
            if overwrite:
                lives.update((row.digest, row.expires_at) for row in renewed)

            large = {digest for digest, data in fresh.items() if len(data) >= self._large}
            staging.add({digest: fresh[digest] for digest in staging.missing(large)})
            staging.publish(large)
            table.insert(connection, fresh, as_files=large, now=now, lives=lives)
            return [row.digest for row in renewed if row.payload_id is None and row.digest not in large]

    def _unlink_unowned(self, digests: Collection[Digest]) -> int:
        """Unlink files that no row stands for, under the lock that everyone who moves a file in holds.

        After their rows are gone, never before: a crash leaves a file too many, not one too few.
        """
        if not digests:
            return 0
        with self._database.write() as connection:
            owned = {row.digest for row in table.rows(connection, digests) if row.payload_id is None}
            return self._files.unlink(digest for digest in digests if digest not in owned)
