"""Which checkpoints of a thread may go.

The value of a DeltaChannel stands in few checkpoints; elsewhere it is rebuilt from the nearest ancestor
that has it and the writes since. So an ancestor on that way is needed by whatever is rebuilt from it.
"""

from collections.abc import Collection, Iterable
from typing import Any, Final, NamedTuple

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from agentref.adapters.langgraph.offered.tables import Doomed

__all__ = ["Node", "all_but_latest", "node_of", "of_runs"]

# Until then, what `Send` asked for was read from the writes of the parent.
_SENDS_IN_THE_CHECKPOINT: Final = 4


class Node(NamedTuple):
    """What of a checkpoint decides whether it, or an ancestor, may go."""

    namespace: str
    id: str
    parent: str | None
    root: str | None
    run_id: Any
    stored: frozenset[str]
    missing: frozenset[str]
    deltas: frozenset[str]
    has_sends: bool
    reads_sends: bool
    is_foreign: bool


def node_of(saved: CheckpointTuple) -> Node:
    """The node of a checkpoint as its saver lists it."""
    checkpoint, metadata = saved.checkpoint, saved.metadata
    values = checkpoint["channel_values"]
    stored = frozenset(channel for channel, value in values.items() if value is not None)
    counted = metadata.get("counters_since_delta_snapshot") or {}
    snapshots = {channel for channel, value in values.items() if isinstance(value, _DeltaSnapshot)}
    parent = saved.parent_config["configurable"] if saved.parent_config else {}
    return Node(
        namespace=saved.config["configurable"].get("checkpoint_ns", ""),
        id=checkpoint["id"],
        parent=parent.get("checkpoint_id"),
        root=(metadata.get("parents") or {}).get(""),
        run_id=metadata.get("run_id"),
        stored=stored,
        missing=frozenset(checkpoint.get("channel_versions", {})) - stored,
        deltas=frozenset(counted) | snapshots,
        has_sends=any(channel == TASKS for _, channel, _ in saved.pending_writes or ()),
        reads_sends=checkpoint.get("v", 1) < _SENDS_IN_THE_CHECKPOINT,
        is_foreign="delta_writes_versioned" in metadata,
    )


def all_but_latest(nodes: Iterable[Node]) -> Doomed:
    """All but the latest checkpoint of each namespace and what that one is rebuilt from. With a checkpoint
    of the root graph go the namespaces of the calls of subgraphs that started from it."""
    spaces = _by_namespace(nodes)
    latest = {namespace: max(few) for namespace, few in spaces.items()}
    doomed: dict[str, list[str]] = {}
    for namespace, few in spaces.items():
        head = few[latest[namespace]]
        # A call has the id of its task behind a colon. It may be saved before what it started from.
        is_over = ":" in namespace and head.root in spaces.get("", {}) and head.root != latest.get("")
        kept = set() if is_over else {head.id} | _needed(few, [head])
        doomed[namespace] = [node_id for node_id in few if node_id not in kept]
    return {namespace: ids for namespace, ids in doomed.items() if ids}


def of_runs(nodes: Iterable[Node], run_ids: Collection[str]) -> tuple[Doomed, set[str]]:
    """The checkpoints of runs; and the runs that others need some of these for."""
    doomed: dict[str, list[str]] = {}
    needed: set[str] = set()
    for namespace, few in _by_namespace(nodes).items():
        ids = [node.id for node in few.values() if node.run_id in run_ids]
        others = [node for node in few.values() if node.run_id not in run_ids]
        if ids:
            doomed[namespace] = ids
            needed |= {few[one].run_id for one in _needed(few, others).intersection(ids)}
    return doomed, needed


def _by_namespace(nodes: Iterable[Node]) -> dict[str, dict[str, Node]]:
    spaces: dict[str, dict[str, Node]] = {}
    for node in nodes:
        spaces.setdefault(node.namespace, {})[node.id] = node
    return spaces


def _needed(few: dict[str, Node], kept: Collection[Node]) -> set[str]:
    """The ancestors, all of one namespace, that those kept are read with."""
    needed: set[str] = set()
    for node in kept:
        if node.reads_sends and node.parent in few and few[node.parent].has_sends:
            needed.add(node.parent)
    for channel in {channel for node in few.values() for channel in node.deltas}:
        walked: set[str] = set()
        for node in kept:
            at = node.parent if channel in node.missing else None
            while at is not None and at in few and at not in walked:
                walked.add(at)
                at = None if channel in few[at].stored else few[at].parent
        needed |= walked
    return needed
