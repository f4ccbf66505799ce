"""Killed writers, full disks and directories that may not be written: what was acknowledged stays."""

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from agentref.errors import StorageError, StoreFullError
from agentref.refs import Digest
from agentref.storage import FilesystemCAS
from agentref.storage.filesystem import FilesystemBlobStore

KILLS = 60

WRITER = """
import hashlib, random, sys
from agentref.refs import Digest
from agentref.storage.filesystem import FilesystemBlobStore

root, seed = sys.argv[1], int(sys.argv[2])
chance = random.Random(seed)
store = FilesystemBlobStore(root)
print("open", flush=True)
kept = []
for _ in range(10_000):
    datas = [chance.randbytes(chance.choice([10, 900, 5000, 20_000])) for _ in range(chance.randint(1, 6))]
    blobs = {Digest(hashlib.sha256(data).digest()): data for data in datas}
    store.store(blobs)
    print(*(digest.hex() for digest in blobs), flush=True)
    kept += blobs
    if chance.random() < 0.3:
        gone = kept.pop(chance.randrange(len(kept)))
        print("-" + gone.hex(), flush=True)
        store.remove([gone])
"""


def python(code, *arguments, **options):
    """A child process that imports what we import."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def acknowledged(lines):
    """What the writer said is stored, less what it may have removed; a cut last line is not a word."""
    kept = set()
    for line in lines:
        if line.startswith("-"):
            kept.discard(line[1:].strip())
        elif line.endswith("\n") and line != "open\n":
            kept.update(line.split())
    return {Digest(bytes.fromhex(name)) for name in kept}


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path):
    chance = random.Random(7)
    kept = set()
    for seed in range(KILLS):
        with python(WRITER, tmp_path, seed) as writer:
            assert writer.stdout.readline() == "open\n"
            time.sleep(chance.random() * 0.06)
            writer.send_signal(signal.SIGKILL)
            lines = writer.stdout.readlines()
        kept |= acknowledged(lines)
        with closing(FilesystemBlobStore(tmp_path)) as store:
            found = store.fetch(list(kept))
            assert found.keys() == kept
            assert store.stat(list(kept)).keys() == kept
            assert all(hashlib.sha256(data).digest() == digest for digest, data in found.items())
    assert len(kept) > KILLS
    with closing(FilesystemBlobStore(tmp_path)) as store:
        store.sweep()
    with closing(sqlite3.connect(tmp_path / "index.sqlite3")) as index:
        assert index.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        live = dict(index.execute("SELECT name, live FROM pack WHERE state < 2"))
        needed = "SELECT name, sum(36 + stored_size) FROM blob JOIN pack ON pack.id = pack_id GROUP BY name"
        assert dict(index.execute(needed)) == live
    # Every file is a pack that the index knows, and at least half of it is needed.
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "packs").iterdir()}
    assert sizes.keys() == live.keys()
    assert all(2 * live[name] >= size for name, size in sizes.items())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=2m", "none", disk], check=False, stderr=subprocess.DEVNULL
        ).returncode
    ):
        pytest.skip("mounting a small file system is not permitted here")
    yield disk
    subprocess.run([shutil.which("umount"), disk], check=True)


@pytest.mark.parametrize("size", [20_000, 300_000])
def test_a_full_disk_is_a_typed_error_and_what_was_stored_stays(small_disk, size):
    last = Digest(bytes([255]) * 32)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    before = {Digest(bytes([n]) * 32): os.urandom(1000) for n in range(100)}
    with closing(FilesystemBlobStore(small_disk / "store")) as store:
        store.store(before)
        stored = dict(before)
        with pytest.raises(StoreFullError, match="free space"):  # noqa: PT012
            for n in range(1000):
                batch = {Digest((3 * n + k).to_bytes(32, "big")): os.urandom(size) for k in range(1, 4)}
                store.store(batch)
                stored |= batch
        assert store.fetch(list(stored)) == stored
        assert len(store.scan()) == len(stored)
        assert store.sweep() == 0
        assert store.fetch(list(batch)) == {}
        packed = sum(path.stat().st_size for path in (small_disk / "store" / "packs").glob("*"))
        assert packed <= sum(68 + len(data) for data in stored.values())
    with closing(FilesystemBlobStore(small_disk / "store")) as store:
        assert store.fetch(list(stored)) == stored
        ballast.unlink()  # to forget is to write: even a removal needs a little room
        store.remove([digest for digest in stored if digest not in before])
        store.store({last: b"again"})
        assert store.fetch([last]) == {last: b"again"}


LIMITED = """
import resource, sys
from agentref.errors import StorageError
from agentref.refs import Digest
from agentref.storage.filesystem import FilesystemBlobStore

store = FilesystemBlobStore(sys.argv[1])
store.store({Digest(bytes(32)): b"before"})
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
for data in (b"f" * 400_000, b"x" * 99_999):
    try:
        for n in range(1, 20):
            store.store({Digest(bytes([n]) * 32): data})
    except StorageError as error:
        print(type(error).__name__, flush=True)
assert store.fetch([Digest(bytes(32))]) == {Digest(bytes(32)): b"before"}
"""


def test_a_limit_on_the_size_of_files_is_a_typed_error(tmp_path):
    with python(LIMITED, tmp_path / "store") as child:
        said = child.stdout.read().split()
    assert child.returncode == 0
    assert said == ["StoreFullError", "StoreFullError"]


UNPRIVILEGED = """
import os, sys
import urllib.parse  # pathlib imports it late, and Python itself may be out of reach by then
from agentref.errors import StorageError
from agentref.refs import Digest
from agentref.storage.filesystem import FilesystemBlobStore

if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    store = FilesystemBlobStore(sys.argv[1])
    store.store({Digest(bytes(32)): b"data"})
except StorageError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_that_may_not_be_written_is_a_typed_error(exists):
    # Not under tmp_path, whose parents other users may not enter.
    place = Path("/tmp") / f"agentref-read-only-{os.getpid()}-{exists}"
    place.mkdir()
    try:
        if exists:
            FilesystemBlobStore(place / "store").close()
            (place / "store").chmod(0o555)
        place.chmod(0o555)
        with python(UNPRIVILEGED, place / "store") as child:
            said = child.stdout.read()
        assert child.returncode == 0
        assert said.startswith("StoreUnavailableError")
        assert str(place) in said
    finally:
        place.chmod(0o755)
        if exists:
            (place / "store").chmod(0o755)
        shutil.rmtree(place)


def test_a_store_that_is_deleted_under_a_writer_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("agentref.sqlite.database._SECONDS_BETWEEN_LOOKS", 0.0)
    with closing(FilesystemBlobStore(tmp_path / "store")) as store:
        store.store({Digest(bytes(32)): b"data"})
        shutil.rmtree(tmp_path / "store")
        with pytest.raises(StorageError, match="deleted, moved or replaced"):
            store.store({Digest(bytes(32)): b"data"})


@pytest.mark.parametrize("size", [100, 2_000_000])
@pytest.mark.parametrize("again", ["nothing", "another store"])
def test_content_that_was_seen_is_not_taken_to_be_in_a_store_that_is_gone(tmp_path, size, again):
    with FilesystemCAS(tmp_path / "store") as cas:
        value = "known " * (size // 6)
        for _ in range(3):
            cas.dump(value)
        shutil.rmtree(tmp_path / "store")
        if again == "another store":
            FilesystemCAS(tmp_path / "store").close()
        with pytest.raises(StorageError, match="deleted, moved or replaced"):
            cas.dump(value)
