"""What keeps a checkpoint's payloads alive: pins, owned by the checkpoint.

Blobs are stored with a lease, then pinned, then named by the checkpoint; a crash in between leaves a pin
too many, never one too few. A checkpoint with nothing but what its parent carries inherits the parent's
pins, which costs no sync: a power cut may take them back while the parent has its own. Whoever takes those
away pins first what the other checkpoints of the thread need. So one in memory, which nobody but this
process takes away, needs no pins of its own until then.

The owner is the checkpoint and not its thread: no two checkpoints have one id, so savers that share a store
may have threads of one name, and whoever deletes checkpoints takes away theirs alone, whatever others add
meanwhile.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from agentref.adapters.langgraph.removals import removals
from agentref.adapters.langgraph.values import placed_ref, unplaced
from agentref.adapters.langgraph.within import refs_within
from agentref.errors import InvalidInputError
from agentref.refs import ContentRef
from agentref.runtime import Runtime

__all__ = [
    "PREFIX",
    "Pins",
    "Query",
    "alisted",
    "atake_away",
    "is_from",
    "keeps_whole",
    "listed",
    "owner_in",
    "owner_of",
    "pinned_refs",
    "refs_for",
    "runs",
    "take_away",
    "threads",
]

PREFIX: Final = "langgraph:"
"""How the names of all owners begin."""

_MAX_LENGTH: Final = 400

Query = tuple[RunnableConfig | None, dict[str, Any] | None]
"""What is asked of a saver's `list`: a config and a filter."""

Pins = dict[str, list[ContentRef]]
"""What each owner keeps."""


def owner_of(thread_id: object, namespace: object, checkpoint_id: object) -> str:
    """Who owns the pins of a checkpoint and of the writes that hang on it."""
    owner = f"{_beginning(str(thread_id), str(namespace))}:{_quoted(str(checkpoint_id))}"
    return (
        owner
        if len(owner) <= _MAX_LENGTH
        else f"{PREFIX}#{blake2b(owner.encode(), digest_size=32).hexdigest()}"
    )


@lru_cache(1024)  # a graph saves in one thread again and again
def _beginning(thread_id: str, namespace: str) -> str:
    return f"{PREFIX}{_quoted(thread_id)}:{_quoted(namespace)}"


def _quoted(part: str) -> str:
    if part.isascii() and part.replace("-", "0").isalnum():  # mostly, and much faster
        return part
    return quote(part, safe="", errors="surrogatepass")


def owner_in(config: RunnableConfig, checkpoint_id: object = None) -> str:
    """The owner that a config names; `checkpoint_id` stands in for the one in it."""
    configurable = config["configurable"]
    chosen = configurable.get("checkpoint_id") if checkpoint_id is None else checkpoint_id
    return owner_of(configurable.get("thread_id"), configurable.get("checkpoint_ns", ""), chosen)


def pinned_refs(values: Iterable[Any]) -> list[ContentRef]:
    """The refs among what a checkpoint or its writes carry: in place of values, and within values."""
    return [ref for value in values for ref in _refs_of(value)]


def _refs_of(value: Any) -> Iterable[ContentRef]:
    try:
        ref = placed_ref(value)
    except InvalidInputError:
        return ()  # damaged: it names nothing that could be kept
    return refs_within(unplaced(value, [])) if ref is None else (ref,)


def refs_for(saved: Iterable[CheckpointTuple], *, thread_id: str | None = None) -> Pins:
    """What these checkpoints of the inner saver need pinned; `thread_id` is whose they are to be."""
    found: Pins = {}
    for item in saved:
        values = [*item.checkpoint["channel_values"].values()]
        values += [value for _, _, value in item.pending_writes or ()]
        configurable = item.config["configurable"]
        whose = configurable["thread_id"] if thread_id is None else thread_id
        owner = owner_of(whose, configurable.get("checkpoint_ns", ""), item.checkpoint["id"])
        found[owner] = pinned_refs(values)
    return found


def threads(thread_ids: Iterable[str]) -> list[Query]:
    """How to ask for all that is in threads."""
    return [({"configurable": {"thread_id": str(thread_id)}}, None) for thread_id in thread_ids]


def runs(run_ids: Iterable[str]) -> list[Query]:
    """How to ask for all that runs have made."""
    return [(None, {"run_id": str(run_id)}) for run_id in run_ids]


def listed(saver: BaseCheckpointSaver[Any], queries: Iterable[Query]) -> dict[str, str]:
    """The owners that there are now, and their threads."""
    return dict(_owner_and_thread(item) for item in _found(saver, queries))


async def alisted(saver: BaseCheckpointSaver[Any], queries: Iterable[Query]) -> dict[str, str]:
    """`listed` for the event loop."""
    return dict([_owner_and_thread(item) async for item in _afound(saver, queries)])


# Taking checkpoints away. Pins go after the checkpoints, and only those of checkpoints that are gone: a
# crash in between, or a checkpoint that comes meanwhile, leaves a pin too many. A copy of a thread brings
# back ids that went, so who unpins looks once more.
#
# Those that are left pin what they show before others let go of it: a power cut may have taken their pins,
# and a saver that keeps values by version may show what was put, and pinned, with an earlier checkpoint. If
# somebody else took them away meanwhile, that came too late for him: it is taken back.


def take_away(
    runtime: Runtime,
    saver: BaseCheckpointSaver[Any],
    queries: list[Query],
    deletion: Callable[[], Mapping[str, str] | None],
) -> None:
    """Delete checkpoints that are among those asked for, and let go of the pins of those that went.

    `deletion` may return the owners of what it took, as `listed` does: some may have come after that.
    """
    with removals.under_way():
        before = listed(saver, queries) if runtime.pins else {}
        before |= deletion() or {}
        if not (before and runtime.pins) or _may_be_rolled_back(saver):
            return
        concerned = threads(set(before.values()))
        there, left = set(before), refs_for(_found(saver, concerned))
        while gone := there - left.keys():
            runtime.pin_each(left)
            runtime.unpin(gone)
            back = refs_for(_found(saver, concerned))
            runtime.pin_each({owner: back[owner] for owner in gone.intersection(back)})
            there, left = set(left), back


async def atake_away(
    runtime: Runtime,
    saver: BaseCheckpointSaver[Any],
    queries: list[Query],
    deletion: Callable[[], Awaitable[Mapping[str, str] | None]],
) -> None:
    """`take_away` for the event loop."""
    with removals.under_way():
        before = await alisted(saver, queries) if runtime.pins else {}
        before |= await deletion() or {}
        if not (before and runtime.pins) or _may_be_rolled_back(saver):
            return
        concerned = threads(set(before.values()))
        there, left = set(before), refs_for([item async for item in _afound(saver, concerned)])
        while gone := there - left.keys():
            await asyncio.to_thread(runtime.pin_each, left)
            await runtime.aunpin(gone)
            back = refs_for([item async for item in _afound(saver, concerned)])
            await asyncio.to_thread(
                runtime.pin_each, {owner: back[owner] for owner in gone.intersection(back)}
            )
            there, left = set(left), back


def keeps_whole(saver: BaseCheckpointSaver[Any]) -> bool:
    """Whether each checkpoint is kept as it was put. Others keep one value for each version of a channel,
    and a saver that is not known may do so, too."""
    return is_from("langgraph.checkpoint.sqlite", saver)


def is_from(package: str, saver: BaseCheckpointSaver[Any]) -> bool:
    """Whether a saver, or what it is derived from, is one of that package."""
    return any(f"{kind.__module__}.".startswith(f"{package}.") for kind in type(saver).__mro__)


def _may_be_rolled_back(saver: BaseCheckpointSaver[Any]) -> bool:
    """Whether what was deleted waits for the end of a transaction of the caller's, as it may on a
    connection of psycopg: then its pins are left to `collect_pins`."""
    status = getattr(getattr(getattr(saver, "conn", None), "info", None), "transaction_status", None)
    return getattr(status, "name", "") in {"INTRANS", "INERROR"}


def _found(saver: BaseCheckpointSaver[Any], queries: Iterable[Query]) -> Iterator[CheckpointTuple]:
    for config, chosen in queries:
        yield from saver.list(config, filter=chosen)


async def _afound(
    saver: BaseCheckpointSaver[Any], queries: Iterable[Query]
) -> AsyncIterator[CheckpointTuple]:
    for config, chosen in queries:
        async for item in saver.alist(config, filter=chosen):
            yield item


def _owner_and_thread(item: CheckpointTuple) -> tuple[str, str]:
    return owner_in(item.config, item.checkpoint["id"]), item.config["configurable"]["thread_id"]
