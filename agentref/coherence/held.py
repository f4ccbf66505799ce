"""A lease that a peer holds for as long as a block runs."""

from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from agentref.coherence.coordinator import Coordinator
from agentref.coherence.heartbeat import Beat, Heartbeat
from agentref.coherence.keys import Key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import LeaseMode
from agentref.errors import Conflict, InvalidInputError, StorageError

__all__ = ["HeldLease"]

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
        before: Callable[[Key], None],
        held: Callable[[Key, Lease | None], None],
    ) -> None:
        self._coordinator = coordinator
        self._heartbeat = heartbeat
        self._key = key
        self._holder = holder
        self._ttl = ttl
        self._mode = mode
        self._wait = wait
        self._before = before
        self._held = held
        self._lease: Lease | None = None
        self._lost: Conflict | None = None
        self._beat: Beat | None = None

    @property
    def lease(self) -> Lease:
        """The lease as it was renewed last. Raises `InvalidInputError` before the block has begun."""
        if self._lease is None:
            raise InvalidInputError(
                "The lease is held within its block only: with peer.lease(...) as lease."
            )
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
        self._before(self._key)
        self._begin(
            self._coordinator.acquire(
                self._key, holder=self._holder, ttl=self._ttl, mode=self._mode, wait=self._wait
            )
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (lease := self._end()) is not None:
            self._coordinator.release(lease)

    async def __aenter__(self) -> Self:
        await self._coordinator.hop(self._before, self._key)
        self._begin(
            await self._coordinator.aacquire(
                self._key, holder=self._holder, ttl=self._ttl, mode=self._mode, wait=self._wait
            )
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (lease := self._end()) is not None:
            await self._coordinator.arelease(lease)

    def _begin(self, lease: Lease) -> None:
        self._lost = None
        self._lease = lease
        self._held(self._key, lease)
        self._beat = self._heartbeat.every(self._ttl / _BEATS, self._renew)

    def _end(self) -> Lease | None:
        if self._beat is not None:
            self._beat.stop()
        lease, self._lease = self._lease, None
        self._held(self._key, None)
        return lease

    def _renew(self) -> bool:
        lease = self._lease
        if lease is None:
            return False
        try:
            renewed = self._coordinator.renew(lease, ttl=self._ttl)
        except Conflict as error:
            self._lost = error
            return False
        except StorageError:
            return True  # the next beat may reach it; if none does in time, commits are refused
        if self._lease is not None:
            self._lease = renewed
        return True
