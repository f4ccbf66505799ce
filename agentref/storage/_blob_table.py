"""What the filesystem store says to its index about blobs, each in the caller's own transaction."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage.protocol import BlobInfo

__all__ = ["Row", "delete", "drop_payloads", "epoch", "insert", "page", "payloads", "rows", "touch"]

# All names of a batch travel as one value, 32 bytes each: one statement, prepared once, for any number.
_WANTED: Final = """
WITH RECURSIVE
    at(i) AS (SELECT 1 UNION ALL SELECT i + 32 FROM at WHERE i + 32 < length(:names)),
    wanted(digest) AS (SELECT substr(:names, i, 32) FROM at)
"""

_ROW: Final = "SELECT digest, payload_id, stored_size, touched_at, expires_at FROM blob WHERE digest = ?"

_ROWS: Final = (
    _WANTED
    + """
SELECT blob.digest, payload_id, stored_size, touched_at, expires_at
FROM wanted CROSS JOIN blob ON blob.digest = wanted.digest
"""
)

_PAYLOADS: Final = (
    _WANTED
    + """
SELECT blob.digest, payload_id, data
FROM wanted
    CROSS JOIN blob ON blob.digest = wanted.digest
    LEFT JOIN payload ON payload.id = payload_id
"""
)

_TOUCH: Final = (
    _WANTED
    + """
UPDATE blob
SET touched_at = max(touched_at, :now), expires_at = max(expires_at, :expires_at), condemned_at = NULL
WHERE digest IN wanted
"""
)

_PAGE: Final = """
SELECT digest, stored_size, touched_at, expires_at FROM blob WHERE digest > ? ORDER BY digest LIMIT ?
"""

_PAYLOAD: Final = "INSERT INTO payload(data) VALUES (?)"

_INSERT: Final = """
INSERT INTO blob(digest, payload_id, stored_size, touched_at, expires_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT(digest) DO UPDATE SET
    payload_id = excluded.payload_id,
    stored_size = excluded.stored_size,
    touched_at = max(touched_at, excluded.touched_at),
    expires_at = max(expires_at, excluded.expires_at),
    condemned_at = NULL
"""


class Row(NamedTuple):
    """A blob in the index; `payload_id` is None if its bytes are a file."""

    digest: Digest
    payload_id: int | None
    stored_size: int
    touched_at: float
    expires_at: float

    @property
    def info(self) -> BlobInfo:
        """The part that is the protocol's."""
        return BlobInfo(self.digest, self.stored_size, self.touched_at, self.expires_at)


def rows(connection: sqlite3.Connection, digests: Iterable[Digest]) -> list[Row]:
    """The rows of those that are here."""
    names = b"".join(digests)
    if not names:
        return []
    if len(names) == DIGEST_SIZE:
        found = connection.execute(_ROW, (names,))
    else:
        found = connection.execute(_ROWS, {"names": names})
    return list(map(Row._make, found))


def payloads(
    connection: sqlite3.Connection, digests: Iterable[Digest]
) -> list[tuple[Digest, bytes | None]]:
    """The bytes of those that are here, None for those that are files."""
    names = b"".join(digests)
    if not names:
        return []
    found = connection.execute(_PAYLOADS, {"names": names})
    return [(digest, None if payload_id is None else data) for digest, payload_id, data in found]


def page(connection: sqlite3.Connection, after: Digest | None, limit: int) -> list[BlobInfo]:
    """The next `limit` rows in digest order."""
    return list(map(BlobInfo._make, connection.execute(_PAGE, (after or b"", limit))))


def touch(
    connection: sqlite3.Connection, digests: Iterable[Digest], *, now: float, expires_at: float
) -> None:
    """Lengthen lives, and take back what a prune may have planned."""
    names = b"".join(digests)
    if names:
        connection.execute(_TOUCH, {"names": names, "now": now, "expires_at": expires_at})


def insert(
    connection: sqlite3.Connection,
    blobs: Mapping[Digest, bytes],
    *,
    as_files: Collection[Digest],
    now: float,
    lives: Mapping[Digest, float],
) -> None:
    """Add rows, or give those that are here new bytes; bytes they had must have been dropped before."""
    inline = [digest for digest in blobs if digest not in as_files]
    ids: dict[Digest, int] = {}
    if inline:
        # Nobody else writes now: the ids after the first one follow it.
        first = connection.execute(_PAYLOAD, (blobs[inline[0]],)).lastrowid or 0
        connection.executemany(_PAYLOAD, ((blobs[digest],) for digest in inline[1:]))
        ids = dict(zip(inline, range(first, first + len(inline)), strict=True))
    connection.executemany(
        _INSERT,
        ((digest, ids.get(digest), len(blobs[digest]), now, lives[digest]) for digest in sorted(blobs)),
    )


def drop_payloads(connection: sqlite3.Connection, old: Iterable[Row]) -> None:
    """Forget the bytes of these rows."""
    ids = [(row.payload_id,) for row in old if row.payload_id is not None]
    connection.executemany("DELETE FROM payload WHERE id = ?", ids)


def epoch(connection: sqlite3.Connection) -> int:
    """How many removals took something away."""
    return int(connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])


def delete(connection: sqlite3.Connection, old: Collection[Row]) -> None:
    """Forget these rows and their bytes."""
    drop_payloads(connection, old)
    connection.executemany("DELETE FROM blob WHERE digest = ?", [(row.digest,) for row in old])
    if old:
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
