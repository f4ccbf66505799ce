"""The one place where what the disk or SQLite says becomes one of our errors."""

import errno
import os
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from agentref.errors import (
    AgentRefError,
    StorageError,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)

__all__ = ["Subject", "storage_errors"]

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_HINTS = {
    sqlite3.SQLITE_CORRUPT: "the {part} is damaged: restore it from a backup, or salvage what can be read "
    "with `sqlite3 {file} .recover`",
    sqlite3.SQLITE_READONLY: "it can be read but not written: check owner and mode of the directory",
    sqlite3.SQLITE_CANTOPEN: "check that the directory exists and that this user may write in it",
    sqlite3.SQLITE_PERM: "check owner and mode of the directory",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write",
}


class Subject(NamedTuple):
    """What a database is to its users, in the words of their error messages.

    Attributes:
        kind: what they opened, as in "the blob store".
        place: where, as they named it: the directory, or the file itself.
        part: what the SQLite file is to it, as in "the index is damaged".
        file: the name of that file.
    """

    kind: str
    place: Path
    part: str
    file: str

    def __str__(self) -> str:
        return f"{self.kind} {self.place}"


class storage_errors:  # noqa: N801  (used like a function; a generator would take three times as long)
    """Raise what goes wrong within as a `StorageError` that names `subject` and a remedy.

    Safe to share between threads. Costs a Python call or two when nothing goes wrong.
    """

    __slots__ = ("_subject",)

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, sqlite3.Error):
            raise _from_sqlite(error, self._subject) from error
        if isinstance(error, OSError) and not isinstance(error, AgentRefError):
            raise _from_os(error, self._subject) from error


def _from_os(error: OSError, subject: Subject) -> StorageError:
    if error.errno in _NO_ROOM:
        return _full(subject, error)
    hint = ": check owner and mode of the directory" if error.errno in _NOT_ALLOWED else ""
    return StoreUnavailableError(f"The {subject} cannot be used ({error}){hint}.")


def _from_sqlite(error: sqlite3.Error, subject: Subject) -> StorageError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    primary = code & 0xFF
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreBusyError(
            f"The {subject} was held by another process for longer than busy_timeout. "
            f"Try again, or open it with a longer one."
        )
    if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and _has_no_room(subject.place)):
        return _full(subject, error)
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreVersionError(
            f"{subject.place} is no agentref {subject.kind}: its {subject.part} is no SQLite database."
        )
    hint = _HINTS.get(primary, "see the cause").format_map(subject._asdict())
    return StoreUnavailableError(f"The {subject} cannot be used ({error}): {hint}.")


def _full(subject: Subject, error: Exception) -> StoreFullError:
    return StoreFullError(f"No room is left for {subject.place} ({error}): free space or raise the quota.")


def _has_no_room(root: Path) -> bool:
    """SQLite reports some writes to a full disk as plain I/O errors."""
    try:
        return os.statvfs(root).f_bavail == 0
    except OSError:
        return False
