"""From one store to another, while both are in use.

Blobs first, as they are kept, each of them verified; then, once more, those that came meanwhile; then what
pins and aliases need, blob by blob; and the pins and aliases last. Nothing needs to be noted on the way: a
run that was cut short is begun again, and asks the target what it lacks.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from agentref.errors import IntegrityError, InvalidInputError
from agentref.refs import Digest
from agentref.storage._lives import LEASE_SECONDS
from agentref.storage.audit import pages
from agentref.storage.cas import CAS
from agentref.storage.frames import open_frame
from agentref.storage.protocol import BlobInfo, PinRow
from agentref.storage.pruning import PrunableStore
from agentref.storage.walking import in_groups, links_of

__all__ = ["MigrationReport", "amigrate_cas", "migrate_cas"]

_PAGE: Final = 1000
_CHUNK_BYTES: Final = 4 * 1024 * 1024
_MAX_WORKERS: Final = 16
_LONGEST_PUT: Final = 60.0  # seconds from the time that is written down to when it can be seen
_EXPIRES_AT: Final = attrgetter("expires_at")


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a migration found and did; under `dry_run`, what it would have done.

    Attributes:
        dry_run: whether nothing was changed.
        blobs: how many the source has.
        copied: how many of them the target lacked.
        copied_bytes: their size as kept.
        corrupt: hashes of blobs that are damaged in the source; they were left out.
        missing: hashes of blobs that a pin or an alias needs and that neither store has sound.
        pins: how many were set.
        aliases: how many stand for in the target what they do in the source.
        conflicts: names that stand for something else in the target; they were left alone.
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

    @property
    def ok(self) -> bool:
        """Whether all that the source has is in the target now, and names the same."""
        return not (self.corrupt or self.missing or self.conflicts)


def migrate_cas(
    source: CAS,
    target: CAS,
    *,
    dry_run: bool = False,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
) -> MigrationReport:
    """Copy all that `source` keeps to `target`: content, lives, aliases and pins. Both may be in use.

    Lives are kept to the second; a blob that has expired, and is there because something needs it, gets an
    hour. What is damaged is reported and left out. Run it again to finish what was cut short, or to bring
    over what came since: it costs a look at each blob, and sends what the target lacks. Until it has
    returned the target may hold parts of values. Give the target `backend_aliases=[source.backend_id]`, and
    it answers to old refs.

    Args:
        dry_run: change nothing; the report tells what would be copied.
        workers: threads that read, verify and write; each holds up to 12 MiB or so.
        progress: called with the number of blobs looked at so far; the source is looked through twice.

    Raises `InvalidInputError`, before anything is changed, for stores of one name, and `StorageError` where
    a store cannot do its work.
    """
    for name, store in (("source", source), ("target", target)):
        if not isinstance(store, CAS):
            raise InvalidInputError(
                f"{name} must be a content-addressed store, not {type(store).__name__}."
            )
    if type(workers) is not int or not 1 <= workers <= _MAX_WORKERS:
        raise InvalidInputError(f"workers must be an int from 1 to {_MAX_WORKERS}, not {workers!r:.40}.")
    if progress is not None and not callable(progress):
        raise InvalidInputError(f"progress must be a function of one int, not {progress!r:.80}.")
    blobs, other = source.prunable(), target.prunable()
    if source.backend_id == target.backend_id or blobs.store_id == other.store_id:
        raise InvalidInputError(
            f"The target has the name of the source, {source.backend_id!r}: no ref could tell them apart. "
            f"Give it a backend_id of its own, and backend_aliases=[{source.backend_id!r}]."
        )
    with ThreadPoolExecutor(workers, "agentref-migrate") as pool:
        run = _Migration(blobs, other, pool, 2 * workers, dry_run=dry_run, progress=progress)
        run.copy_all()
        with closing(_Seen()) as seen:
            run.copy_roots(seen)
        return run.report()


async def amigrate_cas(source: CAS, target: CAS, **options: Any) -> MigrationReport:
    """`migrate_cas` for the event loop, with its options; `progress` is called in a thread."""
    return await asyncio.to_thread(migrate_cas, source, target, **options)


class _Seen:
    """Digests, each once; on disk if they are many."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; CREATE TABLE seen(digest BLOB PRIMARY KEY) WITHOUT ROWID;"
        )

    def close(self) -> None:
        self._database.close()

    def new(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that were not seen before; they are now."""
        add = "INSERT OR IGNORE INTO seen VALUES (?)"
        return [digest for digest in digests if self._database.execute(add, (digest,)).rowcount]


class _Sent(NamedTuple):
    blobs: int
    size: int
    corrupt: list[Digest]


class _Migration:
    def __init__(  # noqa: PLR0913
        self,
        source: PrunableStore,
        target: PrunableStore,
        pool: ThreadPoolExecutor,
        in_flight: int,
        *,
        dry_run: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.source, self.target, self.dry_run = source, target, dry_run
        self._pool, self._in_flight = pool, in_flight
        self._progress = progress or (lambda _: None)
        self._shift = target.clock() - source.clock()
        self._looked_at = self._blobs = self._copied = self._copied_bytes = 0
        self._corrupt: set[Digest] = set()
        self._missing: set[Digest] = set()
        self._pins = self._aliases = 0
        self._conflicts: list[str] = []

    # Blobs

    def copy_all(self) -> None:
        """What is there; and then what came meanwhile, by the source's clock."""
        begun = self.source.clock() - _LONGEST_PUT
        self._blobs = self._copy(pages(self.source, _PAGE))
        if not self.dry_run:
            self._copy(
                [info for info in page if info.touched_at >= begun] for page in pages(self.source, _PAGE)
            )

    def _copy(self, found: Iterable[Sequence[BlobInfo]]) -> int:
        count = 0
        under_way: deque[Future[_Sent]] = deque()
        for page in found:
            count += len(page)
            for expires_at, few in groupby(sorted(page, key=_EXPIRES_AT), _EXPIRES_AT):
                infos = list(few)
                end = self._end(expires_at)
                lacking = self._lacking([info.digest for info in infos], end)
                for chunk in _chunks(info for info in infos if info.digest in lacking):
                    if len(under_way) == self._in_flight:
                        self._note(under_way.popleft().result())
                    under_way.append(self._pool.submit(self._send, chunk, end))
            self._looked_at += len(page)
            self._progress(self._looked_at)
        for sent in under_way:
            self._note(sent.result())
        return count

    def _end(self, expires_at: float) -> float:
        """The end of a life by the target's clock; infinity stays what it is."""
        now = self.source.clock()
        return (expires_at if expires_at > now else now + LEASE_SECONDS) + self._shift

    def _lacking(self, digests: list[Digest], end: float) -> set[Digest]:
        """Those that are not in the target; the others live as long as here."""
        if self.dry_run:
            return set(digests).difference(self.target.stat(digests))
        return set(digests).difference(self.target.touch(digests, expires_at=end))

    def _send(self, chunk: Mapping[Digest, int], end: float) -> _Sent:
        if self.dry_run:
            return _Sent(len(chunk), sum(chunk.values()), [])
        sound, corrupt = _verified(self.source.fetch(list(chunk)))
        self.target.store(sound, expires_at=end)
        return _Sent(len(sound), sum(map(len, sound.values())), corrupt)

    def _note(self, sent: _Sent) -> None:
        self._copied += sent.blobs
        self._copied_bytes += sent.size
        self._corrupt.update(sent.corrupt)

    # Roots

    def copy_roots(self, seen: _Seen) -> None:
        """Pins and aliases, each page of them after all that it needs."""
        for pins in self._pages_of_pins():
            self._bring(seen.new(row.digest for row in pins), seen)
            for (owner, expires_at), rows in groupby(pins, itemgetter(0, 2)):
                digests = [row.digest for row in rows]
                self._pins += len(digests)
                if not self.dry_run:
                    self.target.pin(owner, digests, expires_at=expires_at + self._shift)
        name: str | None = None
        while aliases := self.source.scan_aliases(after=name, limit=_PAGE):
            name = aliases[-1].name
            self._bring(seen.new(alias.digest for alias in aliases), seen)
            for alias in aliases:
                there = self.target.alias(alias.name)
                if there is None and not self.dry_run:
                    moved = alias._replace(expires_at=alias.expires_at + self._shift)
                    there = self.target.set_alias(moved, expect=0) or self.target.alias(alias.name)
                if there is not None and there[1:4] != alias[1:4]:
                    self._conflicts.append(alias.name)
                else:
                    self._aliases += 1

    def _pages_of_pins(self) -> Iterator[Sequence[PinRow]]:
        after: tuple[str, Digest] | None = None
        while page := self.source.scan_pins(after=after, limit=_PAGE):
            yield page
            after = page[-1].owner, page[-1].digest

    def _bring(self, level: list[Digest], seen: _Seen) -> None:
        """Let all that these need be in the target, with time to pin it."""
        while level and not self.dry_run:
            below: list[Digest] = []
            for few in in_groups(level, 64):
                end = self.target.clock() + LEASE_SECONDS
                lacking = set(few).difference(self.target.touch(few, expires_at=end))
                if lacking:
                    sound, corrupt = _verified(self.source.fetch(list(lacking)))
                    self.target.store(sound, expires_at=end)
                    self._note(_Sent(len(sound), sum(map(len, sound.values())), corrupt))
                    self._missing.update(lacking.difference(sound))
                for _, children in links_of(self.target, few):
                    below += seen.new(children)
            level = below

    def report(self) -> MigrationReport:
        return MigrationReport(
            dry_run=self.dry_run,
            blobs=self._blobs,
            copied=self._copied,
            copied_bytes=self._copied_bytes,
            corrupt=_hashes(self._corrupt),
            missing=_hashes(self._missing),
            pins=self._pins,
            aliases=self._aliases,
            conflicts=tuple(self._conflicts),
        )


def _chunks(infos: Iterable[BlobInfo]) -> Iterator[dict[Digest, int]]:
    """The blobs with their sizes, a few megabytes at a time."""
    chunk: dict[Digest, int] = {}
    size = 0
    for info in infos:
        chunk[info.digest] = info.stored_size
        size += info.stored_size
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = {}, 0
    if chunk:
        yield chunk


def _verified(frames: Mapping[Digest, bytes]) -> tuple[dict[Digest, bytes], list[Digest]]:
    """The frames that hold what their names promise, and the names of the others."""
    sound: dict[Digest, bytes] = {}
    corrupt: list[Digest] = []
    for digest, frame in frames.items():
        try:
            open_frame(digest, frame)
        except IntegrityError:
            corrupt.append(digest)
        else:
            sound[digest] = frame
    return sound, corrupt


def _hashes(digests: Collection[Digest]) -> tuple[str, ...]:
    return tuple(sorted(digest.hex() for digest in digests))
