"""The filesystem store's own promises: its directory, its files, its format, and what may go wrong."""

import math
import os
import sqlite3
import threading
from contextlib import closing

import pytest

from agentref.errors import (
    InvalidInputError,
    StorageError,
    StoreBusyError,
    StoreUnavailableError,
    StoreVersionError,
)
from agentref.refs import Digest
from agentref.storage import _blob_table as table
from agentref.storage._files import Staging
from agentref.storage._index import open_index
from agentref.storage.filesystem import FilesystemBlobStore

A, B, C = (Digest(bytes([n]) * 32) for n in (1, 2, 3))
LARGE = b"large" * 1000


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def opened(root):
    """Open the store again and again; all are closed at the end."""
    stores = []

    def open_store(**options):
        stores.append(FilesystemBlobStore(root, **{"large_blob_bytes": 1000, **options}))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened()


def blob_files(root):
    return [path for path in (root / "blobs").rglob("*") if path.is_file()]


def temporary_files(root):
    return list((root / "tmp").rglob("*"))


def tree(directory):
    """Every file with its bytes and time."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


class TestOpening:
    def test_a_directory_is_made_with_its_parents(self, tmp_path):
        FilesystemBlobStore(tmp_path / "a" / "b" / "c").close()
        assert (tmp_path / "a" / "b" / "c" / "index.sqlite3").is_file()

    def test_without_create_a_missing_store_is_an_error_and_nothing_is_made(self, root):
        with pytest.raises(StoreUnavailableError, match="create=True"):
            FilesystemBlobStore(root, create=False)
        assert not root.exists()

    def test_a_moved_directory_is_the_same_store(self, root, tmp_path):
        with closing(FilesystemBlobStore(root)) as store:
            store.store({A: b"data"})
            name = store.store_id
        root.rename(tmp_path / "elsewhere")
        with closing(FilesystemBlobStore(tmp_path / "elsewhere", create=False)) as store:
            assert store.store_id == name
            assert store.fetch([A]) == {A: b"data"}

    def test_a_relative_root_outlives_a_change_of_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "other").mkdir()
        with closing(FilesystemBlobStore("store", large_blob_bytes=1)) as store:
            monkeypatch.chdir(tmp_path / "other")
            store.store({A: b"data"})
            assert store.fetch([A]) == {A: b"data"}
        assert list((tmp_path / "other").iterdir()) == []

    def test_a_name_that_means_something_in_a_uri_is_only_a_name(self, tmp_path):
        root = tmp_path / "a?mode=memory&x#y %41 ü"
        with closing(FilesystemBlobStore(root)) as store:
            store.store({A: b"data"})
        assert (root / "index.sqlite3").is_file()

    def test_a_file_where_the_root_should_be_is_refused(self, root):
        root.write_text("mine")
        with pytest.raises(StoreUnavailableError, match="is a file"):
            FilesystemBlobStore(root)
        assert root.read_text() == "mine"

    def test_a_directory_with_something_else_in_it_is_left_alone(self, root):
        root.mkdir()
        (root / "thesis.txt").write_text("mine")
        before = tree(root)
        with pytest.raises(StoreVersionError, match=r"thesis\.txt"):
            FilesystemBlobStore(root)
        assert tree(root) == before

    def test_a_store_that_lost_its_index_is_not_begun_anew(self, opened, root):
        store = opened()
        store.store({A: LARGE})
        store.close()
        for path in root.glob("index*"):
            path.unlink()
        with pytest.raises(StoreVersionError, match=r"index\.sqlite3 is lost"):
            FilesystemBlobStore(root)

    def test_the_root_of_a_volume_may_be_a_store(self, root):
        (root / "lost+found").mkdir(parents=True)
        FilesystemBlobStore(root).close()

    def test_making_a_store_that_was_cut_short_is_taken_up_again(self, root):
        root.mkdir()
        (root / "index.sqlite3.new").write_bytes(b"half")
        (root / "index.sqlite3.new-journal").write_bytes(b"half")
        FilesystemBlobStore(root).close()
        assert [path.name for path in root.iterdir()] == ["index.sqlite3"]

    @pytest.mark.parametrize("journal", ["delete", "wal"])
    def test_a_foreign_database_is_left_alone(self, root, journal):
        root.mkdir()
        with closing(sqlite3.connect(root / "index.sqlite3")) as foreign:
            foreign.execute(f"PRAGMA journal_mode = {journal}")
            foreign.execute("CREATE TABLE mine(x)")
            foreign.commit()
            before = tree(root)
            with pytest.raises(StoreVersionError, match="left alone"):
                FilesystemBlobStore(root)
            assert tree(root) == before

    def test_an_index_that_is_no_database_is_refused(self, root):
        root.mkdir()
        (root / "index.sqlite3").write_bytes(b"no database at all" * 1000)
        with pytest.raises(StoreVersionError, match=r"index\.sqlite3"):
            FilesystemBlobStore(root)

    def test_a_newer_format_is_refused_and_left_alone(self, opened, root):
        opened().close()
        with closing(sqlite3.connect(root / "index.sqlite3")) as index:
            index.execute("PRAGMA user_version = 2")
        before = tree(root)
        with pytest.raises(StoreVersionError, match="format 2"):
            FilesystemBlobStore(root)
        assert tree(root) == before

    def test_a_damaged_index_is_a_typed_error_that_says_what_to_do(self, opened, root):
        store = opened()
        store.store({Digest(bytes([n]) * 32): b"x" * 900 for n in range(200)})
        store.close()
        index = root / "index.sqlite3"
        index.write_bytes(index.read_bytes()[:4096] + os.urandom(index.stat().st_size - 4096))
        with pytest.raises(StoreUnavailableError, match="backup"):
            FilesystemBlobStore(root).scan()

    def test_an_index_that_another_process_is_moving_its_log_into_is_recognised(self, opened, root):
        store = opened()
        store.store({Digest(bytes([n]) * 32): b"x" * 900 for n in range(200)})
        store.close()
        os.truncate(root / "index.sqlite3", 8192)  # for that moment, shorter than its header says
        assert open_index(root, create=False, patience=0) == root / "index.sqlite3"

    @pytest.mark.parametrize(
        "options",
        [
            {"large_blob_bytes": 0},
            {"large_blob_bytes": 2**40},
            {"busy_timeout": -1},
            {"busy_timeout": math.nan},
            {"busy_timeout": math.inf},
        ],
    )
    def test_an_option_out_of_range_is_refused_before_anything_is_made(self, root, options):
        with pytest.raises(InvalidInputError, match=next(iter(options))):
            FilesystemBlobStore(root, **options)
        assert not root.exists()


class TestFiles:
    def test_only_large_blobs_are_files(self, store, root):
        store.store({A: b"x" * 999, B: b"x" * 1000})
        assert [path.parent.name + path.name for path in blob_files(root)] == [B.hex()]
        assert temporary_files(root) == []

    @pytest.mark.parametrize("damage", [0, 10, len(LARGE) + 1, None])
    def test_a_damaged_file_counts_as_absent_until_it_is_stored_again(self, store, root, damage):
        store.store({A: LARGE})
        [path] = blob_files(root)
        if damage is None:
            path.unlink()
        else:
            os.truncate(path, damage)
        assert store.stat([A]) == {}
        assert store.fetch([A]).get(A) != LARGE
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}
        assert store.stat([A])[A].stored_size == len(LARGE)

    def test_a_scan_lists_a_blob_whose_file_is_lost(self, store, root):
        store.store({A: LARGE})
        blob_files(root)[0].unlink()
        assert [info.digest for info in store.scan()] == [A]

    def test_a_file_that_a_crash_left_without_a_row_is_taken_over(self, store, root):
        path = root / "blobs" / A.hex()[:2] / A.hex()[2:]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"half")
        assert store.stat([A]) == store.fetch([A]) == {}
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}

    def test_a_sweep_takes_only_what_no_row_stands_for(self, store, root):
        store.store({A: LARGE})
        for digest in (B, C):
            path = root / "blobs" / digest.hex()[:2] / digest.hex()[2:]
            path.parent.mkdir(parents=True)
            path.write_bytes(b"orphan")
        (root / "blobs" / "README").write_text("not a digest")
        assert store.sweep() == 2
        assert store.fetch([A]) == {A: LARGE}
        assert (root / "blobs" / "README").exists()

    def test_what_a_dead_writer_left_is_gone_when_the_store_is_opened_again(self, opened, root):
        opened()
        left = root / "tmp" / "left"
        left.mkdir(parents=True)
        (left / A.hex()).write_bytes(b"half")
        opened()
        assert temporary_files(root) == []

    def test_what_a_live_writer_is_writing_is_left_alone(self, store, opened, root, monkeypatch):
        add = Staging.add

        def add_and_open_again(self, blobs):
            add(self, blobs)
            opened()

        monkeypatch.setattr(Staging, "add", add_and_open_again)
        store.store({A: LARGE})
        assert (store.fetch([A]), temporary_files(root)) == ({A: LARGE}, [])

    def test_bytes_that_move_from_file_to_row_and_back_leave_nothing_behind(self, store, root):
        store.store({A: LARGE})
        store.replace({A: b"small"})
        assert (store.fetch([A]), blob_files(root)) == ({A: b"small"}, [])
        store.replace({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}
        assert store.remove([A]) == 1
        assert blob_files(root) == []

    def test_another_threshold_reads_what_is_there(self, opened):
        opened().store({A: LARGE, B: b"small"})
        other = opened(large_blob_bytes=1)
        other.store({A: LARGE, B: b"small", C: b"c"})
        assert other.fetch([A, B, C]) == {A: LARGE, B: b"small", C: b"c"}

    def test_space_goes_back_to_the_disk(self, opened, root):
        store = opened()
        blobs = {Digest(n.to_bytes(32, "big")): os.urandom(900) for n in range(2000)}
        store.store(blobs)
        store.remove(list(blobs))
        store.close()
        assert (root / "index.sqlite3").stat().st_size < 100_000


class TestInterleaving:
    """What happens between two steps of a verb, forced to happen there."""

    def test_a_blob_removed_while_it_is_stored_again_is_written_after_all(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: LARGE})
        stage = store._files.stage

        def remove_then_stage():  # `store` has just seen that the file is whole
            assert other.remove([A]) == 1
            return stage()

        monkeypatch.setattr(store._files, "stage", remove_then_stage)
        store.store({A: LARGE, B: b"b"})
        assert store.fetch([A, B]) == {A: LARGE, B: b"b"}
        assert A in other.stat([A])

    def test_a_blob_stored_while_it_is_removed_keeps_its_file(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: LARGE, B: LARGE})
        unlink = store._unlink_unowned

        def store_then_unlink(digests):  # the rows are gone, the files are not yet
            monkeypatch.undo()
            assert sorted(digests) == [A, B]
            other.store({A: LARGE})
            return unlink(digests)

        monkeypatch.setattr(store, "_unlink_unowned", store_then_unlink)
        assert store.remove([A, B]) == 2
        assert other.fetch([A, B]) == {A: LARGE}
        assert store.sweep() == 0

    def test_a_reader_finds_bytes_that_leave_their_file_under_it(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: LARGE})
        read = store._files.read

        def replace_then_read(digest):
            other.replace({A: b"small"})
            return read(digest)

        monkeypatch.setattr(store._files, "read", replace_then_read)
        assert store.fetch([A]) == {A: b"small"}

    def test_two_writers_of_one_file_blob_agree_on_one_of_the_two(self, store, opened, monkeypatch):
        other = opened()
        add = Staging.add

        def other_first(self, blobs):  # ours is staged, not yet published
            add(self, blobs)
            monkeypatch.undo()
            other.store({A: LARGE + b"compressed otherwise"})

        monkeypatch.setattr(Staging, "add", other_first)
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE + b"compressed otherwise"}
        assert A in store.stat([A])

    def test_a_batch_that_fails_at_the_end_leaves_no_row_no_file_and_no_lock(
        self, store, root, monkeypatch
    ):
        store.store({B: b"before"})

        def fail(*_, **__):
            raise sqlite3.OperationalError

        monkeypatch.setattr(table, "insert", fail)
        with pytest.raises(StorageError):
            store.store({A: LARGE, C: b"c"})
        monkeypatch.undo()
        assert blob_files(root) == temporary_files(root) == []
        assert store.fetch([A, B, C]) == {B: b"before"}
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}


class TestWaiting:
    def test_a_writer_elsewhere_makes_it_busy_and_does_not_stop_readers(self, opened, root):
        store = opened(busy_timeout=0.05)
        store.store({A: b"a"})
        with closing(sqlite3.connect(root / "index.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusyError, match="busy_timeout"):
                store.store({B: b"b", C: LARGE})
            assert store.fetch([A, B, C]) == {A: b"a"}
            other.execute("ROLLBACK")
        assert temporary_files(root) == []
        store.store({B: b"b"})
        assert store.fetch([A, B]) == {A: b"a", B: b"b"}

    def test_a_writer_in_another_thread_makes_it_busy(self, opened):
        store = opened(busy_timeout=0.05)
        with store._database.write(), pytest.raises(StoreBusyError, match="Another thread"):
            store.store({A: b"a"})
        store.store({A: b"a"})

    def test_close_waits_for_a_verb_that_runs(self, store, monkeypatch):
        begun, go_on = threading.Event(), threading.Event()
        add = Staging.add

        def slowly(self, blobs):
            begun.set()
            go_on.wait(10)
            add(self, blobs)

        monkeypatch.setattr(Staging, "add", slowly)
        writer = threading.Thread(target=store.store, args=({A: LARGE},))
        writer.start()
        begun.wait(10)
        closer = threading.Thread(target=store.close)
        closer.start()
        go_on.set()
        writer.join(10)
        closer.join(10)
        with closing(FilesystemBlobStore(store.root)) as again:
            assert again.fetch([A]) == {A: LARGE}
