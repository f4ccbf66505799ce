"""Every store of roots keeps every promise, and every promise rejects a store that breaks it."""

from agentref.storage.memory import MemoryBlobStore
from agentref.testing import RootStoreContract


class TestMemoryBlobStore(RootStoreContract):
    def make_store(self, path):
        return MemoryBlobStore()
