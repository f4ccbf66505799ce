"""Compressing what was hashed while the rest of a value is still being encoded."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from agentref.chunks import Kind
from agentref.refs import Digest
from agentref.storage.parallel import Task

__all__ = ["Ahead", "Fresh"]

Fresh = tuple[Digest, Kind, bytes | memoryview]
"""A blob that was hashed a moment ago, with its canonical bytes."""

_GROUP_BYTES: Final = 256 * 1024
_LARGE_GROUP_BYTES: Final = 512 * 1024
_MOST_GROUPS: Final = 8  # that wait, and so much in all: memory stays bounded
_MOST_BYTES: Final = 64 * 1024 * 1024


class Ahead:
    """Hands blobs to another thread as they come: about 256 KiB at once, up to 512 KiB when there are many,
    since the other may wait 5 ms for the interpreter lock after each. For one thread, which does a part of
    the work itself when the other falls behind.

    `work` returns the frames of those of them that are to be stored.
    """

    def __init__(self, work: Callable[[list[Fresh]], Mapping[Digest, bytes]]) -> None:
        self._work = work
        self._group: list[Fresh] = []
        self._bytes = self._total = 0
        self._tasks: list[Task[Mapping[Digest, bytes]]] = []
        self._frames: dict[Digest, bytes] = {}

    def add(self, digest: Digest, kind: Kind, canonical: bytes | memoryview) -> None:
        """One more."""
        if self._total >= _MOST_BYTES:
            return
        self._group.append((digest, kind, canonical))
        self._bytes += len(canonical)
        if self._bytes >= min(max(_GROUP_BYTES, self._total // 4), _LARGE_GROUP_BYTES):
            self._tasks.append(Task(partial(self._work, self._group), self._bytes))
            self._total += self._bytes
            self._group, self._bytes = [], 0
            if len(self._tasks) > _MOST_GROUPS:
                # The other thread is behind with the first: the last, which it has not begun, is done here.
                last = 0 if self._tasks[0].is_done else -1
                self._frames.update(self._tasks.pop(last).result())

    def frames(self) -> dict[Digest, bytes]:
        """What is ready, once all have come. The last few, too few to be handed over, are not."""
        for task in reversed(self._tasks):
            task.do()
        for task in self._tasks:
            self._frames.update(task.result())
        self._tasks = []
        return self._frames
