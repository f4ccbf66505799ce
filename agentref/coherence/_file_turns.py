"""Turns at keys among the processes of one machine: locks on single bytes of a file."""

import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
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

# Who is next polls often, the others seldom. Who has had a turn may have the next one for a while, past the
# queue: handing over takes a part of a millisecond in which nobody works, and whoever comes next has to see
# what the others wrote (updates a second by eight processes: 930 at 8 ms, 1,060 at 16 ms, 1,080 at 24 ms).
_NEXT_POLLS: Final = 0.0005
_OTHERS_POLL: Final = 0.003
_QUANTUM: Final = 0.016
_REMEMBERED: Final = 10_000
_chance: Final = SystemRandom().random  # the program's own draws must not depend on who waited here


class FileTurns:
    """Turns among threads, and on Linux among the processes that have the file open.

    A key stands for two bytes, of which one is locked by who has his turn and the other by who is next. A
    lock goes with its process. Where there are no such locks, or no file can be made, only threads take
    turns. Safe for threads, and across a fork: a turn stays the parent's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cannot = _SET_LOCK is None
        self._start()
        watch_forks(self)

    def _start(self) -> None:
        self._descriptor: int | None = None
        self._opening = threading.Lock()
        self._threads = Turns()
        self._quanta: dict[int, float] = {}

    def take(self, key: bytes, *, timeout: float) -> Callable[[], None] | None:
        """Wait, for at most so many seconds; what ends the turn is returned, or None if it never came."""
        end = time.monotonic() + timeout
        leave = self._threads.take(key, timeout=timeout)
        if leave is None:
            return None
        place = 2 * zlib.crc32(key)
        try:
            held = self._lock(place, end)
        except BaseException:
            leave()
            raise
        if held is None:
            if self._cannot:
                return leave
            leave()
            return None

        def leave_both() -> None:
            if held == self._descriptor:  # or else it was closed, and the number may be another file's
                self._set(held, place, _fcntl.F_UNLCK)
            leave()

        return leave_both

    def close(self) -> None:
        """End all turns at the file. Idempotent."""
        self._cannot = True
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def before_fork(self) -> None:
        """Nothing to do: a child can do without what its parent holds."""

    def after_fork_in_parent(self) -> None:
        """Nothing was changed."""

    def after_fork_in_child(self) -> None:
        """Let go of the parent's file: as long as it is open here, the parent's turns would outlive it."""
        cannot = self._cannot
        self.close()
        self._start()
        self._cannot = cannot

    def _lock(self, place: int, end: float) -> int | None:
        """The descriptor that now holds the place; None if it was waited for in vain, or cannot be."""
        descriptor = self._descriptor or self._open()
        if descriptor is None:
            return None
        if time.monotonic() < self._quanta.get(place, 0.0) and self._set(descriptor, place, _fcntl.F_WRLCK):
            return descriptor
        if not self._poll(descriptor, place + 1, _OTHERS_POLL, end):
            return None
        try:
            if not self._poll(descriptor, place, _NEXT_POLLS, end):
                return None
        finally:
            self._set(descriptor, place + 1, _fcntl.F_UNLCK)
        if len(self._quanta) >= _REMEMBERED:
            self._quanta.clear()
        self._quanta[place] = time.monotonic() + _QUANTUM
        return descriptor

    def _poll(self, descriptor: int, place: int, pause: float, end: float) -> bool:
        while not self._set(descriptor, place, _fcntl.F_WRLCK):
            if self._cannot or time.monotonic() >= end:
                return False
            time.sleep(pause * (0.5 + _chance()))
        return True

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
