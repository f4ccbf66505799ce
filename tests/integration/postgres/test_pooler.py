"""A store behind PgBouncer, which lends a connection of the server for one transaction at a time."""

import random
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentref.coherence.postgres import PostgresTable
from agentref.storage import PostgresCAS
from agentref.storage.postgres import PostgresBlobStore
from agentref.testing import BlobStoreContract, CoordinatorContract, RootStoreContract
from tests.conftest import somebody

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="there is no pgbouncer here")

# Two connections for all: whoever leaves something in a session leaves it to others.
CONFIG = """
[databases]
* = host={host} port={port}
[pgbouncer]
unix_socket_dir = {directory}
listen_port = 6432
logfile = {directory}/log
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
default_pool_size = 2
server_idle_timeout = 5
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""


@pytest.fixture(scope="module")
def pooler(postgres_server):
    """What changes in an address to go through the pooler."""
    directory = Path(tempfile.mkdtemp(prefix="agentref-bouncer-", dir="/tmp"))
    server = conninfo_to_dict(postgres_server.dsn)
    if not server["host"].startswith("/"):
        pytest.skip("the server that AGENTREF_TEST_DSN names is not reached by a socket of this machine")
    config = directory / "pgbouncer.ini"
    config.write_text(
        CONFIG.format(host=server["host"], port=server.get("port", 5432), directory=directory)
    )
    (directory / "users").write_text(f'"{server["user"]}" ""\n')
    user = somebody()
    if user:
        shutil.chown(directory, user["user"], user["group"])
    process = subprocess.Popen([PGBOUNCER, "-q", str(config)], stderr=subprocess.DEVNULL, **user)
    through = {"host": str(directory), "port": "6432"}
    until = time.monotonic() + 20
    while True:
        try:
            psycopg.connect(make_conninfo(postgres_server.dsn, connect_timeout=5, **through)).close()
            break
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                raise RuntimeError((directory / "log").read_text()) from error
            time.sleep(0.05)
    yield through
    process.terminate()
    process.wait(timeout=20)
    shutil.rmtree(directory, ignore_errors=True)


class Pooled:
    """Stores whose connections go through the pooler."""

    @pytest.fixture(autouse=True)
    def way(self, databases, pooler):
        self.databases, self.pooler = databases, pooler

    def make_store(self, path):
        return PostgresBlobStore(make_conninfo(self.databases.dsn(path), **self.pooler))


class TestBlobs(Pooled, BlobStoreContract):
    pass


class TestRoots(Pooled, RootStoreContract):
    pass


class TestCoordinators(Pooled, CoordinatorContract):
    def make_table(self, path, clock):
        return PostgresTable(make_conninfo(self.databases.dsn(str(path)), **self.pooler))


def test_many_clients_share_two_connections(databases, pooler):
    dsn = make_conninfo(databases.dsn(), **pooler)

    def work(number):
        with PostgresCAS(dsn, max_size=4) as cas:
            for turn in range(8):
                value = [
                    f"{turn} " + "shared " * 3000,
                    random.Random(number * 100 + turn).randbytes(700_000),
                ]
                ref = cas.dump(value, ttl=3600)
                cas.pin(f"owner-{number}", [ref])
                cas.set_alias(f"name-{number}", ref)
                assert cas.load(cas.resolve_alias(f"name-{number}")) == value
            cas.prune_expired(grace=0)

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(work, range(12)))
    with psycopg.connect(databases.dsn(), autocommit=True) as connection:
        left = connection.execute(
            "SELECT state, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') "
            "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    assert len(left) <= 2
    assert {(state, locks) for state, locks in left} <= {("idle", 0)}
