"""All checkpoints of a saver, a few at a time, and the refs that each of them carries."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, closing
from itertools import islice
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from agentref.adapters.langgraph.pins import is_from, owner_of, pinned_refs
from agentref.errors import ConfigurationError
from agentref.refs import ContentRef

__all__ = ["Carrier", "apages_of", "bridged", "pages_of"]

_PAGE: Final = 32  # whole checkpoints of a thread from before may be among them
_CARRIERS: Final = 256
_THREADS: Final = 1000

_Saver = BaseCheckpointSaver[Any]


class Carrier(NamedTuple):
    """A checkpoint with the writes that hang on it, and the refs in both; `owner` has their pins."""

    owner: str
    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    refs: tuple[ContentRef, ...]


def pages_of(saver: _Saver) -> Iterator[list[Carrier]]:
    """What a sync saver lists."""
    found: Any = _by_thread(saver) if _fetches_all_at_once(saver) else saver.list(None)
    if not hasattr(found, "close"):
        found = (item for item in found)
    with closing(found):
        while page := list(map(_carrier, islice(found, _CARRIERS))):
            yield page


async def apages_of(saver: _Saver) -> AsyncGenerator[list[Carrier], None]:
    """What an async saver lists."""
    found: Any = _aby_thread(saver) if _fetches_all_at_once(saver) else saver.alist(None)
    if not hasattr(found, "aclose"):
        found = (item async for item in found)
    page: list[Carrier] = []
    async with aclosing(found):
        async for item in found:
            page.append(_carrier(item))
            if len(page) == _CARRIERS:
                yield page
                page = []
    if page:
        yield page


def bridged(
    pages: AsyncGenerator[list[Carrier], None], loop: asyncio.AbstractEventLoop
) -> Iterator[list[Carrier]]:
    """The same pages in another thread than that of the event loop."""

    async def following() -> list[Carrier] | None:
        return await anext(pages, None)

    try:
        while (page := asyncio.run_coroutine_threadsafe(following(), loop).result()) is not None:
            yield page
    finally:
        asyncio.run_coroutine_threadsafe(pages.aclose(), loop).result()


# The savers for PostgreSQL fetch all rows of a listing before they hand out the first. Thread by thread it
# is little at a time, and each time an index leads there.

_NEXT_THREADS: Final = """
SELECT DISTINCT thread_id FROM checkpoints
WHERE %(after)s::text IS NULL OR thread_id > %(after)s ORDER BY thread_id LIMIT %(limit)s
"""


def _fetches_all_at_once(saver: _Saver) -> bool:
    return is_from("langgraph.checkpoint.postgres", saver)


def _by_thread(saver: Any) -> Iterator[CheckpointTuple]:
    after: str | None = None
    while True:
        with saver._cursor() as cursor:  # noqa: SLF001  (the only way to what the saver has as connection)
            rows = cursor.execute(_NEXT_THREADS, {"after": after, "limit": _THREADS}).fetchall()
        if not rows:
            return
        for row in rows:
            after = row["thread_id"]
            walk = _Walk(after)
            while not walk.is_over:
                yield from walk.take(list(saver.list(walk.config, before=walk.before, limit=walk.limit)))


async def _aby_thread(saver: Any) -> AsyncIterator[CheckpointTuple]:
    after: str | None = None
    while True:
        async with saver._cursor() as cursor:  # noqa: SLF001
            await cursor.execute(_NEXT_THREADS, {"after": after, "limit": _THREADS})
            rows = await cursor.fetchall()
        if not rows:
            return
        for row in rows:
            after = row["thread_id"]
            walk = _Walk(after)
            while not walk.is_over:
                found = saver.alist(walk.config, before=walk.before, limit=walk.limit)
                for item in walk.take([item async for item in found]):
                    yield item


class _Walk:
    """Over a thread, newest first. Of the last id in a page there may be more, in other namespaces: it
    begins the next page."""

    def __init__(self, thread_id: str) -> None:
        self.config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
        self.before: RunnableConfig | None = None
        self.limit = _PAGE
        self.is_over = False

    def take(self, page: list[CheckpointTuple]) -> list[CheckpointTuple]:
        """What is seen for the first time."""
        if len(page) < self.limit:
            self.is_over = True
            return page
        last = page[-1].checkpoint["id"]
        whole = [item for item in page if item.checkpoint["id"] != last]
        if whole:
            self.before = whole[-1].config
        else:
            self.limit *= 2
        return whole


def _carrier(item: CheckpointTuple) -> Carrier:
    configurable = item.config["configurable"]
    thread_id, namespace = configurable.get("thread_id"), configurable.get("checkpoint_ns", "")
    try:
        checkpoint_id = item.checkpoint["id"]
        values = [*item.checkpoint["channel_values"].values()]
    except (AttributeError, KeyError, TypeError):
        raise ConfigurationError(
            f"What stands for a checkpoint of thread {thread_id!r:.80} is none: something else "
            f"than LangGraph wrote it, or another serializer."
        ) from None
    values += [value for _, _, value in item.pending_writes or ()]
    refs = {(ref.backend_id, ref.digest): ref for ref in pinned_refs(values)}
    owner = owner_of(thread_id, namespace, checkpoint_id)
    return Carrier(owner, str(thread_id), str(namespace), str(checkpoint_id), tuple(refs.values()))
