"""PostgreSQL: addresses, a pool of connections, migrations, and what is said to the tables.

Needs the `postgres` extra; importing this room without it raises `MissingExtraError`.
"""

from agentref.errors import MissingExtraError

try:
    import psycopg  # noqa: F401
    import psycopg_pool  # noqa: F401
except ImportError as error:
    raise MissingExtraError(
        f"A PostgreSQL store needs psycopg, which cannot be imported: {error}. "
        f"pip install 'agentref-checkpoint[postgres]'"
    ) from error

from agentref.postgres.address import Address
from agentref.postgres.errors import typed_errors
from agentref.postgres.migrate import Migration, Status, migrations, status, upgrade
from agentref.postgres.opening import Opening
from agentref.postgres.pool import Connection, Joined, Pool, Sessions

__all__ = [
    "Address",
    "Connection",
    "Joined",
    "Migration",
    "Opening",
    "Pool",
    "Sessions",
    "Status",
    "migrations",
    "status",
    "typed_errors",
    "upgrade",
]
