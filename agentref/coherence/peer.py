"""The peer that users hold: for threads and for event loops."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Self

from agentref.coherence import _arguments as arguments
from agentref.coherence import _steps as steps
from agentref.coherence.feed import Change
from agentref.coherence.following import Bell, Subscription
from agentref.coherence.held import HeldLease
from agentref.coherence.keys import Key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.mesi import State
from agentref.coherence.rows import Versioned
from agentref.coherence.snapshots import Snapshot
from agentref.coherence.sync_peer import SyncPeer, check_timeout
from agentref.coherence.views import View
from agentref.coherence.writer import (
    AGAIN,
    MISSING,
    TURN_SECONDS,
    WRITE_LEASE,
    Put,
    chance,
    exhausted,
    start,
)
from agentref.errors import Conflict, Reason
from agentref.refs import ContentRef

__all__ = ["Peer"]

_LOOK_SECONDS: Final = 1.0  # a signal that is lost costs no more than that


class Peer(SyncPeer):
    __doc__ = SyncPeer.__doc__

    async def aread(self, key: Key) -> View:
        """`read` for the event loop."""
        return await self.coordinator.hop(self.read, key)

    async def aread_many(self, keys: Iterable[Key]) -> dict[Key, View]:
        """`read_many` for the event loop."""
        return await self.coordinator.hop(self.read_many, list(keys))

    async def avalue(self, key: Key) -> Any:
        """`value` for the event loop."""
        return await (await self.aread(key)).avalue()

    async def acommit(
        self,
        key: Key,
        value: Any,
        *,
        base: View | Versioned | None,
        reads: Iterable[View | Versioned] = (),
        lease: Lease | HeldLease | None = None,
    ) -> View:
        """`commit` for the event loop. The value is encoded before the first await."""
        leases = [lease] if lease else ()
        return (await self.acommit_many([Put(key, value, base)], reads=reads, leases=leases))[0]

    async def acommit_many(
        self,
        puts: Iterable[Put | tuple[Key, Any, View | Versioned | None]],
        *,
        reads: Iterable[View | Versioned] = (),
        leases: Iterable[Lease | HeldLease] = (),
    ) -> list[View]:
        """`commit_many` for the event loop. The values are encoded before the first await."""
        asked = self._checked(puts, reads, leases)
        encoded = self._contents.encode([put.value for put in asked.puts])
        return await asyncio.to_thread(self._commit, asked, encoded.refs, encoded)

    async def acommit_ref(self, key: Key, ref: ContentRef, *, base: View | Versioned | None) -> View:
        """`commit_ref` for the event loop."""
        return await asyncio.to_thread(self.commit_ref, key, ref, base=base)

    async def adelete(self, key: Key, *, base: View | Versioned) -> View:
        """`delete` for the event loop."""
        return await asyncio.to_thread(self.delete, key, base=base)

    async def aupdate(
        self,
        key: Key,
        change: Callable[[Any], Any] | Callable[[Any], Awaitable[Any]],
        *,
        initial: Any = MISSING,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> View:
        """`update` for the event loop; `change` may be a coroutine function."""
        until = time.monotonic() + arguments.check_seconds("timeout", timeout, zero=True)
        code = encode_key(key)
        pauses = steps.pauses(until)
        while True:
            leave = await self._aturn(code, min(until, time.monotonic() + TURN_SECONDS))
            try:
                outcome = await self._atried(key, change, initial)
            finally:
                if leave is not None:
                    leave()
            if isinstance(outcome, Conflict) and outcome.reason is Reason.HELD_BY_OTHER:
                outcome = await self._atried_alone(key, change, initial, until)
            elif isinstance(outcome, Conflict) and outcome.reason not in AGAIN:
                raise outcome
            if isinstance(outcome, View):
                return outcome
            pause = next(pauses, None)
            if pause is None:
                raise exhausted(key, timeout)
            await asyncio.sleep(pause * chance())

    async def asnapshot(self, keys: Iterable[Key], **options: float) -> Snapshot:
        """`snapshot` for the event loop."""
        return await asyncio.to_thread(self.snapshot, list(keys), **options)

    async def agate(self, view: View | Versioned) -> None:
        """`gate` for the event loop."""
        await self.coordinator.hop(self.gate, view)

    async def achanges(self, *, timeout: float = 0.0) -> AsyncIterator[Change]:  # noqa: ASYNC109
        """`changes` for the event loop."""
        seconds = check_timeout(timeout)
        until = time.monotonic() + seconds
        bell = Bell(asyncio.get_running_loop())
        following: Subscription | None = None
        try:
            while True:
                bell.moved.clear()
                while await self.coordinator.hop(self._look):
                    with suppress(IndexError):  # another task has taken it
                        yield self._unread.popleft()
                    until = time.monotonic() + seconds
                left = until - time.monotonic()
                if left <= 0:
                    return
                if following is None:
                    following = await self.coordinator.hop(self.coordinator.subscribe, bell.ring)
                    continue  # what came before that did not ring
                with suppress(TimeoutError):
                    await asyncio.wait_for(bell.moved.wait(), min(left, _LOOK_SECONDS))
        finally:
            if following is not None:
                following.close()

    async def astate(self, key: Key) -> State:
        """`state` for the event loop."""
        return await self.coordinator.hop(self.state, key)

    async def arecover(self) -> list[Key]:
        """`recover` for the event loop."""
        return await self.coordinator.hop(self.recover)

    async def atidy(self) -> int:
        """`tidy` for the event loop."""
        return await asyncio.to_thread(self.tidy)

    async def aclose(self) -> None:
        """`close` for the event loop."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _aturn(self, code: bytes, until: float) -> Callable[[], None] | None:
        """Not in a thread: those who wait could take all that there are, and the one whose turn it is needs
        one to go on."""
        for pause in steps.pauses(until):
            if (leave := self._table.turn(code, timeout=0)) is not None:
                return leave
            await asyncio.sleep(pause * chance())
        return None

    async def _atried(self, key: Key, change: Callable[[Any], Any], initial: Any) -> View | Conflict:
        view = await self.aread(key)
        new = change(await asyncio.to_thread(start, view, initial))
        value = await new if inspect.isawaitable(new) else new
        try:
            return await self.acommit(key, value, base=view)
        except Conflict as error:
            return error

    async def _atried_alone(
        self, key: Key, change: Callable[[Any], Any], initial: Any, until: float
    ) -> View | Conflict:
        left = max(until - time.monotonic(), 0.0)
        held = self.lease(key, ttl=WRITE_LEASE, wait=left)
        try:
            await held.__aenter__()
        except Conflict as error:
            raise exhausted(key, left) from error
        try:
            return await self._atried(key, change, initial)
        finally:
            await held.__aexit__(None, None, None)
