"""What checkpoints carry, for the checkpoints that come after them."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint

from agentref.refs import ContentRef
from agentref.runtime import Outgoing

__all__ = ["Carried", "KnownCheckpoints", "Placed", "unchanged"]

_LIMIT: Final = 4096

_Key = tuple[str, str, str]


class Carried(NamedTuple):
    """What a checkpoint carries for a channel.

    `placed` stands there in place of the value; None if the next checkpoint has to place the value anew.
    `refs` are all that the saver may show there. `epoch` is that of the store when all of it was there.
    """

    version: object
    placed: object
    refs: tuple[ContentRef, ...]
    epoch: int


class Placed(NamedTuple):
    """A checkpoint as the inner saver gets it, what has to be stored before, and what it carries."""

    checkpoint: Checkpoint
    versions: ChannelVersions
    outgoing: Outgoing
    carried: Mapping[str, Carried]

    @property
    def refs(self) -> list[ContentRef]:
        """All that is to be pinned for it."""
        return [ref for each in self.carried.values() for ref in each.refs]


def unchanged(
    parent: Mapping[str, Carried] | None, checkpoint: Checkpoint, new_versions: ChannelVersions
) -> dict[str, Carried]:
    """What of a parent is in its child as well."""
    versions = checkpoint.get("channel_versions", {})
    return {
        channel: carried
        for channel, carried in (parent or {}).items()
        if channel in versions and versions[channel] == carried.version and channel not in new_versions
    }


def merged(shown: Mapping[str, Carried], placed: Mapping[str, Carried]) -> dict[str, Carried]:
    """What was placed, and what a saver that keeps one value for each version may show in its place."""
    both = {**shown, **placed}
    for channel in shown.keys() & placed.keys():
        refs = {(ref.backend_id, ref.digest): ref for ref in (*shown[channel].refs, *placed[channel].refs)}
        both[channel] = placed[channel]._replace(refs=tuple(refs.values()))
    return both


class KnownCheckpoints:
    """What checkpoints carry that were written or read here, so that an unchanged channel need not be
    encoded again. Looked up by the parent: versions alone are no names, since two forks of a thread, or a
    seeded run of it and the next, give one version to different values.

    Thread-safe. Keeps the latest, as many as have 4096 channels with refs together.
    """

    def __init__(self) -> None:
        self._carried: OrderedDict[_Key, Mapping[str, Carried]] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def get(self, config: RunnableConfig) -> Mapping[str, Carried] | None:
        """Of the checkpoint that a config names; None if it is not known."""
        with self._lock:
            return self._carried.get(_key(config, None))

    def add(self, config: RunnableConfig, checkpoint_id: str, carried: Mapping[str, Carried]) -> None:
        """Remember what a checkpoint carries."""
        key = _key(config, checkpoint_id)
        with self._lock:
            self._count += len(carried) + 1 - self._size(key)
            self._carried[key] = carried
            self._carried.move_to_end(key)
            while self._count > _LIMIT and len(self._carried) > 1:
                self._count -= self._size(next(iter(self._carried)))
                self._carried.popitem(last=False)

    def _size(self, key: _Key) -> int:
        known = self._carried.get(key)
        return 0 if known is None else len(known) + 1


def _key(config: RunnableConfig, checkpoint_id: str | None) -> _Key:
    configurable: dict[str, Any] = config["configurable"]
    chosen = configurable.get("checkpoint_id") if checkpoint_id is None else checkpoint_id
    return str(configurable.get("thread_id")), str(configurable.get("checkpoint_ns", "")), str(chosen)
