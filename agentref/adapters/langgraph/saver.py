"""A checkpointer around a checkpointer: what the inner one keeps carries refs, not payloads.

Only here is every payload of a graph seen: channel values, pending writes, inputs, arguments of
`Send`, interrupts and their answers. Blobs are durable before the checkpoint that names them is
handed to the inner saver, and values are encoded once, in one go, before anything is awaited: nodes
that run meanwhile may change the very objects.
"""

import copy
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointTuple,
    DeltaChannelHistory,
)

from agentref.adapters.langgraph.coherent import Coherence, Coherent
from agentref.adapters.langgraph.known import KnownCheckpoints
from agentref.adapters.langgraph.pace import Pace
from agentref.adapters.langgraph.pins import owner_in, owner_of, pinned_refs
from agentref.adapters.langgraph.placing import Admission, Entering, Placed, Placing, place_of
from agentref.adapters.langgraph.removals import removals
from agentref.adapters.langgraph.serde import codec_for
from agentref.adapters.langgraph.values import inner_value, placed_ref, unplaced
from agentref.adapters.langgraph.verbs import verbs_of
from agentref.codecs import name_error
from agentref.errors import AgentRefError, InvalidInputError
from agentref.refs import ContentRef
from agentref.runtime import Runtime
from agentref.storage import CAS

if TYPE_CHECKING:
    from agentref.coherence import Coordinator

__all__ = ["ExternalizingSaver", "externalize"]


def externalize(  # noqa: PLR0913
    saver: BaseCheckpointSaver[Any],
    *,
    backend: CAS,
    also: Iterable[CAS] = (),
    inline_threshold_bytes: int = 2048,
    coordinator: "Coordinator | None" = None,
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


def wrap(
    saver: BaseCheckpointSaver[Any],
    runtime: Runtime,
    coherence: Coherence,
    admission: Admission | None = None,
) -> "ExternalizingSaver":
    """`externalize`, with a say in what gets in: refs may be in it, which checkpoints then pin."""
    if not isinstance(saver, BaseCheckpointSaver):
        raise InvalidInputError(_not_a_saver(saver))
    return _class_for(type(saver))(saver, runtime, coherence, admission)


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
        admission: Admission | None,
    ) -> None:
        super().__init__(serde=inner.serde)
        self.coherence = coherence
        self._admission = admission
        self._known = KnownCheckpoints()
        self._set_inner(inner, runtime)
        self.pace = Pace()
        self.takes_task_path = "task_path" in inspect.signature(inner.put_writes).parameters

    def _set_inner(self, inner: BaseCheckpointSaver[Any], runtime: Runtime) -> None:
        self.inner = inner
        self.serde = inner.serde
        self.runtime = runtime.with_codec(codec_for(inner.serde))
        self.placing = Placing(inner, self.runtime, self._admission, self._known)

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
        return self._admission is not None and self.runtime.pins and self.runtime.knows(backend_id)

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
        clone._set_inner(inner, self.runtime)  # noqa: SLF001
        return clone

    # What goes in

    def finish(self, entering: Entering) -> Placed:
        """Place the rest of a checkpoint, and make what it needs durable."""
        placed = self.placing.finish(entering)
        self.keep(placed)
        return placed

    def keep_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]]
    ) -> Sequence[tuple[str, Any]]:
        """Place writes, and make what they need durable."""
        lean, outgoing = self.placing.writes(config, writes)
        self.runtime.keep(outgoing, owner_in(config), pinned_refs(value for _, value in lean))
        return lean

    def keep(self, placed: Placed) -> None:
        """Make what a checkpoint needs durable and pin it, before there is the checkpoint."""
        if placed.is_kept and not placed.outgoing.encoded:
            return
        thread_id, namespace, _ = placed.parent
        owner, refs = owner_of(thread_id, namespace, placed.checkpoint["id"]), placed.known.refs
        if not placed.adds_none or not self.runtime.inherit(owner, refs, parent=owner_of(*placed.parent)):
            self.runtime.keep(placed.outgoing, owner, refs)

    def is_left_alone(self, placed: Placed) -> bool:
        """Whether those before it that were to keep what it needs may be gone, now that it is there."""
        return placed.is_kept and placed.known.era is not removals.era and bool(placed.known.refs)

    def explain(self, error: Exception, config: RunnableConfig, kept: Iterable[tuple[str, Any]]) -> None:
        """Note on an error of the inner saver which of the values its serializer refuses, if it does."""
        for channel, value in kept:
            if refusal := self._refusal(place_of(config, channel), value):
                error.add_note(refusal)

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
        self.placing.recall(item.config, item.checkpoint, epoch)
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
