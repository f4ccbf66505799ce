"""What goes into checkpoints: refs in the place of large values, and which of them are pinned already."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, ChannelVersions, Checkpoint
from langgraph.checkpoint.memory import InMemorySaver

from agentref.adapters.langgraph.known import (
    Carried,
    Key,
    Known,
    KnownCheckpoints,
    key_of,
    merged,
    unchanged,
)
from agentref.adapters.langgraph.pins import keeps_whole, pinned_refs
from agentref.adapters.langgraph.removals import removals
from agentref.adapters.langgraph.values import handed_on, inner_value, place
from agentref.adapters.langgraph.within import refs_within
from agentref.codecs import surely_fits
from agentref.runtime import Outgoing, Runtime

__all__ = ["Admission", "Entering", "Placed", "Placing", "place_of"]

_PRIMITIVES: Final = (str, int, float, bool)
_NOTHING: Final = Outgoing([], [])
_UNKNOWN: Final = Known({}, (), None)


class Admission(Protocol):
    """A say in what gets into the checkpoints of a namespace; pure."""

    def __call__(
        self, namespace: str, items: Iterable[tuple[str, Any]], /
    ) -> tuple[list[tuple[str, Any]], Outgoing]:
        """From (channel, value) pairs to those that may be kept, and what to store."""
        ...

    def limit(self, channel: str, /) -> int | None:
        """The encoded size up to which a value that holds no others stays as it is, in a graph's own
        checkpoints; None for any size, -1 for none."""
        ...


class Placed(NamedTuple):
    """A checkpoint as the inner saver gets it.

    Attributes:
        parent: the key of the checkpoint before it.
        outgoing: what has to be stored before.
        known: what it carries, and since which era that is pinned, once it is.
        adds_none: whether its parent has pinned all of it.
        is_kept: whether those before it do for as long as the era lasts.
    """

    parent: Key
    checkpoint: Checkpoint
    versions: ChannelVersions
    outgoing: Outgoing
    known: Known
    adds_none: bool
    is_kept: bool


class Entering(NamedTuple):
    """A checkpoint that is placed as far as that costs next to nothing.

    Attributes:
        left: what the parent carries for channels that did not change since.
        placed: channels that stay as they are, and those of `left` that stand here as there.
        carried: what these carry.
        unknown: the other channels, to be looked at.
    """

    config: RunnableConfig
    checkpoint: Checkpoint
    versions: ChannelVersions
    era: object | None
    epoch: int
    parent: Known
    left: Mapping[str, Carried]
    placed: dict[str, Any]
    carried: dict[str, Carried]
    unknown: list[tuple[str, Any]]


class Placing:
    """How checkpoints of one saver are placed. Thread-safe."""

    def __init__(
        self,
        saver: BaseCheckpointSaver[Any],
        runtime: Runtime,
        admission: Admission | None,
        known: KnownCheckpoints,
    ) -> None:
        self._runtime = runtime
        self._admission = admission
        self._known = known
        threshold = runtime.inline_threshold_bytes
        self._limits = _Limits(threshold, admission), _Limits(threshold, None)  # of graphs, of subgraphs
        self._keeps_whole = keeps_whole(saver)
        self._is_in_memory = type(saver) is InMemorySaver  # a class derived from it may write to disk

    def begin(
        self, config: RunnableConfig, checkpoint: Checkpoint, new_versions: ChannelVersions
    ) -> Placed | Entering:
        """Set apart what stays as it is. If that is all, the checkpoint is placed."""
        era = removals.era  # before anything that is relied on
        epoch: int | None = None  # asked for where it matters: in a database that is a round trip
        key = key_of(config)
        parent = self._known.get(key) or _UNKNOWN
        versions = checkpoint.get("channel_versions", {})
        placed: dict[str, Any] = {}
        carried: dict[str, Carried] = {}
        unknown: list[tuple[str, Any]] = []
        limits = self._limits[bool(key[1])]
        for channel, value in checkpoint["channel_values"].items():
            before = parent.carried.get(channel)
            if (
                before is not None
                and before.placed is not None
                and before.version == versions.get(channel)
                and channel not in new_versions
            ):
                if epoch is None and before.epoch is not None:
                    epoch = self._runtime.backend.epoch()
                if before.epoch is None or before.epoch == epoch:
                    placed[channel], carried[channel] = before.placed, before
                    continue
            if surely_fits(value, limits[channel]) or (value is None and limits[channel] >= 0):
                placed[channel] = value
            else:
                unknown.append((channel, value))
        if unknown or len(carried) != len(parent.carried):
            left = unchanged(parent.carried, checkpoint, new_versions)
            epoch = self._runtime.backend.epoch() if epoch is None else epoch
            return Entering(
                config, checkpoint, new_versions, era, epoch, parent, left, placed, carried, unknown
            )
        if carried and not self._is_in_memory:
            new_versions = {**new_versions, **_moved(checkpoint, placed, carried)}
        lean: Any = {**checkpoint, "channel_values": placed}
        is_kept = self._is_kept(parent, era)
        known = parent if is_kept or not self._is_in_memory else parent._replace(era=era)
        return Placed(key, lean, new_versions, _NOTHING, known, True, is_kept)

    def finish(self, entering: Entering) -> Placed:
        """Encode what may be large."""
        config, checkpoint, versions, era, epoch, parent, left, placed, carried, unknown = entering
        fresh, outgoing = self.writes(config, unknown)
        placed |= fresh
        carried |= self.carried_by(checkpoint, dict(fresh), epoch)
        if not self._keeps_whole:
            carried = merged(left, carried)
        if not self._is_in_memory:
            versions = {**versions, **_moved(checkpoint, placed, carried)}
        placed = {name: placed[name] for name in checkpoint["channel_values"]}
        lean: Any = {**checkpoint, "channel_values": placed}
        known = Known.of(carried)._replace(era=era)
        adds_none = not outgoing.encoded and parent.has(known.refs)
        is_kept = not known.refs or (adds_none and self._is_kept(parent, era))
        return Placed(key_of(config), lean, versions, outgoing, known, adds_none, is_kept)

    def _is_kept(self, parent: Known, era: object | None) -> bool:
        """Whether a checkpoint needs no pins besides those that did for its parent. One in memory is taken
        away by this process alone, and others in other ones."""
        return not parent.refs or (self._is_in_memory and era is not None and parent.era is era)

    def remember(self, placed: Placed) -> None:
        """Take note of what a checkpoint carries, once that is pinned."""
        thread_id, namespace, _ = placed.parent
        self._known.add((thread_id, namespace, str(placed.checkpoint["id"])), placed.known)

    def recall(self, config: RunnableConfig, checkpoint: Checkpoint, epoch: int) -> None:
        """Take note of what a checkpoint carries that was read."""
        carried = self.carried_by(checkpoint, checkpoint["channel_values"], epoch)
        thread_id, namespace, _ = key_of(config)
        self._known.note((thread_id, namespace, str(checkpoint["id"])), Known.of(carried))

    def carried_by(
        self, checkpoint: Checkpoint, placed: Mapping[str, Any], epoch: int
    ) -> dict[str, Carried]:
        """What stands in these channels, where there are refs in it."""
        versions = checkpoint.get("channel_versions", {})
        carried: dict[str, Carried] = {}
        for channel, value in placed.items():
            if refs := pinned_refs([value]):
                hands_on, of_value = handed_on(value, self._runtime.backend.backend_id)
                carried[channel] = Carried(
                    versions.get(channel),
                    value if hands_on else None,
                    tuple(refs),
                    epoch if of_value else None,
                )
        return carried

    def writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]]
    ) -> tuple[list[tuple[str, Any]], Outgoing]:
        """The writes as the inner saver gets them, and what has to be stored before."""
        admitted, before = list(writes), Outgoing([], [])
        bare = [inner_value(value) for _, value in admitted]
        if self._admission is not None:
            admitted, before = self._admission(str(config["configurable"].get("checkpoint_ns", "")), writes)
            bare = [_without_refs(inner_value(value)) for _, value in admitted]
        outgoing = self._runtime.encode(
            bare,
            names=[place_of(config, channel) for channel, _ in admitted],
        )
        placed = [
            (channel, place(value, ref))
            for (channel, value), ref in zip(admitted, outgoing.refs, strict=True)
        ]
        return placed, Outgoing(outgoing.refs, [*before.encoded, *outgoing.encoded])

    def all_pass(self, config: RunnableConfig, writes: Iterable[tuple[str, Any]]) -> bool:
        """Whether all of these stay as they are. False if that takes a longer look."""
        limits = self._limits[bool(config["configurable"].get("checkpoint_ns"))]
        for channel, value in writes:
            if not surely_fits(value, limits[channel]) and (value is not None or limits[channel] < 0):
                return False
        return True


class _Limits(dict[str, int]):
    """By channel, the encoded size up to which a value that holds no others stays as it is; -1 for none."""

    def __init__(self, threshold: int, admission: Admission | None) -> None:
        self._threshold, self._admission = threshold, admission

    def __missing__(self, channel: str) -> int:
        admitted = None if self._admission is None else self._admission.limit(channel)
        self[channel] = limit = self._threshold if admitted is None else min(admitted, self._threshold)
        return limit


def _moved(checkpoint: Checkpoint, placed: Mapping[str, Any], carried: Iterable[str]) -> ChannelVersions:
    """Texts that have refs in their place now. A saver that keeps primitives within the checkpoint, as that
    for Postgres, writes other values only for channels that moved, so these have to be announced as new. In
    memory, where all values are kept apart, that would change what is there already."""
    versions, values = checkpoint.get("channel_versions", {}), checkpoint["channel_values"]
    return {
        channel: versions[channel]
        for channel in carried
        if channel in values
        and isinstance(values[channel], _PRIMITIVES)
        and placed[channel] is not values[channel]
        and channel in versions
    }


def _without_refs(value: Any) -> Any:
    """The value, or None for one with refs in it: it stays in the checkpoint, where its refs are seen."""
    return None if any(True for _ in refs_within(value)) else value


def place_of(config: RunnableConfig, channel: str) -> str:
    """What errors call a value on its way in."""
    return f"thread {config['configurable'].get('thread_id')!r}, channel {channel}"
