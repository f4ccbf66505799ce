"""A coordinator in PostgreSQL keeps every promise of a durable one."""

import psycopg
import pytest

from agentref.coherence.postgres import PostgresTable
from agentref.testing import CoordinatorContract, PersistentCoordinatorContract


class TestCoordinators(PersistentCoordinatorContract):
    @pytest.fixture(autouse=True)
    def way(self, databases):
        self.databases = databases

    def make_table(self, path, clock):
        return PostgresTable(self.databases.dsn(str(path)))


class TestJoinedCoordinators(CoordinatorContract):
    """On a connection of the caller's where each verb is a transaction."""

    @pytest.fixture(autouse=True)
    def way(self, databases):
        self.databases, self.opened = databases, []
        yield
        for connection in self.opened:
            connection.close()

    def make_table(self, path, clock):
        self.opened.append(psycopg.connect(self.databases.dsn(str(path)), autocommit=True))
        return PostgresTable(connection=self.opened[-1])
