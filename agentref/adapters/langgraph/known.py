"""What stands in checkpoints for channels that did not move."""

import re
import threading
from collections import OrderedDict
from typing import Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint

__all__ = ["KnownRefs", "VersionKey", "version_key"]

_LIMIT: Final = 4096

# A count and a random number, as LangGraph's own savers make them.
_UNIQUE_VERSION: Final = re.compile(r"\d{32,}\.[0-9.e-]{8,}", re.ASCII)

VersionKey = tuple[str, str, str, str]
"""Thread, namespace, channel and version."""


def version_key(config: RunnableConfig, checkpoint: Checkpoint, channel: str) -> VersionKey | None:
    """What names a channel's value for ever; None where versions are mere numbers, which two forks
    of a thread give to different values."""
    version = checkpoint.get("channel_versions", {}).get(channel)
    if not isinstance(version, str) or not _UNIQUE_VERSION.fullmatch(version):
        return None
    configurable = config["configurable"]
    return str(configurable.get("thread_id")), str(configurable.get("checkpoint_ns", "")), channel, version


class KnownRefs:
    """The refs of channel versions, so that an unchanged channel need not be encoded again.

    They are forgotten when anything is removed from the store. Thread-safe; keeps the last 4096.
    """

    def __init__(self) -> None:
        self._placed: OrderedDict[VersionKey, object] = OrderedDict()
        self._lock = threading.Lock()
        self._epoch: int | None = None

    def at(self, epoch: int) -> None:
        """Take note of the store's epoch."""
        with self._lock:
            if epoch != self._epoch:
                self._placed.clear()
                self._epoch = epoch

    def get(self, key: VersionKey | None) -> object:
        """What stands in checkpoints for that version, or None."""
        with self._lock:
            return None if key is None else self._placed.get(key)

    def add(self, key: VersionKey | None, placed: object) -> None:
        """Remember it."""
        if key is None:
            return
        with self._lock:
            self._placed[key] = placed
            self._placed.move_to_end(key)
            if len(self._placed) > _LIMIT:
                self._placed.popitem(last=False)
