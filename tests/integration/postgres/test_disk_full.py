"""The disk of the server fills up: what was promised is there, and when there is room, work goes on."""

import os
import random
import subprocess
import time

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from agentref.errors import StorageError, StoreFullError
from agentref.refs import Digest
from agentref.storage import PinRow, PostgresCAS

MEGABYTE = 1024 * 1024


class Disk:
    """A file system of its own, with something on it that can be deleted."""

    def __init__(self, path, size, ballast):
        self.path = path
        path.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)],
            check=False,
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
        self.ballast = path / "ballast"
        self.ballast.write_bytes(bytes(ballast))

    def directory(self, server_user):
        made = self.path / "data"
        made.mkdir()
        if server_user:
            os.chown(made, server_user["user"], server_user["group"])
            self.path.chmod(0o755)
        return made

    def make_room(self):
        self.ballast.unlink()

    def unmount(self):
        subprocess.run(["umount", str(self.path)], check=True)


@pytest.fixture
def disk(request, tmp_path):
    """Of the size that the test is parametrized with, in MiB; a third of it can be freed."""
    if os.geteuid():
        pytest.skip("only root may mount a small file system")
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(0o755)  # for the server's user
    disk = Disk(tmp_path / "disk", request.param * MEGABYTE, request.param * MEGABYTE // 3)
    yield disk
    disk.unmount()


@pytest.fixture
def full_dsn(disk, own_server):
    """A database whose tables are on the small disk, of a server whose log is elsewhere."""
    with psycopg.connect(own_server.dsn, autocommit=True) as connection:
        place = str(disk.directory(own_server.as_user))
        connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(place))
        connection.execute("CREATE DATABASE small TABLESPACE small TEMPLATE template0")
        yield make_conninfo(own_server.dsn, dbname="small")
        connection.execute("DROP DATABASE small WITH (FORCE)")
        connection.execute("DROP TABLESPACE small")


def fill(cas, draw, size=MEGABYTE):
    """Store until it is refused; what was acknowledged, and the error."""
    kept = {}
    for _ in range(500):
        data = draw.randbytes(size)
        try:
            kept[cas.put(data)] = data
        except StorageError as error:
            return kept, error
    raise AssertionError("the disk is too large for this test")


def assert_all_is_here(dsn, kept):
    with PostgresCAS(dsn) as cas:
        for name, data in kept.items():
            assert cas.get(name) == data
        assert cas.verify().ok


@pytest.mark.parametrize("disk", [30], indirect=True)
def test_a_full_disk_is_an_error_that_says_what_to_do(full_dsn, disk):
    draw = random.Random(1)
    with PostgresCAS(full_dsn) as cas, psycopg.connect(full_dsn, autocommit=True) as observer:
        kept, error = fill(cas, draw)
        assert isinstance(error, StoreFullError)
        assert "Free space" in str(error)
        before = list(cas.iter_hashes())
        # In several statements, of which the first ones have room.
        many = {Digest(draw.randbytes(32)): draw.randbytes(100) for _ in range(3)}
        many |= {Digest(b"\xff" + draw.randbytes(31)): draw.randbytes(20 * MEGABYTE) for _ in range(4)}
        with pytest.raises(StoreFullError):
            cas._store.store(many)
        with pytest.raises(StoreFullError):
            cas._store.pin(PinRow.each("owner", [Digest(draw.randbytes(32)) for _ in range(300_000)]))
        assert list(cas.iter_pins()) == []
        assert cas._store.fetch(many) == {}
        assert set(before) >= set(kept)
        states = "SELECT state FROM pg_stat_activity WHERE datname = 'small' AND pid <> pg_backend_pid()"
        assert {state for (state,) in observer.execute(states)} == {"idle"}
        # By a session that is there: a new one may have to write a file of the server's own.
        assert cas.get_many(list(kept)) == list(kept.values())
        disk.make_room()
        more = draw.randbytes(3 * MEGABYTE)
        kept[cas.put(more)] = more
        cas.pin("owner", [cas.dump("a value")])
        assert_all_is_here(full_dsn, kept)


@pytest.mark.parametrize("disk", [30], indirect=True)
def test_what_was_condemned_in_time_makes_room_on_a_full_disk(full_dsn, disk):
    draw = random.Random(2)
    with PostgresCAS(full_dsn) as cas, psycopg.connect(full_dsn, autocommit=True) as observer:
        first = draw.randbytes(MEGABYTE)
        kept = {cas.put(first): first}
        for _ in range(6):
            cas.put(draw.randbytes(MEGABYTE), ttl=0.01)
        time.sleep(0.1)
        assert cas.prune_expired(grace=60).condemned
        observer.execute("VACUUM agentref_blob")  # which needs room as well, the first time
        filled, error = fill(cas, draw)
        assert isinstance(error, StoreFullError)
        kept |= filled
        assert cas.prune_expired(grace=0).removed
        observer.execute("VACUUM agentref_blob")
        os.truncate(disk.ballast, disk.ballast.stat().st_size - MEGABYTE // 2)  # for an index that grows
        more = draw.randbytes(3 * MEGABYTE)
        kept[cas.put(more)] = more
        assert_all_is_here(full_dsn, kept)


@pytest.mark.parametrize("disk", [160], indirect=True)
def test_a_server_whose_log_has_no_room_comes_back_with_all_of_it(disk, postgres_server, request):
    """Then the server itself gives up, in the middle of whatever it does."""
    kind = type(request.getfixturevalue("own_server"))
    server = kind(
        disk.directory(postgres_server.as_user),
        synchronous_commit="on",
        max_wal_size="1GB",
        checkpoint_timeout="1h",
    )
    try:
        draw = random.Random(3)
        with PostgresCAS(server.dsn, timeout=2) as cas:
            kept, error = fill(cas, draw)
        assert kept
        assert isinstance(error, StorageError)
        disk.make_room()
        if server.keeper.poll() is not None:
            server.start()
        assert_all_is_here(server.dsn, kept)
        with PostgresCAS(server.dsn) as cas:
            more = draw.randbytes(MEGABYTE)
            kept[cas.put(more)] = more
        assert_all_is_here(server.dsn, kept)
    finally:
        server.remove()
