"""A tree on its way out: encoded, and not stored yet."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from agentref.refs import ContentRef
from agentref.runtime import Outgoing, Runtime
from agentref.trees.lives import Lives

__all__ = ["Draft", "to_the_end"]

_Result = TypeVar("_Result")


class Draft:
    """What has to be stored for a tree, before anybody may have that.

    Args:
        tree: what it will be.
        outgoing: the values that were encoded.
        fresh: their refs.
        kept: the refs that were there already.
        owner: who is to keep all of them, or None.
    """

    def __init__(
        self,
        tree: Any,
        outgoing: Outgoing,
        *,
        fresh: list[ContentRef],
        kept: list[ContentRef],
        owner: str | None,
    ) -> None:
        self.tree = tree
        self._outgoing = outgoing
        self._fresh = fresh
        self._kept = kept
        self._owner = owner

    def needs_store(self, lives: Lives) -> bool:
        """Whether `store` has anything to do."""
        if self._owner is not None:
            return bool(self._fresh or self._kept)
        return bool(self._outgoing.encoded or lives.due(self._kept, leased=False))

    def store(self, runtime: Runtime, lives: Lives) -> None:
        """Make it durable, with all that was there already. Raises `BlobNotFoundError` if that is gone."""
        leased = self._owner is not None
        lives.renew(self._kept, leased=leased)
        if self._owner is None:
            runtime.store(self._outgoing)
        else:
            runtime.keep(self._outgoing, self._owner, [*self._fresh, *self._kept])
        lives.note(self._fresh, leased=leased)


async def to_the_end(work: Callable[[], _Result]) -> _Result:
    """Run `work` in a thread. Who is cancelled meanwhile learns of it when that has ended: what he does
    then, such as to let go of what was pinned, comes after it."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue  # again: once it has ended is soon enough
        if not running.cancelled():
            running.exception()  # nobody asks for it any more
        raise
