"""What checkpoints carry, for the checkpoints that come after them."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint

from agentref.refs import ContentRef

__all__ = ["Carried", "Key", "Known", "KnownCheckpoints", "key_of", "merged", "unchanged"]

_LIMIT: Final = 2048

Key = tuple[str, str, str]
"""Thread, namespace and id of a checkpoint."""


class Carried(NamedTuple):
    """What a checkpoint carries for a channel.

    `placed` stands there in place of the value; None if the next checkpoint has to place the value anew.
    `refs` are all that the saver may show there. `epoch` is that of the store when all of it was there;
    None if that does not matter, as the value is a ref itself.
    """

    version: object
    placed: object
    refs: tuple[ContentRef, ...]
    epoch: int | None


class Known(NamedTuple):
    """What a checkpoint carries: by channel, and all its refs.

    `era`: of `Removals`, in which these were pinned for this checkpoint, or for one before it; None if
    that is not known.
    """

    carried: Mapping[str, Carried]
    refs: tuple[ContentRef, ...]
    era: object | None

    @classmethod
    def of(cls, carried: Mapping[str, Carried]) -> "Known":
        """Of which nobody knows yet whether it is pinned."""
        return cls(carried, tuple(ref for each in carried.values() for ref in each.refs), None)

    def has(self, refs: Iterable[ContentRef]) -> bool:
        """Whether it carries all of these."""
        return {_name(ref) for ref in self.refs}.issuperset(map(_name, refs))


def _name(ref: ContentRef) -> tuple[str | None, bytes]:
    return ref.backend_id, ref.digest


def unchanged(
    parent: Mapping[str, Carried], checkpoint: Checkpoint, new_versions: ChannelVersions
) -> dict[str, Carried]:
    """What of a parent is in its child as well."""
    versions = checkpoint.get("channel_versions", {})
    return {
        channel: carried
        for channel, carried in parent.items()
        if channel in versions and versions[channel] == carried.version and channel not in new_versions
    }


def merged(shown: Mapping[str, Carried], placed: Mapping[str, Carried]) -> dict[str, Carried]:
    """What was placed, and what a saver that keeps one value for each version may show in its place."""
    both = {**shown, **placed}
    for channel in shown.keys() & placed.keys():
        if shown[channel] is not placed[channel]:
            old, new = shown[channel].refs, placed[channel].refs
            refs = {(ref.backend_id, ref.digest): ref for ref in (*old, *new)}
            both[channel] = placed[channel]._replace(refs=tuple(refs.values()))
    return both


class KnownCheckpoints(dict[Key, Known]):
    """What checkpoints carry that were written or read here, so that an unchanged channel need not be
    encoded again. Looked up by the parent: versions alone are no names, since two forks of a thread, or a
    seeded run of it and the next, give one version to different values.

    Thread-safe. Keeps the latest 2048.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, key: Key, known: Known) -> None:
        """Remember what a checkpoint carries."""
        with self._lock:
            self.pop(key, None)
            self[key] = known
            if len(self) > _LIMIT:
                del self[next(iter(self))]

    def note(self, key: Key, known: Known) -> None:
        """Remember what a checkpoint carries that was read, and still that it is pinned."""
        before = self.get(key)
        if before is not None and before.has(known.refs):
            known = known._replace(era=before.era)
        self.add(key, known)


def key_of(config: RunnableConfig) -> Key:
    """The checkpoint that a config names."""
    configurable: dict[str, Any] = config["configurable"]
    get = configurable.get
    return str(get("thread_id")), str(get("checkpoint_ns", "")), str(get("checkpoint_id"))
