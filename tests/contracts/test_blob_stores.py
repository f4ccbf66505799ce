"""Every blob store keeps every promise, and every promise rejects a store that breaks it."""

import inspect

import pytest

from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.postgres import PostgresBlobStore
from agentref.testing import BlobStoreContract, PersistentBlobStoreContract
from agentref.testing.broken import BROKEN

REJECTED = (AssertionError, pytest.fail.Exception, KeyError, StopIteration)


class TestMemoryBlobStore(BlobStoreContract):
    def make_store(self, path):
        return MemoryBlobStore()


class TestFilesystemBlobStore(PersistentBlobStoreContract):
    def make_store(self, path):
        return FilesystemBlobStore(path)


class TestFilesystemBlobStoreAtOnce(PersistentBlobStoreContract):
    """Nothing waits for the index, and a pack is full soon."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch):
        monkeypatch.setattr("agentref.storage._journal._MANY", 1)
        for module in ("_journal", "_packs", "_blob_table"):
            monkeypatch.setattr(f"agentref.storage.{module}.FULL", 500)

    def make_store(self, path):
        return FilesystemBlobStore(path)


class TestPostgresBlobStore(PersistentBlobStoreContract):
    @pytest.fixture(autouse=True)
    def server(self, databases):
        self.databases = databases

    def make_store(self, path):
        return PostgresBlobStore(self.databases.dsn(path))


def clauses(contract):
    return {name for name in dir(contract) if name.startswith("test_")}


def hold_against(clause, store, **others):
    """Run one clause outside of pytest, with a bad name where it takes one."""
    arguments = {"store": store, "name": b"short", **others}
    wanted = inspect.signature(clause).parameters
    clause(**{name: value for name, value in arguments.items() if name in wanted})


def test_every_clause_has_a_store_that_breaks_it():
    assert clauses(BlobStoreContract) == set(BROKEN)


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_clause_rejects_the_store_that_breaks_it(name):
    clause = getattr(BlobStoreContract(), name)
    hold_against(clause, MemoryBlobStore())
    with pytest.raises(REJECTED):
        hold_against(clause, BROKEN[name]())


class MemoryContract(PersistentBlobStoreContract):
    """Claims to be persistent and is not."""

    def make_store(self, path):
        return MemoryBlobStore()


@pytest.mark.parametrize("name", sorted(clauses(PersistentBlobStoreContract) - clauses(BlobStoreContract)))
def test_the_clauses_on_persistence_reject_a_store_in_memory(name, tmp_path):
    contract = MemoryContract()
    with pytest.raises(REJECTED):
        hold_against(getattr(contract, name), contract.make_store(tmp_path), tmp_path=tmp_path)
