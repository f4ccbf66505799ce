"""From blobs to the store: ask what is missing, compress only that, write children before parents."""

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import compress, repeat
from operator import attrgetter, lt
from typing import Final, cast

from agentref.chunks import Kind, Pending
from agentref.forks import watch_forks
from agentref.refs import ContentRef, Digest
from agentref.storage._lives import end_of_life
from agentref.storage.ahead import Ahead, Fresh
from agentref.storage.frames import Packed, pack_alone, pack_frames
from agentref.storage.protocol import FOREVER, BlobStore, PinRow, RootStore
from agentref.storage.reports import Counters

__all__ = ["BlobWriter", "Encoded"]

_MAX_PRESENT: Final = 32 * 1024
_LONG_TEXT: Final = 8 * 1024
_RAW: Final = Kind.RAW
_TEXT_LEVEL: Final = 3
_VALUE_LEVEL: Final = 1
_BATCH_BYTES: Final = 8 * 1024 * 1024
_PACK_BYTES: Final = 1024 * 1024
_SIZE: Final = attrgetter("size")


class Encoded:
    """Values that were encoded and hashed, and are not stored yet."""

    __slots__ = ("ahead", "blobs", "refs")

    def __init__(
        self, refs: list[ContentRef], blobs: Mapping[Digest, Pending], ahead: Ahead | None = None
    ) -> None:
        self.refs = refs
        self.blobs = blobs
        self.ahead = ahead


class BlobWriter:
    """Writes the blobs of values that were encoded. Thread-safe, and across a fork.

    One thread writes at a time: two that come with the same content, as a graph's pending write and
    its next checkpoint do, would otherwise both find it missing, and both compress it.
    """

    def __init__(self, store: BlobStore, counters: Counters, level: int | None) -> None:
        self._store = store
        self._counters = counters
        self._level = level
        self._lock = threading.Lock()
        self._present: dict[Digest, float] = {}
        self._distrusted: set[Digest] = set()
        self._epoch: int | None = None
        watch_forks(self)

    def before_fork(self) -> None:
        """Nothing: a write that runs belongs to the parent."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """A lock of the child's own."""
        self._lock = threading.Lock()

    def write(
        self,
        blobs: Mapping[Digest, Pending],
        ttl: float | None,
        *,
        replace: bool = False,
        ahead: Ahead | None = None,
        pins: Collection[PinRow] = (),
    ) -> None:
        """Make sure that all blobs are kept until `ttl` seconds from now at least, or for ever; then set
        `pins`, which only a store that is a `RootStore` takes.

        `blobs` are in an order in which none links to a later one. They are written in batches of
        8 MiB, so that whatever happens in between, a blob is never kept without what it links to.
        `ahead` may have compressed some of them already.
        """
        expires_at = end_of_life(self._store.clock(), ttl) if ttl is not None else FOREVER
        ready = ahead.frames() if ahead is not None else {}
        with self._lock:
            self._counters.blobs_offered += len(blobs)
            self._counters.bytes_offered += sum(map(_SIZE, blobs.values()))
            missing = list(blobs.items()) if replace else self._missing(blobs, expires_at)
            batches = list(_batches(missing, _BATCH_BYTES))
            for batch in batches:
                named = self._frames(batch, ready)
                damaged = named if replace else {d: named[d] for d in named if d in self._distrusted}
                if damaged:
                    self._store.replace(damaged)
                    self._distrusted.difference_update(damaged)
                self._store_with(named, pins if batch is batches[-1] else (), expires_at)
                self._present.update(dict.fromkeys(named, expires_at))
                self._counters.blobs_stored += len(named)
                self._counters.bytes_stored += sum(map(len, named.values()))

            if pins and not batches:
                self._roots.pin(pins)

    def _store_with(self, named: dict[Digest, bytes], pins: Collection[PinRow], expires_at: float) -> None:
        if pins:
            self._roots.store_pinned(named, pins, expires_at=expires_at)
        else:
            self._store.store(named, expires_at=expires_at)

    @property
    def _roots(self) -> RootStore:
        return cast("RootStore", self._store)

    def distrust(self, digest: Digest, *, is_here: bool = True) -> None:
        """A blob turned out to be damaged, or not to be here: the next write of it stores it.

        What else was believed to be here is asked for again: whole packs are lost, not single blobs.
        """
        with self._lock:
            if is_here:
                self._distrusted.add(digest)
            if is_here or digest in self._present:
                self._present.clear()

    def ahead(self) -> Ahead:
        """What is to be told of new blobs while they are being encoded, and given to `write`."""
        return Ahead(self._pack_missing)

    def _pack_missing(self, fresh: list[Fresh]) -> dict[Digest, bytes]:
        """The frames of those that are not here, as far as can be told now."""
        known = self._store.stat([digest for digest, _, _ in fresh])
        fresh = [blob for blob in fresh if blob[0] not in known]
        frames = pack_alone([self._packed(kind, canonical) for _, kind, canonical in fresh])
        return dict(zip([digest for digest, _, _ in fresh], frames, strict=True))

    def _frames(
        self, batch: list[tuple[Digest, Pending]], ready: Mapping[Digest, bytes]
    ) -> dict[Digest, bytes]:
        """The frame of each, in order."""
        if not ready:
            return self._pack_now(batch)
        frames = self._pack_now([blob for blob in batch if blob[0] not in ready])
        return {digest: frames[digest] if digest in frames else ready[digest] for digest, _ in batch}

    def _pack_now(self, blobs: list[tuple[Digest, Pending]]) -> dict[Digest, bytes]:
        """A few at a time: not all of their bytes at once are needed."""
        frames: dict[Digest, bytes] = {}
        total = sum([pending.size for _, pending in blobs])
        for few in _batches(blobs, _PACK_BYTES):
            packed = pack_frames(
                [self._packed(pending.kind, pending.canonical()) for _, pending in few], part_of=total
            )
            frames.update(zip([digest for digest, _ in few], packed, strict=True))
        return frames

    def _packed(self, kind: Kind, canonical: bytes | memoryview) -> Packed:
        # Structured values come in small leaves, often and soon outdated; long texts come once, and stay.
        is_text = kind is _RAW and len(canonical) >= _LONG_TEXT
        return Packed(kind, canonical, self._level or (_TEXT_LEVEL if is_text else _VALUE_LEVEL))

    def _missing(self, blobs: Mapping[Digest, Pending], expires_at: float) -> list[tuple[Digest, Pending]]:
        present = self._present
        if len(present) > _MAX_PRESENT:
            present.clear()
        if any(map(present.__contains__, blobs)):
            epoch = self._store.epoch()
            if epoch != self._epoch:
                present.clear()
                self._epoch = epoch
        # In C: mostly, nearly all of a value is here.
        until = map(present.get, blobs, repeat(-1.0))
        unknown = list(compress(blobs, map(lt, until, repeat(expires_at))))
        if unknown:
            known = self._store.touch(unknown, expires_at=expires_at)
            present.update((digest, expires_at) for digest in known if digest not in self._distrusted)
        return [(digest, blobs[digest]) for digest in unknown if present.get(digest, -1.0) < expires_at]


def _batches(items: Iterable[tuple[Digest, Pending]], size: int) -> Iterator[list[tuple[Digest, Pending]]]:
    batch: list[tuple[Digest, Pending]] = []
    total = 0
    for item in items:
        batch.append(item)
        total += item[1].size
        if total >= size:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
