# ruff: noqa: S608  (every part of a statement is a constant of this file; values travel beside it)
"""What is said to the table of blobs: one statement a verb, whatever the size of the batch.

Whoever locks several rows locks them in the order of their digests, so that no two of these wait for each
other. A row that is locked first and changed then is changed as it is by then, not as the statement saw
it. Digests and bytes travel in binary, so that neither side takes a copy to unescape.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from agentref.refs import Digest

__all__ = [
    "clock",
    "condemn",
    "epoch",
    "fetch",
    "page",
    "peek",
    "put",
    "remove",
    "stat",
    "store_id",
    "survey",
    "touch",
    "transaction_id",
]

_Connection = psycopg.Connection[Any]

# The server works on one statement while the next is packed. 8 MB in blobs of 4 to 64 KB take 0.7 of the
# time of a single statement with 512 KiB at once, and with 256 KiB a sixth less than that.
_STATEMENT_BYTES: Final = 256 * 1024

_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"

# The last is the number of the page: rows in the order of digests lie on as many pages as there are rows.
_INFO: Final = (
    "digest, stored_size, touched_at, expires_at, condemned_at, (ctid::text::point)[0]::bigint AS place"
)

# PostgreSQL keeps larger bytes in slices of 1,996, four of which fill a page (TOAST_MAX_CHUNK_SIZE, in its
# heaptoast.h). A short last slice takes the fourth one's place, and with it up to a quarter of the page; so
# it stays in the row. 500 blobs of 3.9 KB take 2.73 MB without that, 2.47 with up to 256 bytes, 2.36 with
# up to 512; but a row is written anew whenever its life changes.
_SLICE: Final = 1996
_MAX_TAIL: Final = 256

# In the list of a SELECT, unnest hands on one row after the other; in FROM it writes all of them to a
# temporary file first, if they are larger than work_mem.
_PUT: Final = f"""
INSERT INTO agentref_blob AS b (digest, data, tail, stored_size, head, touched_at, expires_at)
SELECT digest, data, tail, octet_length(data) + coalesce(octet_length(tail), 0),
    CASE octet_length(data) WHEN 0 THEN -1 ELSE get_byte(data, 0) END, {_NOW}, %(expires_at)b::float8
FROM (
    SELECT unnest(%(digests)b::bytea[]) AS digest, unnest(%(data)b::bytea[]) AS data,
        unnest(%(tails)b::bytea[]) AS tail
) AS new
ON CONFLICT (digest) DO UPDATE SET
    touched_at = GREATEST(b.touched_at, EXCLUDED.touched_at), condemned_at = NULL,
"""

_KEEP: Final = _PUT + "    expires_at = GREATEST(b.expires_at, EXCLUDED.expires_at)"

_OVERWRITE: Final = (
    _PUT + "    data = EXCLUDED.data, tail = EXCLUDED.tail, stored_size = EXCLUDED.stored_size, "
    "head = EXCLUDED.head"
)

# Those to be changed are found without a lock, and then locked by name only: a condition on the life would
# be looked at again after waiting for another who lengthens it, and the row would count as absent.
_TOUCH: Final = f"""
WITH stale AS MATERIALIZED (
    SELECT digest FROM agentref_blob
    WHERE digest = ANY(%(digests)b::bytea[])
        AND (expires_at < %(expires_at)b::float8 OR condemned_at IS NOT NULL)
), locked AS MATERIALIZED (
    SELECT b.digest FROM agentref_blob AS b JOIN stale USING (digest)
    ORDER BY b.digest FOR NO KEY UPDATE OF b
), touched AS (
    UPDATE agentref_blob AS b SET
        touched_at = GREATEST(b.touched_at, {_NOW}),
        expires_at = GREATEST(b.expires_at, %(expires_at)b::float8),
        condemned_at = NULL
    FROM locked WHERE b.digest = locked.digest
    RETURNING b.digest
)
SELECT digest FROM touched
UNION ALL
SELECT digest FROM agentref_blob
WHERE digest = ANY(%(digests)b::bytea[])
    AND expires_at >= %(expires_at)b::float8 AND condemned_at IS NULL
"""

_PAGE: Final = f"""
SELECT {_INFO} FROM agentref_blob WHERE digest > %b::bytea ORDER BY digest LIMIT %b::bigint
"""

# No index knows lives: it would have to be written whenever one changes. The few that are mortal are found
# by looking at so many rows at a time that the way by the primary key is the cheapest in any large table.
_LOOKED_AT: Final = 4096
_SHOWN_AT_ONCE: Final = 2000
_surveys: Final = count()

_MORTAL_PAGE: Final = f"""
WITH seen AS MATERIALIZED ({_PAGE}), last AS (SELECT digest FROM seen ORDER BY digest DESC LIMIT 1)
SELECT last.digest, mortal.*
FROM (SELECT) AS always LEFT JOIN last ON true LEFT JOIN (
    SELECT * FROM seen WHERE expires_at <= %b::float8 AND expires_at < 'Infinity'
) AS mortal ON true
ORDER BY mortal.digest
"""

# Rows in the order of digests lie everywhere: a million take several times as long as in order of pages.
# But a row that is changed moves to another page, so all have to be seen at one moment: by a cursor.
_SURVEY: Final = f"""
SELECT {_INFO} FROM agentref_blob
WHERE (expires_at <= %b::float8 AND expires_at < 'Infinity') OR (head >= 0 AND head & %b::int4 <> 0)
"""

_CONDEMN: Final = f"""
WITH locked AS MATERIALIZED (
    SELECT digest FROM agentref_blob
    WHERE digest = ANY(%b::bytea[]) AND expires_at <= %b::float8 AND condemned_at IS NULL
    ORDER BY digest FOR NO KEY UPDATE
)
UPDATE agentref_blob AS b SET condemned_at = {_NOW} FROM locked WHERE b.digest = locked.digest
"""

# The epoch moves in the transaction that removes: whoever does not see it moved sees the blobs.
_REMOVE: Final = """
WITH locked AS MATERIALIZED (
    SELECT digest FROM agentref_blob
    WHERE digest = ANY(%(digests)b::bytea[]) AND expires_at <= %(expires_by)b::float8
        AND (%(condemned_by)b::float8 IS NULL OR condemned_at <= %(condemned_by)b::float8)
    ORDER BY digest FOR UPDATE
), gone AS (
    DELETE FROM agentref_blob AS b USING locked WHERE b.digest = locked.digest RETURNING 1
), counted AS MATERIALIZED (
    SELECT count(*) AS number FROM gone
), moved AS (
    UPDATE agentref_meta SET epoch = epoch + 1 FROM counted WHERE counted.number > 0
)
SELECT number FROM counted
"""


def execute(
    connection: _Connection, statement: LiteralString, parameters: Any = None
) -> psycopg.Cursor[tuple[Any, ...]]:
    """Run one statement, with nothing left in the session, whatever the caller's connection is set to."""
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    return cursor.execute(statement, parameters, prepare=False, binary=True)


def store_id(connection: _Connection) -> str:
    """The store's own name."""
    return str(_one(connection, "SELECT store_id FROM agentref_meta"))


def epoch(connection: _Connection) -> int:
    """How many removals took something away."""
    return int(_one(connection, "SELECT epoch FROM agentref_meta"))


def clock(connection: _Connection) -> float:
    """Seconds since the epoch, by the server."""
    return float(_one(connection, "SELECT " + _NOW))


def transaction_id(connection: _Connection) -> str | None:
    """What names the transaction that is open, if it has written something."""
    found = _one(connection, "SELECT pg_current_xact_id_if_assigned()::text")
    return None if found is None else str(found)


def fetch(connection: _Connection, digests: Sequence[Digest]) -> dict[Digest, bytes]:
    """The bytes of those that are here."""
    found = execute(
        connection,
        "SELECT digest, data, tail FROM agentref_blob WHERE digest = ANY(%b::bytea[])",
        [list(digests)],
    )
    return {digest: data if tail is None else data + tail for digest, data, tail in found}


def stat(connection: _Connection, digests: Sequence[Digest]) -> list[tuple[Any, ...]]:
    """(digest, stored_size, touched_at, expires_at, condemned_at) of those that are here."""
    return execute(
        connection, f"SELECT {_INFO} FROM agentref_blob WHERE digest = ANY(%b::bytea[])", [list(digests)]
    ).fetchall()


def peek(connection: _Connection, digests: Sequence[Digest]) -> dict[Digest, int]:
    """The first byte of those that are here."""
    found = execute(
        connection,
        "SELECT digest, head FROM agentref_blob WHERE digest = ANY(%b::bytea[])",
        [list(digests)],
    )
    return dict(found.fetchall())


def page(connection: _Connection, after: bytes, limit: int, expires_by: float) -> list[tuple[Any, ...]]:
    """Rows as of `stat`, in the order of digests, of those whose life ends by then."""
    if expires_by == float("inf"):
        return execute(connection, _PAGE, [after, limit]).fetchall()
    found: list[tuple[Any, ...]] = []
    last: bytes | None = after
    while last is not None and len(found) < limit:
        seen = execute(connection, _MORTAL_PAGE, [last, max(limit, _LOOKED_AT), expires_by]).fetchall()
        last = seen[0][0]
        found += [row[1:] for row in seen if row[1] is not None]
    return found[:limit]


def survey(connection: _Connection, expires_by: float, *, links: int) -> Iterator[list[tuple[Any, ...]]]:
    """Rows as of `stat`, in a transaction: of those whose life ends by then, or with one of the bits of
    `links` in their first byte."""
    name = f"agentref_survey_{next(_surveys)}"  # in one transaction, there may be one within another
    with psycopg.ServerCursor(connection, name, row_factory=tuple_row) as cursor:
        cursor.execute(_SURVEY, [expires_by, links], binary=True)
        while rows := cursor.fetchmany(_SHOWN_AT_ONCE):
            yield rows


def put(
    connection: _Connection, blobs: Mapping[Digest, bytes], *, expires_at: float, overwrite: bool
) -> None:
    """Keep all of them or none: the bytes that are here stay, unless they are to be overwritten."""
    statement = _OVERWRITE if overwrite else _KEEP
    parts = list(_parts(blobs))
    if len(parts) == 1:
        execute(connection, statement, _columns(parts[0], expires_at))
    elif parts:
        with connection.transaction(), pipelined(connection):
            for part in parts:
                execute(connection, statement, _columns(part, expires_at))


def pipelined(connection: _Connection) -> AbstractContextManager[object]:
    """Statements that travel together, and outside of a transaction are one."""
    return connection.pipeline() if psycopg.Pipeline.is_supported() else nullcontext()


def touch(connection: _Connection, digests: Sequence[Digest], expires_at: float) -> list[Digest]:
    """Those that are here. Writes, and locks, only what has to change."""
    found = execute(connection, _TOUCH, {"digests": list(digests), "expires_at": expires_at})
    return [digest for (digest,) in found.fetchall()]


def condemn(connection: _Connection, digests: Sequence[Digest], expires_by: float) -> int:
    """How many of them are condemned now that were not."""
    return execute(connection, _CONDEMN, [list(digests), expires_by]).rowcount


def remove(
    connection: _Connection, digests: Sequence[Digest], expires_by: float, condemned_by: float | None
) -> int:
    """How many of them went."""
    return int(
        _one(
            connection,
            _REMOVE,
            {"digests": list(digests), "expires_by": expires_by, "condemned_by": condemned_by},
        )
    )


def _one(connection: _Connection, statement: LiteralString, parameters: Any = None) -> Any:
    row = execute(connection, statement, parameters).fetchone()
    # The row of agentref_meta is made by a migration; a store whose row somebody deleted is none.
    if row is None:
        raise psycopg.errors.UndefinedTable("agentref_meta is empty")
    return row[0]


def _parts(blobs: Mapping[Digest, bytes]) -> Iterator[list[tuple[Digest, bytes]]]:
    """The blobs in the order of their digests, as much at once as a statement should hold."""
    part: list[tuple[Digest, bytes]] = []
    size = 0
    for item in sorted(blobs.items()):
        if part and size + len(item[1]) > _STATEMENT_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item[1])
    if part:
        yield part


def _columns(part: Sequence[tuple[Digest, bytes]], expires_at: float) -> dict[str, Any]:
    halves = [_halves(data) for _, data in part]
    tails = [tail for _, tail in halves]
    return {
        "expires_at": expires_at,
        "digests": [digest for digest, _ in part],
        "data": [data for data, _ in halves],
        "tails": tails if any(tails) else None,  # as many NULLs
    }


def _halves(data: bytes) -> tuple[bytes, bytes | None]:
    """What goes out in whole slices, and the little that is left then; None if it is not so little."""
    left = len(data) % _SLICE
    if len(data) > _SLICE and 0 < left <= _MAX_TAIL:
        return data[:-left], data[-left:]
    return data, None
