"""A lease that a peer holds for as long as a block runs."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from agentref.coherence.coordinator import Coordinator
from agentref.coherence.heartbeat import Beat, Heartbeat
from agentref.coherence.keys import Key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import LeaseMode
from agentref.errors import Conflict, InvalidInputError, StorageError

__all__ = ["Blocks", "HeldLease"]

_BEATS: Final = 3  # in the length of a lease: one may be lost


class HeldLease:
    """`with peer.lease(key, ttl=30) as lease:` holds a lease, and renews it, until the block ends.

    The peer's commits of that key within the block are made under it. A block whose lease is lost, because
    the process was stopped or the database out of reach for longer than `ttl`, is not interrupted; its
    commits are refused. `check()` says so before that.
    """

    def __init__(  # noqa: PLR0913
        self,
        coordinator: Coordinator,
        heartbeat: Heartbeat,
        key: Key,
        *,
        holder: str,
        ttl: float,
        mode: LeaseMode,
        wait: float,
        free: Callable[[Key], None],
        blocks: "Blocks",
    ) -> None:
        self._coordinator = coordinator
        self._heartbeat = heartbeat
        self._key = key
        self._holder = holder
        self._ttl = ttl
        self._mode = mode
        self._wait = wait
        self._free = free
        self._blocks = blocks
        self._lease: Lease | None = None
        self._lost: Conflict | None = None
        self._beat: Beat | None = None
        self._pid = os.getpid()

    @property
    def lease(self) -> Lease:
        """The lease as it was renewed last. Raises `InvalidInputError` before the block has begun."""
        if self._lease is None:
            raise InvalidInputError(
                "The lease is held within its block only: with peer.lease(...) as lease."
            )
        return self._lease

    @property
    def current(self) -> Lease | None:
        """`lease`; None outside of the block."""
        return self._lease

    @property
    def key(self) -> Key:
        """What is held."""
        return self._key

    @property
    def fence(self) -> int:
        """Greater than that of any lease on this key before."""
        return self.lease.fence

    @property
    def until(self) -> float:
        """When it ends unless it is renewed, in seconds since the epoch, by the coordinator's clock."""
        return self.lease.until

    @property
    def lost(self) -> bool:
        """Whether it is known to have ended. False does not say that it lives: `check` does."""
        return self._lost is not None

    def check(self) -> None:
        """Renew it now. Raises `Conflict` (`lease_lost`) if it has ended."""
        if self._lost is not None:
            raise self._lost
        try:
            self._lease = self._coordinator.renew(self.lease, ttl=self._ttl)
        except Conflict as error:
            self._lost = error
            raise

    def __enter__(self) -> Self:
        self._blocks.enter(self)
        try:
            self._free(self._key)
            self._begin(
                self._coordinator.acquire(
                    self._key, holder=self._holder, ttl=self._ttl, mode=self._mode, wait=self._wait
                )
            )
        except BaseException:
            self._blocks.leave(self)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (lease := self._end()) is not None:
            self._coordinator.release(lease)

    async def __aenter__(self) -> Self:
        self._blocks.enter(self)
        try:
            await self._coordinator.hop(self._free, self._key)
            self._begin(
                await self._coordinator.aacquire(
                    self._key, holder=self._holder, ttl=self._ttl, mode=self._mode, wait=self._wait
                )
            )
        except BaseException:
            self._blocks.leave(self)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (lease := self._end()) is not None:
            # Released even if the task is cancelled meanwhile: nobody would renew it, or give it back.
            await asyncio.shield(asyncio.ensure_future(self._coordinator.arelease(lease)))

    def _begin(self, lease: Lease) -> None:
        self._lost = None
        self._lease = lease
        self._pid = os.getpid()
        if not self._coordinator.table.is_joined:  # there nobody but the caller may
            self._beat = self._heartbeat.every(self._ttl / _BEATS, self._renew)

    def _end(self) -> Lease | None:
        if self._beat is not None:
            self._heartbeat.stop(self._beat)
        lease, self._lease = self._lease, None
        self._blocks.leave(self)
        return lease if self._pid == os.getpid() else None  # a forked child ends nothing of its parent's

    def _renew(self) -> bool:
        lease = self._lease
        if lease is None:
            return False
        try:
            renewed = self._coordinator.renew(lease, ttl=self._ttl)
        except Conflict as error:
            if self._is_held(lease):
                self._lost = error
            return False
        except StorageError:
            return True  # the next beat may reach it; if none does in time, commits are refused
        if self._is_held(lease):
            self._lease = renewed
        return True

    def _is_held(self, lease: Lease) -> bool:
        """Not if the block has ended, or another one begun, meanwhile."""
        now = self._lease
        return now is not None and now.fence == lease.fence


class Blocks:
    """The blocks of a peer in which it holds a lease, or waits for one. Safe for threads."""

    def __init__(self) -> None:
        self._by_key: dict[Key, tuple[HeldLease, ...]] = {}
        self._lock = threading.Lock()

    def __contains__(self, key: Key) -> bool:
        return key in self._by_key

    def lease_on(self, key: Key) -> Lease | None:
        """The lease of the block that was entered last."""
        for block in reversed(self._by_key.get(key, ())):
            if (lease := block.current) is not None:
                return lease
        return None

    def enter(self, block: HeldLease) -> None:
        """Note it, before its lease is asked for."""
        with self._lock:
            self._by_key[block.key] = (*self._by_key.get(block.key, ()), block)

    def leave(self, block: HeldLease) -> None:
        """Note that it has ended. Idempotent."""
        with self._lock:
            blocks = list(self._by_key.pop(block.key, ()))
            if block in blocks:
                blocks.remove(block)
            if blocks:
                self._by_key[block.key] = tuple(blocks)

    def close(self) -> None:
        """End the leases of all; those whose coordinator is out of reach end by themselves."""
        with self._lock:
            blocks = [block for each in self._by_key.values() for block in each]
        for block in blocks:
            with suppress(StorageError):
                block.__exit__(None, None, None)
