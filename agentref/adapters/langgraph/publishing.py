"""Checkpoints feed a coordinator: which content stands in which channel of a thread now.

A save comes first, and what it carries is published after it. So a publication can be lost, if the process
dies in between or the coordinator cannot be reached; the next save of that namespace compares with what
stands there, and makes up for it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from langgraph.checkpoint.base import Checkpoint, CheckpointTuple
from langgraph.checkpoint.serde.types import TASKS, _DeltaSnapshot

from agentref.adapters.langgraph.naming import channel_key, namespace_key, thread_key, thread_prefixes
from agentref.adapters.langgraph.values import placed_ref, unplaced
from agentref.adapters.langgraph.worker import Worker
from agentref.coherence import Coordinator, Key, Versioned, Write
from agentref.coherence import _steps as steps
from agentref.coherence.keys import encode_key
from agentref.errors import AgentRefError, Conflict, InvalidInputError, InvalidKeyError
from agentref.refs import ContentRef

__all__ = ["Latest", "Publisher", "published_refs"]

_START: Final = "__start__"
_MESSAGES: Final = frozenset({_START, TASKS})  # to nodes; not a part of the state
_PATIENCE: Final = 5.0
_AT_ONCE: Final = 256
_KEY_PARTS: Final = 4
_log: Final = logging.getLogger("agentref.adapters.langgraph")

Latest = dict[str, Mapping[str, ContentRef]]
"""What the latest checkpoint of each namespace carries, by channel."""

Confirm = Callable[[], Sequence[Versioned]]
"""Views on which a publication rests. Asked before each try; raises `Conflict` if the thread is lost."""


def published_refs(checkpoint: Checkpoint) -> dict[str, ContentRef]:
    """The content of each channel that has one: of values that were externalized, and of refs that are
    themselves the value, as in typed state. A snapshot of a `DeltaChannel` is not its value, and what is
    small stands in the checkpoint itself."""
    found = {}
    for channel, value in checkpoint["channel_values"].items():
        if channel not in _MESSAGES and (ref := _ref_of(value)) is not None:
            found[channel] = ref
    return found


def _ref_of(value: object) -> ContentRef | None:
    if type(value) is _DeltaSnapshot:
        return None
    try:
        ref = placed_ref(value)
    except InvalidInputError:  # damaged: it names nothing that could be read
        return None
    own = unplaced(value, []) if ref is None else ref
    return own if type(own) is ContentRef else None


class Publisher:
    """Lets a coordinator know what the channels of threads hold. Thread-safe.

    Attributes:
        missed: how many publications were given up since this was made; each was logged as a warning.
    """

    refs_of = staticmethod(published_refs)

    def __init__(self, coordinator: Coordinator, worker: Worker) -> None:
        self._coordinator = coordinator
        self._worker = worker
        self.missed = 0

    def publish(
        self, thread_id: str, namespace: str, refs: Mapping[str, ContentRef], confirm: Confirm
    ) -> None:
        """Let these be what the channels of a namespace hold, in one commit; in none, if they are already.

        Raises `Conflict` only about the thread itself, as `confirm` may.
        """
        prefix = namespace_key(thread_id, namespace)
        with self._noting(thread_id):
            steps.run(self._publishing(prefix, self._wanted(thread_id, {namespace: refs}), confirm))

    async def apublish(
        self, thread_id: str, namespace: str, refs: Mapping[str, ContentRef], confirm: Confirm
    ) -> None:
        """`publish` for the event loop."""
        prefix = namespace_key(thread_id, namespace)
        with self._noting(thread_id):
            await self._arun(self._publishing(prefix, self._wanted(thread_id, {namespace: refs}), confirm))

    def publish_thread(self, thread_id: str, saved: Callable[[], Iterable[CheckpointTuple]]) -> None:
        """Let what the latest of its checkpoints carry be what a thread holds, all namespaces of it. What
        saves publish meanwhile is not overwritten: `saved` is asked again then."""
        pauses = steps.pauses(time.monotonic() + _PATIENCE)
        with self._noting(thread_id):
            while True:
                there = self._there(thread_prefixes(thread_id))  # before it is looked at what is saved
                latest: Latest = {}
                for item in saved():
                    _add(latest, item)
                try:
                    self._commit(_differences(there, self._wanted(thread_id, latest)))
                except Conflict:
                    if (pause := next(pauses, None)) is None:
                        raise
                else:
                    return
                time.sleep(pause)

    async def apublish_thread(
        self, thread_id: str, saved: Callable[[], AsyncIterable[CheckpointTuple]]
    ) -> None:
        """`publish_thread` for the event loop."""
        hop = self._coordinator.hop
        pauses = steps.pauses(time.monotonic() + _PATIENCE)
        with self._noting(thread_id):
            while True:
                there = await hop(self._there, thread_prefixes(thread_id))
                latest: Latest = {}
                async for item in saved():
                    _add(latest, item)
                try:
                    await hop(self._commit, _differences(there, self._wanted(thread_id, latest)))
                except Conflict:
                    if (pause := next(pauses, None)) is None:
                        raise
                else:
                    return
                await asyncio.sleep(pause)

    async def _arun(self, publishing: steps.Steps[None]) -> None:
        await steps.arun(publishing, in_thread=not self._coordinator.table.is_local)

    def _publishing(
        self, prefix: Key, wanted: Mapping[Key, ContentRef], confirm: Confirm
    ) -> steps.Steps[None]:
        pauses = steps.pauses(time.monotonic() + _PATIENCE)
        while True:
            reads = confirm()
            try:
                self._commit(_differences(self._there([prefix]), wanted), reads)
            except Conflict:  # somebody else has written, or keeps writers out for a while
                if (pause := next(pauses, None)) is None:
                    raise
            else:
                return
            yield pause

    def _there(self, prefixes: Sequence[Key]) -> dict[Key, Versioned]:
        """What the keys that begin so stand for."""
        return {
            view.key: view
            for prefix in prefixes
            for view in self._coordinator.keys(prefix)
            if len(view.key) == _KEY_PARTS
        }

    def _commit(self, writes: Sequence[Write], reads: Sequence[Versioned] = ()) -> None:
        for first in range(0, len(writes), _AT_ONCE):
            few = writes[first : first + _AT_ONCE]
            self._coordinator.commit(few, agent=self._worker.name, reads=reads)

    def _wanted(self, thread_id: str, latest: Latest) -> dict[Key, ContentRef]:
        wanted = {}
        for namespace, refs in latest.items():
            for channel, ref in refs.items():
                key = channel_key(thread_id, channel, namespace)
                try:
                    encode_key(key)
                except InvalidKeyError as error:
                    self._miss(thread_id, error)
                else:
                    wanted[key] = ref
        return wanted

    @contextmanager
    def _noting(self, thread_id: str) -> Generator[None]:
        """The checkpoint is saved: it must not look as if it were not."""
        try:
            yield
        except AgentRefError as error:
            if isinstance(error, Conflict) and error.key == thread_key(thread_id):
                raise
            self._miss(thread_id, error)

    def _miss(self, thread_id: str, error: AgentRefError) -> None:
        self.missed += 1
        _log.warning(
            "What moved in thread %r could not be published; its next save makes up for it: %s",
            thread_id,
            error,
        )


def _differences(there: Mapping[Key, Versioned], wanted: Mapping[Key, ContentRef]) -> list[Write]:
    """What to commit so that what is there becomes what is wanted, and nothing else."""
    writes = [
        Write(key, ref, there.get(key))
        for key, ref in wanted.items()
        if key not in there or not _same(there[key].ref, ref)
    ]
    return writes + [Write(key, None, view) for key, view in there.items() if key not in wanted]


def _add(latest: Latest, item: CheckpointTuple) -> None:
    """They come newest first."""
    namespace = str(item.config["configurable"].get("checkpoint_ns", ""))
    if namespace not in latest:
        latest[namespace] = published_refs(item.checkpoint)


def _same(one: ContentRef | None, other: ContentRef) -> bool:
    return one is not None and one.digest == other.digest and one.codec == other.codec
