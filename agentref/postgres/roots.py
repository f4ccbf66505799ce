# ruff: noqa: S608  (every part of a statement is a constant of this file; values travel beside it)
"""What is said to the tables of aliases and pins.

Whoever locks several rows locks them in the order of their keys. Only who inherits locks a parent's rows
before the heir's: whoever unpins both meanwhile may meet him, and whom the server stops tries again.
"""

import zlib
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

import psycopg

from agentref.postgres.blobs import execute, pipelined, put
from agentref.postgres.direct import Statement
from agentref.refs import Digest

__all__ = [
    "alias",
    "delete_alias",
    "forget",
    "inherit_pins",
    "page_of_aliases",
    "page_of_pins",
    "pin",
    "put_pinned",
    "set_alias",
    "unpin",
]

_Connection = psycopg.Connection[Any]

_INHERIT: Final = Statement("SELECT agentref_inherit($1, $2, $3)", "text text bytea")

_LOCKS: Final = int.from_bytes(b"agrf", "big")

_NOW: Final = "extract(epoch FROM clock_timestamp())::float8"

_ALIAS: Final = "name, digest, codec, size, version, expires_at"

# Whoever sets or deletes a name waits for his turn at it first: of one name, the later setting has the
# greater number, and that of a row which is not there yet is drawn before there is a row to lock.
_TURN: Final = """
WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(%(locks)b::int4, %(lock)b::int4))
"""

_SET: Final = f"""
{_TURN}
INSERT INTO agentref_alias AS a (name, digest, codec, size, version, expires_at)
SELECT %(name)b::text, %(digest)b::bytea, %(codec)b::text, %(size)b::bigint,
    nextval('agentref_alias_version'), %(expires_at)b::float8
FROM turn
ON CONFLICT (name) DO UPDATE SET
    digest = EXCLUDED.digest, codec = EXCLUDED.codec, size = EXCLUDED.size,
    version = nextval('agentref_alias_version'), expires_at = EXCLUDED.expires_at
"""

_SET_ANYHOW: Final = _SET + "RETURNING version"

_SET_FIRST: Final = _SET + f"WHERE a.expires_at <= {_NOW} RETURNING version"

_SET_NEXT: Final = f"""
{_TURN}
UPDATE agentref_alias SET
    digest = %(digest)b::bytea, codec = %(codec)b::text, size = %(size)b::bigint,
    version = nextval('agentref_alias_version'), expires_at = %(expires_at)b::float8
FROM turn
WHERE name = %(name)b::text AND version = %(expect)b AND expires_at > {_NOW}
RETURNING version
"""

_DELETE: Final = f"""
{_TURN}
DELETE FROM agentref_alias USING turn
WHERE name = %(name)b::text AND expires_at > {_NOW} AND (%(any)b::boolean OR version = %(expect)b)
"""

# A page is found by where it begins, and nothing else: given more to go by, the planner may think that
# little is left, and sort all of it for each page. Where a prefix ends is seen here.
_PAGE_OF_ALIASES: Final = f"""
SELECT {_ALIAS} FROM agentref_alias WHERE name > %b::text AND expires_at > {_NOW}
ORDER BY name LIMIT %b::bigint
"""

_FIRST_ALIASES: Final = _PAGE_OF_ALIASES.replace("name >", "name >=")

_PIN: Final = """
INSERT INTO agentref_pin AS p (owner, digest, expires_at)
SELECT * FROM unnest(%b::text[], %b::bytea[], %b::float8[])
ON CONFLICT (owner, digest) DO UPDATE SET expires_at = EXCLUDED.expires_at
WHERE p.expires_at < EXCLUDED.expires_at
"""

_UNPIN: Final = f"""
WITH locked AS MATERIALIZED (
    SELECT owner, digest FROM agentref_pin WHERE owner = ANY(%b::text[])
    ORDER BY owner, digest FOR UPDATE
), gone AS (
    DELETE FROM agentref_pin AS p USING locked
    WHERE p.owner = locked.owner AND p.digest = locked.digest RETURNING p.expires_at
)
SELECT count(*), count(*) FILTER (WHERE expires_at > {_NOW}) FROM gone
"""

_PAGE_OF_PINS: Final = f"""
SELECT owner, digest, expires_at FROM agentref_pin
WHERE (owner, digest) > (%b::text, %b::bytea) AND expires_at > {_NOW}
ORDER BY owner, digest LIMIT %b::bigint
"""

# What is lengthened while these wait for it is looked at again, and stays.
_FORGET_ALIASES: Final = f"""
WITH locked AS MATERIALIZED (
    SELECT name FROM agentref_alias
    WHERE expires_at < 'Infinity' AND expires_at <= LEAST({_NOW}, %b::float8)
    ORDER BY name FOR UPDATE
)
DELETE FROM agentref_alias AS a USING locked WHERE a.name = locked.name
"""

_FORGET_PINS: Final = f"""
WITH locked AS MATERIALIZED (
    SELECT owner, digest FROM agentref_pin
    WHERE expires_at < 'Infinity' AND expires_at <= LEAST({_NOW}, %b::float8)
    ORDER BY owner, digest FOR UPDATE
)
DELETE FROM agentref_pin AS p USING locked WHERE p.owner = locked.owner AND p.digest = locked.digest
"""


def set_alias(connection: _Connection, values: Mapping[str, Any], *, expect: int | None) -> int | None:
    """Set what `values` (name, digest, codec, size, expires_at) say. The new version; None if what stands
    there now is not what is expected."""
    values = {**values, **_turn(values["name"])}
    if expect is None:
        row = execute(connection, _SET_ANYHOW, values).fetchone()
    elif expect == 0:
        row = execute(connection, _SET_FIRST, values).fetchone()
    else:
        row = execute(connection, _SET_NEXT, {**values, "expect": expect}).fetchone()
    return None if row is None else int(row[0])


def alias(connection: _Connection, name: str) -> tuple[Any, ...] | None:
    """(name, digest, codec, size, version, expires_at) of what lives."""
    return execute(
        connection,
        f"SELECT {_ALIAS} FROM agentref_alias WHERE name = %b::text AND expires_at > {_NOW}",
        [name],
    ).fetchone()


def delete_alias(connection: _Connection, name: str, expect: int | None) -> bool:
    """Whether it was there."""
    values = {"name": name, "any": expect is None, "expect": expect or 0, **_turn(name)}
    return bool(execute(connection, _DELETE, values).rowcount)


def page_of_aliases(
    connection: _Connection, prefix: str, after: str | None, limit: int
) -> list[tuple[Any, ...]]:
    """Rows as of `alias`, in the order of names."""
    if after is None or after < prefix:
        found = execute(connection, _FIRST_ALIASES, [prefix, limit])
    else:
        found = execute(connection, _PAGE_OF_ALIASES, [after, limit])
    return _beginning(found.fetchall(), prefix)


def pin(connection: _Connection, rows: Sequence[tuple[str, bytes, float]]) -> None:
    """Let owners keep blobs, given by owner, digest and end of life, each pair once, in order; a life only
    lengthens."""
    execute(connection, _PIN, list(map(list, zip(*rows, strict=True))))


def put_pinned(
    connection: _Connection,
    blobs: Mapping[Digest, bytes],
    rows: Sequence[tuple[str, bytes, float]],
    *,
    expires_at: float,
) -> None:
    """`put`, and then `pin`: one round trip, and one commit, for as much as fits into a statement."""
    with pipelined(connection):
        put(connection, blobs, expires_at=expires_at, overwrite=False)
        pin(connection, rows)


def inherit_pins(connection: _Connection, heir: str, digests: Sequence[bytes], parent: str) -> bool:
    """Whether `parent` keeps all of these for ever, each given once. In a transaction of its own."""
    wanted = b"".join(sorted(digests))
    row = _INHERIT.row(connection, [heir, parent, wanted])
    if row is None:
        row = execute(connection, "SELECT agentref_inherit(%b, %b, %b)", [heir, parent, wanted]).fetchone()
    return row == (len(digests),)


def unpin(connection: _Connection, owners: Sequence[str]) -> int:
    """How many living pins these owners had."""
    alive = 0
    # Again until nothing is left: what is pinned while a statement waits for somebody is seen by the next.
    while True:
        gone, living = execute(connection, _UNPIN, [list(owners)]).fetchone() or (0, 0)
        if not gone:
            return alive
        alive += living


def page_of_pins(
    connection: _Connection, prefix: str, after: tuple[str, bytes], limit: int
) -> list[tuple[Any, ...]]:
    """(owner, digest, expires_at) of what lives, in the order of owner and digest."""
    start = max(after, (prefix, b""))
    return _beginning(execute(connection, _PAGE_OF_PINS, [*start, limit]).fetchall(), prefix)


def forget(connection: _Connection, expires_by: float) -> int:
    """How many aliases and pins were dropped. Each of the two is looked through, row by row."""
    return sum(
        execute(connection, statement, [expires_by]).rowcount
        for statement in (_FORGET_ALIASES, _FORGET_PINS)
    )


def _beginning(page: list[tuple[Any, ...]], prefix: str) -> list[tuple[Any, ...]]:
    """The rows whose names begin so: they lie together, as names are in the order of code points."""
    return list(takewhile(lambda row: row[0].startswith(prefix), page))


def _turn(name: str) -> dict[str, int]:
    """The advisory lock of a name: 32 bits of its own, of those that are ours."""
    return {"locks": _LOCKS, "lock": zlib.crc32(name.encode()) - 2**31}
