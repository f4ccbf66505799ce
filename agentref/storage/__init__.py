"""Content-addressed stores: bytes and values, kept once, verified at every read."""

from agentref.storage._lives import GRACE_SECONDS, LEASE_SECONDS
from agentref.storage.cas import CAS
from agentref.storage.lifetimes import Alias, Pin
from agentref.storage.local import FilesystemCAS, InMemoryCAS
from agentref.storage.protocol import FOREVER, AliasRow, BlobInfo, BlobStore, PinRow, RootStore
from agentref.storage.reports import Counters, PruneReport, StoreStats, VerifyReport
from agentref.storage.writing import Encoded

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
    "Pin",
    "PinRow",
    "PruneReport",
    "RootStore",
    "StoreStats",
    "VerifyReport",
]
