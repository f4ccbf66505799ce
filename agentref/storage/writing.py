"""From blobs to the store: ask what is missing, compress only that, write children before parents."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Final

from agentref.chunks import Pending
from agentref.errors import InvalidInputError
from agentref.refs import Digest
from agentref.storage.frames import pack_frame
from agentref.storage.parallel import spread
from agentref.storage.protocol import FOREVER, BlobStore
from agentref.storage.reports import Counters

__all__ = ["BlobWriter"]

_BATCH_BYTES: Final = 8 * 1024 * 1024
_MAX_TTL: Final = 100 * 365 * 24 * 3600


class BlobWriter:
    """Writes the blobs of values that were encoded. Thread-safe."""

    def __init__(self, store: BlobStore, counters: Counters, level: int) -> None:
        self._store = store
        self._counters = counters
        self._level = level

    def write(self, blobs: Mapping[Digest, Pending], ttl: float | None, *, replace: bool = False) -> None:
        """Make sure that all blobs are kept until `ttl` seconds from now at least.

        `blobs` are in an order in which none links to a later one. They are written in batches of
        8 MiB, so that whatever happens in between, a blob is never kept without what it links to.
        """
        expires_at = _expiry(ttl)
        missing = list(blobs.items()) if replace else self._missing(blobs, expires_at)
        self._counters.blobs_offered += len(blobs)
        self._counters.bytes_offered += sum([pending.size for pending in blobs.values()])
        for batch, total in _batches(missing):
            frames = spread(lambda item: pack_frame(item[1].kind, item[1].canonical(), self._level), batch, total)
            named = {digest: frame for (digest, _), frame in zip(batch, frames, strict=True)}
            if replace:
                self._store.replace(named)
            else:
                self._store.store(named, expires_at=expires_at)
            self._counters.blobs_stored += len(named)
            self._counters.bytes_stored += sum(map(len, frames))

    def _missing(self, blobs: Mapping[Digest, Pending], expires_at: float) -> list[tuple[Digest, Pending]]:
        known = self._store.stat(blobs.keys())
        return [
            (digest, pending)
            for digest, pending in blobs.items()
            if digest not in known or known[digest].expires_at < expires_at
        ]


def _batches(
    items: list[tuple[Digest, Pending]],
) -> Iterator[tuple[list[tuple[Digest, Pending]], int]]:
    batch: list[tuple[Digest, Pending]] = []
    total = 0
    for item in items:
        batch.append(item)
        total += item[1].size
        if total >= _BATCH_BYTES:
            yield batch, total
            batch, total = [], 0
    if batch:
        yield batch, total


def _expiry(ttl: float | None) -> float:
    """When a life of `ttl` seconds ends, to the next eighth of it: what is put again and again need
    not be written each time."""
    if ttl is None:
        return FOREVER
    if type(ttl) not in {int, float} or not 0 < ttl <= _MAX_TTL:
        raise InvalidInputError(
            f"ttl must be a positive number of seconds up to {_MAX_TTL:,}, or None for no end; not {ttl!r:.40}."
        )
    step = ttl / 8
    return math.ceil((time.time() + ttl) / step) * step
