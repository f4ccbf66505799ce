"""Blobs on their way from one store to another.

Lives travel with the blobs. What has outlived its own life is there because something needs it, and gets a
lease: long enough to bring all of what needs it, and to name that. A lease that turns out to have been too
short is given anew, and whatever a prune took away meanwhile is brought again.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import attrgetter
from typing import Final, NamedTuple

from agentref.errors import IntegrityError
from agentref.refs import Digest
from agentref.storage._lives import LEASE_SECONDS, end_of_life
from agentref.storage.audit import is_listed, pages
from agentref.storage.frames import links_by_head, open_frame
from agentref.storage.protocol import BlobInfo, BlobStore
from agentref.storage.walking import in_groups, links_of, which_need

__all__ = ["PAGE", "Transfer"]

PAGE: Final = 1000

_CHUNK_BYTES: Final = 4 * 1024 * 1024
_EXPANDED_AT_ONCE: Final = 64  # a node may link to thousands


class _Item(NamedTuple):
    digest: Digest
    size: int
    end: float


class _Chunk(NamedTuple):
    digests: list[Digest]
    end: float


class _Sent(NamedTuple):
    blobs: int
    size: int
    corrupt: list[Digest]
    gone: list[Digest]


_END: Final = attrgetter("end")


class Transfer:
    """Brings blobs from a source to a target. For one thread, which has others do the work.

    `copied`, `copied_bytes`: what was sent. `corrupt`: what is damaged in the source and not in the target.
    `missing`: what something needs and neither store has.
    """

    def __init__(  # noqa: PLR0913
        self,
        source: BlobStore,
        target: BlobStore,
        pool: ThreadPoolExecutor,
        in_flight: int,
        *,
        dry_run: bool,
        progress: Callable[[int], None],
    ) -> None:
        self.source, self.target, self.dry_run = source, target, dry_run
        # To the second: two looks at the same two clocks never differ by the same.
        self.shift = float(round(target.clock() - source.clock()))
        self.copied = self.copied_bytes = 0
        self.corrupt: set[Digest] = set()
        self.missing: set[Digest] = set()
        self._pool, self._in_flight = pool, in_flight
        self._progress = progress
        self._seen = _Seen()
        self._round_since = self.target.clock()
        self._gone: set[Digest] = set()
        self._waiting = self._told = 0

    def close(self) -> None:
        """Drop what was noted."""
        self._seen.close()

    @property
    def blobs(self) -> int:
        """How many different blobs were looked at."""
        return self._seen.count

    # In bulk

    def bring_living(self) -> None:
        """All blobs whose own life lasts, in whatever order they come."""
        self._send_all(chunk for page in self._living() for chunk in self._lacking(page))
        self._gone.clear()  # what was removed meanwhile; if something needs it, that is found out yet

    def _living(self) -> Iterator[list[_Item]]:
        for page in pages(self.source, PAGE):
            now = self.source.clock()
            yield [
                _Item(info.digest, info.stored_size, info.expires_at + self.shift)
                for info in page
                if info.expires_at > now
            ]

    # With all that it needs

    def complete_living(self) -> None:
        """All blobs whose own life lasts, and whatever they need: what came while others were sent, too."""
        for page in self._living():
            self.bring([item.digest for item in page], standing=self._still_living, exact=True)

    def _still_living(self, digests: Sequence[Digest]) -> Sequence[Digest]:
        now = self.source.clock()
        return [digest for digest, info in self.source.stat(digests).items() if info.expires_at > now]

    def bring(
        self,
        roots: Sequence[Digest],
        *,
        standing: Callable[[Sequence[Digest]], Sequence[Digest]],
        exact: bool = False,
    ) -> None:
        """Let the roots, and all that they need, be in the target, with half a lease of life at least.

        `standing` tells which of them are still roots in the source: what only others needed may be gone.
        With `exact`, what has a life of its own gets no longer one.
        """
        lease = LEASE_SECONDS
        if self.target.clock() - self._round_since > lease / 4:
            self.begin_round()
        while True:
            begun = self.target.clock()
            self._walk(self._seen.new(roots), lease, exact=exact)
            took = self.target.clock() - begun
            gone = self._take_gone()
            if gone:
                left = standing(roots)
                if len(left) == len(set(roots)):
                    self.missing |= gone
                elif not self.dry_run:
                    roots = left
                    continue
            if self.dry_run or took < lease / 2:
                return
            lease = 4 * took
            self.begin_round()

    def incomplete(self, roots: Collection[Digest]) -> set[Digest]:
        """Those of the roots of which not all is in the target, after they were brought.

        Costs nothing while nothing is missing or corrupt, and else a walk over all that they need.
        """
        lost = (self.missing - self.target.stat(self.missing).keys()) | self.corrupt
        return which_need(roots, lost, self._links_of_all) if lost else set()

    def begin_round(self) -> None:
        """Believe nothing that was seen before to be in the target still."""
        if not self.dry_run:
            self._seen.begin_round()
            self._round_since = self.target.clock()

    def _take_gone(self) -> set[Digest]:
        gone, self._gone = self._gone, set()
        if gone:
            self.begin_round()  # somebody may store them again
        return gone

    def _walk(self, unseen: list[Digest], lease: float, *, exact: bool) -> None:
        """Look at these and all below: depth first, so that no more than a few levels are held."""
        linking: list[Digest] = []
        while unseen or linking:
            if unseen:
                few = unseen[-PAGE:]
                del unseen[-PAGE:]
                self._send_all(self._lacking(self._lives(few, lease, exact=exact)))
                linking += self._linking(few)
            else:
                few = linking[-_EXPANDED_AT_ONCE:]
                del linking[-_EXPANDED_AT_ONCE:]
                for _, children in self._links(few):
                    unseen += self._seen.new(children)

    def _lives(self, digests: Sequence[Digest], lease: float, *, exact: bool) -> list[_Item]:
        """Until when each of them has to live in the target; of size -1 where the source has not got it."""
        now, leased = self.source.clock(), end_of_life(self.target.clock(), lease)
        infos = self.source.stat(digests)

        def item(digest: Digest, info: BlobInfo | None) -> _Item:
            if info is None:
                return _Item(digest, -1, leased)
            own = info.expires_at + self.shift
            lives = exact and info.expires_at > now
            return _Item(digest, info.stored_size, own if lives else max(own, leased))

        return [item(digest, infos.get(digest)) for digest in digests]

    def _linking(self, digests: Sequence[Digest]) -> list[Digest]:
        heads = dict(self.target.peek(digests))
        if self.dry_run:
            heads = {**self.source.peek(digests), **heads}
        return [digest for digest in digests if links_by_head(heads.get(digest, -1))]

    def _links(self, digests: Sequence[Digest]) -> Iterable[tuple[Digest, list[Digest]]]:
        damaged: list[Digest] = []
        links = dict(links_of(self.target, digests, damaged=damaged.append))
        if damaged and not self.dry_run:
            self._mend(damaged)
        others = [digest for digest in digests if digest not in links]
        if others:
            links.update(links_of(self.source, others, damaged=self.corrupt.add))
        return links.items()

    def _links_of_all(self, digests: Sequence[Digest]) -> Iterator[tuple[Digest, list[Digest]]]:
        for few in in_groups(self._linking(digests), _EXPANDED_AT_ONCE):
            yield from self._links(few)

    def _mend(self, damaged: Sequence[Digest]) -> None:
        sound, _ = _verified(self.source.fetch(damaged))
        if sound:
            self.target.replace(sound)
        lost = [digest for digest in damaged if digest not in sound]
        self._note(_Sent(len(sound), sum(map(len, sound.values())), lost, []))

    # What the target lacks

    def _lacking(self, items: Iterable[_Item]) -> Iterator[_Chunk]:
        """What has to be sent, a few megabytes at a time. What is there lives as long, from now on."""
        for end, few in groupby(sorted(items, key=_END), _END):
            sizes = {item.digest: item.size for item in few}
            self._seen.note(sizes)
            if self.dry_run:
                lacking = sizes.keys() - self.target.stat(list(sizes)).keys()
            else:
                lacking = sizes.keys() - set(self.target.touch(list(sizes), expires_at=end))
            to_send = [digest for digest in sizes if digest in lacking and sizes[digest] >= 0]
            for digest in lacking.difference(to_send):
                (self.corrupt if is_listed(self.source, digest) else self._gone).add(digest)
            self._waiting += len(to_send)
            self._tell()
            for digests in _chunks(to_send, sizes):
                if self.dry_run:
                    self._note_all(_Sent(len(digests), sum(sizes[d] for d in digests), [], []), digests)
                else:
                    yield _Chunk(digests, end)

    def _send_all(self, chunks: Iterable[_Chunk]) -> None:
        """Send them, several at a time, and wait."""
        under_way: deque[tuple[Future[_Sent], _Chunk]] = deque()
        for chunk in chunks:
            if len(under_way) == self._in_flight:
                sent, oldest = under_way.popleft()
                self._note_all(sent.result(), oldest.digests)
            under_way.append((self._pool.submit(self._send, chunk), chunk))
        for sent, chunk in under_way:
            self._note_all(sent.result(), chunk.digests)

    def _send(self, chunk: _Chunk) -> _Sent:
        sound, corrupt = _verified(self.source.fetch(chunk.digests))
        absent = [digest for digest in chunk.digests if digest not in sound and digest not in corrupt]
        listed = [digest for digest in absent if is_listed(self.source, digest)]
        if listed:  # its bytes are lost, unless somebody has just stored it again
            again, damaged = _verified(self.source.fetch(listed))
            sound.update(again)
            corrupt += damaged
            corrupt += [
                d for d in listed if d not in again and d not in damaged and is_listed(self.source, d)
            ]
        if sound:
            self.target.store(sound, expires_at=chunk.end)
        gone = [digest for digest in absent if digest not in sound and digest not in corrupt]
        return _Sent(len(sound), sum(map(len, sound.values())), corrupt, gone)

    def _note_all(self, sent: _Sent, digests: Sequence[Digest]) -> None:
        self._waiting -= len(digests)
        self.corrupt.difference_update(digests)  # somebody may have repaired them meanwhile
        self._note(sent)
        self._tell()

    def _note(self, sent: _Sent) -> None:
        self.copied += sent.blobs
        self.copied_bytes += sent.size
        self.corrupt.update(sent.corrupt)
        self._gone.update(sent.gone)

    def _tell(self) -> None:
        self._told = max(self._told, self._seen.count - self._waiting)
        self._progress(self._told)


class _Seen:
    """Which blobs were looked at, and in which round. On disk if they are many, as for a prune."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA cache_size = -16384;"
            "CREATE TABLE seen(digest BLOB PRIMARY KEY, round INTEGER NOT NULL) WITHOUT ROWID; BEGIN;"
        )
        self._round = 1
        self.count = 0

    def close(self) -> None:
        self._database.close()

    def begin_round(self) -> None:
        self._round += 1

    def note(self, digests: Iterable[Digest]) -> None:
        """These are known; they count as looked at in no round but that in which they are."""
        before = self._database.total_changes
        self._database.executemany("INSERT OR IGNORE INTO seen VALUES (?, 0)", [(d,) for d in digests])
        self.count += self._database.total_changes - before

    def new(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that were not looked at in this round; they are now."""
        add = "INSERT OR IGNORE INTO seen VALUES (?, ?)"
        move = "UPDATE seen SET round = ?2 WHERE digest = ?1 AND round < ?2"
        found: list[Digest] = []
        for digest in digests:
            given = digest, self._round
            added = self._database.execute(add, given).rowcount
            self.count += added
            if added or self._database.execute(move, given).rowcount:
                found.append(digest)
        return found


def _chunks(digests: Iterable[Digest], sizes: Mapping[Digest, int]) -> Iterator[list[Digest]]:
    """As many at a time as make a few megabytes, or one that is larger."""
    chunk: list[Digest] = []
    total = 0
    for digest in digests:
        if chunk and total + sizes[digest] > _CHUNK_BYTES:
            yield chunk
            chunk, total = [], 0
        chunk.append(digest)
        total += sizes[digest]
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
