"""One store, many processes: making it, opening and closing it, forking with it open."""

import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from agentref.errors import StoreUnavailableError
from agentref.refs import Digest
from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.memory import MemoryBlobStore
from tests.forking import fork, statuses


def digest(number):
    return Digest(number.to_bytes(32, "big"))


def test_twenty_processes_that_make_one_store_at_once_all_use_it(tmp_path):
    reading, writing = os.pipe()

    def work(number):
        os.close(writing)
        os.read(reading, 1)  # returns when the parent lets go of its end
        with closing(FilesystemBlobStore(tmp_path / "a" / "store")) as store:
            store.store({digest(number): b"row", digest(100 + number): b"x" * 10})

    children = [fork(lambda n=n: work(n)) for n in range(20)]
    os.close(writing)
    os.close(reading)
    assert statuses(children) == [0] * 20
    with closing(FilesystemBlobStore(tmp_path / "a" / "store", create=False)) as store:
        assert len(store.fetch([digest(n) for n in [*range(20), *range(100, 120)]])) == 40


def test_processes_that_open_write_and_close_all_the_time_never_meet_a_half_moved_log(tmp_path):
    FilesystemBlobStore(tmp_path).close()

    def work(number):
        for turn in range(15):
            with closing(FilesystemBlobStore(tmp_path)) as store:
                store.store(
                    {digest(1000 * number + n): bytes(900) for n in range(10 * turn, 10 * turn + 10)}
                )

    assert statuses([fork(lambda n=n: work(n)) for n in range(4)]) == [0] * 4
    with closing(FilesystemBlobStore(tmp_path)) as store:
        assert len(store.fetch([digest(1000 * n + k) for n in range(4) for k in range(150)])) == 600


def test_what_a_forked_child_commits_survives_its_parent_closing_the_store(tmp_path):
    """The parent's last connection deletes the log, unless the child holds file locks of its own."""
    store = FilesystemBlobStore(tmp_path)
    store.store({digest(0): b"parent"})
    to_child, from_child = os.pipe(), os.pipe()

    def work():
        store.store({digest(1): b"before"})
        os.write(from_child[1], b"x")
        os.read(to_child[0], 1)
        store.store({digest(2): b"after"})

    child = fork(work)
    os.read(from_child[0], 1)
    store.store({digest(3): b"parent"})
    store.close()
    os.write(to_child[1], b"x")
    assert statuses([child]) == [0]
    for end in (*to_child, *from_child):
        os.close(end)
    with closing(FilesystemBlobStore(tmp_path)) as again:
        assert sorted(again.fetch([digest(n) for n in range(4)])) == [digest(n) for n in range(4)]


def test_a_process_that_dies_while_it_copies_out_of_a_pack_lengthens_no_life(tmp_path, monkeypatch):
    blobs = {digest(n): os.urandom(300) for n in range(100)}
    kept = list(blobs)[:20]
    with closing(FilesystemBlobStore(tmp_path)) as store:
        store.store(blobs, expires_at=2e9)

    def work():
        monkeypatch.setattr("agentref.storage._compaction._resettle", lambda *_: os._exit(0))
        FilesystemBlobStore(tmp_path).remove(list(blobs)[20:])

    assert statuses([fork(work)]) == [0]
    with closing(FilesystemBlobStore(tmp_path)) as store:
        assert [info.expires_at for info in store.scan()] == [2e9] * 20
        assert store.fetch(kept) == {name: blobs[name] for name in kept}
        store.sweep()
        assert store.fetch(kept) == {name: blobs[name] for name in kept}
        assert [info.expires_at for info in store.scan()] == [2e9] * 20


@pytest.mark.parametrize("kind", ["memory", "filesystem"])
def test_forks_while_threads_write_leave_both_sides_working(tmp_path, kind):
    store = MemoryBlobStore() if kind == "memory" else FilesystemBlobStore(tmp_path)
    done = threading.Event()
    failures = []

    def write(first):
        number = first
        while not done.is_set():
            try:
                store.store({digest(number): b"x" * (number % 1000)})
            except Exception as error:  # noqa: BLE001
                failures.append(error)
                return
            number += 1

    threads = [threading.Thread(target=write, args=(100_000 * n,)) for n in range(1, 4)]
    for thread in threads:
        thread.start()

    def work():
        store.store({digest(1): b"child"})
        assert store.fetch([digest(1)]) == {digest(1): b"child"}

    ended = [statuses([fork(work)])[0] for _ in range(15)]
    done.set()
    for thread in threads:
        thread.join()
    assert ended == [0] * 15
    assert failures == []
    assert len(store.scan(limit=10**6)) > 3
    store.close()


def test_a_child_that_inherits_a_verb_in_progress_refuses_to_work(tmp_path):
    """Its locks would not be its own; the parent is unharmed."""
    store = FilesystemBlobStore(tmp_path, busy_timeout=0.05)
    with store._database.session(), store._database.read():

        def work():
            with pytest.raises(StoreUnavailableError, match="fork"):
                store.fetch([digest(1)])

        assert statuses([fork(work)]) == [0]
    store.store({digest(1): b"parent"})
    assert store.fetch([digest(1)]) == {digest(1): b"parent"}
    store.close()


def test_no_descriptor_of_an_open_store_is_inherited_by_a_program_it_starts(tmp_path):
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        pytest.skip("needs /proc")
    with closing(FilesystemBlobStore(tmp_path)) as store:
        store.store({digest(1): b"data"})
        ours = [
            int(entry.name)
            for entry in listing.iterdir()
            if entry.exists() and str(entry.readlink()).startswith(str(tmp_path))
        ]
        assert len(ours) >= 3
        assert not any(os.get_inheritable(descriptor) for descriptor in ours)


def test_a_store_that_is_never_closed_ends_quietly_and_leaves_no_log(tmp_path):
    code = (
        "import sys; from agentref.storage.filesystem import FilesystemBlobStore as S\n"
        "kept = S(sys.argv[1]); kept.store({bytes(32): b'data'})\n"
        "S(sys.argv[1]).store({bytes(32): b'data'})\n"
    )
    child = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, tmp_path],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stderr == ""
    assert {path.name for path in tmp_path.iterdir()} == {"index.sqlite3", "marks", "packs"}
    assert [path.stat().st_size for path in (tmp_path / "packs").iterdir()] == [40 + 36 + 4]


def test_a_large_transaction_does_not_leave_a_large_log(tmp_path, monkeypatch):
    monkeypatch.setattr("agentref.sqlite.database._SECONDS_BETWEEN_LOOKS", 0.0)
    with closing(FilesystemBlobStore(tmp_path)) as store:
        store.store({digest(n): os.urandom(100_000) for n in range(400)})
        store.store({digest(1000): b"next"})
        assert (tmp_path / "index.sqlite3-wal").stat().st_size < 9_000_000
        assert len(store.scan()) == 401
