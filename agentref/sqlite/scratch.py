"""A database that nobody else sees, for what may be more than should be held in memory."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from agentref.errors import StoreFullError

__all__ = ["Scratch"]


class Scratch:
    """SQLite keeps a database without a name in its cache of 16 MiB, and once it outgrows that in a file
    without a name, in SQLITE_TMPDIR, TMPDIR or /var/tmp, which goes with it. For one thread.

    Raises `StoreFullError` where that file has no room; after that it is good for nothing but `close`.
    """

    def __init__(self, schema: str) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        self._connection.executescript(
            # Never ended: else each row that is changed would be a transaction.
            f"PRAGMA journal_mode = OFF; PRAGMA cache_size = -16384; {schema} BEGIN;"
        )

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """One statement."""
        try:
            return self._connection.execute(statement, parameters)
        except sqlite3.OperationalError as error:
            raise _typed(error) from error

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> None:
        """One statement for each row."""
        try:
            self._connection.executemany(statement, parameters)
        except sqlite3.OperationalError as error:
            raise _typed(error) from error

    def close(self) -> None:
        """Drop all of it."""
        self._connection.close()


def _typed(error: sqlite3.OperationalError) -> StoreFullError:
    return StoreFullError(
        f"A temporary database cannot grow ({error}). Free space in the directory for temporary files, or "
        f"let SQLITE_TMPDIR name another one, and try again: nothing was lost."
    )
