"""A consistent cut over many artifacts, whose contents stay while it is in use."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from agentref.coherence._clock import elapsed
from agentref.coherence.contents import Contents
from agentref.coherence.heartbeat import Heartbeat
from agentref.coherence.keys import Key
from agentref.coherence.views import View
from agentref.errors import SnapshotLapsedError, StorageError
from agentref.refs import ContentRef

__all__ = ["Snapshot"]

_BEATS: Final = 3


class Snapshot(Mapping[Key, View]):
    """Views of many keys as of one moment, by key.

    Their contents are pinned for `ttl` seconds, which are renewed until it is closed: by `close`, by the
    end of its block, or when it is forgotten. If they could not be renewed in time it has lapsed, and
    every use of it raises `SnapshotLapsedError`, so that nobody takes half of what it showed. Safe for
    threads.
    """

    def __init__(
        self, views: Mapping[Key, View], contents: Contents, heartbeat: Heartbeat, owner: str, ttl: float
    ) -> None:
        self._views = dict(views)
        self._hold = _Hold(contents, owner, [v.ref for v in views.values() if v.ref is not None], ttl)
        self._heartbeat = heartbeat
        self._beat = heartbeat.every(ttl / _BEATS, self._hold.renew)

    @property
    def lapsed(self) -> bool:
        """Whether it was closed, or its hold on the contents has ended."""
        return self._hold.lapsed

    def views(self) -> list[View]:
        """All of them, to be given to `commit(reads=)`. Raises `SnapshotLapsedError`."""
        self._check()
        return list(self._views.values())

    def __getitem__(self, key: Key) -> View:
        self._check()
        return self._views[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def close(self) -> None:
        """Let the contents go. Idempotent."""
        self._heartbeat.stop(self._beat)
        self._hold.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        beat = self.__dict__.get("_beat")
        if beat is not None:
            beat.stop()  # its pins end by themselves

    def _check(self) -> None:
        if self._hold.lapsed:
            raise SnapshotLapsedError(
                "The snapshot was closed, or its contents could not be held for longer than its ttl: "
                "some of them may be gone. Take a new one."
            )


class _Hold:
    """The pins of a snapshot. Apart from it, so that the heartbeat does not keep it."""

    def __init__(self, contents: Contents, owner: str, refs: list[ContentRef], ttl: float) -> None:
        self._contents = contents
        self._owner = owner
        self._refs = refs
        self._ttl = ttl
        self._lock = threading.Lock()
        self._ended = False
        self._until = 0.0
        if not self.renew():
            raise SnapshotLapsedError("The contents of the snapshot could not be pinned. Take a new one.")

    @property
    def lapsed(self) -> bool:
        return self._ended or elapsed() >= self._until

    def renew(self) -> bool:
        with self._lock:
            began = elapsed()
            if self._ended or (self._until and began >= self._until):
                return False
            if self._refs:
                self._contents.hold(self._owner, self._refs, ttl=self._ttl)
            self._until = began + self._ttl
            return True

    def end(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        if self._refs:
            with suppress(StorageError):  # they end by themselves
                self._contents.let_go(self._owner)
