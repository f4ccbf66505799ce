"""What a model context or a memory stores for its owner, and lets go of."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakKeyDictionary

from agentref.trees import Externalizer
from agentref.trees.drafts import to_the_end

__all__ = ["Owned", "unowned"]

_unowned: ContextVar[bool] = ContextVar("agentref_autogen_unowned", default=False)


@contextmanager
def unowned() -> Iterator[None]:
    """What this task saves meanwhile is pinned by no owner: it is for a load that may fail soon."""
    token = _unowned.set(True)
    try:
        yield
    finally:
        _unowned.reset(token)


class Owned:
    """An externalizer for one owner, or for none.

    With an owner it does one call at a time: to let go takes place after all that was asked for before, so
    that nothing is pinned by a call that was still on its way.

    For one event loop at a time, and another one after it. Raises what the externalizer does.
    """

    def __init__(self, external: Externalizer, owner: str | None) -> None:
        self.external: Final = external
        self.owner: Final = owner
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def externalize(self, tree: Any, *, threshold_bytes: int | None = None) -> Any:
        """The tree with refs, pinned if there is an owner."""
        if self.owner is None or _unowned.get():
            return await self.external.aexternalize(tree, threshold_bytes=threshold_bytes)
        async with self._turn():
            return await self.external.aexternalize(tree, owner=self.owner, threshold_bytes=threshold_bytes)

    async def pin(self, tree: Any) -> None:
        """Keep what an externalized tree refers to as well, if there is an owner. Raises
        `BlobNotFoundError` for what is gone."""
        if self.owner is not None:
            async with self._turn():
                await self.external.apin(self.owner, tree)

    async def release(self, undo: Callable[[], object] = bool) -> None:
        """Let go of all that was pinned. If it raises or is cancelled before that, `undo` is called."""
        owner = self.owner
        if owner is None:
            return
        released = False

        def work() -> None:
            nonlocal released
            self.external.release(owner)
            released = True

        try:
            async with self._turn():
                await to_the_end(work)
        except BaseException:
            if not released:
                undo()
            raise

    def _turn(self) -> asyncio.Lock:
        """A lock stays with the first event loop that waited for it."""
        loop = asyncio.get_running_loop()
        turn = self._turns.get(loop)
        if turn is None:
            turn = self._turns[loop] = asyncio.Lock()
        return turn
