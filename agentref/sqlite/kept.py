"""One connection that is kept, for the threads of a process in turn, and across forks."""

import os
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from agentref.errors import StoreBusyError, StoreUnavailableError
from agentref.forks import watch_forks
from agentref.sqlite.database import identity
from agentref.sqlite.failures import Subject

__all__ = ["Kept", "OpenFile", "persist"]

_POLL_SECONDS: Final = 0.002
_chance: Final = SystemRandom().random  # the program's own draws must not depend on who waited here

_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process. Closing one would run SQLite's clean-up on the parent's files."""


def persist(connection: sqlite3.Connection | sqlite3.Cursor, statement: str, patience: float) -> list[Any]:
    """Execute, again and again while others are in the way, for so many seconds; what it returns.

    For a connection whose own busy timeout is 0. SQLite's handler waits longer from one try to the next, so
    that of many writers the one that waited longest tries least; here all try at the same rate, at moments
    drawn by chance.
    """
    end = time.monotonic() + patience
    while True:
        try:
            return connection.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(_POLL_SECONDS * (0.5 + _chance()))


class OpenFile:
    """The file that was opened, which is not always the one that its name stands for later.

    Attributes:
        path: where it was, absolute.
        subject: what its users know it as; error messages use it.
        busy_timeout: seconds to wait for others who use it.
    """

    def __init__(self, path: Path, *, subject: Subject, busy_timeout: float) -> None:
        self.path = path
        self.subject = subject
        self.busy_timeout = busy_timeout
        self._name = str(path)
        self._identity = identity(self._name)

    def check(self) -> None:
        """Raise `StoreUnavailableError` if another file, or none, is there by now. Takes 2 us."""
        if identity(self._name) != self._identity:
            raise StoreUnavailableError(
                f"{self.path} was deleted, moved or replaced while in use. Open it again."
            )


class Kept(ABC):
    """A connection behind a lock, opened when it is needed, closed before a fork and after a failure.

    A child that inherits a connection believes that it holds the parent's file locks: it takes none of its
    own, and the parent, closing its last connection, deletes the log that the child has committed to.
    """

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._closed = False
        self._refuse = False
        self._fork_waited_in_vain = False
        self._connection: sqlite3.Connection | None = None
        self._start()
        watch_forks(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        """What was learned on a connection goes with it."""
        self._cursor: sqlite3.Cursor | None = None
        self._next_look = 0.0

    @abstractmethod
    def _connect(self) -> sqlite3.Connection: ...

    def _enter(self) -> sqlite3.Cursor:
        """Take the lock. The caller goes on to `_exit`, or raises by way of it."""
        if not self._lock.acquire(timeout=self._file.busy_timeout):
            raise StoreBusyError(
                f"Another thread used {self._file.path} for longer than busy_timeout. Try again, or open "
                f"it with a longer one."
            )
        try:
            return self._cursor or self._open()
        except BaseException:
            self._exit(failed=True)
            raise

    def _exit(self, *, failed: bool) -> None:
        if failed or self._closed:
            self._let_go()
        self._lock.release()

    def _open(self) -> sqlite3.Cursor:
        if self._closed:
            raise StoreUnavailableError(f"The {self._file.subject} is closed.")
        if self._refuse or self._pid != os.getpid():
            raise StoreUnavailableError(
                f"{self._file.path} was in use by another thread while this process was forked. "
                f"Open it anew after the fork, or fork before threads use it."
            )
        self._file.check()
        self._connection = self._connect()
        self._cursor = self._connection.cursor()
        return self._cursor

    def close(self) -> None:
        """Refuse to work from now on. Waits for who is at work, and after `busy_timeout` seconds lets him
        close the connection. Idempotent."""
        if self._pid != os.getpid():
            self._abandon()
            return
        self._closed = True
        if self._lock.acquire(timeout=self._file.busy_timeout):
            self._exit(failed=True)

    def before_fork(self) -> None:
        """Close the connection, or make sure that the child will refuse to work."""
        self._fork_waited_in_vain = not self._lock.acquire(timeout=self._file.busy_timeout)
        if not self._fork_waited_in_vain:
            self._let_go()

    def after_fork_in_parent(self) -> None:
        """Let others in again."""
        if not self._fork_waited_in_vain:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start with nothing of the parent's."""
        self._refuse = self._refuse or self._fork_waited_in_vain
        self._abandon()
        self._start()

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        self._forget()
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _abandon(self) -> None:
        if self._connection is not None:
            _inherited.append(self._connection)
            self._connection = None
        self._forget()
