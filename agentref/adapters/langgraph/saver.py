"""A checkpointer around a checkpointer: what the inner one keeps carries refs, not payloads.

Only here is every payload of a graph seen: channel values, pending writes, inputs, arguments of
`Send`, interrupts and their answers. Blobs are durable before the checkpoint that names them is
handed to the inner saver, and values are encoded once, in one go, before anything is awaited: nodes
that run meanwhile may change the very objects.
"""

import copy
import inspect
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.memory import InMemorySaver

from agentref.adapters.langgraph.coherent import Coherence, Coherent
from agentref.adapters.langgraph.known import Carried, KnownCheckpoints, Placed, merged, unchanged
from agentref.adapters.langgraph.pace import Pace
from agentref.adapters.langgraph.pins import keeps_whole, pinned_refs
from agentref.adapters.langgraph.serde import codec_for
from agentref.adapters.langgraph.values import inner_value, place, placed_ref, unplaced
from agentref.adapters.langgraph.verbs import verbs_of
from agentref.adapters.langgraph.within import refs_within
from agentref.codecs import name_error
from agentref.coherence import Coordinator
from agentref.errors import AgentRefError, InvalidInputError
from agentref.refs import ContentRef
from agentref.runtime import Outgoing, Runtime
from agentref.storage import CAS

__all__ = ["ExternalizingSaver", "externalize"]

_PRIMITIVES: Final = (str, int, float, bool)


def externalize(  # noqa: PLR0913
    saver: BaseCheckpointSaver[Any],
    *,
    backend: CAS,
    also: Iterable[CAS] = (),
    inline_threshold_bytes: int = 2048,
    coordinator: Coordinator | None = None,
    worker: str | None = None,
    writer_lease: float | None = None,
) -> "ExternalizingSaver":
    """Wrap a LangGraph checkpointer so that its checkpoints carry refs instead of large values.

    Use the result wherever the saver was used: `builder.compile(checkpointer=externalize(...))`.
    It has the capabilities of `saver`, sync and async; threads that were written without it are
    read as they are. Strict msgpack mode holds. Large values are kept in `backend` in plain text
    even under an EncryptedSerializer.

    Args:
        saver: any checkpointer: in memory, SQLite, Postgres or your own.
        backend: where values go. Its codec is replaced by one that follows the saver's serializer.
        also: further stores that older checkpoints refer to; they are only read.
        inline_threshold_bytes: channel values and writes of a larger encoded size are externalized.
            0 externalizes everything but None.
        coordinator: is told of each save which content stands in which channel now; peers read it there,
            by `channel_key`.
        worker: the name of this process, for others: the writer of what it publishes, the holder of its
            leases. Made of host, process and chance if it is not given.
        writer_lease: for how many seconds after a save no other worker may save in the same thread, among
            those who have a `writer_lease` too. A save then raises `Conflict` if it would fork the thread.

    Raises `InvalidInputError` for arguments of the wrong kind. Reading through the result raises
    `BlobNotFoundError`, `IntegrityError` or `UnknownBackendError`, each naming the ref.
    """
    runtime = Runtime(backend, also=also, inline_threshold_bytes=inline_threshold_bytes, pins=True)
    coherence = Coherence(coordinator, worker=worker, writer_lease=writer_lease)
    return wrap(saver, runtime, coherence)


Admit = Callable[[str, Iterable[tuple[str, Any]]], tuple[list[tuple[str, Any]], Outgoing]]
"""From a checkpoint's namespace and (channel, value) pairs to those that may be kept, and what to store."""


def wrap(
    saver: BaseCheckpointSaver[Any], runtime: Runtime, coherence: Coherence, admit: Admit | None = None
) -> "ExternalizingSaver":
    """`externalize`, with a say in what gets in: refs may be in it, which checkpoints then pin."""
    if not isinstance(saver, BaseCheckpointSaver):
        raise InvalidInputError(_not_a_saver(saver))
    return _class_for(type(saver))(saver, runtime, coherence, admit)


def _not_a_saver(given: object) -> str:
    kind = f"the class {given.__qualname__}" if isinstance(given, type) else type(given).__qualname__
    remedy = "Write externalize(InMemorySaver(), backend=FilesystemCAS('./state_blobs'))."
    if hasattr(type(given), "__enter__") or hasattr(type(given), "__aenter__"):
        remedy = "If from_conn_string() returned it: `with ... as saver:`, and give that saver."
    return f"saver must be a LangGraph checkpointer, not {kind}. {remedy}"


def _class_for(inner: type[BaseCheckpointSaver[Any]]) -> type["ExternalizingSaver"]:
    return type(f"Externalizing{inner.__name__}", (ExternalizingSaver,), verbs_of(inner))


class ExternalizingSaver(Coherent, BaseCheckpointSaver[Any]):
    """What `externalize` returns; made by it alone. As thread-safe as the saver inside.

    Attributes:
        inner: the wrapped saver. What it returns carries refs.
        runtime: the stores and the threshold.
    """

    inner: BaseCheckpointSaver[Any]

    def __init__(
        self,
        inner: BaseCheckpointSaver[Any],
        runtime: Runtime,
        coherence: Coherence,
        admit: Admit | None,
    ) -> None:
        super().__init__(serde=inner.serde)
        self.inner = inner
        self.coherence = coherence
        self._admit = admit
        self.runtime = runtime.with_codec(codec_for(inner.serde))
        self._known = KnownCheckpoints()
        self._keeps_whole = keeps_whole(inner)
        self._keeps_values_apart = type(inner) is InMemorySaver  # a class derived from it may not
        self.pace = Pace()
        self._takes_task_path = "task_path" in inspect.signature(inner.put_writes).parameters

    def __getattr__(self, name: str) -> Any:
        # copy.copy() asks for dunders before there is an `inner`.
        if name.startswith("__") or name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __enter__(self) -> Self:
        self.inner.__enter__()  # type: ignore[attr-defined]
        return self

    def __exit__(self, *details: object) -> Any:
        self.coherence.let_go()
        return self.inner.__exit__(*details)  # type: ignore[attr-defined]

    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()  # type: ignore[attr-defined]
        return self

    async def __aexit__(self, *details: object) -> Any:
        await self.coherence.alet_go()
        return await self.inner.__aexit__(*details)  # type: ignore[attr-defined]

    @property
    def config_specs(self) -> list[Any]:
        """The inner saver's."""
        return self.inner.config_specs

    def pins_refs_to(self, backend_id: str) -> bool:
        """Whether its checkpoints pin refs to that store, wherever in a value these are."""
        return self._admit is not None and self.runtime.pins and self.runtime.knows(backend_id)

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The inner saver's. Waits for a moment where saving has fallen behind the graph."""
        self.pace.wait()
        return self.inner.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> "ExternalizingSaver":
        """A clone whose serializer, and codec, may construct the given types as well."""
        inner = self.inner.with_allowlist(extra_allowlist)
        if inner is self.inner:
            return self
        clone = copy.copy(self)
        clone.inner = inner
        clone.serde = inner.serde
        clone.runtime = self.runtime.with_codec(codec_for(inner.serde))
        return clone

    # What goes in

    def placed_checkpoint(
        self, config: RunnableConfig, checkpoint: Checkpoint, new_versions: ChannelVersions
    ) -> Placed:
        """The checkpoint as the inner saver gets it, and what has to be stored and pinned before."""
        values = checkpoint["channel_values"]
        epoch = self.runtime.backend.epoch()
        left = unchanged(self._known.get(config), checkpoint, new_versions)
        placed: dict[str, Any] = {
            channel: left[channel].placed
            for channel in values
            if channel in left and left[channel].placed is not None and left[channel].epoch == epoch
        }
        unknown = [(channel, value) for channel, value in values.items() if channel not in placed]
        fresh, outgoing = self.placed_writes(config, unknown)
        placed.update(fresh)
        moved = {} if self._keeps_values_apart else _moved(checkpoint, placed)
        lean = cast("Checkpoint", {**checkpoint, "channel_values": {name: placed[name] for name in values}})
        carried: Mapping[str, Carried] = self._carried_by(lean, epoch)
        if not self._keeps_whole:
            carried = merged(left, carried)
        return Placed(lean, {**new_versions, **moved}, outgoing, carried)

    def remember(self, config: RunnableConfig, placed: Placed) -> None:
        """Take note of what a checkpoint carries, once that is durable."""
        self._known.add(config, placed.checkpoint["id"], placed.carried)

    def _carried_by(self, checkpoint: Checkpoint, epoch: int) -> dict[str, Carried]:
        versions = checkpoint.get("channel_versions", {})
        carried: dict[str, Carried] = {}
        for channel, value in checkpoint["channel_values"].items():
            if refs := pinned_refs([value]):
                carried[channel] = Carried(
                    versions.get(channel), self._handed_on(value), tuple(refs), epoch
                )
        return carried

    def _handed_on(self, value: Any) -> Any:
        """What may stand in the next checkpoint as well. A ref into an older store is not handed on: with
        time, all of a thread moves to the new one."""
        ref = placed_ref(value)
        return value if ref is not None and ref.backend_id == self.runtime.backend.backend_id else None

    def placed_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]]
    ) -> tuple[list[tuple[str, Any]], Outgoing]:
        """The writes as the inner saver gets them, and what has to be stored before."""
        admitted, before = list(writes), Outgoing([], [])
        bare = [inner_value(value) for _, value in admitted]
        if self._admit is not None:
            admitted, before = self._admit(str(config["configurable"].get("checkpoint_ns", "")), writes)
            bare = [_without_refs(inner_value(value)) for _, value in admitted]
        outgoing = self.runtime.encode(
            bare,
            names=[_place_of(config, channel) for channel, _ in admitted],
        )
        placed = [
            (channel, place(value, ref))
            for (channel, value), ref in zip(admitted, outgoing.refs, strict=True)
        ]
        return placed, Outgoing(outgoing.refs, [*before.encoded, *outgoing.encoded])

    @contextmanager
    def explaining(self, config: RunnableConfig, kept: Iterable[tuple[str, Any]]) -> Generator[None]:
        """Note on an error of the inner saver which of the values its serializer refuses, if it does."""
        try:
            yield
        except Exception as error:
            for channel, value in kept:
                if refusal := self._refusal(_place_of(config, channel), value):
                    error.add_note(refusal)
            raise

    def _refusal(self, name: str, value: Any) -> str:
        try:
            self.inner.serde.dumps_typed(value)
        except Exception:  # noqa: BLE001  (a serializer raises what it likes)
            try:
                self.runtime.backend.encode([inner_value(value)])
            except AgentRefError as error:
                name_error(error, [name])
                return error.message
            return f"In {name}: the checkpointer's serializer refuses a {type(value).__qualname__}."
        return ""

    def task_path(self, task_path: str) -> tuple[str, ...]:
        """The argument, if the inner saver takes it: older ones do not."""
        return (task_path,) if self._takes_task_path else ()

    # What comes out

    def hydrated(self, saved: Sequence[CheckpointTuple]) -> list[CheckpointTuple]:
        """Checkpoints of the inner saver with every ref replaced by its value, in one batch."""
        epoch = self.runtime.backend.epoch()  # before anything is loaded
        names, refs = _refs_in(_places(saved))
        return self._restored(saved, self.runtime.load_many(refs, names=names), epoch)

    async def ahydrated(self, saved: Sequence[CheckpointTuple]) -> list[CheckpointTuple]:
        """`hydrated` for the event loop."""
        epoch = self.runtime.backend.epoch()
        names, refs = _refs_in(_places(saved))
        return self._restored(saved, await self.runtime.aload_many(refs, names=names), epoch)

    def _restored(
        self, saved: Sequence[CheckpointTuple], loaded: Iterable[object], epoch: int
    ) -> list[CheckpointTuple]:
        values = iter(loaded)
        return [self._restored_one(item, values, epoch) for item in saved]

    def _restored_one(self, item: CheckpointTuple, values: Iterator[object], epoch: int) -> CheckpointTuple:
        self._known.add(item.config, item.checkpoint["id"], self._carried_by(item.checkpoint, epoch))
        channels = {name: _take(value, values) for name, value in item.checkpoint["channel_values"].items()}
        pending = item.pending_writes
        if pending is not None:
            pending = [(task, channel, _take(value, values)) for task, channel, value in pending]
        checkpoint = cast("Checkpoint", {**item.checkpoint, "channel_values": channels})
        return item._replace(checkpoint=checkpoint, pending_writes=pending)

    def _restored_history(
        self, history: Mapping[str, DeltaChannelHistory], loaded: Iterable[object]
    ) -> dict[str, DeltaChannelHistory]:
        values = iter(loaded)
        restored: dict[str, DeltaChannelHistory] = {}
        for channel, entry in history.items():
            writes = [(task, name, _take(value, values)) for task, name, value in entry["writes"]]
            restored[channel] = {"writes": writes}
            if "seed" in entry:
                restored[channel]["seed"] = _take(entry["seed"], values)
        return restored

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """The inner saver's walk, with what its refs stand for: only the asked channels are fetched."""
        history = self.inner.get_delta_channel_history(config=config, channels=channels)
        names, refs = _refs_in(_history_places(config, history))
        return self._restored_history(history, self.runtime.load_many(refs, names=names))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """`get_delta_channel_history` for the event loop."""
        history = await self.inner.aget_delta_channel_history(config=config, channels=channels)
        names, refs = _refs_in(_history_places(config, history))
        return self._restored_history(history, await self.runtime.aload_many(refs, names=names))


def _moved(checkpoint: Checkpoint, placed: Mapping[str, Any]) -> ChannelVersions:
    """Texts that have refs in their place now. A saver that keeps primitives within the checkpoint, as that
    for Postgres, writes other values only for channels that moved, so these have to be announced as new. In
    memory, where all values are kept apart, that would change what is there already."""
    versions = checkpoint.get("channel_versions", {})
    return {
        channel: versions[channel]
        for channel, value in checkpoint["channel_values"].items()
        if isinstance(value, _PRIMITIVES) and placed[channel] is not value and channel in versions
    }


def _without_refs(value: Any) -> Any:
    """The value, or None for one with refs in it: it stays in the checkpoint, where its refs are seen."""
    return None if any(True for _ in refs_within(value)) else value


def _refs_in(places: Iterable[tuple[RunnableConfig, str, Any]]) -> tuple[list[str], list[ContentRef]]:
    """What errors call each ref, and the refs, in the order in which they are restored."""
    names, refs = [], []
    for config, channel, value in places:
        name = f"channel {channel!r} of thread {config['configurable'].get('thread_id')!r}"
        try:
            ref = placed_ref(value)
        except InvalidInputError as error:
            raise type(error)(f"What stands for {name} is no ref. {error}") from error
        if ref is not None:
            names.append(name)
            refs.append(ref)
    return names, refs


def _place_of(config: RunnableConfig, channel: str) -> str:
    """What errors call a value on its way in."""
    return f"thread {config['configurable'].get('thread_id')!r}, channel {channel}"


def _places(saved: Iterable[CheckpointTuple]) -> Iterator[tuple[RunnableConfig, str, Any]]:
    for item in saved:
        for channel, value in item.checkpoint["channel_values"].items():
            yield item.config, channel, value
        for _, channel, value in item.pending_writes or ():
            yield item.config, channel, value


def _history_places(
    config: RunnableConfig, history: Mapping[str, DeltaChannelHistory]
) -> Iterator[tuple[RunnableConfig, str, Any]]:
    for channel, entry in history.items():
        for _, _, value in entry["writes"]:
            yield config, channel, value
        if "seed" in entry:
            yield config, channel, entry["seed"]


def _take(value: Any, values: Iterator[object]) -> Any:
    return unplaced(value, [next(values)] if placed_ref(value) is not None else [])
