"""The verbs of a checkpointer. Each becomes a method only where the inner saver has it too.

LangGraph and others tell what a saver can do by which methods its class overrides.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, closing
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

if TYPE_CHECKING:
    from agentref.adapters.langgraph.saver import ExternalizingSaver

__all__ = ["verbs_of"]

# The first page of a listing is short: whoever wants only the newest checkpoint loads only that.
_FIRST_PAGE: Final = 1
_PAGE: Final = 16


def verbs_of(inner: type[BaseCheckpointSaver[Any]]) -> dict[str, Any]:
    """The methods for a wrapper of a saver of that type."""
    return {
        name: verb
        for name, verb in {**_TRANSLATING, **_FORWARDING}.items()
        if getattr(inner, name, None) is not getattr(BaseCheckpointSaver, name, None)
    }


def get_tuple(self: "ExternalizingSaver", config: RunnableConfig) -> CheckpointTuple | None:
    """The checkpoint of a config, every value in place; all refs are fetched in one batch."""
    saved = self.inner.get_tuple(config)
    return None if saved is None else self.hydrated([saved])[0]


async def aget_tuple(self: "ExternalizingSaver", config: RunnableConfig) -> CheckpointTuple | None:
    """`get_tuple` for the event loop."""
    saved = await self.inner.aget_tuple(config)
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

    def save() -> tuple[Checkpoint, ChannelVersions]:
        lean, versions, outgoing = self.placed_checkpoint(config, checkpoint, new_versions)
        self.runtime.store(outgoing)
        return lean, versions

    lean, versions = self.pace.save(save)
    self.remember(config, lean)
    with self.explaining(config, lean["channel_values"].items()):
        return self.inner.put(config, lean, metadata, versions)


async def aput(
    self: "ExternalizingSaver",
    config: RunnableConfig,
    checkpoint: Checkpoint,
    metadata: CheckpointMetadata,
    new_versions: ChannelVersions,
) -> RunnableConfig:
    """`put` for the event loop."""
    lean, versions, outgoing = self.placed_checkpoint(config, checkpoint, new_versions)
    await self.runtime.astore(outgoing)
    self.remember(config, lean)
    with self.explaining(config, lean["channel_values"].items()):
        return await self.inner.aput(config, lean, metadata, versions)


def put_writes(
    self: "ExternalizingSaver",
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str = "",
) -> None:
    """Store what is large, durably; then let the inner saver keep the writes."""

    def save() -> list[tuple[str, Any]]:
        lean, outgoing = self.placed_writes(config, writes)
        self.runtime.store(outgoing)
        return lean

    lean = self.pace.save(save)
    with self.explaining(config, lean):
        self.inner.put_writes(config, lean, task_id, *self.task_path(task_path))


async def aput_writes(
    self: "ExternalizingSaver",
    config: RunnableConfig,
    writes: Sequence[tuple[str, Any]],
    task_id: str,
    task_path: str = "",
) -> None:
    """`put_writes` for the event loop."""
    lean, outgoing = self.placed_writes(config, writes)
    await self.runtime.astore(outgoing)
    with self.explaining(config, lean):
        await self.inner.aput_writes(config, lean, task_id, *self.task_path(task_path))


def _forward(name: str) -> Any:
    def verb(self: "ExternalizingSaver", *args: Any, **options: Any) -> Any:
        return getattr(self.inner, name)(*args, **options)

    verb.__name__ = verb.__qualname__ = name
    verb.__doc__ = f"The inner saver's `{name}`. Blobs stay: other threads may share them."
    return verb


_TRANSLATING: Final = {
    "get_tuple": get_tuple,
    "aget_tuple": aget_tuple,
    "list": list_,
    "alist": alist,
    "put": put,
    "aput": aput,
    "put_writes": put_writes,
    "aput_writes": aput_writes,
}
_FORWARDING: Final = {
    name: _forward(name)
    for verb in ("delete_thread", "delete_for_runs", "copy_thread", "prune")
    for name in (verb, f"a{verb}")
}
