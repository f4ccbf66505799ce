"""The coordinator that users hold: for threads and for event loops."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, ParamSpec, Self, TypeVar
from weakref import WeakSet

from agentref.coherence import _arguments as arguments
from agentref.coherence import _steps as steps
from agentref.coherence.contents import ContentStore
from agentref.coherence.feed import Page
from agentref.coherence.following import Bell
from agentref.coherence.keys import Key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.mesi import State, state_of
from agentref.coherence.observer import Observer
from agentref.coherence.rows import LeaseMode, Versioned
from agentref.coherence.strategies import Strategy
from agentref.coherence.sync_coordinator import SyncCoordinator, Write
from agentref.coherence.table import Table

if TYPE_CHECKING:
    from agentref.coherence.peer import Peer

__all__ = ["Coordinator", "Write"]

_Result = TypeVar("_Result")
_Parameters = ParamSpec("_Parameters")

RETAIN_SECONDS: Final = 24 * 3600.0
CACHE_BYTES: Final = 64 * 1024 * 1024


class Coordinator(SyncCoordinator):
    __doc__ = SyncCoordinator.__doc__

    def __init__(self, table: Table, *, observers: Iterable[Observer] = ()) -> None:
        super().__init__(table, observers=observers)
        self._peers: WeakSet[Peer] = WeakSet()

    def peer(  # noqa: PLR0913
        self,
        name: str,
        *,
        backend: ContentStore,
        strategy: Strategy | str = "lazy",
        strategies: Mapping[Key, Strategy | str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        retain_seconds: float = RETAIN_SECONDS,
    ) -> "Peer":
        """One agent's coherent, cached view.

        Args:
            name: of the agent, 1 to 256 bytes. It is what others see as writer and holder; two processes
                that are the same agent share it.
            backend: where contents are, such as `FilesystemCAS("./state_blobs")`; all peers that exchange
                contents use the same store.
            strategy: `lazy`, `eager`, `lease`, `access_count`, `broadcast`, or a `Strategy` with options.
            strategies: others for keys that begin so; the longest beginning counts.
            cache_bytes: how much is cached, in bytes of encoded content.
            retain_seconds: how long a content stays in the store after another one followed it.
        """
        from agentref.coherence.peer import Peer  # noqa: PLC0415  (peers know coordinators)

        peer = Peer(
            self,
            name,
            backend=backend,
            strategy=strategy,
            strategies=strategies,
            cache_bytes=cache_bytes,
            retain_seconds=retain_seconds,
        )
        self._peers.add(peer)
        return peer

    def states(self, key: Key) -> dict[str, State]:
        """The state (MESI) of an artifact for every peer of this coordinator in this process, by agent.

        Derived, not stored: of what other processes have cached, nobody keeps a list. Of two peers that are
        the same agent, one with a valid copy counts.
        """
        code = encode_key(key)
        row, now = self.settled([code])[code], self.table.clock()
        states: dict[str, State] = {}
        for peer in list(self._peers):
            state = state_of(peer.name, row, peer.cached(key), now)
            if states.get(peer.name, State.INVALID) is State.INVALID:
                states[peer.name] = state
        return states

    async def astates(self, key: Key) -> dict[str, State]:
        """`states` for the event loop."""
        return await self.hop(self.states, key)

    async def aread(self, keys: Iterable[Key]) -> dict[Key, Versioned]:
        """`read` for the event loop."""
        return await self.hop(self.read, list(keys))

    async def acommit(
        self, writes: Iterable[Write], *, agent: str, reads: Iterable[Versioned] = ()
    ) -> dict[Key, Versioned]:
        """`commit` for the event loop."""
        return await self.hop(self.commit, list(writes), agent=agent, reads=list(reads))

    async def agate(self, view: Versioned, *, lease: Lease | None = None, agent: str = "") -> None:
        """`gate` for the event loop."""
        await self.hop(self.gate, view, lease=lease, agent=agent)

    async def akeys(self, prefix: Key = ()) -> AsyncIterator[Versioned]:
        """`keys` for the event loop."""
        found = self.keys(prefix)
        while (view := await self.hop(next, found, None)) is not None:
            yield view

    async def aacquire(
        self,
        key: Key,
        *,
        holder: str,
        ttl: float,
        mode: LeaseMode | str = LeaseMode.EXCLUSIVE,
        wait: float = 0.0,
    ) -> Lease:
        """`acquire` for the event loop, which goes on while this waits."""
        acquiring = self.acquiring(key, holder, ttl, arguments.check_mode(mode), wait)
        in_thread = not self.table.is_local
        return (await steps.arun(acquiring, in_thread=in_thread, undo=lambda got: self.release(got[0])))[0]

    async def arenew(self, lease: Lease, *, ttl: float | None = None) -> Lease:
        """`renew` for the event loop."""
        return await self.hop(self.renew, lease, ttl=ttl)

    async def arelease(self, lease: Lease) -> None:
        """`release` for the event loop."""
        await self.hop(self.release, lease)

    async def arecover(self, agent: str) -> list[Key]:
        """`recover` for the event loop."""
        return await self.hop(self.recover, agent)

    async def asweep(self, **options: float) -> list[Key]:
        """`sweep` for the event loop."""
        return await self.hop(self.sweep, **options)

    async def ahead(self) -> str:
        """`head` for the event loop."""
        return await self.hop(self.head)

    async def achanges(self, *, since: str, limit: int = 1000) -> Page:
        """`changes` for the event loop."""
        return await self.hop(self.changes, since=since, limit=limit)

    async def await_change(self, since: str, *, timeout: float) -> None:  # noqa: ASYNC109
        """`wait` for the event loop. Keeps no thread waiting, however many wait."""
        if self.table.is_joined:  # where nobody may follow the feed
            await asyncio.to_thread(self.wait, since, timeout=timeout)
            return
        seconds = None if timeout == math.inf else arguments.check_seconds("timeout", timeout, zero=True)
        bell = Bell(asyncio.get_running_loop())
        following = await self.hop(self.subscribe, bell.ring)
        try:
            # What came before it was subscribed did not ring.
            if not (await self.achanges(since=since, limit=1)).changes:
                with suppress(TimeoutError):
                    await asyncio.wait_for(bell.moved.wait(), seconds)
        finally:
            following.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hop(self.close)

    async def hop(
        self,
        verb: Callable[_Parameters, _Result],
        *args: _Parameters.args,
        **kwargs: _Parameters.kwargs,
    ) -> _Result:
        """Call a verb where it may wait: in a thread, unless it never does."""
        if self.table.is_local:
            return verb(*args, **kwargs)
        return await asyncio.to_thread(verb, *args, **kwargs)
