"""A database that nobody else sees, for what may be more than should be held in memory."""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from agentref.errors import StoreFullError, StoreUnavailableError
from agentref.forks import watch_forks

__all__ = ["Scratch"]

_FORK_PATIENCE: Final = 10.0

Row = tuple[Any, ...]


class Scratch:
    """SQLite keeps a database without a name in its cache of 16 MiB, and once it outgrows that in a file
    without a name, in SQLITE_TMPDIR, TMPDIR or /var/tmp, which goes with it.

    For one thread. A fork waits for the statement that runs, for ten seconds at most; the child cannot use
    it. Each method raises `StoreFullError` where that file has no room; after that it is good for nothing
    but `close`.
    """

    def __init__(self, schema: str) -> None:
        self._pid = os.getpid()
        # A fork in the midst of a statement would leave SQLite's own locks locked in the child.
        self._lock = threading.Lock()
        self._is_held_for_fork = False
        watch_forks(self)
        with self._lock:
            self._connection = sqlite3.connect("", isolation_level=None)
            self._connection.executescript(
                # Never ended: else each row that is changed would be a transaction.
                f"PRAGMA journal_mode = OFF; PRAGMA cache_size = -16384; {schema} BEGIN;"
            )

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """How many rows one statement changed."""
        self._check_process()
        with self._lock:
            try:
                return self._connection.execute(statement, parameters).rowcount
            except sqlite3.OperationalError as error:
                raise _typed(error) from error

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> None:
        """One statement for each row."""
        self._check_process()
        with self._lock:
            try:
                self._connection.executemany(statement, parameters)
            except sqlite3.OperationalError as error:
                raise _typed(error) from error

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All that a query finds, which should be few."""
        self._check_process()
        with self._lock:
            try:
                return self._connection.execute(query, parameters).fetchall()
            except sqlite3.OperationalError as error:
                raise _typed(error) from error

    def pages(self, query: str, parameters: Sequence[Any] = (), *, size: int = 1000) -> Iterator[list[Row]]:
        """What a query finds, so many at a time."""
        self._check_process()
        cursor = self._connection.cursor()
        try:
            with self._lock:
                try:
                    cursor.execute(query, parameters)
                    page = cursor.fetchmany(size)
                except sqlite3.OperationalError as error:
                    raise _typed(error) from error
            while page:
                yield page
                self._check_process()
                with self._lock:
                    page = cursor.fetchmany(size)
        finally:
            with self._lock, suppress(sqlite3.ProgrammingError):  # all of it was dropped before
                cursor.close()

    def close(self) -> None:
        """Drop all of it. Idempotent."""
        with self._lock:
            self._connection.close()

    def before_fork(self) -> None:
        """Let no statement be half-way through."""
        self._is_held_for_fork = False
        self._is_held_for_fork = self._lock.acquire(timeout=_FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._is_held_for_fork:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """It is the parent's."""
        self._lock = threading.Lock()

    def _check_process(self) -> None:
        if self._pid != os.getpid():  # both would write to one file
            raise StoreUnavailableError(
                "The process was forked meanwhile; what it was about is the parent's to go on with. Begin "
                "anew."
            )


def _typed(error: sqlite3.OperationalError) -> StoreFullError:
    return StoreFullError(
        f"A temporary database cannot grow ({error}). Free space in the directory for temporary files, or "
        f"start the process with an SQLITE_TMPDIR that names another one, and try again: nothing was lost."
    )
