"""Content-addressed stores: bytes and values, kept once, verified at every read."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from agentref.storage._lives import GRACE_SECONDS, LEASE_SECONDS
from agentref.storage.cas import CAS
from agentref.storage.lifetimes import Alias, Pin
from agentref.storage.local import FilesystemCAS, InMemoryCAS
from agentref.storage.migrating import MigrationReport, amigrate_cas, migrate_cas
from agentref.storage.protocol import FOREVER, AliasRow, BlobInfo, BlobStore, PinRow, RootStore
from agentref.storage.reports import Counters, PruneReport, StoreStats, VerifyReport
from agentref.storage.writing import Encoded

if TYPE_CHECKING:
    from agentref.storage.postgres import PostgresCAS as PostgresCAS

__all__ = [
    "CAS",
    "FOREVER",
    "GRACE_SECONDS",
    "LEASE_SECONDS",
    "Alias",
    "AliasRow",
    "BlobInfo",
    "BlobStore",
    "Counters",
    "Encoded",
    "FilesystemCAS",
    "InMemoryCAS",
    "MigrationReport",
    "Pin",
    "PinRow",
    "PruneReport",
    "RootStore",
    "StoreStats",
    "VerifyReport",
    "amigrate_cas",
    "migrate_cas",
]

# It needs an extra. Where that is missing, `import *` would fail as a whole.
if find_spec("psycopg") and find_spec("psycopg_pool"):
    __all__ += ["PostgresCAS"]


def __getattr__(name: str) -> Any:
    """`PostgresCAS`, when it is asked for: psycopg is an extra."""
    # It needs psycopg, which whoever keeps blobs elsewhere need not have.
    if name == "PostgresCAS":
        from agentref.storage.postgres import PostgresCAS  # noqa: PLC0415

        return PostgresCAS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
