"""The verbs of a checkpointer. Each becomes a method where the inner saver has it, or where it is offered.

LangGraph and others tell what a saver can do by which methods its class overrides.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from agentref.adapters.langgraph.coherent import followed
from agentref.adapters.langgraph.offered import offered_verbs
from agentref.adapters.langgraph.pins import (
    atake_away,
    owner_in,
    pinned_refs,
    refs_for,
    runs,
    take_away,
    threads,
)
from agentref.adapters.langgraph.placing import Entering

if TYPE_CHECKING:
    from agentref.adapters.langgraph.saver import ExternalizingSaver

__all__ = ["verbs_of"]

# The first page of a listing is short: whoever wants only the newest checkpoint loads only that.
_FIRST_PAGE: Final = 1
_PAGE: Final = 16


def verbs_of(inner: type[BaseCheckpointSaver[Any]]) -> dict[str, Any]:
    """The methods for a wrapper of a saver of that type."""
    missing = {
        name for name in _VERBS if getattr(inner, name, None) is getattr(BaseCheckpointSaver, name, None)
    }
    offered = offered_verbs(inner)
    own = {name: verb for name, verb in _VERBS.items() if name not in missing}
    verbs = {**own, **{name: verb for name, verb in offered.items() if name in missing}}
    return {name: followed(name, verb) for name, verb in verbs.items()}


def get_tuple(self: "ExternalizingSaver", config: RunnableConfig) -> CheckpointTuple | None:
    """The checkpoint of a config, every value in place; all refs are fetched in one batch."""
    epoch = self.coherence.look(config)
    saved = self.inner.get_tuple(config)
    self.coherence.note(config, saved, epoch)
    return None if saved is None else self.hydrated([saved])[0]


async def aget_tuple(self: "ExternalizingSaver", config: RunnableConfig) -> CheckpointTuple | None:
    """`get_tuple` for the event loop."""
    epoch = await self.coherence.alook(config)
    saved = await self.inner.aget_tuple(config)
    self.coherence.note(config, saved, epoch)
    return None if saved is None else (await self.ahydrated([saved]))[0]


def list_(
    self: "ExternalizingSaver",
    config: RunnableConfig | None,
    *,
    filter: dict[str, Any] | None = None,  # noqa: A002  (the interface's own name)
    before: RunnableConfig | None = None,
    limit: int | None = None,
) -> Iterator[CheckpointTuple]:
    """The checkpoints that match, newest first; fetched sixteen at a time."""
    with ExitStack() as stack:
        found: Any = self.inner.list(config, filter=filter, before=before, limit=limit)
        if hasattr(found, "close"):
            stack.enter_context(closing(found))
        size = _FIRST_PAGE
        while page := list(islice(found, size)):
            yield from self.hydrated(page)
            size = _PAGE


async def alist(
    self: "ExternalizingSaver",
    config: RunnableConfig | None,
    *,
    filter: dict[str, Any] | None = None,  # noqa: A002
    before: RunnableConfig | None = None,
    limit: int | None = None,
) -> AsyncIterator[CheckpointTuple]:
    """`list` for the event loop."""
    async with AsyncExitStack() as stack:
        found: Any = self.inner.alist(config, filter=filter, before=before, limit=limit)
        if hasattr(found, "aclose"):
            await stack.enter_async_context(aclosing(found))
        page: list[CheckpointTuple] = []
        size = _FIRST_PAGE
        async for item in found:
            page.append(item)
            if len(page) == size:
                for hydrated in await self.ahydrated(page):
                    yield hydrated
                page, size = [], _PAGE
        for hydrated in await self.ahydrated(page):
            yield hydrated


def put(
    self: "ExternalizingSaver",
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> RunnableConfig:
    """Store what is large, durably; then let the inner saver keep the checkpoint."""
    if self.coherence.coordinator is not None:
        self.coherence.admit(config, checkpoint["id"])
    placed = self.placing.begin(config, checkpoint, new_versions)
    if isinstance(placed, Entering):
        placed = self.pace.save(partial(self.finish, placed))
    else:
        self.keep(placed)
    self.placing.remember(placed)
    try:
        saved = self.inner.put(config, placed.checkpoint, metadata, placed.versions)
    except Exception as error:
        self.explain(error, config, placed.checkpoint["channel_values"].items())
        raise
    if self.is_left_alone(placed):
        self.keep(placed._replace(is_kept=False))
    if self.coherence.coordinator is not None:
        self.coherence.saved(saved, placed.checkpoint)
    return saved


async def aput(
    self: "ExternalizingSaver",
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> RunnableConfig:
    """`put` for the event loop."""
    placed = self.placing.begin(config, checkpoint, new_versions)
    if isinstance(placed, Entering):
        placed = self.placing.finish(placed)
    await self.coherence.aadmit(config, checkpoint["id"])
    if not placed.is_kept or placed.outgoing.encoded:
        await asyncio.to_thread(self.keep, placed)
    self.placing.remember(placed)
    try:
        saved = await self.inner.aput(config, placed.checkpoint, metadata, placed.versions)
    except Exception as error:
        self.explain(error, config, placed.checkpoint["channel_values"].items())
        raise
    if self.is_left_alone(placed):
        await asyncio.to_thread(self.keep, placed._replace(is_kept=False))
    await self.coherence.asaved(saved, placed.checkpoint)
    return saved


def put_writes(
    self: "ExternalizingSaver",
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str = "",
) -> None:
    """Store what is large, durably; then let the inner saver keep the writes."""
    if self.coherence.coordinator is not None:
        self.coherence.admit(config)
    lean = writes
    if not self.placing.all_pass(config, writes):
        lean = self.pace.save(partial(self.keep_writes, config, writes))
    try:
        if self.takes_task_path:
            self.inner.put_writes(config, lean, task_id, task_path)
        else:
            self.inner.put_writes(config, lean, task_id)
    except Exception as error:
        self.explain(error, config, lean)
        raise


async def aput_writes(
    self: "ExternalizingSaver",
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str = "",
) -> None:
    """`put_writes` for the event loop."""
    lean, outgoing = self.placing.writes(config, writes)
    await self.coherence.aadmit(config)
    await self.runtime.akeep(outgoing, owner_in(config), pinned_refs(value for _, value in lean))
    try:
        if self.takes_task_path:
            await self.inner.aput_writes(config, lean, task_id, task_path)
        else:
            await self.inner.aput_writes(config, lean, task_id)
    except Exception as error:
        self.explain(error, config, lean)
        raise


def delete_thread(self: "ExternalizingSaver", thread_id: str) -> None:
    """The inner saver's, and what nothing else needs is free to be pruned."""
    take_away(self.runtime, self.inner, threads([thread_id]), partial(self.inner.delete_thread, thread_id))


async def adelete_thread(self: "ExternalizingSaver", thread_id: str) -> None:
    """`delete_thread` for the event loop."""
    await atake_away(
        self.runtime, self.inner, threads([thread_id]), partial(self.inner.adelete_thread, thread_id)
    )


def delete_for_runs(self: "ExternalizingSaver", run_ids: Sequence[str]) -> None:
    """The inner saver's, and what nothing else needs is free to be pruned."""
    take_away(self.runtime, self.inner, runs(run_ids), partial(self.inner.delete_for_runs, run_ids))


async def adelete_for_runs(self: "ExternalizingSaver", run_ids: Sequence[str]) -> None:
    """`delete_for_runs` for the event loop."""
    await atake_away(self.runtime, self.inner, runs(run_ids), partial(self.inner.adelete_for_runs, run_ids))


def prune(self: "ExternalizingSaver", thread_ids: Sequence[str], **options: Any) -> None:
    """The inner saver's, and what nothing else needs is free to be pruned from the store."""
    take_away(
        self.runtime, self.inner, threads(thread_ids), partial(self.inner.prune, thread_ids, **options)
    )


async def aprune(self: "ExternalizingSaver", thread_ids: Sequence[str], **options: Any) -> None:
    """`prune` for the event loop."""
    await atake_away(
        self.runtime, self.inner, threads(thread_ids), partial(self.inner.aprune, thread_ids, **options)
    )


def copy_thread(self: "ExternalizingSaver", source_thread_id: str, target_thread_id: str) -> None:
    """The inner saver's. What the copy needs is pinned for it first; what came meanwhile, after."""
    for thread_id in (source_thread_id, target_thread_id):
        for query, chosen in threads([thread_id]) if self.runtime.pins else ():
            saved = self.inner.list(query, filter=chosen)
            self.runtime.pin_each(refs_for(saved, thread_id=target_thread_id))
        if thread_id == source_thread_id:
            self.inner.copy_thread(source_thread_id, target_thread_id)


async def acopy_thread(self: "ExternalizingSaver", source_thread_id: str, target_thread_id: str) -> None:
    """`copy_thread` for the event loop."""
    for thread_id in (source_thread_id, target_thread_id):
        for query, chosen in threads([thread_id]) if self.runtime.pins else ():
            saved = [item async for item in self.inner.alist(query, filter=chosen)]
            pins = refs_for(saved, thread_id=target_thread_id)
            await asyncio.to_thread(self.runtime.pin_each, pins)
        if thread_id == source_thread_id:
            await self.inner.acopy_thread(source_thread_id, target_thread_id)


_VERBS: Final = {
    "get_tuple": get_tuple,
    "aget_tuple": aget_tuple,
    "list": list_,
    "alist": alist,
    "delete_thread": delete_thread,
    "adelete_thread": adelete_thread,
    "delete_for_runs": delete_for_runs,
    "adelete_for_runs": adelete_for_runs,
    "copy_thread": copy_thread,
    "acopy_thread": acopy_thread,
    "prune": prune,
    "aprune": aprune,
    "put": put,
    "aput": aput,
    "put_writes": put_writes,
    "aput_writes": aput_writes,
}
