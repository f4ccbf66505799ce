"""Content-addressed stores: bytes and values, kept once, verified at every read."""

from typing import TYPE_CHECKING, Any

from agentref.storage.cas import CAS
from agentref.storage.local import FilesystemCAS, InMemoryCAS
from agentref.storage.protocol import FOREVER, BlobInfo, BlobStore
from agentref.storage.reports import Counters, StoreStats, VerifyReport
from agentref.storage.writing import Encoded

if TYPE_CHECKING:
    from agentref.storage.postgres import PostgresCAS

__all__ = [
    "CAS",
    "FOREVER",
    "BlobInfo",
    "BlobStore",
    "Counters",
    "Encoded",
    "FilesystemCAS",
    "InMemoryCAS",
    "PostgresCAS",
    "StoreStats",
    "VerifyReport",
]


def __getattr__(name: str) -> Any:
    # It needs psycopg, which whoever keeps blobs elsewhere need not have.
    if name == "PostgresCAS":
        from agentref.storage.postgres import PostgresCAS  # noqa: PLC0415

        return PostgresCAS
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
