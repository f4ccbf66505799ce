"""Turns at keys: among threads, and for what was contended lately among the processes of this machine."""

import time
from collections.abc import Callable, Collection
from typing import Final

from agentref.coherence._file_turns import FileTurns
from agentref.coherence._private_files import private_file
from agentref.coherence.turns import Turns

__all__ = ["PostgresTurns"]

_LATELY: Final = 1.0
_REMEMBERED: Final = 10_000


class PostgresTurns:
    """See `Table.turn`. Where nobody loses races, turns among processes cost more than they save. Safe for
    threads, and across a fork."""

    def __init__(self) -> None:
        self._threads = Turns()
        self._processes: FileTurns | None = None
        self._contended: dict[bytes, float] = {}

    def open(self, name: str) -> None:
        """From now on also among the processes that say the same name."""
        self.close()
        path = private_file(f"turns-{name}")
        self._processes = None if path is None else FileTurns(path)

    def lost(self, keys: Collection[bytes]) -> None:
        """Others were quicker at one of these keys."""
        if len(self._contended) > _REMEMBERED:
            self._contended = {}
        until = time.monotonic() + _LATELY
        for key in keys:
            self._contended[key] = until

    def take(self, key: bytes, *, timeout: float) -> Callable[[], None] | None:
        """Wait, for at most so many seconds; what ends the turn is returned, or None if it never came."""
        contended = self._contended.get(key)
        if contended is not None and self._processes is not None:
            if contended > time.monotonic():
                return self._processes.take(key, timeout=timeout)
            self._contended.pop(key, None)
        return self._threads.take(key, timeout=timeout)

    def after_fork_in_child(self) -> None:
        """No turn of the parent's threads is here."""
        self._threads = Turns()
        self._contended = {}

    def close(self) -> None:
        """End all turns among processes. Idempotent."""
        if self._processes is not None:
            self._processes.close()
