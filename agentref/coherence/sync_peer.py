"""One agent's coherent, cached view of what agents share."""

import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, Self

from agentref.coherence import _arguments as arguments
from agentref.coherence.contents import ContentStore
from agentref.coherence.coordinator import Coordinator
from agentref.coherence.feed import Change
from agentref.coherence.keys import Key, encode_key
from agentref.coherence.mesi import State, state_of
from agentref.coherence.rows import Versioned
from agentref.coherence.snapshots import Snapshot
from agentref.coherence.views import View
from agentref.coherence.writer import Writer, bare
from agentref.errors import Conflict, CursorTooOldError

__all__ = ["SyncPeer", "check_timeout"]

_SNAPSHOT_SECONDS: Final = 60.0
_LONGEST_WAIT: Final = 3600.0


class SyncPeer(Writer):
    """What one agent sees of the artifacts that a coordinator versions, with their contents in `backend`.

    A read is local while nothing changed, and shows nothing that the coordinator would refuse as a base. A
    commit from a stale view raises `Conflict` and changes nothing. Made by `Coordinator.peer`; safe for
    threads, which are then the same agent. Each verb has an asynchronous twin with an `a` in front.

    Attributes:
        name: of the agent, as others see it.
        coordinator: whom it asks.
    """

    def __init__(
        self, coordinator: Coordinator, name: str, *, backend: ContentStore, **options: Any
    ) -> None:
        super().__init__(coordinator, name, backend=backend, **options)
        self._cursor = coordinator.head()
        self._unread: deque[Change] = deque()
        self._looking = threading.Lock()

    def _forget_parent(self) -> None:
        super()._forget_parent()
        self._looking = threading.Lock()

    def snapshot(self, keys: Iterable[Key], *, ttl: float = _SNAPSHOT_SECONDS) -> Snapshot:
        """Views of these keys as of one moment, whose contents are pinned until the snapshot is closed, or
        `ttl` seconds after it could be renewed last.

        `commit(..., reads=cut.views())` is refused if any of them has moved. Raises `BlobNotFoundError` if
        a content is missing.
        """
        views = self._read_together(keys, "snapshot")
        owner = f"snapshot/{uuid.uuid4().hex}"
        seconds = arguments.check_seconds("ttl", ttl)
        return Snapshot(views, self._contents, self._pinning, owner, seconds)

    def gate(self, view: View | Versioned) -> None:
        """To be called just before an effect that cannot be taken back: returns if a commit from this view
        would be accepted now, under the lease of the block if there is one. Raises `Conflict` otherwise.

        Between this and the effect somebody may still commit, unless an exclusive lease is held.
        """
        seen = arguments.own_view(bare(view), self.coordinator.coordinator_id)
        lease = self._own_lease(seen.key)
        try:
            self.coordinator.gate(seen, lease=lease, agent=self.name)
        except Conflict as error:
            if not self._in_own_way(error, lease):
                raise
            with self._holding:
                lease = self._living_lease(seen.key)
                self.coordinator.gate(seen, lease=lease, agent=self.name)

    def changes(self, *, timeout: float = 0.0) -> Iterator[Change]:
        """What was committed, by anybody, since this peer looked last: in the order of commits, without a
        gap. Ends when there is no more, and nothing came for `timeout` seconds (`math.inf`: never).

        Raises `CursorTooOldError` if the feed was compacted since; the next call begins from there.
        """
        seconds = check_timeout(timeout)
        return self._changes(seconds)

    def _changes(self, timeout: float) -> Iterator[Change]:
        until = time.monotonic() + timeout
        while True:
            while self._look():
                with suppress(IndexError):  # another thread has taken it
                    yield self._unread.popleft()
                until = time.monotonic() + timeout
            left = until - time.monotonic()
            if left <= 0:
                return
            self.coordinator.wait(self._cursor, timeout=min(left, _LONGEST_WAIT))

    def _look(self) -> bool:
        """Fetch the next page when the one before has been shown. Whether there is something to show."""
        with self._looking:
            if not self._unread:
                try:
                    page = self.coordinator.changes(since=self._cursor)
                except CursorTooOldError:
                    self._cursor = self.coordinator.head()
                    raise
                self._unread.extend(page.changes)
                self._cursor = page.cursor
            return bool(self._unread)

    def state(self, key: Key) -> State:
        """What this peer may do with its copy, right away: the state of a cache protocol (MESI), derived
        from its cache and from the coordinator's row."""
        code = encode_key(key)
        row = self.coordinator.settled([code])[code]
        return state_of(self.name, row, self.cached(key), self._table.clock())

    def recover(self) -> list[Key]:
        """To be called when the agent starts again after a crash: ends its leases, and what it had in
        flight is refused. Returns the keys."""
        for cached in self._cache.clear():
            self._give_back(cached)
        return self.coordinator.recover(self.name)

    def tidy(self) -> int:
        """Take away pins that crashed committers left in `backend`; returns how many. Safe beside others.

        Costs a look at every artifact, and at every pin of this coordinator's.
        """
        self._contents.flush()
        return self._contents.tidy(self.coordinator.versions())

    def close(self) -> None:
        """End what this peer holds, the leases of blocks that still run among it. Idempotent."""
        self._blocks.close()
        if self._following is not None:
            self._following.close()
        for cached in self._cache.clear():
            self._give_back(cached)
        self._contents.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_timeout(timeout: float) -> float:
    """Seconds, which may be infinite here."""
    return timeout if timeout == math.inf else arguments.check_seconds("timeout", timeout, zero=True)
