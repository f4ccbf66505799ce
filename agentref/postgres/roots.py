# ruff: noqa: S608  (every part of a statement is a constant of this file; values travel beside it)
"""What is said to the tables of aliases and pins.

Whoever needs an owner and its pins locks the owner first, and several owners in the order of their ids.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psycopg

from agentref.postgres.blobs import execute

__all__ = [
    "alias",
    "delete_alias",
    "forget",
    "page_of_aliases",
    "page_of_pins",
    "pin",
    "set_alias",
    "unpin",
]

_Connection = psycopg.Connection[Any]

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

_PAGE_OF_ALIASES: Final = f"""
SELECT {_ALIAS} FROM agentref_alias
WHERE starts_with(name, %b::text) AND name > %b::text AND expires_at > {_NOW}
ORDER BY name LIMIT %b::bigint
"""

# A second pin of an owner waits for the first one: which of them makes the owner is settled then.
_PIN: Final = """
WITH own AS (
    INSERT INTO agentref_owner AS o (name) VALUES (%b::text)
    ON CONFLICT (name) DO UPDATE SET name = o.name
    RETURNING id
)
INSERT INTO agentref_pin AS p (owner_id, digest, expires_at)
SELECT own.id, new.digest, %b::float8 FROM own CROSS JOIN unnest(%b::bytea[]) AS new(digest)
ON CONFLICT (owner_id, digest) DO UPDATE SET expires_at = EXCLUDED.expires_at
WHERE p.expires_at < EXCLUDED.expires_at
"""

_LOCK_NAMED: Final = "SELECT id FROM agentref_owner WHERE name = ANY(%b::text[]) ORDER BY id FOR UPDATE"

_UNPIN: Final = f"""
WITH gone AS (
    DELETE FROM agentref_pin WHERE owner_id = ANY(%(owners)b::bigint[]) RETURNING expires_at
), unowned AS (
    DELETE FROM agentref_owner WHERE id = ANY(%(owners)b::bigint[])
)
SELECT count(*) FROM gone WHERE expires_at > {_NOW}
"""

# Of an owner that may have any number of pins, each page reads its own alone: compared like this, they come
# in the order of the index, whatever statistics the planner has; otherwise it may sort all that are left.
_MORE_PINS: Final = f"""
WITH own AS MATERIALIZED (SELECT id FROM agentref_owner WHERE name = %(owner)b::text)
SELECT %(owner)b::text, digest, expires_at FROM agentref_pin
WHERE (owner_id, digest) > ((SELECT id FROM own), %(digest)b::bytea) AND owner_id <= (SELECT id FROM own)
    AND expires_at > {_NOW}
ORDER BY owner_id, digest LIMIT %(limit)b::bigint
"""

_NEXT_PINS: Final = f"""
SELECT o.name, p.digest, p.expires_at
FROM agentref_owner AS o CROSS JOIN LATERAL (
    SELECT digest, expires_at FROM agentref_pin
    WHERE owner_id = o.id AND expires_at > {_NOW}
    ORDER BY digest LIMIT %(limit)b::bigint
) AS p
WHERE starts_with(o.name, %(prefix)b::text) AND o.name >= %(prefix)b::text AND o.name > %(after)b::text
ORDER BY o.name, p.digest LIMIT %(limit)b::bigint
"""

_LOCK_EXPIRED: Final = """
SELECT id FROM agentref_owner
WHERE id IN (SELECT owner_id FROM agentref_pin WHERE expires_at < 'Infinity' AND expires_at <= %b::float8)
ORDER BY id FOR UPDATE
"""

_FORGET: Final = """
WITH aliases AS (
    DELETE FROM agentref_alias WHERE expires_at < 'Infinity' AND expires_at <= %(by)b::float8 RETURNING 1
), pins AS (
    DELETE FROM agentref_pin
    WHERE owner_id = ANY(%(owners)b::bigint[]) AND expires_at <= %(by)b::float8 RETURNING 1
), owners AS (
    DELETE FROM agentref_owner AS o
    WHERE id = ANY(%(owners)b::bigint[])
        AND NOT EXISTS (SELECT FROM agentref_pin WHERE owner_id = o.id AND expires_at > %(by)b::float8)
)
SELECT (SELECT count(*) FROM aliases) + (SELECT count(*) FROM pins)
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


def page_of_aliases(connection: _Connection, prefix: str, after: str, limit: int) -> list[tuple[Any, ...]]:
    """Rows as of `alias`, in the order of names."""
    return execute(connection, _PAGE_OF_ALIASES, [prefix, after, limit]).fetchall()


def pin(connection: _Connection, owner: str, digests: Sequence[bytes], expires_at: float) -> None:
    """Let the owner keep them; a life only lengthens."""
    execute(connection, _PIN, [owner, expires_at, sorted(digests)])


def unpin(connection: _Connection, owners: Sequence[str]) -> int:
    """How many living pins these owners had."""
    with connection.transaction():
        # Two statements: what is pinned while this one waits has to be seen by the next one.
        found = [number for (number,) in execute(connection, _LOCK_NAMED, [list(owners)]).fetchall()]
        row = execute(connection, _UNPIN, {"owners": found}).fetchone() if found else None
        return int(row[0]) if row else 0


def page_of_pins(
    connection: _Connection, prefix: str, after: tuple[str, bytes], limit: int
) -> list[tuple[Any, ...]]:
    """(owner, digest, expires_at) of what lives, in the order of owner and digest."""
    owner, digest = after
    found: list[tuple[Any, ...]] = []
    if owner and owner.startswith(prefix):
        found = execute(
            connection, _MORE_PINS, {"owner": owner, "digest": digest, "limit": limit}
        ).fetchall()
    if len(found) < limit:
        values = {"prefix": prefix, "after": owner, "limit": limit - len(found)}
        found += execute(connection, _NEXT_PINS, values).fetchall()
    return found


def forget(connection: _Connection, expires_by: float) -> int:
    """How many aliases and pins were dropped."""
    with connection.transaction():
        now = execute(connection, "SELECT " + _NOW).fetchone()
        until = min(expires_by, float(now[0])) if now else expires_by
        # Two statements, for the same reason as in `unpin`.
        owners = [number for (number,) in execute(connection, _LOCK_EXPIRED, [until]).fetchall()]
        row = execute(connection, _FORGET, {"by": until, "owners": owners}).fetchone()
        return int(row[0]) if row else 0


def _turn(name: str) -> dict[str, int]:
    """The advisory lock of a name: 32 bits of its own, of those that are ours."""
    return {"locks": _LOCKS, "lock": zlib.crc32(name.encode()) - 2**31}
