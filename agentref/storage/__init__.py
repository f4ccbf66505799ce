"""Content-addressed stores: bytes and values, kept once, verified at every read."""

from agentref.storage.cas import CAS
from agentref.storage.local import FilesystemCAS, InMemoryCAS
from agentref.storage.protocol import FOREVER, BlobInfo, BlobStore
from agentref.storage.reports import Counters, StoreStats, VerifyReport
from agentref.storage.writing import Encoded

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
