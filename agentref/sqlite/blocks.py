"""Blocks of a database: sessions, and within them reads and writes.

As generators, four of them would take a tenth of the time of a small put. Ctrl-C may come at any moment,
also when an `__exit__` is about to begin, or in between the lock and the note of whose it is.
"""

import sqlite3
import threading
import weakref
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentref.sqlite.database import Database, Synchronous

__all__ = ["Read", "Session", "Turn", "Write"]


class Session:
    """Keeps the database open until the block is left."""

    __slots__ = ("__weakref__", "_database")

    def __init__(self, database: "Database") -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.leave(self)


class Read:
    """Lends a connection."""

    __slots__ = ("_connection", "_database")

    def __init__(self, database: "Database") -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._connection = self._database.borrow(self._database.synchronous)
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._database.give_back(self._connection, self._database.synchronous)
        else:
            self._connection.close()


class Write:
    """Lends a connection in a transaction.

    If the block is not left as it should be, its turn ends with this object: the function of a weak
    reference is called if somebody keeps that until then.
    """

    __slots__ = ("__weakref__", "_turn", "_watch")

    def __init__(self, turn: "Turn") -> None:
        self._turn = turn
        self._watch: object = None

    def __enter__(self) -> sqlite3.Connection:
        self._watch = weakref.ref(self, self._turn.abandon)
        try:
            return self._turn.take()
        except BaseException:
            self._turn.abandon()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._turn.end(commit=error is None)
        except BaseException:
            self._turn.abandon()
            raise
        self._watch = None


class Turn:
    """The only writer of a process to a database."""

    __slots__ = ("_connection", "_database", "_is_over", "_synchronous", "_writing", "thread")

    def __init__(self, database: "Database", synchronous: "Synchronous") -> None:
        self.thread = threading.get_ident()
        self._is_over = False
        self._database = database
        self._synchronous = synchronous
        self._writing = database.writing
        self._connection: sqlite3.Connection | None = None

    def take(self) -> sqlite3.Connection:
        """A connection in a transaction."""
        database = self._database
        last = database.turn
        if last is not None and last.thread == self.thread:
            last.abandon()  # an error that is still at hand holds on to the block that it came out of
        if not self._writing.acquire(timeout=database.busy_timeout):
            database.raise_busy()
        database.turn = self
        self._connection = connection = database.borrow(self._synchronous)
        database.begin(connection)
        return connection

    def end(self, *, commit: bool) -> None:
        """Commit, or roll back."""
        if (connection := self._connection) is None:  # it was abandoned
            if not commit:
                return
            raise RuntimeError("A write within a write: the outer one was taken for an interrupted one.")
        self._database.end(connection, commit=commit)
        self._connection = None  # before somebody else has it
        if commit:
            self._database.give_back(connection, self._synchronous)
        self._database.turn = None
        self._writing.release()
        self._is_over = True

    def abandon(self, _: object = None) -> None:
        """Take back what was not committed, and let others write."""
        if self._is_over:
            return
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()  # else it is closed when a cycle in SQLite's module is found
            self._connection = None
        is_ours = self._database.turn is self
        if is_ours:
            self._database.turn = None
        try:
            self._writing.release()
        except RuntimeError:  # the lock is another thread's; if the turn was ours, it is of no use any more
            if is_ours and self.thread != threading.get_ident():
                self._database.writing = threading.RLock()
        self._is_over = True
