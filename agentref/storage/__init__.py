"""Content-addressed stores: bytes and values, kept once, verified at every read."""

from agentref.storage.cas import CAS, Encoded
from agentref.storage.local import FilesystemCAS, InMemoryCAS
from agentref.storage.protocol import FOREVER, BlobInfo, BlobStore
from agentref.storage.reports import Counters, StoreStats, VerifyReport

__all__ = [
    "CAS",
    "FOREVER",
    "BlobInfo",
    "BlobStore",
    "Counters",
    "Encoded",
    "FilesystemCAS",
    "InMemoryCAS",
    "StoreStats",
    "VerifyReport",
]
