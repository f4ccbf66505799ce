"""What a checkpointer has to do with a coordinator: it publishes what it saved, and saves what it may.

Nothing of coherence is imported before there is a coordinator: 1.3 MB, which most do without.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointTuple

from agentref.adapters.langgraph.naming import current_agent
from agentref.adapters.langgraph.pins import alisted, listed, runs
from agentref.errors import ConfigurationError, Conflict, InvalidInputError, StorageError
from agentref.runtime import Runtime

if TYPE_CHECKING:
    from agentref.adapters.langgraph.fencing import Fences
    from agentref.adapters.langgraph.publishing import Publisher
    from agentref.adapters.langgraph.saver import ExternalizingSaver
    from agentref.coherence import Coordinator, HeldLease, Peer, Versioned

__all__ = ["Coherence", "Coherent", "followed"]

_Verb = TypeVar("_Verb", bound=Callable[..., Any])


class Coherence:
    """What a saver asks before it reads and saves, and tells after it. Does nothing without a coordinator.
    Thread-safe."""

    def __init__(
        self,
        coordinator: "Coordinator | None" = None,
        *,
        worker: str | None = None,
        writer_lease: float | None = None,
    ) -> None:
        self.coordinator = coordinator
        self.publisher: Publisher | None = None
        self.fences: Fences | None = None
        if coordinator is not None:
            self._begin(coordinator, worker, writer_lease)
        elif worker is not None or writer_lease is not None:
            raise InvalidInputError(
                "worker= and writer_lease= need a coordinator=, which grants leases and is told who writes."
            )

    def _begin(self, coordinator: "Coordinator", worker: str | None, writer_lease: float | None) -> None:
        from agentref.adapters.langgraph.fencing import Fences  # noqa: PLC0415
        from agentref.adapters.langgraph.publishing import Publisher  # noqa: PLC0415
        from agentref.adapters.langgraph.worker import Worker  # noqa: PLC0415
        from agentref.coherence import Coordinator  # noqa: PLC0415

        given: Any = coordinator
        if not isinstance(given, Coordinator):
            raise InvalidInputError(
                f"coordinator must be a coordinator such as SqliteCoordinator('./coherence.db'), not "
                f"{type(given).__name__}."
            )
        named = Worker(worker)
        self.publisher = Publisher(coordinator, named)
        if writer_lease is not None:
            self.fences = Fences(coordinator, named, writer_lease)

    def look(self, config: RunnableConfig) -> int | None:
        """Before a read."""
        return None if self.fences is None else self.fences.look(config)

    async def alook(self, config: RunnableConfig) -> int | None:
        """`look` for the event loop."""
        fences = self.fences
        return None if fences is None else await fences.coordinator.hop(fences.look, config)

    def note(self, config: RunnableConfig, saved: CheckpointTuple | None, epoch: int | None) -> None:
        """After a read."""
        if self.fences is not None and epoch is not None:
            at = config["configurable"].get("checkpoint_id") if saved is None else saved.checkpoint["id"]
            self.fences.note(config, at, epoch)

    def admit(self, config: RunnableConfig, checkpoint_id: str | None = None) -> None:
        """Before a save. Raises `Conflict`."""
        if self.fences is not None:
            self.fences.admit(config, checkpoint_id)

    async def aadmit(self, config: RunnableConfig, checkpoint_id: str | None = None) -> None:
        """`admit` for the event loop."""
        if self.fences is not None:
            await self.fences.coordinator.hop(self.fences.admit, config, checkpoint_id)

    def saved(self, config: RunnableConfig, checkpoint: Checkpoint) -> None:
        """After a save, with its config, and the checkpoint as the inner saver got it.

        Raises `Conflict` if the thread was lost meanwhile: then it has two ends. All else is only logged.
        """
        if self.publisher is not None:
            refs = self.publisher.refs_of(checkpoint)
            self.publisher.publish(*_place_of(config), refs, self._confirm(config))

    async def asaved(self, config: RunnableConfig, checkpoint: Checkpoint) -> None:
        """`saved` for the event loop."""
        if self.publisher is not None:
            refs = self.publisher.refs_of(checkpoint)
            await self.publisher.apublish(*_place_of(config), refs, self._confirm(config))

    def _confirm(self, config: RunnableConfig) -> "Callable[[], Sequence[Versioned]]":
        def confirmed() -> "Sequence[Versioned]":
            if self.fences is None:
                return ()
            try:
                return [self.fences.admit(config)]
            except Conflict as error:
                error.add_note(
                    f"Checkpoint {config['configurable'].get('checkpoint_id')} had been saved before this "
                    f"was known: it is beside those of the writer that took over."
                )
                raise

        return confirmed

    def moved(self, saver: BaseCheckpointSaver[Any], thread_ids: Iterable[str]) -> None:
        """After something else than a save: publish what threads hold now."""
        if self.publisher is None:
            return
        for thread_id in thread_ids:
            config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
            self.publisher.publish_thread(str(thread_id), partial(saver.list, config))

    async def amoved(self, saver: BaseCheckpointSaver[Any], thread_ids: Iterable[str]) -> None:
        """`moved` for the event loop."""
        if self.publisher is None:
            return
        for thread_id in thread_ids:
            config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
            await self.publisher.apublish_thread(str(thread_id), partial(saver.alist, config))

    def let_go(self) -> None:
        """At the end: other workers need not wait for leases to expire."""
        if self.fences is not None:
            with suppress(StorageError):
                self.fences.release_all()

    async def alet_go(self) -> None:
        """`let_go` for the event loop."""
        if self.fences is not None:
            await self.fences.coordinator.hop(self.let_go)


def _place_of(config: RunnableConfig) -> tuple[str, str]:
    configurable = config["configurable"]
    return str(configurable.get("thread_id")), str(configurable.get("checkpoint_ns", ""))


# What takes checkpoints away, or brings them, is followed by a look at what threads hold then.

_CONCERNED: Final[Mapping[str, Callable[[Mapping[str, Any]], Iterable[str]]]] = {
    "delete_thread": lambda given: [given["thread_id"]],
    "copy_thread": lambda given: [given["target_thread_id"]],
    "prune": lambda given: list(given["thread_ids"]),
    "delete_for_runs": lambda _: (),  # those that are found
}


def followed(name: str, verb: _Verb) -> _Verb:
    """The verb; one that changes threads otherwise than by saving then publishes what they hold."""
    if name.removeprefix("a") not in _CONCERNED:
        return verb
    following = _afollowed if inspect.iscoroutinefunction(verb) else _followed
    return wraps(verb)(following(name.removeprefix("a"), verb))  # type: ignore[return-value]


def _followed(name: str, verb: Callable[..., Any]) -> Callable[..., None]:
    signature = inspect.signature(verb)

    def changing(self: "ExternalizingSaver", *args: Any, **kwargs: Any) -> None:
        if self.coherence.publisher is None:
            verb(self, *args, **kwargs)
            return
        given = signature.bind(self, *args, **kwargs).arguments
        threads = set(map(str, _CONCERNED[name](given)))
        if "run_ids" in given:
            threads.update(listed(self.inner, runs(given["run_ids"])).values())
        verb(self, *args, **kwargs)
        self.coherence.moved(self.inner, threads)
        if name == "delete_thread" and self.coherence.fences is not None:
            self.coherence.fences.forget(given["thread_id"])

    return changing


def _afollowed(name: str, verb: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(verb)

    async def changing(self: "ExternalizingSaver", *args: Any, **kwargs: Any) -> None:
        if self.coherence.publisher is None:
            await verb(self, *args, **kwargs)
            return
        given = signature.bind(self, *args, **kwargs).arguments
        threads = set(map(str, _CONCERNED[name](given)))
        if "run_ids" in given:
            threads.update((await alisted(self.inner, runs(given["run_ids"]))).values())
        await verb(self, *args, **kwargs)
        await self.coherence.amoved(self.inner, threads)
        if name == "delete_thread" and self.coherence.fences is not None:
            fences = self.coherence.fences
            await fences.coordinator.hop(fences.forget, given["thread_id"])

    return changing


class Coherent:
    """What a saver with a coordinator can do besides."""

    coherence: Coherence
    runtime: Runtime
    inner: BaseCheckpointSaver[Any]

    def peer(self, name: str | None = None, **options: Any) -> "Peer":
        """A peer of the coordinator that reads what checkpoints hold, as the saver would.

        Args:
            name: of the agent; None, in a node, takes that of the node (`current_agent`).
            options: those of `Coordinator.peer`, but for `backend`.
        """
        agent = current_agent() if name is None else name
        return self._coordinator().peer(agent, backend=self.runtime.backend, **options)

    def publish_thread(self, thread_id: str) -> None:
        """Publish what the latest checkpoints of a thread carry: after a crash, or for one that is older
        than the coordinator. Lists all checkpoints of the thread."""
        self._coordinator()
        self.coherence.moved(self.inner, [thread_id])

    async def apublish_thread(self, thread_id: str) -> None:
        """`publish_thread` for the event loop."""
        self._coordinator()
        await self.coherence.amoved(self.inner, [thread_id])

    @property
    def missed_publications(self) -> int:
        """How many publications were given up, by this saver and its clones, as the log says."""
        return 0 if self.coherence.publisher is None else self.coherence.publisher.missed

    def writing(self, thread_id: str, *, wait: float = 0.0) -> "HeldLease":
        """`with saver.writing(thread_id): graph.invoke(...)` keeps other workers from writing the thread,
        for as long as the block runs; `async with` as well.

        Waits up to `wait` seconds for others, and raises `Conflict` (`held_by_other`) after that. A process
        that is stopped, or out of reach of the coordinator, for longer than `writer_lease` loses the
        thread: what it saves then is refused.
        """
        return self._fences().writing(thread_id, wait)

    def release_thread(self, thread_id: str) -> None:
        """Let other workers write the thread before the lease expires. What this one still has in flight
        for it is refused."""
        self._fences().release(thread_id)

    async def arelease_thread(self, thread_id: str) -> None:
        """`release_thread` for the event loop."""
        await self._coordinator().hop(self._fences().release, thread_id)

    def _coordinator(self) -> "Coordinator":
        if self.coherence.coordinator is None:
            raise ConfigurationError(
                "This checkpointer has no coordinator: externalize(saver, backend=..., coordinator=...)."
            )
        return self.coherence.coordinator

    def _fences(self) -> "Fences":
        self._coordinator()
        if self.coherence.fences is None:
            raise ConfigurationError(
                "This checkpointer takes no leases: externalize(..., coordinator=..., writer_lease=60.0)."
            )
        return self.coherence.fences
