"""A connection that is kept for writing, and shared fairly with the writers of other processes."""

import sqlite3
import time
from contextlib import suppress
from types import TracebackType
from typing import Final

from agentref.sqlite.database import WAL_TOLERATED, Synchronous, configure, connect
from agentref.sqlite.kept import Kept, OpenFile, persist

__all__ = ["Writer"]

_SECONDS_BETWEEN_LOOKS: Final = 1.0


class Writer(Kept):
    """As a block, a transaction that excludes every other writer from its start; it lends a cursor.

    Committed when the block is left, which costs nothing if nothing was written; rolled back when it
    raises. Before each it is checked that the file is still there: a commit to one that was deleted or
    replaced would be lost without a word. Safe for threads, one at a time, and across a fork.

    Where many processes write all the time, each gets its share; who has to wait notices within 3 ms that
    the database is free.

    Args:
        file: the database.
        synchronous: what a commit survives.
    """

    def __init__(self, file: OpenFile, *, synchronous: Synchronous) -> None:
        self._synchronous = synchronous
        self._log = file.path.with_name(f"{file.path.name}-wal")
        super().__init__(file)

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self._file.path, busy_timeout=self._file.busy_timeout)
        try:
            configure(connection, self._synchronous)
            connection.execute("PRAGMA busy_timeout = 0").fetchall()
        except BaseException:
            connection.close()
            raise
        return connection

    def __enter__(self) -> sqlite3.Cursor:
        cursor = self._enter()
        try:
            self._file.check()
            if time.monotonic() >= self._next_look:
                self._bound_log(cursor)
            try:
                cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                persist(cursor, "BEGIN IMMEDIATE", self._file.busy_timeout)
        except BaseException:
            self._exit(failed=True)
            raise
        return cursor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = True
        try:
            if error is None and self._cursor is not None:
                self._cursor.execute("COMMIT")
                failed = False
        finally:
            if failed and self._cursor is not None:
                with suppress(sqlite3.Error):
                    self._cursor.execute("ROLLBACK")
            self._exit(failed=failed)

    def _bound_log(self, cursor: sqlite3.Cursor) -> None:
        """Readers that overlap can keep SQLite's own checkpoints from ever starting the log afresh."""
        if self._log.exists() and self._log.stat().st_size > WAL_TOLERATED:
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._next_look = time.monotonic() + _SECONDS_BETWEEN_LOOKS
