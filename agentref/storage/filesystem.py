"""The local blob store: packs that hold the blobs, and a SQLite index of names and lives."""

import os
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

from agentref.errors import InvalidInputError, StoreBusyError, StoreUnavailableError
from agentref.refs import Digest
from agentref.sqlite import Database, Subject, storage_errors
from agentref.storage import _blob_table as table
from agentref.storage._arguments import (
    check_digest,
    check_limit,
    check_root,
    check_time,
    unique_digests,
    unique_pins,
    valid_blobs,
)
from agentref.storage._compaction import shrink, try_to_shrink
from agentref.storage._index import INDEX, open_index, read_store_id
from agentref.storage._journal import Journal
from agentref.storage._roots import IndexedRoots, set_pins
from agentref.storage._tail import Appended
from agentref.storage._verb import Verb
from agentref.storage.audit import survey_pages
from agentref.storage.protocol import FOREVER, BlobInfo, PinRow

__all__ = ["FilesystemBlobStore"]

_MAX_BUSY_TIMEOUT: Final = 24 * 60 * 60
_ATTEMPTS: Final = 10
_PACK: Final = itemgetter(1)
_PLACE: Final = itemgetter(1, 2)
_SPAN: Final = itemgetter(2, 3)
_DIGEST: Final = itemgetter(0)


class FilesystemBlobStore(IndexedRoots):
    """Blobs in one directory, shared by any number of threads and processes of one machine.

    What `store` returned from survives `kill -9` and a power cut. A store may be used across a fork:
    the fork waits for verbs that run and closes the database, and both sides go on with their own.
    Not for network filesystems, where SQLite's locks do not hold.

    Args:
        root: a directory of the store's own. Anything else in it that is no store of ours is refused.
        create: make the directory and the store if they are not there.
        busy_timeout: seconds to wait for another writer before `StoreBusyError`.

    Raises `StoreVersionError` for a directory, database or format that is not ours, and
    `StoreUnavailableError` if there is no store, or none that this user may write to.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        create: bool = True,
        busy_timeout: float = 60.0,
    ) -> None:
        check_time("busy_timeout", busy_timeout)
        if not 0 <= busy_timeout <= _MAX_BUSY_TIMEOUT:
            raise InvalidInputError(
                f"busy_timeout must be from 0 to {_MAX_BUSY_TIMEOUT:,} s, not {busy_timeout!r:.40}."
            )
        self._root = Path(check_root(root)).absolute()
        self._absent: tuple[int, set[Digest]] = -1, set()
        self._subject = Subject("blob store", self._root, part="index", file=INDEX)
        self._errors = storage_errors(self._subject)
        with self._errors:
            index = open_index(self._root, create=create, patience=busy_timeout)
            self._database = Database(index, busy_timeout=busy_timeout, subject=self._subject)
            self._journal = Journal(self._root, self._database, patience=busy_timeout)
            self._packs = self._journal.packs
            self._finalizer = weakref.finalize(self, _release, self._database, self._journal)
            with self._database.session():
                with self._database.read() as connection:
                    self._store_id = read_store_id(connection, self._root)
                self._journal.adopt()

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
        with self._verb():
            wanted = unique_digests(digests)
            self._fetch_into(found, self._rows(wanted))
            if len(found) < len(wanted):
                self._database.check_file()  # a directory that was taken away holds none of them
        return found

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Keep all blobs, durably, or raise and keep none of the new ones: one sync, whatever their number.

        A blob that is here is only touched; one whose pack is lost or cut short is written anew. Both take
        a transaction, and one sync more.
        """
        self.store_pinned(blobs, (), expires_at=expires_at)

    def store_pinned(
        self, blobs: Mapping[Digest, bytes], pins: Collection[PinRow], /, *, expires_at: float = FOREVER
    ) -> None:
        """`store` and `pin` as one, all or nothing: one sync for both if none of the blobs is here."""
        check_time("expires_at", expires_at)
        given, wanted = valid_blobs(blobs), unique_pins(pins)
        with self._verb():
            if not (given or wanted):
                return
            if given and self._none_is_here(given):
                self._journal.append(given, expires_at, wanted)
            else:
                self._keep(given, expires_at, pins=wanted)

    def unpin(self, owners: Collection[str], /) -> int:
        """Take all pins of these owners away, of writers that have just died as well; says how many."""
        with self._verb():
            self._journal.take_over()
        return super().unpin(owners)

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Overwrite the bytes of blobs that are here, whose lives go on; store the others for ever."""
        given = valid_blobs(blobs)
        with self._verb():
            if given:
                self._keep(given, FOREVER, overwrite=True)

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """What is known of each blob that is here. One whose pack is lost or cut short counts as absent, so
        that a put stores it anew. One query, and one look at the size of each pack."""
        wanted = unique_digests(digests)
        with self._verb():
            return {row.digest: row.info for row in self._here(wanted)}

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Which of them are here with all of their bytes; each lives until `expires_at` at least.

        Costs what `stat` does if all live so long already, and a transaction if not.
        """
        check_time("expires_at", expires_at)
        wanted = unique_digests(digests)
        with self._verb():
            here = self._here(wanted)
            stale = {row.digest for row in here if row[5] < expires_at or row[6] is not None}
            if not stale:
                return [row.digest for row in here]
            with self._journal.settled() as connection:
                table.touch(connection, stale, now=time.time(), expires_at=expires_at)
                left = {row.digest for row in table.rows(connection, stale)}
            return [row.digest for row in here if row.digest in left or row.digest not in stale]

    def peek(self, digests: Collection[Digest], /) -> Mapping[Digest, int]:
        """The first byte of each blob that is here; -1 for an empty one. One read of a pack for each."""
        wanted = unique_digests(digests)
        with self._verb():
            rows = [row._replace(stored_size=min(row.stored_size, 1)) for row in self._here(wanted)]
            found: dict[Digest, bytes] = {}
            self._fetch_into(found, rows)
            return {digest: data[0] if data else -1 for digest, data in found.items()}

    def epoch(self) -> int:
        """Another number than before if something was removed, by whatever process. One system call: a
        directory that was taken away holds nothing of what was seen in it."""
        try:
            self._database.check_file()
            return self._journal.epoch()
        except (ValueError, OSError):  # of a page that is closed; of a directory that may not be looked at
            with self._verb():
                raise

    def clock(self) -> float:
        """The machine's."""
        with self._verb():
            return time.time()

    def scan(
        self, *, after: Digest | None = None, limit: int = 1000, expires_by: float = FOREVER
    ) -> Sequence[BlobInfo]:
        """The next `limit` blobs in digest order, as the index has them.

        Packs are not looked at: a blob that is lost is listed, so that a check of the store can miss it.
        """
        check_limit(limit)
        check_time("expires_by", expires_by)
        if after is not None:
            check_digest(after)
        with self._verb():
            self._journal.settle()
            with self._database.read() as connection:
                return table.page(connection, after, limit, expires_by)

    def survey(self, see: Callable[[Sequence[BlobInfo], int], object], /, *, expires_by: float) -> None:
        """Show those whose life ends by then and, if there are any, the others that link to others: then
        each of them is looked at, and read as for `peek`."""
        check_time("expires_by", expires_by)
        survey_pages(self, see, expires_by=expires_by)

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """Note that nothing needs these; those whose life ends after `expires_by` are left alone."""
        check_time("expires_by", expires_by)
        wanted = unique_digests(digests)
        with self._verb():
            if not wanted:
                return 0
            with self._journal.settled() as connection:
                return table.condemn(connection, wanted, now=time.time(), expires_by=expires_by)

    def remove(
        self,
        digests: Collection[Digest],
        /,
        *,
        expires_by: float = FOREVER,
        condemned_by: float | None = None,
    ) -> int:
        """Remove those whose life ends at `expires_by` or before, and that are condemned since
        `condemned_by` where that is given; says how many.

        The space goes back to the disk: that of a pack when less than half of it is still needed, and
        nobody writes to it at the moment. What is needed is copied then.
        """
        check_time("expires_by", expires_by)
        if condemned_by is not None:
            check_time("condemned_by", condemned_by)
        wanted = unique_digests(digests)
        with self._verb():
            if not wanted:
                return 0
            # Two transactions: once the first is committed, and not before, everybody asks the index.
            with self._journal.settled():
                pass
            with self._database.write() as connection:
                old = [
                    row
                    for row in table.rows(connection, wanted)
                    if row.expires_at <= expires_by and _is_condemned(row, condemned_by)
                ]
                if not old:
                    return 0
                begun = self._journal.begin_removal()
                smaller = table.delete(connection, old)
            self._journal.end_removal(begun)
            try_to_shrink(self._database, self._journal, smaller)
            return len(old)

    def sweep(self) -> int:
        """Give back what crashed and busy writers left: packs that no blob is in, or few; says how many.

        Safe while others write. Costs a listing of the packs, and a copy of what is needed in such ones.
        """
        with self._verb():
            dropped = self._journal.adopt()
            self._journal.settle()
            with self._database.read() as connection:
                known = {pack.id for pack in table.packs(connection)}
            return dropped + shrink(self._database, self._journal, known)

    def close(self) -> None:
        """Wait for verbs that run, then release everything. Idempotent; safe from any thread."""
        with self._errors:
            if self._journal.waits:
                with suppress(StoreUnavailableError), self._database.session():
                    self._journal.try_to_settle()
            _release(self._database, self._journal, patience=None)

    def _verb(self) -> Verb:
        return Verb(self._database, self._errors)

    def _rows(self, digests: Collection[Digest]) -> list[table.Row]:
        """The row of each that is here: the index is asked for those of which the journal does not know."""
        found = self._journal.find(digests)
        if len(found) == len(digests):
            return list(found.values())
        unknown = [digest for digest in digests if digest not in found] if found else digests
        with self._database.read() as connection:
            return [*found.values(), *table.rows(connection, unknown)]

    def _here(self, wanted: Collection[Digest]) -> list[table.Row]:
        """The row of each that is here with all of its bytes; takes note of those that are not."""
        rows = self._rows(wanted)
        self._absent = self._journal.changes, set(wanted).difference([row.digest for row in rows])
        return self._whole(rows)

    def _whole(self, rows: Collection[table.Row]) -> list[table.Row]:
        """Those that are here with all of their bytes; what has moved meanwhile, where it is now."""
        found: list[table.Row] = []
        gone: set[int] = set()
        while rows:
            whole = self._journal.whole(rows)
            found += whole
            rows = self._moved(set(rows).difference(whole), gone) if len(whole) < len(rows) else []
        return found

    def _moved(self, lost: Collection[table.Row], gone: set[int]) -> list[table.Row]:
        """The new rows of those that were not found: of blobs that moved between our look at the index and
        our look at the pack, however often. `gone` are the packs that were looked at in vain."""
        gone.update([row.pack_id for row in lost])
        return [row for row in self._rows([row.digest for row in lost]) if row.pack_id not in gone]

    def _none_is_here(self, blobs: dict[Digest, bytes]) -> bool:
        """Whether all of these are new. Mostly somebody has just asked for them: then the index has not
        got them since, unless the journal saw a change."""
        found = self._journal.find(blobs)
        changes, absent = self._absent
        if not found and changes == self._journal.changes and absent.issuperset(blobs):
            return True
        return not found and not self._rows(blobs)

    def _fetch_into(self, found: dict[Digest, bytes], rows: list[table.Row]) -> None:
        """Add to `found` what these rows stand for, but for those of packs that are lost."""
        gone: set[int] = set()
        while rows:
            rows.sort(key=_PLACE)
            names = self._journal.names({row[1] for row in rows})
            lost: list[table.Row] = []
            for pack_id, lying in groupby(rows, _PACK):
                few = list(lying)
                spans = list(map(_SPAN, few))
                read = self._packs.read(names[pack_id], spans) if pack_id in names else None
                if read is None:
                    lost += few
                else:
                    found.update(zip(map(_DIGEST, few), read, strict=True))
            rows = self._moved(lost, gone) if lost else []

    def _keep(
        self,
        blobs: dict[Digest, bytes],
        expires_at: float,
        *,
        overwrite: bool = False,
        pins: Collection[PinRow] = (),
    ) -> None:
        """Touch what is here, and write what is not, and set pins: all in one transaction."""
        for _ in range(_ATTEMPTS):
            here = set() if overwrite else {row.digest for row in self._whole(self._rows(blobs))}
            fresh = {digest: data for digest, data in blobs.items() if digest not in here}
            # The slow part, writing and syncing, is done before anyone has to wait for us.
            with self._journal.appended(fresh, expires_at) as appended:
                smaller = self._commit(blobs, appended, fresh, expires_at, pins, overwrite=overwrite)
            if smaller is not None:
                try_to_shrink(self._database, self._journal, smaller)
                return
        raise StoreBusyError(f"{self._root}: others remove what is being stored, again and again.")

    def _commit(  # noqa: PLR0913
        self,
        blobs: dict[Digest, bytes],
        appended: Appended,
        fresh: Collection[Digest],
        expires_at: float,
        pins: Collection[PinRow],
        *,
        overwrite: bool,
    ) -> set[int] | None:
        """The packs of which less is needed now; None if something that was here is no longer."""
        now = time.time()
        with self._journal.settled() as connection:
            known = {row.digest: row for row in table.rows(connection, blobs)}
            kept = set() if overwrite else {row.digest for row in self._journal.whole(known.values())}
            if not kept.union(fresh).issuperset(blobs):
                return None
            table.touch(connection, kept, now=now, expires_at=expires_at)
            rows = [row._replace(touched_at=now) for row in appended.rows(blobs.keys() - kept)]
            renewed = [row for row in rows if row.digest in known]
            smaller = table.loosen(connection, [known[row.digest] for row in renewed])
            table.insert(connection, [row for row in rows if row.digest not in known])
            table.move(connection, renewed, now=now, expires_at=-FOREVER if overwrite else expires_at)
            set_pins(connection, pins)
            if rows:
                appended.commit(connection, rows)
        return smaller


def _is_condemned(row: table.Row, by: float | None) -> bool:
    return by is None or (row.condemned_at is not None and row.condemned_at <= by)


def _release(database: Database, journal: Journal, *, patience: float | None = 0) -> None:
    database.close(patience=patience)
    journal.close()
