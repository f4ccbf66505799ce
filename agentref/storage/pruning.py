"""Removing what nobody needs, beside those who read and write.

A prune that begins at time T reads the roots (aliases, pins, and all blobs whose own life has not ended),
marks what they need, and acts on the rest, the expired blobs that nothing needs. One that no prune has
condemned yet is condemned. One that was condemned at least `grace` before T is removed, unless it was
touched since. Without a grace time, all are removed at once whose life still ends by T.

Why nothing that lives is lost: whoever puts a value touches each of its blobs, old or new, and whoever
sets an alias or a pin touches all that it needs before it is visible. A touch takes a condemnation back,
and lets the blob live until after T, in the same row that the removal looks at. So what gets needed before
T is marked, and what gets needed after T has been touched after T.
"""

from collections.abc import Callable
from contextlib import closing
from typing import Final, Protocol

from agentref.errors import IntegrityError
from agentref.refs import Digest
from agentref.storage.marking import Candidates, mark, survey
from agentref.storage.protocol import FOREVER, BlobStore, RootStore
from agentref.storage.reports import PruneReport

__all__ = ["PrunableStore", "prune"]

_REMOVED_AT_ONCE: Final = 500  # a removal holds others up for as long as it takes


class PrunableStore(BlobStore, RootStore, Protocol):
    """A store of blobs and of roots."""


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
        survey(store, run.candidates, begun, advance=run.advance)
        if run.candidates.count:
            try:
                mark(store, run.candidates, advance=run.advance)
            except IntegrityError as error:
                raise type(error)(
                    f"Nothing was pruned: it cannot be told what is needed. {error} Store the value again "
                    f"through repair(), or delete that blob; `agentref verify` lists all that are damaged."
                ) from error
            run.act(begun - grace if grace else None, limit)
        forgotten = 0 if dry_run else store.forget(expires_by=begun)
        return run.report(forgotten)


class _Prune:
    def __init__(
        self, store: PrunableStore, begun: float, *, dry_run: bool, progress: Callable[[int], None]
    ) -> None:
        self.store = store
        self.begun = begun
        self.dry_run = dry_run
        self.candidates = Candidates()
        self._progress = progress
        self._looked_at = 0
        self._needed = self._condemned = self._waiting = self._removed = self._removed_bytes = 0

    def advance(self, count: int) -> None:
        self._looked_at += count
        self._progress(self._looked_at)

    def act(self, cutoff: float | None, limit: int | None) -> None:
        """Pardon and condemn; remove what was condemned by `cutoff`, or all of it if that is None."""
        left = FOREVER if limit is None else limit
        for page in self.candidates.pages(_REMOVED_AT_ONCE):
            pardoned = [one.digest for one in page if one.is_needed and one.condemned_at is not None]
            doomed = [one for one in page if not one.is_needed]
            fresh = [one.digest for one in doomed if one.condemned_at is None]
            ripe = {
                one.digest: one.size
                for one in doomed
                if cutoff is None or (one.condemned_at is not None and one.condemned_at <= cutoff)
            }
            while len(ripe) > left:
                ripe.popitem()
            kept = [digest for digest in fresh if digest not in ripe]
            self._needed += len(page) - len(doomed)
            if self.dry_run:
                self._condemned += len(fresh)
                gone = removed = len(ripe)
            else:
                if pardoned:
                    self.store.touch(pardoned, expires_at=0.0)
                if kept:
                    self._condemned += self.store.condemn(kept, expires_by=self.begun)
                gone, removed = self._remove(ripe, cutoff)
                self._condemned += sum(digest in ripe for digest in fresh)
            self._removed += removed
            self._removed_bytes += sum(ripe.values())
            self._waiting += len(doomed) - gone
            left -= removed
            self.advance(len(page))

    def _remove(self, ripe: dict[Digest, int], cutoff: float | None) -> tuple[int, int]:
        """How many are gone, and how many of them by us: so many are left in `ripe`.

        Of two prunes at once nobody knows which took which; then it may name others of what is gone.
        """
        if not ripe:
            return 0, 0
        removed = self.store.remove(list(ripe), expires_by=self.begun, condemned_by=cutoff)
        gone = removed
        if removed < len(ripe):
            for digest in self.store.stat(list(ripe)):
                del ripe[digest]
            gone = len(ripe)
            while len(ripe) > removed:
                ripe.popitem()
        return gone, removed

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
