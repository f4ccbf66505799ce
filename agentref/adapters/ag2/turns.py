"""Who writes to a stream waits for those before: a small event would overtake a large one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from ag2.context import StreamId

__all__ = ["Turns"]


class _Hold:
    """The lock that this task, or one that it comes from, holds; None when that has ended."""

    __slots__ = ("lock",)

    def __init__(self, lock: asyncio.Lock) -> None:
        self.lock: asyncio.Lock | None = lock


_held: ContextVar[tuple[_Hold, ...]] = ContextVar("agentref_ag2_held", default=())


class Turns:
    """A turn for each stream, in each event loop.

    A storage that is called within a turn may call back, as one does that compacts the history when it
    saves: what a turn calls, and the tasks that it starts, are in it until it ends. Loops in several
    threads do not wait for each other.
    """

    def __init__(self) -> None:
        self._locks: WeakKeyDictionary[
            asyncio.AbstractEventLoop, WeakValueDictionary[StreamId, asyncio.Lock]
        ] = WeakKeyDictionary()

    @asynccontextmanager
    async def of(self, stream_id: StreamId) -> AsyncIterator[None]:
        """Wait for the turn, and have it."""
        lock = self._lock(stream_id)
        held = tuple(hold for hold in _held.get() if hold.lock is not None)
        if any(hold.lock is lock for hold in held):
            yield
            return
        async with lock:
            hold = _Hold(lock)
            token = _held.set((*held, hold))
            try:
                yield
            finally:
                hold.lock = None
                _held.reset(token)

    def _lock(self, stream_id: StreamId) -> asyncio.Lock:
        locks = self._locks.setdefault(asyncio.get_running_loop(), WeakValueDictionary())
        lock = locks.get(stream_id)
        if lock is None:
            lock = locks[stream_id] = asyncio.Lock()
        return lock
