# ruff: noqa: S608  (every part of a statement is a constant of this file; values travel beside it)
"""What is said to the table of artifacts.

A row is (key, revision, version, epoch, fence, digest, codec, size, backend_id, writer, at, leases); what
is written has no key, and `until` before the leases.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

import psycopg

from agentref.postgres.blobs import execute
from agentref.postgres.direct import Statement

__all__ = [
    "Found",
    "Swap",
    "Swapped",
    "leased",
    "load",
    "lock",
    "pipeline",
    "probe",
    "scan",
    "swap",
    "swap_now",
    "swapped",
]

_Connection = psycopg.Connection[Any]
_Row = tuple[Any, ...]

_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"
_READ: Final = (
    "a.key, a.revision, a.version, a.epoch, a.fence, a.digest, a.codec, a.size, a.backend_id, a.writer, "
    "a.at, a.leases"
)
_OUT: Final = _READ.replace("a.", "")
_ABSENT: Final = (None,) * 12
_NUMBERS: Final = ", ".join(["%b::bigint[]"] * 4)

_LOAD: Final = f"""
SELECT {_NOW}, {_READ} FROM (SELECT) AS always LEFT JOIN agentref_artifact AS a ON a.key = ANY(%b::bytea[])
"""

# The time is told beside each row, once that is locked: the last one is true of all of them.
_LOCK: Final = f"""
SELECT {_NOW}, {_READ} FROM (SELECT) AS always LEFT JOIN (
    SELECT * FROM agentref_artifact WHERE key = ANY(%b::bytea[]) ORDER BY key FOR NO KEY UPDATE
) AS a ON true
"""

# Whoever stops while he holds the rows keeps everybody else from them, for so long at most.
_HURRY: Final = "SELECT set_config('idle_in_transaction_session_timeout', '10s', true)"

_SWAP_ONE: Final = (
    f"SELECT applied, clock, {_OUT} FROM agentref_swap_one({', '.join(['%b'] * 14)}, %b::float8, %b, %b)"
)

# The row of a function in FROM goes through a store of tuples, and each of its columns is described.
_SWAP_ONE_NOW: Final = Statement(
    f"SELECT agentref_swap_one({', '.join(f'${n}' for n in range(1, 18))})",
    "bytea int8 float8 float8 int8 int8 int8 int8 bytea text int8 text text float8 float8 bytea bytea",
)

# What is asked for mostly: another row follows, at any time. Takes 245 us, and by the function 267.
_FOLLOW_NOW: Final = Statement(
    """
    WITH moved AS (
        UPDATE agentref_artifact
        SET revision = $3, version = $4, epoch = $5, fence = $6, digest = $7, codec = $8, size = $9,
            backend_id = $10, writer = $11, at = $12, until = $13, leases = $14
        WHERE key = $1 AND revision = $2 RETURNING true
    )
    INSERT INTO agentref_change
    SELECT nextval('agentref_change_id'), pg_current_xact_id()::text::bigint, $12, $15 FROM moved
    RETURNING true
    """,
    "bytea int8 int8 int8 int8 int8 bytea text int8 text text float8 float8 bytea bytea",
)

_SWAP_MANY: Final = (
    f"SELECT applied, clock, {_OUT} FROM agentref_swap_many(%b::bytea[], %b::bigint[], %b, %b, {_NUMBERS}, "
    f"%b::bytea[], %b::text[], %b::bigint[], %b::text[], %b::text[], %b::float8[], %b::float8[], "
    f"%b::bytea[], %b, %b)"
)

_SCAN: Final = f"""
SELECT {_READ} FROM agentref_artifact AS a
WHERE a.key >= %b::bytea AND a.key < %b::bytea ORDER BY a.key LIMIT %b::bigint
"""

_LEASED: Final = """
SELECT key FROM agentref_artifact WHERE until <= %b::float8 ORDER BY until, key LIMIT %b::bigint
"""


class Found(NamedTuple):
    """Rows, and the server's time when they were like that."""

    clock: float
    rows: list[_Row]


class Swap(NamedTuple):
    """By key, in their order: the revision that is to stand there (0: nothing), and what follows it (None:
    only to stand there); the times between which it holds, and an entry of the feed with its time."""

    rows: Mapping[bytes, tuple[int, _Row | None]]
    not_before: float
    deadline: float
    entry: bytes | None
    entry_at: float

    @property
    def is_told_of_at_any_time(self) -> bool:
        """Whether it has an entry, and no times between which it holds."""
        return self.entry is not None and self.not_before == -math.inf and self.deadline == math.inf


class Swapped(NamedTuple):
    """Whether it was done; if not, the rows as they are."""

    applied: bool
    found: Found


def probe(connection: _Connection, key: bytes) -> int:
    """The revision of one row, 0 if there is none."""
    found = execute(
        connection, "SELECT revision FROM agentref_artifact WHERE key = %b::bytea", [key]
    ).fetchone()
    return 0 if found is None else int(found[0])


def load(connection: _Connection, keys: Sequence[bytes]) -> Found:
    """The rows of those that are here."""
    return _found(execute(connection, _LOAD, [list(keys)]).fetchall())


def lock(connection: _Connection, keys: Sequence[bytes], sent: object, *, hurry: bool) -> Found:
    """As `load`; nobody changes them until the transaction ends, which has to `hurry` if it is our own.
    `sent` is the `pipeline` that all of it is sent through."""
    if hurry:
        execute(connection, _HURRY)
    cursor = execute(connection, _LOCK, [list(keys)])
    # Unless it is synchronised, and nothing is sent after that, a session in a pipeline does not count as
    # idle, and is not cut off.
    if isinstance(sent, psycopg.Pipeline):
        sent.sync()
    return _found(cursor.fetchall())


def swap(connection: _Connection, wanted: Swap) -> "psycopg.Cursor[_Row]":
    """Do all of it, or nothing; `swapped` reads the outcome."""
    if (one := _one(wanted)) is not None:
        return execute(connection, _SWAP_ONE, one)
    rows, not_before, deadline, entry, entry_at = wanted
    columns = list(zip(*[new or _ABSENT for _, new in rows.values()], strict=True))
    expectations = [expected for expected, _ in rows.values()]
    return execute(
        connection,
        _SWAP_MANY,
        [list(rows), expectations, not_before, deadline, *map(list, columns), entry, entry_at],
    )


def swapped(cursor: "psycopg.Cursor[_Row]") -> Swapped:
    """What came of it."""
    return _swapped(cursor.fetchall())


def swap_now(connection: _Connection, wanted: Swap) -> Swapped:
    """Do all of it, or nothing, and say what came of it."""
    one = _one(wanted)
    if (
        one is not None
        and one[1]
        and wanted.is_told_of_at_any_time
        and _FOLLOW_NOW.row(connection, [*one[:2], *one[4:]]) is not None
    ):
        return Swapped(True, Found(wanted.entry_at, []))
    row: Any = None if one is None else _SWAP_ONE_NOW.row(connection, one)
    return swapped(swap(connection, wanted)) if row is None else _swapped([*row])


def scan(connection: _Connection, first: bytes, stop: bytes, limit: int) -> list[_Row]:
    """Rows in the order of keys."""
    return execute(connection, _SCAN, [first, stop, limit]).fetchall()


def leased(connection: _Connection, until: float, limit: int | None) -> list[bytes]:
    """The keys of those with a lease that ends by then."""
    return [key for (key,) in execute(connection, _LEASED, [until, limit])]


def pipeline(connection: _Connection) -> AbstractContextManager[object]:
    """Within it, statements are sent without waiting for the ones before."""
    return connection.pipeline() if psycopg.Pipeline.is_supported() else nullcontext()


def _one(wanted: Swap) -> list[Any] | None:
    """What is said of one row that is to change."""
    if len(wanted.rows) != 1:
        return None
    ((key, (expected, new)),) = wanted.rows.items()
    return None if new is None else [key, expected, wanted.not_before, wanted.deadline, *new, wanted.entry]


def _swapped(rows: list[_Row]) -> Swapped:
    if rows[0][0] and len(rows) == 1:
        return Swapped(True, Found(rows[0][1], []))  # what stands there is what was sent
    return Swapped(rows[0][0], _found([row[1:] for row in rows]))


def _found(rows: list[_Row]) -> Found:
    return Found(max(row[0] for row in rows), [row[1:] for row in rows if row[1] is not None])
