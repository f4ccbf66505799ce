"""What the filesystem store says to its index about blobs, each in the caller's own transaction."""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple

from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage._packs import RECORD_HEAD
from agentref.storage.protocol import FOREVER, BlobInfo

__all__ = [
    "PackRow",
    "Place",
    "Row",
    "add_payloads",
    "delete",
    "delete_pack",
    "drop_bytes",
    "epoch",
    "fill_pack",
    "insert",
    "move",
    "packs",
    "page",
    "places",
    "rows",
    "touch",
]

# All names of a batch travel as one value, 32 bytes each: one statement, prepared once, for any number.
_WANTED: Final = """
WITH RECURSIVE
    at(i) AS (SELECT 1 UNION ALL SELECT i + 32 FROM at WHERE i + 32 < length(:names)),
    wanted(digest) AS (SELECT substr(:names, i, 32) FROM at)
"""

_ROW: Final = """
SELECT digest, pack_id, place, stored_size, touched_at, expires_at FROM blob WHERE digest = ?
"""

_ROWS: Final = (
    _WANTED
    + """
SELECT blob.digest, pack_id, place, stored_size, touched_at, expires_at
FROM wanted CROSS JOIN blob ON blob.digest = wanted.digest
"""
)

_PLACES: Final = (
    _WANTED
    + """
SELECT blob.digest, pack_id, place, stored_size, data
FROM wanted
    CROSS JOIN blob ON blob.digest = wanted.digest
    LEFT JOIN payload ON pack_id IS NULL AND payload.id = place
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
INSERT INTO blob(digest, pack_id, place, stored_size, touched_at, expires_at)
SELECT substr(:names, 32 * key + 1, 32), :pack_id, json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    :now, :expires_at
FROM json_each(:rows)
"""

_INSERT_ONE: Final = """
INSERT INTO blob(digest, pack_id, place, stored_size, touched_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)
"""

_MOVE: Final = """
UPDATE blob
SET pack_id = ?, place = ?, stored_size = ?,
    touched_at = max(touched_at, ?), expires_at = max(expires_at, ?), condemned_at = NULL
WHERE digest = ?
"""

_FILL_PACK: Final = """
INSERT INTO pack(name, size, live) VALUES (?, ?, ?)
ON CONFLICT(name) DO UPDATE SET size = excluded.size, live = live + excluded.live
"""


class Row(NamedTuple):
    """A blob in the index; its bytes are in a pack, or a row of their own if `pack_id` is None."""

    digest: Digest
    pack_id: int | None
    place: int
    stored_size: int
    touched_at: float
    expires_at: float

    @property
    def info(self) -> BlobInfo:
        """The part that is the protocol's."""
        return BlobInfo(self.digest, self.stored_size, self.touched_at, self.expires_at)


class Place(NamedTuple):
    """Where a blob's bytes are; `data` is what the index itself holds of them."""

    digest: Digest
    pack_id: int | None
    offset: int
    size: int
    data: bytes | None


class PackRow(NamedTuple):
    """A pack in the index: how far it reaches, and how many bytes of records are still needed."""

    id: int
    name: str
    size: int
    live: int


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


def places(connection: sqlite3.Connection, digests: Iterable[Digest]) -> list[Place]:
    """Where the bytes of those are that are here."""
    names = b"".join(digests)
    if not names:
        return []
    return list(map(Place._make, connection.execute(_PLACES, {"names": names})))


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
    spans: Mapping[Digest, tuple[int, int]],
    pack_id: int | None,
    *,
    now: float,
    expires_at: float,
) -> None:
    """Add rows of blobs that are not here; a span is the place and the size of a blob's bytes."""
    if len(spans) == 1:
        ((digest, (place, size)),) = spans.items()
        connection.execute(_INSERT_ONE, (digest, pack_id, place, size, now, expires_at))
    elif spans:
        names = sorted(spans)
        connection.execute(
            _INSERT,
            {
                "names": b"".join(names),
                "pack_id": pack_id,
                "rows": json.dumps([spans[name] for name in names]),
                "now": now,
                "expires_at": expires_at,
            },
        )


def move(
    connection: sqlite3.Connection,
    spans: Mapping[Digest, tuple[int, int]],
    pack_id: int | None,
    *,
    now: float = -FOREVER,
    expires_at: float = -FOREVER,
) -> None:
    """Give blobs that are here other bytes, whose old ones were dropped before; lives only lengthen."""
    connection.executemany(
        _MOVE,
        [(pack_id, place, size, now, expires_at, digest) for digest, (place, size) in spans.items()],
    )


def add_payloads(
    connection: sqlite3.Connection, blobs: Mapping[Digest, bytes]
) -> dict[Digest, tuple[int, int]]:
    """Keep the bytes of blobs as rows: the span of each. Nobody else writes now: the ids after the
    first one follow it."""
    if not blobs:
        return {}
    if len(blobs) == 1:
        ((digest, data),) = blobs.items()
        return {digest: (connection.execute(_PAYLOAD, (data,)).lastrowid or 0, len(data))}
    first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM payload").fetchone()[0]
    sizes = list(map(len, blobs.values()))
    spans = list(zip(accumulate(sizes, initial=1), sizes, strict=False))
    connection.execute(
        _ALL_PAYLOADS, {"first": first, "data": b"".join(blobs.values()), "spans": json.dumps(spans)}
    )
    return dict(zip(blobs, zip(range(first, first + len(blobs)), sizes, strict=True), strict=True))


def drop_bytes(connection: sqlite3.Connection, old: Iterable[Row]) -> set[int]:
    """Forget where the bytes of these rows are; returns the packs that now hold less."""
    payloads: list[tuple[int]] = []
    lost: Counter[int] = Counter()
    for row in old:
        if row.pack_id is None:
            payloads.append((row.place,))
        else:
            lost[row.pack_id] += RECORD_HEAD + row.stored_size
    if payloads:
        connection.executemany("DELETE FROM payload WHERE id = ?", payloads)
    connection.executemany(
        "UPDATE pack SET live = live - ? WHERE id = ?", [(size, pack_id) for pack_id, size in lost.items()]
    )
    return set(lost)


def fill_pack(connection: sqlite3.Connection, name: str, end: int, sizes: Collection[int]) -> int:
    """The id of that pack, which now reaches to `end` and has blobs of those sizes more."""
    connection.execute(_FILL_PACK, (name, end, sum(sizes) + RECORD_HEAD * len(sizes)))
    return int(connection.execute("SELECT id FROM pack WHERE name = ?", (name,)).fetchone()[0])


def packs(connection: sqlite3.Connection) -> list[PackRow]:
    """All packs; the newest first."""
    found = connection.execute("SELECT id, name, size, live FROM pack ORDER BY id DESC")
    return list(map(PackRow._make, found))


def delete_pack(connection: sqlite3.Connection, pack_id: int) -> None:
    """Forget a pack in which nothing lives."""
    connection.execute("DELETE FROM pack WHERE id = ?", (pack_id,))


def epoch(connection: sqlite3.Connection) -> int:
    """How many removals took something away."""
    return int(connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])


def delete(connection: sqlite3.Connection, old: Collection[Row]) -> set[int]:
    """Forget these rows and their bytes; returns the packs that now hold less."""
    smaller = drop_bytes(connection, old)
    connection.executemany("DELETE FROM blob WHERE digest = ?", [(row.digest,) for row in old])
    if old:
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
    return smaller
