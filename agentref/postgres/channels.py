"""What is said to tell others in other processes that there is something new.

Whoever listens holds a lock for as long. So one who tells knows whether anybody would hear it: a NOTIFY
waits for the disk, and for all others of the server.
"""

import zlib
from typing import Any, Final

import psycopg
from psycopg import sql

from agentref.postgres.blobs import execute
from agentref.postgres.direct import Statement

__all__ = ["listen", "notify", "notify_listeners"]

_Connection = psycopg.Connection[Any]

_LOCKS: Final = int.from_bytes(b"agrl", "big")

_TELL: Final = (
    "SELECT CASE WHEN pg_try_advisory_xact_lock({0}::int4, {1}::int4) THEN false "
    "ELSE pg_notify({2}::text, '')::text = '' END"
)
_TELL_NOW: Final = Statement(_TELL.format("$1", "$2", "$3"), "int4 int4 text")


def listen(connection: _Connection, channel: str) -> None:
    """From now on, in this session. What was committed before may have been told before."""
    execute(connection, "SELECT pg_advisory_lock_shared(%b::int4, %b::int4)", [_LOCKS, _lock(channel)])
    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)), prepare=False)


def notify(connection: _Connection, channel: str) -> None:
    """Tell those who listen, once the transaction is committed."""
    execute(connection, "SELECT pg_notify(%b::text, '')", [channel])


def notify_listeners(connection: _Connection, channel: str) -> bool:
    """As `notify`, of what was committed already, and in a transaction of its own: one that would be long
    keeps everybody from beginning to listen. Whether anybody listens."""
    values = (_LOCKS, _lock(channel), channel)
    row = _TELL_NOW.row(connection, values)
    return (row or execute(connection, _TELL.format("%b", "%b", "%b"), values).fetchone()) == (True,)


def _lock(channel: str) -> int:
    return zlib.crc32(channel.encode()) - 2**31
