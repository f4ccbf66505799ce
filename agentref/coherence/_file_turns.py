"""Turns at keys among the processes of one machine: locks on single bytes of a file."""

import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from random import random
from typing import Any, Final

from agentref.coherence.turns import Turns
from agentref.forks import watch_forks

_fcntl: Any
try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None

__all__ = ["FileTurns"]

# Locks that belong to the open file, so that one thread may end what another began. Only Linux has them.
_SET_LOCK: Final = getattr(_fcntl, "F_OFD_SETLK", None)
_FLOCK: Final = struct.Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid
_POLL_SECONDS: Final = 0.001
_LATELY: Final = 1.0
_REMEMBERED: Final = 10_000


class FileTurns:
    """Turns among threads, and for keys that were contended lately among processes too.

    Where somebody seldom loses a race, a lock on a file costs more than the few races that are lost. A lock
    goes with its process. Where there are no such locks, or no file can be made, only threads take turns.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start()
        watch_forks(self)

    def _start(self) -> None:
        self._descriptor: int | None = None
        self._opening = threading.Lock()
        self._cannot = _SET_LOCK is None
        self._threads = Turns()
        self._contended: dict[bytes, float] = {}

    def lost(self, keys: Collection[bytes]) -> None:
        """Somebody was refused because others were quicker at one of these keys."""
        until = time.monotonic() + _LATELY
        if len(self._contended) > _REMEMBERED:
            self._contended.clear()
        for key in keys:
            self._contended[key] = until

    def take(self, key: bytes, *, timeout: float) -> Callable[[], None]:
        """Wait, for at most so many seconds; what ends the turn is returned."""
        if self._cannot or not self._contended:
            return self._threads.take(key, timeout=timeout)
        end = time.monotonic() + timeout
        leave = self._threads.take(key, timeout=timeout)
        if self._contended.get(key, 0.0) < time.monotonic():
            self._contended.pop(key, None)
            return leave
        place = zlib.crc32(key)
        try:
            held = self._lock(key, place, end)
        except BaseException:
            leave()
            raise
        if held is None:
            return leave

        def leave_both() -> None:
            if held == self._descriptor:  # or else it was closed, and the number may be another file's
                self._set(held, place, _fcntl.F_UNLCK)
            leave()

        return leave_both

    def close(self) -> None:
        """End all turns at the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        self._cannot = True
        if descriptor is not None:
            os.close(descriptor)

    def before_fork(self) -> None:
        """Nothing to do: a child can do without what its parent holds."""

    def after_fork_in_parent(self) -> None:
        """Nothing was changed."""

    def after_fork_in_child(self) -> None:
        """Let go of the parent's file, and with it of the parent's turns, which stay the parent's."""
        cannot = self._cannot
        self.close()
        self._start()
        self._cannot = cannot

    def _lock(self, key: bytes, place: int, end: float) -> int | None:
        """The descriptor that now holds the place; None if it is to be done without."""
        descriptor = self._open()
        while descriptor is not None:
            if self._set(descriptor, place, _fcntl.F_WRLCK):
                return descriptor
            if self._cannot or time.monotonic() >= end:
                return None
            self._contended[key] = time.monotonic() + _LATELY
            time.sleep(_POLL_SECONDS * (0.5 + random()))  # noqa: S311  (nobody must not guess it)
        return None

    def _open(self) -> int | None:
        with self._opening:
            if self._descriptor is None and not self._cannot:
                try:
                    self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                except OSError:
                    self._cannot = True
            return self._descriptor

    def _set(self, descriptor: int, place: int, kind: int) -> bool:
        """Whether it could be done now; what cannot be done at all is not tried again."""
        try:
            _fcntl.fcntl(descriptor, _SET_LOCK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            self._cannot = True
            return False
        return True
