"""What the tests of PostgreSQL share."""

import psycopg
import pytest

from agentref.storage.postgres import PostgresBlobStore
from tests.integration.postgres.mute import Mute


@pytest.fixture
def dsn(databases):
    """An empty database."""
    return databases.dsn()


@pytest.fixture
def store(dsn):
    """A store of its own, open."""
    store = PostgresBlobStore(dsn)
    yield store
    store.close()


@pytest.fixture
def observer(dsn):
    """A connection beside the store, in autocommit."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def mute(dsn):
    """An address by way of something that can lose an answer, and that."""
    proxy = Mute(dsn)
    yield proxy.dsn, proxy
    proxy.close()
