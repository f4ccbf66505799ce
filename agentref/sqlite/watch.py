"""A connection that only reads, and notices at almost no cost whether anybody else has written."""

import sqlite3
import time
from types import TracebackType
from typing import Any, Final

from agentref.sqlite.database import connect
from agentref.sqlite.kept import Kept, OpenFile

__all__ = ["Watch"]

_REMEMBERED: Final = 10_000
_SECONDS_BETWEEN_LOOKS: Final = 1.0
_CACHE_KIB: Final = 1024


class Watch(Kept):
    """One connection for reading, that remembers what it read for as long as nobody commits anything.

    `value` asks SQLite for `PRAGMA data_version`, which moves on this connection with every commit of any
    other one, of whichever process. As a block, it lends a cursor for reading. Safe for threads, one at a
    time, and across a fork. At least once a second it is checked that the file is still there.

    Args:
        file: the database, in WAL mode.
        statement: selects the one column that `value` returns, of the one row with a key.
    """

    def __init__(self, file: OpenFile, statement: str = "") -> None:
        self._statement = statement
        super().__init__(file)

    def _forget(self) -> None:
        super()._forget()
        self._seen: int | None = None
        self._values: dict[bytes, Any] = {}

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self._file.path, busy_timeout=self._file.busy_timeout)
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").fetchall()
        connection.execute("PRAGMA query_only = 1").fetchall()
        return connection

    def value(self, key: bytes) -> Any:
        """What the statement selects for a key as of now, None if there is no such row. Takes 4 us if
        nobody has committed since it was asked last."""
        with self as cursor:
            # First: what is read after it may be newer than it says, never older.
            seen = cursor.execute("PRAGMA data_version").fetchone()[0]
            if seen != self._seen:
                self._seen = seen
                self._values.clear()
            elif key in self._values:
                return self._values[key]
            found = cursor.execute(self._statement, (key,)).fetchone()
            value = None if found is None else found[0]
            if len(self._values) >= _REMEMBERED:
                self._values.clear()
            self._values[key] = value
            return value

    def version(self) -> int:
        """A number that is another one after a commit of anybody else; after a fork it begins anew."""
        with self as cursor:
            version: int = cursor.execute("PRAGMA data_version").fetchone()[0]
        return version

    def __enter__(self) -> sqlite3.Cursor:
        cursor = self._enter()
        now = time.monotonic()
        if now >= self._next_look:
            try:
                self._file.check()
            except BaseException:
                self._exit(failed=True)
                raise
            self._next_look = now + _SECONDS_BETWEEN_LOOKS
        return cursor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit(failed=error is not None)
