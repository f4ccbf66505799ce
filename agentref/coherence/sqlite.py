"""Rows in an SQLite database, for the processes of one machine."""

import os
import re
import sqlite3
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

from agentref.coherence._file_turns import FileTurns
from agentref.coherence._sqlite_file import as_path, open_file
from agentref.coherence._sqlite_rows import SELECT_ROW, UPSERT_ROW, key_of
from agentref.coherence.coordinator import Coordinator
from agentref.coherence.cursors import check_position, place_in, written
from agentref.coherence.observer import Observer
from agentref.coherence.rows import ABSENT, Row, columns_of, row_of
from agentref.coherence.table import Decide
from agentref.errors import (
    CursorTooOldError,
    InvalidInputError,
    MalformedBlobError,
)
from agentref.forks import watch_forks
from agentref.sqlite import (
    OpenFile,
    Subject,
    Synchronous,
    Watch,
    Writer,
    check_synchronous,
    storage_errors,
)

__all__ = ["SqliteCoordinator", "SqliteTable"]

_MAX_BUSY_TIMEOUT: Final = 24 * 3600.0
_ONE_KEY: Final = f"{SELECT_ROW} WHERE key = ?"
_KEYS_AT_ONCE: Final = 512  # below the least number of parameters that any SQLite takes
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
_DROPPED_AT_ONCE: Final = 10_000
_TIME: Final = struct.Struct(">d")
_PLACE: Final = re.compile(r"(0|[1-9][0-9]{0,17})-[0-9a-f]{16}", re.ASCII)


class SqliteTable:
    """See `Table`. For the threads and processes of one machine; durable.

    A commit of one row is one transaction: about 30 us with synchronous="NORMAL", and what the disk takes
    to sync with "FULL". A probe takes 5 us as long as nobody commits. One writer at a time; readers never
    wait.
    Not for network filesystems, where SQLite's locks do not hold.

    Beside the file lie SQLite's own `-wal` and `-shm` as long as it is open, and `-turns`, which stays
    empty, once somebody took a turn. Entries of the feed stay until `compact`.

    Args:
        path: the file; its directory is made if it is missing.
        synchronous: what a commit survives: with "FULL" also a power cut; with "NORMAL" the death of every
            process, but a power cut may take back the last ones. Views and cursors of what was taken back
            are refused (`FutureVersionError` or `Conflict`, and `CursorTooOldError`).
        busy_timeout: seconds to wait for another writer before `StoreBusyError`.
        create: make the file if there is none.
        clock: the machine's.

    Raises `StoreVersionError` for a file that is none of ours, or of a newer format, and
    `StoreUnavailableError` if there is none, or it cannot be written. If the file is deleted or replaced
    while it is open, commits raise `StoreUnavailableError` at once, and reads within a second.
    """

    is_local = False
    is_joined = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 30.0,
        create: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = as_path(path)
        self.clock = clock
        patience = _check_timeout(busy_timeout)
        subject = Subject("coordinator", self._path, part="database", file=self._path.name)
        self._errors = storage_errors(subject)
        check_synchronous(synchronous)
        with self._errors:
            self._table_id = open_file(self._path, create=create, patience=patience)
            file = OpenFile(self._path, subject=subject, busy_timeout=patience)
        self._writer = Writer(file, synchronous=synchronous)
        self._watch = Watch(file, "SELECT revision FROM artifact WHERE key = ?")
        self._pages = Watch(file)  # many rows must not keep probes waiting
        self._turns = FileTurns(self._path.with_name(f"{self._path.name}-turns"))
        self._closed = False
        self._start()
        watch_forks(self)
        weakref.finalize(self, _release, self._turns, self._watch, self._pages, self._writer)

    def _start(self) -> None:
        self._committed = threading.Condition(threading.Lock())
        self._commits = 0  # of this process that somebody waited for
        self._waiting = 0

    @property
    def table_id(self) -> str:
        """See `Table`. Drawn when the file was made; a copy of the file has the same."""
        return self._table_id

    def probe(self, key: bytes, /) -> int:
        """See `Table`. 5 us as long as nobody commits, and one look at the row after a commit."""
        with self._errors:
            revision = self._watch.value(key)
        if type(revision) is int:
            return revision
        if revision is None:
            return 0
        raise MalformedBlobError(f"The revision of {key!r:.80} is damaged in its database.")

    def load(self, keys: Sequence[bytes], /) -> Mapping[bytes, Row]:
        """See `Table`."""
        with self._errors, self._watch as cursor:
            if len(keys) <= _KEYS_AT_ONCE:
                return _select(cursor, keys)
            cursor.execute("BEGIN")
            rows = _select(cursor, keys)
            cursor.execute("COMMIT")
        return rows

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """See `Table`."""
        refused: BaseException | None = None
        transition = result = None
        with self._errors, self._writer as cursor:
            now = self.clock()
            rows = dict.fromkeys(keys, ABSENT)
            rows.update(_select(cursor, keys))
            # What was refused has written nothing: it is a transaction that ends well.
            try:
                transition, result = decide(rows, now)
            except Exception as error:  # noqa: BLE001  (raised again)
                refused = error
            if transition is not None:
                for key, row in transition.rows.items():
                    cursor.execute(UPSERT_ROW, (key, *columns_of(row)))
                if transition.entry is not None:
                    cursor.execute("INSERT INTO feed(at, entry) VALUES (?, ?)", (now, transition.entry))
        if refused is not None:
            raise refused
        if self._waiting and transition is not None:
            self._wake()
        return result

    def scan(self, first: bytes, stop: bytes, /, *, limit: int) -> Sequence[tuple[bytes, Row]]:
        """See `Table`."""
        found = self._read(
            f"{SELECT_ROW} WHERE key >= ? AND key < ? ORDER BY key LIMIT ?", first, stop, limit
        )
        return [(key_of(columns[0]), row_of(columns)) for columns in found]

    def leased(self, until: float, /, *, limit: int | None = None) -> Sequence[bytes]:
        """See `Table`."""
        found = self._read(
            "SELECT key FROM artifact WHERE until <= ? ORDER BY until LIMIT ?",
            until,
            -1 if limit is None else limit,
        )
        return [key_of(key) for (key,) in found]

    def turn(self, key: bytes, /, *, timeout: float) -> Callable[[], None] | None:
        """See `Table`. Among the threads of this process; on Linux among those of all processes."""
        return self._turns.take(key, timeout=timeout)

    def head(self) -> str:
        """See `Table`."""
        return written(self._table_id, self._head())

    def entries(self, since: str, /, *, limit: int) -> tuple[Sequence[tuple[bytes, str]], str]:
        """See `Table`."""
        place = place_in(since, self._table_id)
        position = _position_in(place)
        found = self._read(
            "SELECT position, at, entry FROM feed WHERE position >= ? ORDER BY position LIMIT ?",
            position,
            limit + 1,
        )
        if not found or place != _place(*found[0][:2]):
            self._refuse(position)
        page = []
        for expected, (number, at, entry) in enumerate(found[1:], position + 1):
            if number != expected or type(entry) is not bytes:
                raise MalformedBlobError(f"The feed of {self._path} is damaged at {expected}.")
            page.append((entry, written(self._table_id, _place(number, at))))
        return page, page[-1][1] if page else since

    def wait(self, since: str, /, *, timeout: float) -> None:
        """See `Table`. A commit of this process is noticed at once, another one within 50 ms."""
        place = place_in(since, self._table_id)
        end = time.monotonic() + timeout
        pause = _FIRST_PAUSE
        with self._committed:
            self._waiting += 1
        try:
            seen = None
            while True:
                commits = self._commits
                with self._errors:
                    version = self._watch.version()
                if version != seen and self._head() != place:
                    return
                seen = version
                if (left := end - time.monotonic()) <= 0:
                    return
                with self._committed:
                    self._committed.wait_for(
                        lambda commits=commits: self._commits != commits,  # type: ignore[misc]
                        min(pause, left),
                    )
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            with self._committed:
                self._waiting -= 1

    def compact(self, before: float, /) -> int:
        """See `Table`. Others may commit in between: the entries go in groups of 10,000."""
        dropped = 0
        while number := self._drop(before):
            dropped += number
        return dropped

    def close(self) -> None:
        """See `Table`. Waits for what runs."""
        self._closed = True
        with self._errors:
            _release(self._turns, self._watch, self._pages, self._writer)
        self._wake()

    def before_fork(self) -> None:
        """Nothing to do: what must not be shared minds itself."""

    def after_fork_in_parent(self) -> None:
        """Nothing was changed."""

    def after_fork_in_child(self) -> None:
        """Nobody waits here."""
        self._start()

    def _read(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._errors, self._pages as cursor:
            return cursor.execute(statement, parameters).fetchall()

    def _head(self) -> str:
        with self._errors, self._watch as cursor:
            found = cursor.execute(
                "SELECT position, at FROM feed ORDER BY position DESC LIMIT 1"
            ).fetchone()
        if found is None:
            raise MalformedBlobError(f"The feed of {self._path} is lost: restore it from a backup.")
        return _place(*found)

    def _refuse(self, position: int) -> None:
        """Say why a cursor is none of this feed as it is now."""
        (first, last), *_ = self._read("SELECT min(position), max(position) FROM feed")
        check_position(str(position), first=first or 0, last=last or 0)
        raise CursorTooOldError(
            f"The feed of {self._path} had something else at {position} when the cursor was made: the "
            f"database was replaced by an older copy since. Read everything anew, and begin from head()."
        )

    def _drop(self, before: float) -> int:
        with self._errors, self._writer as cursor:
            (mark,) = cursor.execute("SELECT min(position) FROM feed").fetchone()
            found = cursor.execute(
                "SELECT position, at FROM feed WHERE position > ? ORDER BY position LIMIT ?",
                (mark, _DROPPED_AT_ONCE),
            ).fetchall()
            old = [position for position, at in takewhile(lambda entry: entry[1] < before, found)]
            if not old:
                return 0
            last: int = old[-1]
            cursor.execute("DELETE FROM feed WHERE position < ?", (last,))
            cursor.execute("UPDATE feed SET entry = NULL WHERE position = ?", (last,))
        return len(old)

    def _wake(self) -> None:
        with self._committed:
            self._commits += 1
            self._committed.notify_all()


class SqliteCoordinator(Coordinator):
    """A coordinator for the threads and processes of one machine, in one SQLite file.

    Takes what `SqliteTable` takes, and observers.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 30.0,
        create: bool = True,
        observers: Iterable[Observer] = (),
    ) -> None:
        table = SqliteTable(path, synchronous=synchronous, busy_timeout=busy_timeout, create=create)
        super().__init__(table, observers=observers)


def _select(cursor: sqlite3.Cursor, keys: Sequence[bytes]) -> dict[bytes, Row]:
    if len(keys) == 1:
        found = cursor.execute(_ONE_KEY, keys).fetchone()
        return {} if found is None else {keys[0]: row_of(found)}
    rows = {}
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = [*keys[start : start + _KEYS_AT_ONCE]]
        some += [some[-1]] * ((1 << (len(some) - 1).bit_length()) - len(some))  # ten statements, not 512
        marks = ", ".join("?" * len(some))
        for columns in cursor.execute(f"{SELECT_ROW} WHERE key IN ({marks})", some):
            rows[key_of(columns[0])] = row_of(columns)
    return rows


def _place(position: object, at: object) -> str:
    """What a cursor says: the time too, since an older copy of the file gives the numbers out again."""
    if type(position) is not int or type(at) is not float:
        raise MalformedBlobError(f"The feed of a coordinator is damaged at {position!r:.40}.")
    return f"{position}-{_TIME.pack(at).hex()}"


def _position_in(place: str) -> int:
    """The number in what `_place` said. Raises `InvalidInputError` for what it never says."""
    found = _PLACE.fullmatch(place)
    if found is None:
        raise InvalidInputError(f"{place!r:.80} is no place in a feed. Take the cursor from head().")
    return int(found[1])


def _check_timeout(seconds: object) -> float:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if is_number and 0 <= seconds <= _MAX_BUSY_TIMEOUT:  # type: ignore[operator]
        return float(seconds)  # type: ignore[arg-type]
    raise InvalidInputError(
        f"busy_timeout must be from 0 to {_MAX_BUSY_TIMEOUT:,.0f} s, not {seconds!r:.40}."
    )


def _release(*opened: FileTurns | Watch | Writer) -> None:
    for each in opened:
        each.close()
