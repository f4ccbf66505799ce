"""Every store of roots keeps every promise, and every promise rejects a store that breaks it."""

import pytest

from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.postgres import PostgresBlobStore
from agentref.testing import PersistentRootStoreContract, RootStoreContract
from agentref.testing.broken_roots import BROKEN_ROOTS

REJECTED = (AssertionError, pytest.fail.Exception, KeyError, StopIteration)


class TestMemoryBlobStore(RootStoreContract):
    def make_store(self, path):
        return MemoryBlobStore()


class TestFilesystemBlobStore(PersistentRootStoreContract):
    def make_store(self, path):
        return FilesystemBlobStore(path)


class TestPostgresBlobStore(PersistentRootStoreContract):
    @pytest.fixture(autouse=True)
    def server(self, databases):
        self.databases = databases

    def make_store(self, path):
        return PostgresBlobStore(self.databases.dsn(path))


def clauses(contract):
    return {name for name in dir(contract) if name.startswith("test_")}


def test_every_clause_has_a_store_that_breaks_it():
    assert clauses(RootStoreContract) == set(BROKEN_ROOTS)


@pytest.mark.parametrize("name", sorted(BROKEN_ROOTS))
def test_a_clause_rejects_the_store_that_breaks_it(name):
    clause = getattr(RootStoreContract(), name)
    clause(MemoryBlobStore())
    with pytest.raises(REJECTED):
        clause(BROKEN_ROOTS[name]())


class MemoryContract(PersistentRootStoreContract):
    """Claims to be persistent and is not."""

    def make_store(self, path):
        return MemoryBlobStore()


@pytest.mark.parametrize("name", sorted(clauses(PersistentRootStoreContract) - clauses(RootStoreContract)))
def test_the_clauses_on_persistence_reject_a_store_in_memory(name, tmp_path):
    contract = MemoryContract()
    with pytest.raises(REJECTED):
        getattr(contract, name)(contract.make_store(tmp_path), tmp_path)
