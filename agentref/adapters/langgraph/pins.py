"""What keeps a checkpoint's payloads alive: pins, owned by the checkpoint.

Blobs are stored with a lease, then pinned, then named by the checkpoint; a crash in between leaves a pin
too many, never one too few. The owner is the checkpoint and not its thread: no two checkpoints have one
id, so savers that share a store may have threads of one name, and whoever deletes checkpoints takes away
theirs alone, whatever others add meanwhile.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from agentref.adapters.langgraph.values import placed_ref
from agentref.errors import InvalidInputError
from agentref.refs import ContentRef

__all__ = [
    "PREFIX",
    "Query",
    "alisted",
    "listed",
    "owner_in",
    "owner_of",
    "pinned_refs",
    "refs_for",
    "runs",
    "threads",
]

PREFIX: Final = "langgraph:"
"""How the names of all owners begin."""

_MAX_LENGTH: Final = 400

Query = tuple[RunnableConfig | None, dict[str, Any] | None]
"""What is asked of a saver's `list`: a config and a filter."""


def owner_of(thread_id: object, namespace: object, checkpoint_id: object) -> str:
    """Who owns the pins of a checkpoint and of the writes that hang on it."""
    parts = [
        quote(str(part), safe="", errors="surrogatepass") for part in (thread_id, namespace, checkpoint_id)
    ]
    owner = PREFIX + ":".join(parts)
    return (
        owner
        if len(owner) <= _MAX_LENGTH
        else f"{PREFIX}#{blake2b(owner.encode(), digest_size=32).hexdigest()}"
    )


def owner_in(config: RunnableConfig, checkpoint_id: object = None) -> str:
    """The owner that a config names; `checkpoint_id` stands in for the one in it."""
    configurable = config["configurable"]
    chosen = configurable.get("checkpoint_id") if checkpoint_id is None else checkpoint_id
    return owner_of(configurable.get("thread_id"), configurable.get("checkpoint_ns", ""), chosen)


def pinned_refs(values: Iterable[Any]) -> list[ContentRef]:
    """The refs among what a checkpoint or its writes carry."""
    return [ref for ref in map(_ref_or_none, values) if ref is not None]


def _ref_or_none(value: Any) -> ContentRef | None:
    try:
        return placed_ref(value)
    except InvalidInputError:
        return None  # damaged: it names nothing that could be kept


def refs_for(thread_id: str, saved: Iterable[CheckpointTuple]) -> dict[str, list[ContentRef]]:
    """What these checkpoints of the inner saver need pinned, if they are those of that thread."""
    found: dict[str, list[ContentRef]] = {}
    for item in saved:
        values = [*item.checkpoint["channel_values"].values()]
        values += [value for _, _, value in item.pending_writes or ()]
        namespace = item.config["configurable"].get("checkpoint_ns", "")
        found[owner_of(thread_id, namespace, item.checkpoint["id"])] = pinned_refs(values)
    return found


def threads(thread_ids: Iterable[str]) -> list[Query]:
    """How to ask for all that is in threads."""
    return [({"configurable": {"thread_id": thread_id}}, None) for thread_id in thread_ids]


def runs(run_ids: Iterable[str]) -> list[Query]:
    """How to ask for all that runs have made."""
    return [(None, {"run_id": str(run_id)}) for run_id in run_ids]


def listed(saver: BaseCheckpointSaver[Any], queries: Iterable[Query]) -> set[str]:
    """The owners that there are now."""
    return {
        owner_in(item.config, item.checkpoint["id"])
        for config, chosen in queries
        for item in saver.list(config, filter=chosen)
    }


async def alisted(saver: BaseCheckpointSaver[Any], queries: Iterable[Query]) -> set[str]:
    """`listed` for the event loop."""
    return {
        owner_in(item.config, item.checkpoint["id"])
        for config, chosen in queries
        async for item in saver.alist(config, filter=chosen)
    }
