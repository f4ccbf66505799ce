"""Removing what nobody needs, beside those who read and write.

A prune that begins at time T reads the roots (aliases, pins, and all blobs whose own life has not ended),
marks what they need, and acts on the rest, the expired blobs that nothing needs. One that no prune has
condemned yet is condemned. One that was condemned at least `grace` before T is removed, unless it was
touched since.

Why nothing that lives is lost: whoever puts a value touches each of its blobs, old or new, and whoever sets
an alias or a pin touches all that it needs before it is visible. A touch takes a condemnation back, in the
same row that the removal looks at. So what gets needed before T is marked, and what gets needed after T has
been touched after T.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Final, Protocol

from agentref.errors import IntegrityError
from agentref.refs import Digest
from agentref.storage.audit import pages
from agentref.storage.protocol import FOREVER, BlobInfo, BlobStore, RootStore
from agentref.storage.reports import PruneReport
from agentref.storage.walking import links_of

__all__ = ["PrunableStore", "prune"]

_PAGE: Final = 2000
_REMOVED_AT_ONCE: Final = 500  # a removal holds others up for as long as it takes

_UNREACHED, _REACHED, _EXPANDED = range(3)


class PrunableStore(BlobStore, RootStore, Protocol):
    """A store of blobs and of roots."""


class _Candidates:
    """The expired blobs of a store, and which of them are needed. On disk if they are many.

    SQLite keeps a database without a name in its cache, and in a file of its own that nobody sees once it
    outgrows that.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(f"""
            PRAGMA journal_mode = OFF;
            PRAGMA cache_size = -16384;
            CREATE TABLE candidate(
                digest BLOB PRIMARY KEY, size INTEGER, condemned_at REAL, state INTEGER NOT NULL
            ) WITHOUT ROWID;
            CREATE INDEX frontier ON candidate(digest) WHERE state = {_REACHED};
            BEGIN;  -- never ended: else each row that is changed would be a transaction
        """)
        self.count = 0

    def close(self) -> None:
        self._database.close()

    def add(self, page: Sequence[BlobInfo]) -> None:
        self._database.executemany(
            "INSERT OR IGNORE INTO candidate VALUES (?, ?, ?, ?)",
            [(info.digest, info.stored_size, info.condemned_at, _UNREACHED) for info in page],
        )
        self.count += len(page)

    def reach(self, digests: Iterable[Digest]) -> None:
        """These are needed; so will be what they link to."""
        self._database.executemany(
            "UPDATE candidate SET state = ? WHERE digest = ? AND state = ?",
            [(_REACHED, digest, _UNREACHED) for digest in digests],
        )

    def frontier(self) -> list[Digest]:
        """The next ones of which it is not known what they link to."""
        found = self._database.execute(
            "SELECT digest FROM candidate WHERE state = ? LIMIT ?", (_REACHED, _PAGE)
        )
        digests = [Digest(digest) for (digest,) in found]
        self._database.executemany(
            "UPDATE candidate SET state = ? WHERE digest = ?", [(_EXPANDED, digest) for digest in digests]
        )
        return digests

    def next_page(self, after: bytes, limit: int) -> list[tuple[Digest, int, float | None, bool]]:
        """Digest, size, when it was condemned, and whether it is needed; in order."""
        found = self._database.execute(
            "SELECT digest, size, condemned_at, state FROM candidate WHERE digest > ? "
            "ORDER BY digest LIMIT ?",
            (after, limit),
        )
        return [(Digest(digest), size, at, state != _UNREACHED) for digest, size, at, state in found]


def prune(
    store: PrunableStore,
    *,
    limit: int | None,
    dry_run: bool,
    grace: float,
    progress: Callable[[int], None] | None,
) -> PruneReport:
    """Condemn what has expired and is not needed; remove what was condemned `grace` seconds ago.

    Raises `IntegrityError`, and has changed nothing, if it cannot read what something needs.
    """
    begun = store.clock()
    run = _Prune(store, begun, dry_run=dry_run, progress=progress or (lambda _: None))
    with closing(run.candidates):
        for page in pages(store, _PAGE, expires_by=begun):
            run.candidates.add(page)
            run.advance(len(page))
        if run.candidates.count:
            try:
                run.mark()
            except IntegrityError as error:
                raise type(error)(
                    f"Nothing was pruned: it cannot be told what is needed. {error} Store the value again "
                    f"through repair(), or delete that blob; `agentref verify` lists all that are damaged."
                ) from error
            run.act(begun - grace if grace else FOREVER, limit)
        forgotten = 0 if dry_run else store.forget(expires_by=begun)
        return run.report(forgotten)


class _Prune:
    def __init__(
        self, store: PrunableStore, begun: float, *, dry_run: bool, progress: Callable[[int], None]
    ) -> None:
        self.store = store
        self.begun = begun
        self.dry_run = dry_run
        self.candidates = _Candidates()
        self._progress = progress
        self._looked_at = 0
        self._needed = self._condemned = self._waiting = self._removed = self._removed_bytes = 0

    def advance(self, count: int) -> None:
        self._looked_at += count
        self._progress(self._looked_at)

    def mark(self) -> None:
        """Find out which candidates are needed."""
        pin: tuple[str, Digest] | None = None
        while pins := self.store.scan_pins(after=pin, limit=_PAGE):
            self.candidates.reach([row.digest for row in pins])
            pin = pins[-1].owner, pins[-1].digest
        name: str | None = None
        while aliases := self.store.scan_aliases(after=name, limit=_PAGE):
            self.candidates.reach([row.digest for row in aliases])
            name = aliases[-1].name
        for page in pages(self.store, _PAGE):
            living = [info.digest for info in page if info.expires_at > self.begun]
            self._expand(living)
            self.advance(len(living))
        while frontier := self.candidates.frontier():
            self._expand(frontier)

    def _expand(self, digests: Sequence[Digest]) -> None:
        for _, children in links_of(self.store, digests):
            self.candidates.reach(children)

    def act(self, cutoff: float, limit: int | None) -> None:
        """Condemn, pardon and remove."""
        after = b""
        left = FOREVER if limit is None else limit
        while page := self.candidates.next_page(after, _REMOVED_AT_ONCE):
            after = page[-1][0]
            pardoned = [digest for digest, _, at, needed in page if needed and at is not None]
            doomed = [(digest, size, at) for digest, size, at, needed in page if not needed]
            fresh = [digest for digest, _, at in doomed if at is None]
            ripe = {d: size for d, size, at in doomed if (self.begun if at is None else at) <= cutoff}
            while len(ripe) > left:
                ripe.popitem()
            self._needed += len(page) - len(doomed)
            if self.dry_run:
                self._condemned += len(fresh)
                removed = len(ripe)
            else:
                if pardoned:
                    self.store.touch(pardoned, expires_at=0.0)
                if fresh:
                    self._condemned += self.store.condemn(fresh, expires_by=self.begun)
                removed = self._remove(ripe, cutoff)
            self._removed += removed
            self._removed_bytes += sum(ripe.values())
            self._waiting += len(doomed) - removed
            left -= removed
            self.advance(len(page))

    def _remove(self, ripe: dict[Digest, int], cutoff: float) -> int:
        """How many went; those that somebody has touched meanwhile are taken out of `ripe`."""
        if not ripe:
            return 0
        removed = self.store.remove(list(ripe), condemned_by=cutoff)
        if removed < len(ripe):
            for digest in self.store.stat(list(ripe)):
                del ripe[digest]
        return removed

    def report(self, forgotten: int) -> PruneReport:
        return PruneReport(
            dry_run=self.dry_run,
            expired=self.candidates.count,
            needed=self._needed,
            condemned=self._condemned,
            waiting=self._waiting,
            removed=self._removed,
            removed_bytes=self._removed_bytes,
            forgotten=forgotten,
        )
