"""What the filesystem store says to its index about blobs, each in the caller's own transaction."""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage._batches import ENTRY_SIZE
from agentref.storage._packs import FULL
from agentref.storage.protocol import FOREVER, BlobInfo

__all__ = [
    "PackRow",
    "Row",
    "add_pack",
    "condemn",
    "delete",
    "fill_pack",
    "forget_packs",
    "give_up",
    "given_up",
    "insert",
    "loosen",
    "move",
    "open_packs",
    "packs",
    "page",
    "rows",
    "set_pinned",
    "touch",
]

# All names of a batch travel as one value, 32 bytes each: one statement, prepared once, for any number.
# Python's sqlite3 lets go of the interpreter lock for every row that it binds or returns, and where other
# threads compute it waits up to 5 ms to get it back.
_WANTED: Final = """
WITH RECURSIVE
    at(i) AS (SELECT 1 UNION ALL SELECT i + 32 FROM at WHERE i + 32 < length(:names)),
    wanted(digest) AS (SELECT substr(:names, i, 32) FROM at)
"""

# Whatever somebody may have written into the index: these are numbers.
_COLUMNS: Final = """
    blob.digest, CAST(pack_id AS INTEGER), CAST(place AS INTEGER), CAST(stored_size AS INTEGER),
    CAST(touched_at AS REAL), CAST(expires_at AS REAL), CAST(condemned_at AS REAL)
"""

_ROW: Final = "SELECT" + _COLUMNS + "FROM blob WHERE digest = ?"

_ROWS: Final = _WANTED + "SELECT" + _COLUMNS + "FROM wanted CROSS JOIN blob ON blob.digest = wanted.digest"

_TOUCH: Final = (
    _WANTED
    + """
UPDATE blob
SET touched_at = max(touched_at, :now), expires_at = max(expires_at, :expires_at), condemned_at = NULL
WHERE digest IN wanted
"""
)

_CONDEMN: Final = (
    _WANTED
    + """
UPDATE blob SET condemned_at = :now
WHERE digest IN wanted AND expires_at <= :expires_by AND condemned_at IS NULL
"""
)

_INFO: Final = """
SELECT digest, CAST(stored_size AS INTEGER), CAST(touched_at AS REAL), CAST(expires_at AS REAL),
    CAST(condemned_at AS REAL), CAST(pack_id AS INTEGER)
FROM blob
"""

_PAGE: Final = _INFO + "WHERE digest > ? ORDER BY digest LIMIT ?"

# Of a partial index SQLite must be told what is in it.
_MORTAL_PAGE: Final = (
    _INFO + "WHERE digest > ? AND expires_at <= ? AND expires_at < 9e999 ORDER BY digest LIMIT ?"
)

_INSERT: Final = """
INSERT INTO blob(digest, pack_id, place, stored_size, touched_at, expires_at)
SELECT substr(:names, 32 * key + 1, 32), json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    json_extract(value, '$[2]'), json_extract(value, '$[3]'), coalesce(json_extract(value, '$[4]'), 9e999)
FROM json_each(:rows)
"""

_MOVE: Final = """
UPDATE blob
SET pack_id = ?, place = ?, stored_size = ?,
    touched_at = max(touched_at, ?), expires_at = max(expires_at, ?), condemned_at = NULL
WHERE digest = ?
"""

_PACKS: Final = """
SELECT id, name, CAST(size AS INTEGER), CAST(live AS INTEGER), state, max(pinned, CAST(size AS INTEGER))
FROM pack
"""

_FILL: Final = """
UPDATE pack SET size = :end, live = live + :more, state = max(state, :end >= :full) WHERE id = :id
"""

_OPEN, _FULL, _GIVEN_UP = range(3)  # _FILL makes an open one full


class Row(NamedTuple):
    """A blob and where its bytes are."""

    digest: Digest
    pack_id: int
    place: int
    stored_size: int
    touched_at: float
    expires_at: float
    condemned_at: float | None = None

    @property
    def info(self) -> BlobInfo:
        """The part that is the protocol's."""
        return BlobInfo(self.digest, *self[3:], place=self.pack_id)


class PackRow(NamedTuple):
    """A pack in the index: how far the index knows it, how many bytes there are still needed, and up to
    where the index has got the pins that were set with its blobs."""

    id: int
    name: str
    size: int
    live: int
    state: int
    pinned: int

    @property
    def is_open(self) -> bool:
        """Whether something may yet be appended to it."""
        return self.state == _OPEN


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


def page(
    connection: sqlite3.Connection, after: Digest | None, limit: int, expires_by: float
) -> list[BlobInfo]:
    """The next `limit` rows in digest order, of those whose life ends by then."""
    if expires_by == FOREVER:
        found = connection.execute(_PAGE, (after or b"", limit))
    else:
        found = connection.execute(_MORTAL_PAGE, (after or b"", expires_by, limit))
    return list(map(BlobInfo._make, found))


def condemn(
    connection: sqlite3.Connection, digests: Iterable[Digest], *, now: float, expires_by: float
) -> int:
    """Note that nothing needs these, unless they live longer; says of how many that was not known."""
    names = {"names": b"".join(digests), "now": now, "expires_by": expires_by}
    connection.execute(_CONDEMN, names)
    # `rowcount` is -1 for a statement that begins with WITH.
    return int(connection.execute("SELECT changes()").fetchone()[0])


def touch(
    connection: sqlite3.Connection, digests: Iterable[Digest], *, now: float, expires_at: float
) -> None:
    """Lengthen lives, and take back what a prune may have planned."""
    names = b"".join(digests)
    if names:
        connection.execute(_TOUCH, {"names": names, "now": now, "expires_at": expires_at})


def insert(connection: sqlite3.Connection, new: Collection[Row]) -> None:
    """Add rows of blobs that are not here."""
    if new:
        ordered = sorted(new)
        connection.execute(
            _INSERT,
            {
                "names": b"".join([row.digest for row in ordered]),
                "rows": json.dumps([(*row[1:5], None if row[5] == FOREVER else row[5]) for row in ordered]),
            },
        )


def move(
    connection: sqlite3.Connection,
    moved: Iterable[Row],
    *,
    now: float = -FOREVER,
    expires_at: float = -FOREVER,
) -> None:
    """Say where the bytes of blobs that are here are now, after `loosen`; lives only lengthen."""
    connection.executemany(
        _MOVE,
        [(row.pack_id, row.place, row.stored_size, now, expires_at, row.digest) for row in moved],
    )


def loosen(connection: sqlite3.Connection, old: Iterable[Row]) -> set[int]:
    """The bytes of these rows are no longer needed; returns the packs of which less is needed now."""
    lost: Counter[int] = Counter()
    for row in old:
        lost[row.pack_id] += ENTRY_SIZE + row.stored_size
    connection.executemany(
        "UPDATE pack SET live = live - ? WHERE id = ?", [(size, pack_id) for pack_id, size in lost.items()]
    )
    return set(lost)


def delete(connection: sqlite3.Connection, old: Collection[Row]) -> set[int]:
    """Forget these rows and their bytes; returns the packs of which less is needed now."""
    smaller = loosen(connection, old)
    connection.executemany("DELETE FROM blob WHERE digest = ?", [(row.digest,) for row in old])
    return smaller


def packs(connection: sqlite3.Connection) -> list[PackRow]:
    """All packs."""
    return list(map(PackRow._make, connection.execute(_PACKS)))


def open_packs(connection: sqlite3.Connection) -> list[PackRow]:
    """The packs to which something may yet be appended; the newest first."""
    found = connection.execute(_PACKS + " WHERE state = ? ORDER BY id DESC", (_OPEN,))
    return list(map(PackRow._make, found))


def given_up(connection: sqlite3.Connection) -> list[PackRow]:
    """The packs whose files are to be deleted, or were."""
    return list(map(PackRow._make, connection.execute(_PACKS + " WHERE state = ?", (_GIVEN_UP,))))


def add_pack(connection: sqlite3.Connection, name: str, *, shares_place: int) -> int:
    """The id of a new pack, in which nothing is yet. No two packs ever have one id, and no two open ones
    have ids that differ by a multiple of `shares_place`."""
    taken = {pack.id % shares_place for pack in open_packs(connection)}
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'pack'").fetchone()
    pack_id = (last[0] if last else 0) + 1
    while pack_id % shares_place in taken and len(taken) < shares_place:
        pack_id += 1
    connection.execute(
        "INSERT INTO pack(id, name, size, live, state) VALUES (?, ?, 0, 0, ?)", (pack_id, name, _OPEN)
    )
    return pack_id


def fill_pack(connection: sqlite3.Connection, pack_id: int, end: int, new: Collection[Row]) -> None:
    """The index knows a pack up to `end` now, and these blobs more live there."""
    more = sum([ENTRY_SIZE + row.stored_size for row in new])
    connection.execute(_FILL, {"end": end, "more": more, "full": FULL, "id": pack_id})


def set_pinned(connection: sqlite3.Connection, pack_id: int, end: int) -> None:
    """The index has got the pins of a pack up to `end`."""
    connection.execute("UPDATE pack SET pinned = ? WHERE id = ?", (end, pack_id))


def give_up(connection: sqlite3.Connection, pack_id: int) -> None:
    """Nothing in a pack is needed any more: its file is to be deleted."""
    connection.execute("UPDATE pack SET state = ?, live = 0 WHERE id = ?", (_GIVEN_UP, pack_id))


def forget_packs(connection: sqlite3.Connection, gone: Collection[PackRow]) -> None:
    """The files of packs that were given up are deleted."""
    connection.executemany(
        "DELETE FROM pack WHERE id = ? AND state = ?", [(pack.id, _GIVEN_UP) for pack in gone]
    )
