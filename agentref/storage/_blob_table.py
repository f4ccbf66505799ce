"""What the filesystem store says to its index about blobs, each in the caller's own transaction."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage.protocol import FOREVER, BlobInfo

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

# All bytes of a batch travel as one value too. Python's sqlite3 lets go of the interpreter lock for every
# row that it binds or returns, and where other threads compute it waits up to 5 ms to get it back.
_ALL_PAYLOADS: Final = """
INSERT INTO payload(id, data)
SELECT :first + key, coalesce(substr(:data, json_extract(value, '$[0]'), json_extract(value, '$[1]')), x'')
FROM json_each(:spans)
"""

_INSERT: Final = """
INSERT INTO blob(digest, payload_id, stored_size, touched_at, expires_at)
SELECT substr(:names, 32 * key + 1, 32), json_extract(value, '$[0]'), json_extract(value, '$[1]'), :now,
    coalesce(json_extract(value, '$[2]'), 9e999)
FROM json_each(:rows) WHERE true
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
    ids = _insert_payloads(
        connection, {digest: blobs[digest] for digest in blobs if digest not in as_files}
    )
    names = sorted(blobs)
    found = [
        [ids.get(name), len(blobs[name]), None if lives[name] == FOREVER else lives[name]] for name in names
    ]
    connection.execute(_INSERT, {"names": b"".join(names), "rows": json.dumps(found), "now": now})


def _insert_payloads(connection: sqlite3.Connection, blobs: Mapping[Digest, bytes]) -> dict[Digest, int]:
    """The id of each. Nobody else writes now: the ids after the first one follow it."""
    if not blobs:
        return {}
    if len(blobs) == 1:
        ((digest, data),) = blobs.items()
        return {digest: connection.execute(_PAYLOAD, (data,)).lastrowid or 0}
    first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM payload").fetchone()[0]
    sizes = list(map(len, blobs.values()))
    spans = list(zip(accumulate(sizes, initial=1), sizes, strict=False))
    connection.execute(
        _ALL_PAYLOADS, {"first": first, "data": b"".join(blobs.values()), "spans": json.dumps(spans)}
    )
    return dict(zip(blobs, range(first, first + len(blobs)), strict=True))


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
