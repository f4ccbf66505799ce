"""One agent's coherent, cached view of what agents share."""

import math
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Final, Self

from agentref.coherence import _arguments as arguments
from agentref.coherence.contents import ContentStore
from agentref.coherence.coordinator import Coordinator
from agentref.coherence.feed import Change
from agentref.coherence.heartbeat import Heartbeat
from agentref.coherence.held import HeldLease
from agentref.coherence.keys import Key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import LeaseMode, Versioned
from agentref.coherence.snapshots import Snapshot
from agentref.coherence.views import View
from agentref.coherence.writer import Writer, bare
from agentref.errors import CursorTooOldError

__all__ = ["SyncPeer"]

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
        self._heartbeat = Heartbeat(f"agentref-{name}")
        self._cursor = coordinator.head()

    def lease(
        self, key: Key, *, ttl: float, mode: LeaseMode | str = LeaseMode.EXCLUSIVE, wait: float = 0.0
    ) -> HeldLease:
        """`with peer.lease(key, ttl=30) as lease:` keeps others from committing, and renews itself until
        the block ends. Commits of that key within are made under it. `async with` as well.

        Entering raises `Conflict` (`held_by_other`) if it cannot be had within `wait` seconds.
        """
        return HeldLease(
            self.coordinator,
            self._heartbeat,
            key,
            holder=self.name,
            ttl=arguments.check_seconds("ttl", ttl),
            mode=arguments.check_mode(mode),
            wait=arguments.check_seconds("wait", wait, zero=True),
            before=self._free,
            held=self._note_lease,
        )

    def snapshot(self, keys: Iterable[Key], *, ttl: float = _SNAPSHOT_SECONDS) -> Snapshot:
        """Views of these keys as of one moment, whose contents are pinned until the snapshot is closed, or
        `ttl` seconds after it could be renewed last.

        `commit(..., reads=cut.views())` is refused if any of them has moved. Raises `BlobNotFoundError` if
        a content is missing.
        """
        views = self.read_many(keys)
        owner = f"snapshot/{uuid.uuid4().hex}"
        seconds = arguments.check_seconds("ttl", ttl)
        return Snapshot(views, self._contents, self._heartbeat, owner, seconds)

    def gate(self, view: View | Versioned) -> None:
        """To be called just before an effect that cannot be taken back: returns if a commit from this view
        would be accepted now, under the lease of the block if there is one. Raises `Conflict` otherwise.

        Between this and the effect somebody may still commit, unless an exclusive lease is held.
        """
        seen = bare(view)
        self.coordinator.gate(seen, lease=self._leases.get(seen.key), agent=self.name)

    def changes(self, *, timeout: float = 0.0) -> Iterator[Change]:
        """What was committed, by anybody, since this peer looked last: in the order of commits, without a
        gap. Ends when there is no more, and nothing came for `timeout` seconds (`math.inf`: never).

        Raises `CursorTooOldError` if the feed was compacted since; the next call begins from there.
        """
        while True:
            try:
                page = self.coordinator.changes(since=self._cursor)
            except CursorTooOldError:
                self._cursor = self.coordinator.head()
                raise
            for change in page.changes:
                self._cursor = change.cursor
                yield change
            self._cursor = page.cursor
            if not page.changes:
                if timeout <= 0:
                    return
                self.coordinator.wait(self._cursor, timeout=min(timeout, _LONGEST_WAIT))
                if self.coordinator.head() == self._cursor and timeout != math.inf:
                    return

    def recover(self) -> list[Key]:
        """To be called when the agent starts again after a crash: ends its leases, and what it had in
        flight is refused. Returns the keys."""
        for cached in self._cache.clear():
            cached.hold = None
        return self.coordinator.recover(self.name)

    def tidy(self) -> int:
        """Take away pins that crashed committers left in `backend`; returns how many. Safe beside others.

        Costs a look at every artifact, and at every pin of this coordinator's.
        """
        self._contents.flush()
        return self._contents.tidy(self.coordinator.versions())

    def close(self) -> None:
        """End what this peer holds. Idempotent."""
        if self._following is not None:
            self._following.close()
        for cached in self._cache.clear():
            self._give_back(cached)
        self._contents.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note_lease(self, key: Key, lease: Lease | None) -> None:
        if lease is None:
            self._leases.pop(key, None)
        else:
            self._leases[key] = lease
