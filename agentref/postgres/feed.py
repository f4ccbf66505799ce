# ruff: noqa: S608  (every part of a statement is a constant of this file; values travel beside it)
"""What is said to the feed of commits.

Transactions become visible in another order than their numbers are drawn, so where a reader stands is not
one number. It is (next, open): the transactions below `next` are seen, but for those in `open`. `next` is
one more than the highest transaction whose change was seen, and not what the server would give out next:
after a crash it gives out again what nobody had written with.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import psycopg

from agentref.postgres.blobs import execute

__all__ = ["Change", "Head", "Snapshot", "Stand", "bring_up", "drop", "first", "further", "head"]

_Connection = psycopg.Connection[Any]

_TIMELINE: Final = "('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint"

# On a replica the snapshot does not tell who is open.
_HEAD: Final = f"""
SELECT pg_current_snapshot()::text AS now, pg_current_xact_id_if_assigned() IS NOT NULL AS writes,
    table_id, life, floor_next, floor_open,
    CASE WHEN NOT pg_is_in_recovery() THEN {_TIMELINE} = timeline END AS same
FROM agentref_feed
"""

_TAIL: Final = f"""
WITH head AS MATERIALIZED ({_HEAD})
SELECT head.*, coalesce((SELECT max(xid) FROM agentref_change), 0) FROM head
"""

_FIRST: Final = f"""
WITH head AS MATERIALIZED ({_HEAD})
SELECT head.*, c.id, c.xid, c.entry FROM head LEFT JOIN LATERAL (
    SELECT * FROM (
        SELECT id, xid, entry FROM agentref_change WHERE xid = ANY(%(open)b::bigint[])
        UNION ALL
        SELECT id, xid, entry FROM agentref_change WHERE xid >= %(next)b::bigint
    ) AS unseen
    ORDER BY id LIMIT %(limit)b::bigint
) AS c ON true
ORDER BY c.id
"""

_FURTHER: Final = f"""
WITH head AS MATERIALIZED ({_HEAD})
SELECT head.*, c.id, c.xid, c.entry FROM head LEFT JOIN LATERAL (
    SELECT id, xid, entry FROM agentref_change
    WHERE id > %(after)b::bigint
        AND xid < %(end)b::bigint AND xid <> ALL(%(running)b::bigint[])
        AND (xid >= %(next)b::bigint OR xid = ANY(%(open)b::bigint[]))
    ORDER BY id LIMIT %(limit)b::bigint
) AS c ON true
ORDER BY c.id
"""

_OTHER_HISTORY: Final = (
    f"system <> (SELECT system_identifier FROM pg_control_system()) OR timeline <> {_TIMELINE}"
)

# A copy of the database is another table; the same one after a failover has another history.
_NEW_HISTORY: Final = f"""
UPDATE agentref_feed AS f SET
    table_id = CASE WHEN f.system = c.system_identifier THEN f.table_id
        ELSE 'pg-' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12) END,
    life = substr(gen_random_uuid()::text, 1, 8),
    system = c.system_identifier, timeline = {_TIMELINE}, floor_next = 1, floor_open = '{{}}'
FROM pg_control_system() AS c WHERE {_OTHER_HISTORY}
"""

_OLDEST: Final = """
SELECT xid, max(at), pg_current_snapshot()::text FROM (
    SELECT xid, at FROM agentref_change WHERE xid > %b::bigint ORDER BY xid
    FETCH FIRST (%b::bigint) ROWS WITH TIES
) AS oldest
GROUP BY xid ORDER BY xid
"""


class Snapshot(NamedTuple):
    """Which transactions were visible: those below `end` that were not running."""

    end: int
    running: tuple[int, ...]

    @classmethod
    def read(cls, text: str) -> "Snapshot":
        """As PostgreSQL writes it: xmin:xmax:xip,xip..."""
        _, end, running = text.split(":")
        return cls(int(end), tuple(map(int, running.split(","))) if running else ())


class Stand(NamedTuple):
    """What was seen: the transactions below `next` that are not in `open`."""

    next: int
    open: Sequence[int]


class Head(NamedTuple):
    """The feed as of now: the snapshot, and what was dropped. `writes`: the reader's transaction has
    written, and its own changes are in no snapshot. `same`: it is the history that was noted; None on a
    replica."""

    now: Snapshot
    writes: bool
    table_id: str
    life: str
    floor: Stand
    same: bool | None


class Change(NamedTuple):
    """An entry, its number, and the transaction that wrote it."""

    id: int
    xid: int
    entry: bytes


def bring_up(connection: _Connection) -> str:
    """The name of the table: a new one, if it was copied to another server. Begins the feed anew if the
    server's history is another one than it was."""
    with connection.transaction():
        changed = execute(
            connection, f"SELECT FROM agentref_feed WHERE NOT pg_is_in_recovery() AND ({_OTHER_HISTORY})"
        ).fetchone()
        if changed is not None and execute(connection, _NEW_HISTORY).rowcount:
            execute(connection, "DELETE FROM agentref_change")
        found = execute(connection, "SELECT table_id FROM agentref_feed").fetchone()
    if found is None:
        raise _no_feed()
    return str(found[0])


def head(connection: _Connection) -> tuple[Head, int]:
    """The feed as of now, and the highest transaction that changed something."""
    found = execute(connection, _TAIL).fetchone()
    if found is None:
        raise _no_feed()
    return _head(found), found[7]


def first(connection: _Connection, stand: Stand, limit: int) -> tuple[Head, list[Change]]:
    """What is not seen from there, in the order of numbers."""
    found = execute(connection, _FIRST, {**_seen(stand), "limit": limit})
    return _page(found.fetchall())


def further(
    connection: _Connection, stand: Stand, window: Snapshot, after: int, limit: int
) -> tuple[Head, list[Change]]:
    """What comes after that number, of what was visible then."""
    more = {"after": after, "end": window.end, "running": list(window.running), "limit": limit}
    return _page(execute(connection, _FURTHER, {**_seen(stand), **more}).fetchall())


def drop(
    connection: _Connection, *, before: float, after: int, kept: set[int], limit: int
) -> tuple[int, int | None]:
    """Drop the changes of about `limit` transactions from number `after` on whose time is before that.

    Says how many changes went, and the number to go on after; None if there is no need to. Those that were
    passed over are added to `kept`.
    """
    with connection.transaction():
        floor = execute(
            connection, "SELECT floor_next, floor_open FROM agentref_feed FOR UPDATE"
        ).fetchone()
        if floor is None:
            raise _no_feed()
        oldest = execute(connection, _OLDEST, [after, limit]).fetchall()
        gone = [xid for xid, at, _ in oldest if at < before]
        if not gone:
            return 0, None
        kept |= {xid for xid, at, _ in oldest if at >= before} | {*Snapshot.read(oldest[0][2]).running}
        kept |= {xid for xid in floor[1] if xid > oldest[-1][0]}
        kept -= set(gone)
        end = max(floor[0], gone[-1] + 1)
        number = execute(
            connection, "DELETE FROM agentref_change WHERE xid = ANY(%b::bigint[])", [gone]
        ).rowcount
        execute(
            connection,
            "UPDATE agentref_feed SET floor_next = %b::bigint, floor_open = %b::bigint[]",
            [end, sorted(xid for xid in kept if xid < end)],
        )
    return number, oldest[-1][0]


def _seen(stand: Stand) -> dict[str, Any]:
    return {"next": stand.next, "open": list(stand.open)}


def _page(rows: Sequence[tuple[Any, ...]]) -> tuple[Head, list[Change]]:
    if not rows:
        raise _no_feed()
    return _head(rows[0]), [Change(*row[7:]) for row in rows if row[7] is not None]


def _head(row: tuple[Any, ...]) -> Head:
    now, writes, table_id, life, floor_next, floor_open, same = row[:7]
    return Head(Snapshot.read(now), writes, table_id, life, Stand(floor_next, floor_open), same)


def _no_feed() -> psycopg.Error:
    # Its row is made by a migration; a table whose row somebody deleted is none.
    return psycopg.errors.UndefinedTable("agentref_feed is empty")
