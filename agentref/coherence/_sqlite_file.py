"""The file of a coordinator: its format, and how one comes to be, whole or not at all."""

import os
import sqlite3
import uuid
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from agentref.errors import InvalidInputError, StoreUnavailableError, StoreVersionError
from agentref.sqlite import connect, persist

__all__ = ["as_path", "open_file"]

_APPLICATION_ID: Final = 0x41524643  # "ARFC"
_FORMAT: Final = 1
_PAGE_SIZE: Final = 2048  # a commit writes two or three pages to the log, whatever their size

_SCHEMA: Final = (
    "CREATE TABLE meta(key TEXT NOT NULL PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    """
CREATE TABLE artifact(
    key        BLOB NOT NULL PRIMARY KEY,
    revision   INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    fence      INTEGER NOT NULL,
    digest     BLOB,              -- NULL: nothing was ever written, or it was deleted
    codec      TEXT,
    size       INTEGER,
    backend_id TEXT,
    writer     TEXT NOT NULL,
    at         REAL NOT NULL,
    until      REAL,              -- when the first of the leases ends
    leases     BLOB
) WITHOUT ROWID""",
    "CREATE INDEX artifact_leased ON artifact(until) WHERE until IS NOT NULL",
    # The first row is a mark: it says how far entries were dropped, and has none itself.
    "CREATE TABLE feed(position INTEGER PRIMARY KEY, at REAL NOT NULL, entry BLOB)",
    "INSERT INTO feed(position, at) VALUES (0, 0.0)",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_FORMAT}",
)


def as_path(path: object) -> Path:
    """The absolute path. Raises `InvalidInputError` for what cannot name a file."""
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        text = None
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidInputError(
            f"path must name the file of the coordinator, such as './coordinator.db', not {path!r:.80}."
        )
    return Path(text).absolute()


def open_file(path: Path, *, create: bool, patience: float) -> str:
    """The id of the table in the file, which is ours; made first if there is none and `create`.

    Any number of processes may do this at once. Raises `StoreVersionError` for a file that is not ours,
    which stays as it is, and `StoreUnavailableError` if there is none.
    """
    if path.is_dir():
        raise StoreUnavailableError(f"{path} is a directory. A coordinator needs a file of its own in it.")
    if not (path.exists() and path.stat().st_size):
        if not create:
            raise StoreUnavailableError(f"There is no coordinator at {path}. create=True would make one.")
        _make_directory(path.parent)
    elif not path.with_name(f"{path.name}-journal").exists():  # or else one is about to be made
        with closing(connect(path, busy_timeout=0, query="mode=ro&immutable=1")) as connection:
            # Without locks the file may be shorter than its header says for a moment, which SQLite would
            # call damage if it were to trust the schema.
            connection.execute("PRAGMA writable_schema = ON")
            _check(connection, path, patience=0)
    with closing(connect(path, busy_timeout=0, query="mode=rwc" if create else "mode=rw")) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        if persist(connection, "SELECT count(*) FROM sqlite_master", patience) == [(0,)]:
            if not create:
                raise StoreUnavailableError(f"{path} is empty. create=True would make a coordinator of it.")
            _build(connection, patience=patience)
        _check(connection, path, patience=patience)
        persist(connection, "PRAGMA journal_mode = WAL", patience)
        found = persist(connection, "SELECT value FROM meta WHERE key = 'table_id'", patience)
    if not found or not isinstance(found[0][0], str):
        raise StoreUnavailableError(f"{path} has lost the coordinator's id: restore it from a backup.")
    return found[0][0]


def _build(connection: sqlite3.Connection, *, patience: float) -> None:
    """Make the tables in one transaction, unless somebody else has made them by now."""
    persist(connection, "BEGIN IMMEDIATE", patience)
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            for statement in _SCHEMA:
                connection.execute(statement)
            table_id = f"sq-{uuid.uuid4().hex[:12]}"
            connection.execute("INSERT INTO meta(key, value) VALUES ('table_id', ?)", (table_id,))
        persist(connection, "COMMIT", patience)
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _check(connection: sqlite3.Connection, path: Path, *, patience: float) -> None:
    """Read the two numbers in the header that say what this is."""
    try:
        application, version = (
            persist(connection, f"PRAGMA {name}", patience)[0][0]
            for name in ("application_id", "user_version")
        )
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        application, version = None, 0
    if application != _APPLICATION_ID:
        raise StoreVersionError(
            f"{path} is not the database of an agentref coordinator; it was left alone. Take another file."
        )
    if version != _FORMAT:
        raise StoreVersionError(
            f"{path} has format {version}, this agentref reads format {_FORMAT}. Install the version that "
            f"wrote it."
        )


def _make_directory(path: Path) -> None:
    """Like `mkdir -p`, and durable."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
