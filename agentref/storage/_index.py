"""The format of a store's index, and how one comes to be: whole or not at all, and in no foreign place."""

import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Final

from agentref.errors import StoreUnavailableError, StoreVersionError
from agentref.sqlite import connect
from agentref.storage._posix import directory_lock, make_directory, require_locks, sync_directory

__all__ = ["INDEX", "open_index", "read_store_id"]

INDEX: Final = "index.sqlite3"
_UNFINISHED: Final = "index.sqlite3.new"
_APPLICATION_ID: Final = 0x41524546  # "AREF"
_FORMAT: Final = 1

# Small pages: those of a small store are most of what it takes beside its blobs.
_PAGE_SIZE: Final = 2048

_SCHEMA: Final = """
CREATE TABLE meta(key TEXT NOT NULL PRIMARY KEY, value NOT NULL) WITHOUT ROWID;

CREATE TABLE pack(
    id    INTEGER PRIMARY KEY AUTOINCREMENT,  -- no two packs ever have one id
    name  TEXT NOT NULL UNIQUE,
    size  INTEGER NOT NULL,                   -- how far the index knows it
    live  INTEGER NOT NULL,                   -- bytes of entries and blobs in it that are still here
    state INTEGER NOT NULL,                   -- 0 may grow, 1 may not, 2 its file is to be deleted
    pinned INTEGER NOT NULL DEFAULT 0         -- how far the pins that lie in it are in the table of pins
);

CREATE TABLE blob(
    digest       BLOB NOT NULL PRIMARY KEY CHECK (typeof(digest) = 'blob' AND length(digest) = 32),
    pack_id      INTEGER NOT NULL,
    place        INTEGER NOT NULL CHECK (place >= 0),  -- where in the pack the bytes are
    stored_size  INTEGER NOT NULL CHECK (stored_size >= 0),
    touched_at   REAL NOT NULL,
    expires_at   REAL NOT NULL DEFAULT 9e999,
    condemned_at REAL
) WITHOUT ROWID;
CREATE INDEX blob_mortal ON blob(expires_at) WHERE expires_at < 9e999;

CREATE TABLE alias(
    name       TEXT NOT NULL PRIMARY KEY,
    digest     BLOB NOT NULL CHECK (typeof(digest) = 'blob' AND length(digest) = 32),
    codec      TEXT NOT NULL,
    size       INTEGER NOT NULL CHECK (size >= 0),
    version    INTEGER NOT NULL CHECK (version > 0),
    expires_at REAL NOT NULL DEFAULT 9e999
) WITHOUT ROWID;

CREATE TABLE pin(
    owner      TEXT NOT NULL,
    digest     BLOB NOT NULL CHECK (typeof(digest) = 'blob' AND length(digest) = 32),
    expires_at REAL NOT NULL DEFAULT 9e999,
    PRIMARY KEY (owner, digest)
) WITHOUT ROWID;
"""


def open_index(root: Path, *, create: bool, patience: float) -> Path:
    """The path of the index in `root`, checked to be ours; made first if there is none and `create`.

    Any number of processes may do this at once. Raises `StoreVersionError` for a directory or a
    database that is not ours, which stays as it is, and `StoreUnavailableError` if there is no store.
    """
    require_locks()
    if root.exists() and not root.is_dir():
        raise StoreUnavailableError(f"{root} is a file. A blob store needs a directory of its own.")
    index = root / INDEX
    if not index.exists():
        if not create:
            raise StoreUnavailableError(f"There is no blob store at {root}. create=True would make one.")
        make_directory(root)
        _refuse_foreign(root)
        with directory_lock(root, patience=patience):
            if not index.exists():
                _refuse_foreign(root)
                _build(root)
    _check(index)
    return index


def _refuse_foreign(root: Path) -> None:
    """Ours is an empty directory, one that holds a store, or one where the making of it was cut short."""
    names = {entry for entry in (path.name for path in root.iterdir()) if not entry.startswith(_UNFINISHED)}
    names.discard("lost+found")  # the root of a volume may well be a store
    if names and INDEX not in names:
        raise StoreVersionError(
            f"{root} holds no agentref blob store and is not empty ({min(names)!r} is in it). "
            f"Choose a directory of its own; if a store was here, its {INDEX} is lost."
        )


def _build(root: Path) -> None:
    """Make the index under another name, and let it appear when it is whole and durable."""
    unfinished = root / _UNFINISHED
    for leftover in root.glob(f"{_UNFINISHED}*"):
        leftover.unlink()
    with closing(connect(unfinished, busy_timeout=0, query="mode=rwc")) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum = FULL")
        connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")
        connection.executemany(
            "INSERT INTO meta(key, value) VALUES (?, ?)",
            [("store_id", f"fs-{uuid.uuid4().hex[:12]}"), ("created_at", time.time())],
        )
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_FORMAT}")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    unfinished.replace(root / INDEX)
    sync_directory(root)


def _check(index: Path) -> None:
    """Read the two numbers in the header in a way that cannot change a file that is not ours."""
    with closing(connect(index, busy_timeout=0, query="mode=ro&immutable=1")) as connection:
        # Read without locks: while another process moves its log in, the file is shorter than its header
        # says, and SQLite would call that damage if it were to trust the schema.
        connection.execute("PRAGMA writable_schema = ON")
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_NOTADB:
                raise
            application, version = None, 0
    if application != _APPLICATION_ID:
        raise StoreVersionError(f"{index} is not the index of an agentref blob store; it was left alone.")
    if version != _FORMAT:
        raise StoreVersionError(
            f"{index} has format {version}, this agentref reads format {_FORMAT}. "
            f"Install the version that wrote it."
        )


def read_store_id(connection: sqlite3.Connection, root: Path) -> str:
    """The name that the store was given when it was made."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()
    if row is None or not isinstance(row[0], str):
        raise StoreUnavailableError(
            f"The index of {root} has lost the store's id: restore it from a backup."
        )
    return row[0]
