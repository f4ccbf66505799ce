"""Compressing what was hashed while the rest of a value is still being encoded."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Final

from agentref.chunks import Kind
from agentref.refs import Digest
from agentref.storage.parallel import submitted

__all__ = ["Ahead", "Fresh"]

Fresh = tuple[Digest, Kind, bytes | memoryview]
"""A blob that was hashed a moment ago, with its canonical bytes."""

_GROUP_BYTES: Final = 256 * 1024
_MOST_GROUPS: Final = 8  # that wait; what comes then is compressed later, so that memory stays bounded


class Ahead:
    """Hands blobs to another thread as they come, about 256 KiB at once. For one thread.

    `work` returns the frames of those of them that are to be stored. What it did not come to, or could
    not do, is left to whoever stores them.
    """

    def __init__(self, work: Callable[[list[Fresh]], Mapping[Digest, bytes]]) -> None:
        self._work = work
        self._group: list[Fresh] = []
        self._bytes = 0
        self._jobs: list[tuple[list[Fresh], Future[Mapping[Digest, bytes]]]] = []

    def add(self, digest: Digest, kind: Kind, canonical: bytes | memoryview) -> None:
        """One more."""
        self._group.append((digest, kind, canonical))
        self._bytes += len(canonical)
        if self._bytes >= _GROUP_BYTES:
            if len(self._jobs) < _MOST_GROUPS or self._jobs[-_MOST_GROUPS][1].done():
                job = submitted(self._work, self._group)
                if job is not None:
                    self._jobs.append((self._group, job))
            self._group, self._bytes = [], 0

    def taken(self) -> set[Digest]:
        """Those whose frames are ready, or will be in a moment. To be asked once all have come."""
        self._jobs = [job for job in reversed(self._jobs) if not job[1].cancel()]
        return {blob[0] for group, _ in self._jobs for blob in group}

    def frames(self) -> dict[Digest, bytes]:
        """The frames of those; fewer if some of them could not be made."""
        found: dict[Digest, bytes] = {}
        for _, job in self._jobs:
            if job.exception() is None:
                found.update(job.result())
        return found
