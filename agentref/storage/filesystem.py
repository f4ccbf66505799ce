"""The local blob store: a SQLite index with names, lives and small batches, and packs for larger ones."""

import os
import sqlite3
import time
import weakref
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from agentref.errors import InvalidInputError, StorageError
from agentref.refs import Digest
from agentref.storage import _blob_table as table
from agentref.storage._arguments import check_digest, check_limit, check_time, unique_digests, valid_blobs
from agentref.storage._failures import storage_errors
from agentref.storage._index import open_index, read_store_id
from agentref.storage._packs import RECORD_HEAD, Appending, Pack, Packs, Span
from agentref.storage._sqlite import Database
from agentref.storage.protocol import FOREVER, BlobInfo

__all__ = ["FilesystemBlobStore"]

_MAX_BUSY_TIMEOUT: Final = 24 * 60 * 60
_MAX_PACK_FROM: Final = 256 * 1024 * 1024


class FilesystemBlobStore:
    """Blobs in one directory, shared by any number of threads and processes of one machine.

    What `store` returned from survives `kill -9` and a power cut. A store may be used across a fork:
    the fork waits for verbs that run and closes the database, and both sides go on with their own.
    Not for network filesystems, where SQLite's locks do not hold.

    Args:
        root: a directory of the store's own. Anything else in it that is no store of ours is refused.
        create: make the directory and the store if they are not there.
        busy_timeout: seconds to wait for another writer before `StoreBusyError`.
        pack_from_bytes: batches of at least this many stored bytes go to a pack file, smaller ones into the
            index: a pack costs one more sync, but its bytes are written once, not twice. May differ from
            one opening to the next.

    Raises `StoreVersionError` for a directory, database or format that is not ours, and
    `StoreUnavailableError` if there is no store, or none that this user may write to.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        create: bool = True,
        busy_timeout: float = 60.0,
        pack_from_bytes: int = 32 * 1024,
    ) -> None:
        check_time("busy_timeout", busy_timeout)
        if not 0 <= busy_timeout <= _MAX_BUSY_TIMEOUT:
            raise InvalidInputError(
                f"busy_timeout must be from 0 to {_MAX_BUSY_TIMEOUT:,} s, not {busy_timeout!r:.40}."
            )
        if not 0 < pack_from_bytes <= _MAX_PACK_FROM:
            raise InvalidInputError(
                f"pack_from_bytes must be 1 to {_MAX_PACK_FROM:,}, not {pack_from_bytes!r:.40}."
            )
        self._root = Path(root).absolute()
        self._pack_from = pack_from_bytes
        self._packs = Packs(self._root)
        self._names: dict[int, str] = {}
        with storage_errors(self._root):
            index = open_index(self._root, create=create, patience=busy_timeout)
            self._database = Database(index, busy_timeout=busy_timeout)
            self._finalizer = weakref.finalize(self, _release, self._database, self._packs)
            with self._database.session():
                with self._database.read() as connection:
                    self._store_id = read_store_id(connection, self._root)
                self._drop_unlisted()

    @property
    def store_id(self) -> str:
        """`fs-` and 12 hex digits, made with the store; a moved or copied directory keeps it."""
        return self._store_id

    @property
    def root(self) -> Path:
        """The store's directory, absolute."""
        return self._root

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """The bytes of each blob that is here, as they are: a damaged one is for the caller to notice.

        What lies together in a pack is read together.
        """
        found: dict[Digest, bytes] = {}
        wanted = unique_digests(digests)
        with self._verb():
            lost = self._fetch_into(found, wanted)
            if lost:
                # They may have moved between our look at the index and our look at the pack.
                self._fetch_into(found, lost)
        return found

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Keep all blobs, durably, or raise and keep none of the new ones: one transaction and one sync, or
        two for a batch that goes to a pack.

        A blob that is here is only touched; one whose pack is lost or cut short is written anew.
        """
        check_time("expires_at", expires_at)
        self._keep(valid_blobs(blobs), expires_at, overwrite=False)

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Overwrite the bytes of blobs that are here, whose lives go on; store the others for ever."""
        self._keep(valid_blobs(blobs), FOREVER, overwrite=True)

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """What is known of each blob that is here.

        A blob whose pack is lost or cut short counts as absent, so that a put stores it anew. One query,
        and one look at the size of each pack.
        """
        wanted = unique_digests(digests)
        with self._verb(), self._database.read() as connection:
            return {row.digest: row.info for row in self._whole(connection, wanted)}

    def epoch(self) -> int:
        """How many removals took something away, in any process: one row."""
        with self._verb(), self._database.read() as connection:
            return table.epoch(connection)

    def scan(self, *, after: Digest | None = None, limit: int = 1000) -> Sequence[BlobInfo]:
        """The next `limit` blobs in digest order, as the index has them.

        Packs are not looked at: a blob that is lost is listed, so that a check of the store can miss it.
        """
        check_limit(limit)
        if after is not None:
            check_digest(after)
        with self._verb(), self._database.read() as connection:
            return table.page(connection, after, limit)

    def remove(self, digests: Collection[Digest], /, *, untouched_since: float = FOREVER) -> int:
        """Remove those that were last touched before `untouched_since`; says how many.

        The space goes back to the disk: that of a pack when less than half of it is still needed, and
        nobody writes to it at the moment. What is needed is copied then.
        """
        check_time("untouched_since", untouched_since)
        wanted = unique_digests(digests)
        with self._verb():
            if not wanted:
                return 0
            with self._database.write() as connection:
                old = [row for row in table.rows(connection, wanted) if row.touched_at < untouched_since]
                smaller = table.delete(connection, old)
            self._try_to_shrink(smaller)
            return len(old)

    def sweep(self) -> int:
        """Give back what crashed and busy writers left: packs that no blob is in, or few; says how many.

        Safe while others write. Costs a listing of the packs, and a copy of what is still needed in those
        that are hardly so. The packs of writers that died at once are gone when the store is opened again.
        """
        with self._verb():
            with self._database.read() as connection:
                known = {pack.id for pack in table.packs(connection)}
            return self._drop_unlisted() + self._shrink(known)

    def close(self) -> None:
        """Wait for verbs that run, then release everything. Idempotent; safe from any thread."""
        with storage_errors(self._root):
            _release(self._database, self._packs, patience=None)

    def _verb(self) -> "_Verb":
        return _Verb(self._root, self._database)

    def _fetch_into(self, found: dict[Digest, bytes], wanted: list[Digest]) -> list[Digest]:
        """Add to `found` what is here; returns those whose row names a pack that is not there."""
        with self._database.read() as connection:
            places = table.places(connection, wanted)
            packed: dict[int, dict[Span, list[Digest]]] = defaultdict(lambda: defaultdict(list))
            for digest, pack_id, offset, size, data in places:
                if pack_id is not None:
                    packed[pack_id][Span(offset, size)].append(digest)
                elif data is not None:
                    found[digest] = data
            names = self._names_of(connection, packed)
        lost: list[Digest] = []
        for pack_id, spans in packed.items():
            read = self._packs.read(names[pack_id], spans) if pack_id in names else None
            for span, digests in spans.items():
                if read is None:
                    lost += digests
                else:
                    found.update(dict.fromkeys(digests, read[span]))
        return lost

    def _whole(self, connection: sqlite3.Connection, digests: Collection[Digest]) -> list[table.Row]:
        """The rows of those that are here with all of their bytes."""
        rows = table.rows(connection, digests)
        names = self._names_of(connection, {row.pack_id for row in rows if row.pack_id is not None})
        sizes = {pack_id: self._packs.size(name) for pack_id, name in names.items()}
        return [
            row
            for row in rows
            if row.pack_id is None or row.place + row.stored_size <= sizes.get(row.pack_id, 0)
        ]

    def _names_of(self, connection: sqlite3.Connection, pack_ids: Collection[int]) -> dict[int, str]:
        """The names of packs; one that is deleted may be among them. No two packs ever have one id."""
        if not all(map(self._names.__contains__, pack_ids)):
            self._names = {pack.id: pack.name for pack in table.packs(connection)}
        return {pack_id: self._names[pack_id] for pack_id in pack_ids if pack_id in self._names}

    def _keep(self, blobs: dict[Digest, bytes], expires_at: float, *, overwrite: bool) -> None:
        with self._verb():
            if not blobs:
                return
            if sum(map(len, blobs.values())) < self._pack_from:
                self._commit(blobs, None, expires_at, overwrite=overwrite)
                return
            # The slow part, writing and syncing, is done before anyone has to wait for us.
            with self._packs.append(blobs, self._reach) as appending:
                self._commit(blobs, appending, expires_at, overwrite=overwrite)

    def _commit(
        self, blobs: dict[Digest, bytes], appending: Appending | None, expires_at: float, *, overwrite: bool
    ) -> None:
        """Touch what is here, and write rows of what is not."""
        now = time.time()
        with self._database.write() as connection:
            known = {row.digest: row for row in table.rows(connection, blobs)}
            kept: set[Digest] = set()
            if known and not overwrite:
                kept = {row.digest for row in self._whole(connection, known)}
                table.touch(connection, kept, now=now, expires_at=expires_at)
            fresh = {digest: data for digest, data in blobs.items() if digest not in kept}
            renewed = [row for digest, row in known.items() if digest in fresh]
            smaller = table.drop_bytes(connection, renewed) if renewed else set()
            pack_id, spans = self._placed(connection, fresh, appending)
            new = {d: span for d, span in spans.items() if d not in known} if renewed else spans
            table.insert(connection, new, pack_id, now=now, expires_at=expires_at)
            if renewed:
                moved = {row.digest: spans[row.digest] for row in renewed}
                later = -FOREVER if overwrite else expires_at
                table.move(connection, moved, pack_id, now=now, expires_at=later)
        self._try_to_shrink(smaller)

    @staticmethod
    def _placed(
        connection: sqlite3.Connection, fresh: dict[Digest, bytes], appending: Appending | None
    ) -> tuple[int | None, dict[Digest, tuple[int, int]]]:
        """The pack, if it is one, and where in it each blob is."""
        if appending is None:
            return None, table.add_payloads(connection, fresh)
        if not fresh:
            appending.undo()  # all of it was here already
            return None, {}
        sizes = list(map(len, fresh.values()))
        pack_id = table.fill_pack(connection, appending.name, appending.end, sizes)
        return pack_id, {digest: appending.spans[digest] for digest in fresh}

    # Packs that are no longer needed, or hardly

    def _reach(self) -> dict[str, int]:
        with self._database.read() as connection:
            return {pack.name: pack.size for pack in table.packs(connection)}

    def _unlisted(self, connection: sqlite3.Connection) -> list[str]:
        found = self._packs.names()
        listed = {pack.name for pack in table.packs(connection)} if found else set()
        return [name for name in found if name not in listed]

    def _drop_unlisted(self) -> int:
        """Delete packs that the index does not have: their writer died before it could say so."""
        with self._database.read() as connection:
            unlisted = self._unlisted(connection)
        dropped = 0
        for name in unlisted:
            pack = self._packs.take(name, 0)
            if pack is None:
                continue  # its writer lives
            with self._database.read() as connection:
                listed = name not in self._unlisted(connection)
            if listed:
                self._packs.put_away(pack)
            else:
                self._packs.delete(pack)
                dropped += 1
        return dropped

    def _try_to_shrink(self, pack_ids: Collection[int]) -> None:
        """What was asked for is done. If there is no room to copy, or no time, a sweep will do it."""
        with suppress(OSError, sqlite3.Error, StorageError):
            self._shrink(pack_ids)

    def _shrink(self, pack_ids: Collection[int]) -> int:
        """Delete those of the packs of which less than half is needed; says how many."""
        if not pack_ids:
            return 0
        with self._database.read() as connection:
            packs = table.packs(connection)
        return sum(
            self._move_out(pack) for pack in packs if pack.id in pack_ids and 2 * pack.live < pack.size
        )

    def _move_out(self, old: table.PackRow) -> bool:
        """Move what is needed out of a pack, and delete it, unless another is writing to it."""
        pack = self._packs.take(old.name, old.size)
        if pack is None:
            return False
        moved = False
        try:
            needed = self._needed(old, pack)
            if sum(map(len, needed.values())) < self._pack_from:
                moved = self._resettle(old, needed, None)
            else:
                with self._packs.append(needed, self._reach) as appending:
                    moved = self._resettle(old, needed, appending)
        finally:
            if moved:
                self._packs.delete(pack)
            else:
                self._packs.put_away(pack)
        return moved

    def _needed(self, old: table.PackRow, pack: Pack) -> dict[Digest, bytes]:
        spans = dict(pack.records()) if old.live else {}
        with self._database.read() as connection:
            rows = table.rows(connection, spans)
        places = {row.digest: Span(row.place, row.stored_size) for row in rows if row.pack_id == old.id}
        read = self._packs.read(old.name, places.values()) or {}
        return {
            digest: read[span] for digest, span in places.items() if len(read.get(span, b"")) == span.size
        }

    def _resettle(
        self, old: table.PackRow, needed: dict[Digest, bytes], appending: Appending | None
    ) -> bool:
        """Let the rows of a pack say where their bytes are now, and forget the pack: nothing came to it.

        Not if anything is in it that was not found: then it is damaged, and stays as it is.
        """
        with self._database.write() as connection:
            rows = [row for row in table.rows(connection, needed) if row.pack_id == old.id]
            live = next((pack.live for pack in table.packs(connection) if pack.id == old.id), 0)
            here = {row.digest: needed[row.digest] for row in rows}
            found = live == sum(RECORD_HEAD + len(data) for data in here.values())
            if found:
                pack_id, spans = self._placed(connection, here, appending)
                table.move(connection, spans, pack_id)
                table.delete_pack(connection, old.id)
        if not found and appending is not None:
            appending.undo()
        return found


class _Verb(storage_errors):
    """A session of the database, whose errors become ours."""

    __slots__ = ("_database",)

    def __init__(self, root: Path, database: Database) -> None:
        super().__init__(root)
        self._database = database

    def __enter__(self) -> None:
        self._database.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.leave()
        super().__exit__(kind, error, trace)


def _release(database: Database, packs: Packs, *, patience: float | None = 0) -> None:
    database.close(patience=patience)
    packs.close()
