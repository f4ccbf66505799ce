"""From one store to another, while both are in use.

In bulk first what lives by its own life, in whatever order it comes; then, once more, each of these with
all that it needs, so that what came meanwhile is whole; then pins and aliases, each after all that it
needs. Nothing is noted on the way: a run that was cut short is begun again, and asks the target what it
lacks.
"""

import asyncio
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from agentref.errors import ConfigurationError, InvalidInputError
from agentref.refs import Digest
from agentref.storage._root_transfer import RootTransfer
from agentref.storage._transfer import Transfer
from agentref.storage.cas import CAS
from agentref.storage.protocol import BlobStore, RootStore

__all__ = ["MigrationReport", "amigrate_cas", "migrate_cas"]

_MAX_WORKERS: Final = 16


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a migration found and did; under `dry_run`, what it would have done.

    Attributes:
        dry_run: whether nothing was changed.
        blobs: how many live in the source, by their own lives or because something needs them.
        copied: how many of them the target lacked.
        copied_bytes: their size as kept.
        corrupt: hashes of blobs that cannot be read in the source, or are not what they should be; they
            were left out.
        missing: hashes of blobs that something needs and that neither store has.
        pins: how many of the source's stand in the target; those that need what is corrupt or missing were
            left out.
        aliases: how many stand for in the target what they do in the source.
        conflicts: names that stand for something else in the target, or were moved there just now; they
            were left alone.
        skipped: names that were left out: they need what is corrupt or missing, or what the source keeps of
            them is damaged.
    """

    dry_run: bool
    blobs: int
    copied: int
    copied_bytes: int
    corrupt: tuple[str, ...]
    missing: tuple[str, ...]
    pins: int
    aliases: int
    conflicts: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether all that the source keeps is in the target now, and names the same."""
        return not (self.corrupt or self.missing or self.conflicts or self.skipped)


def migrate_cas(  # noqa: PLR0913  (settings, by name)
    source: CAS,
    target: CAS,
    *,
    dry_run: bool = False,
    workers: int = 2,
    overwrite_aliases: bool = False,
    progress: Callable[[int], None] | None = None,
) -> MigrationReport:
    """Copy all that `source` keeps to `target`: content, lives, aliases and pins.

    Both may be in use, and be pruned. What is put while it runs comes if it is met, with all that it needs,
    and else with the next run. Each blob is verified before it is kept; what is damaged is reported and
    left out. What has expired is left behind, unless something needs it: then it gets an hour, and what
    needs it keeps it. Lives are kept to the second, and only lengthen. Nothing is taken away from the
    target, so that a pin or a name that has gone from the source stays there.

    Cut short at any moment, it is finished by another run, which costs a look at each blob and sends what
    the target lacks; until then the target may hold parts of values, but no pin or name that came before
    what it needs. Give it `backend_aliases=[source.backend_id]`, and it answers to old refs.

    Args:
        dry_run: change nothing; the report tells what would be done, but not what is damaged, since no
            content is read.
        workers: how many threads read, verify and write; each holds some 20 MiB at most.
        overwrite_aliases: let names that stand for something else in the target stand for what they do in
            the source; one that is moved at this very moment is still in conflict.
        progress: called with the number of blobs dealt with so far. It may raise, to stop the run.

    Raises `InvalidInputError`, before anything is changed, for stores of one name and for a store and
    itself; `ConfigurationError` if the source keeps pins or aliases and the target cannot; `StorageError`
    where a store cannot do its work.
    """
    _check_arguments(source, target, workers, progress)
    old, new = source._store, target._store  # noqa: SLF001  (frames travel as they are kept)
    _check_names(source, target, old, new)
    _check_roots(old, new)
    pool = ThreadPoolExecutor(workers, "agentref-migrate")
    try:
        blobs = Transfer(
            old, new, pool, 2 * workers, dry_run=dry_run, progress=progress or (lambda _: None)
        )
        with closing(blobs):
            return _migrate(blobs, overwrite=overwrite_aliases)
    finally:
        pool.shutdown(cancel_futures=True)


async def amigrate_cas(
    source: CAS, target: CAS, *, progress: Callable[[int], None] | None = None, **options: Any
) -> MigrationReport:
    """`migrate_cas` for the event loop, with its options. It runs in a thread, where `progress` is called;
    if the task is cancelled, it stops after what is under way."""
    cancelled = threading.Event()

    def tell(count: int) -> None:
        if cancelled.is_set():
            raise asyncio.CancelledError
        if progress is not None:
            progress(count)

    _check_arguments(source, target, options.get("workers", 1), progress)
    try:
        return await asyncio.to_thread(migrate_cas, source, target, progress=tell, **options)
    except asyncio.CancelledError:
        cancelled.set()
        raise


def _migrate(blobs: Transfer, *, overwrite: bool) -> MigrationReport:
    if not blobs.dry_run:
        blobs.bring_living()
    blobs.complete_living()
    roots = None
    if isinstance(blobs.source, RootStore):
        _check_roots(blobs.source, blobs.target)
        if isinstance(blobs.target, RootStore):
            roots = RootTransfer(blobs.source, blobs.target, blobs, overwrite=overwrite)
            blobs.begin_round()  # what only had to be there so far has to last until it is pinned
            roots.bring_pins()
            roots.bring_aliases()
    return MigrationReport(
        dry_run=blobs.dry_run,
        blobs=blobs.blobs,
        copied=blobs.copied,
        copied_bytes=blobs.copied_bytes,
        corrupt=_hashes(blobs.corrupt),
        missing=_hashes(blobs.missing - blobs.target.stat(blobs.missing).keys()),
        pins=roots.pins if roots else 0,
        aliases=roots.aliases if roots else 0,
        conflicts=tuple(roots.conflicts) if roots else (),
        skipped=tuple(roots.skipped) if roots else (),
    )


def _check_arguments(source: object, target: object, workers: object, progress: object) -> None:
    for name, store in (("source", source), ("target", target)):
        if not isinstance(store, CAS):
            raise InvalidInputError(
                f"{name} must be a content-addressed store, not {type(store).__name__}."
            )
    if type(workers) is not int or not 1 <= workers <= _MAX_WORKERS:
        raise InvalidInputError(f"workers must be an int from 1 to {_MAX_WORKERS}, not {workers!r:.40}.")
    if progress is not None and not callable(progress):
        raise InvalidInputError(f"progress must be a function of one int, not {progress!r:.80}.")


def _check_names(source: CAS, target: CAS, old: BlobStore, new: BlobStore) -> None:
    if old.store_id == new.store_id:
        raise InvalidInputError(
            f"Source and target are one store, {old.store_id}: there is nothing to move."
        )
    if source.backend_id == target.backend_id:
        raise InvalidInputError(
            f"The target has the name of the source, {source.backend_id!r}: no ref could tell them apart. "
            f"Give it a backend_id of its own, and backend_aliases=[{source.backend_id!r}]."
        )


def _check_roots(old: BlobStore, new: BlobStore) -> None:
    if (
        isinstance(old, RootStore)
        and not isinstance(new, RootStore)
        and (old.scan_pins(limit=1) or old.scan_aliases(limit=1))
    ):
        raise ConfigurationError(
            f"The source keeps pins or aliases, and {type(new).__qualname__} can keep none: it is a "
            f"BlobStore, but no agentref.storage.RootStore. Use FilesystemCAS, PostgresCAS or InMemoryCAS."
        )


def _hashes(digests: Collection[Digest]) -> tuple[str, ...]:
    return tuple(sorted(digest.hex() for digest in digests))
