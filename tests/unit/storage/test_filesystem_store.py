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
from agentref.storage._index import open_index
from agentref.storage._packs import Packs
from agentref.storage.filesystem import FilesystemBlobStore

A, B, C = (Digest(bytes([n]) * 32) for n in (1, 2, 3))
LARGE = b"large" * 1000
HEAD = 36  # of a record in a pack


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def opened(root):
    """Open the store again and again; all are closed at the end."""
    stores = []

    def open_store(**options):
        stores.append(FilesystemBlobStore(root, **{"pack_from_bytes": 1000, **options}))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened()


def packs(root):
    return sorted((root / "packs").glob("*"))


def packed_bytes(root):
    return sum(path.stat().st_size for path in packs(root))


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
        with closing(FilesystemBlobStore("store", pack_from_bytes=1)) as store:
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
            {"pack_from_bytes": 0},
            {"pack_from_bytes": 2**40},
            {"busy_timeout": -1},
            {"busy_timeout": math.nan},
            {"busy_timeout": math.inf},
        ],
    )
    def test_an_option_out_of_range_is_refused_before_anything_is_made(self, root, options):
        with pytest.raises(InvalidInputError, match=next(iter(options))):
            FilesystemBlobStore(root, **options)
        assert not root.exists()


class TestPacks:
    def test_only_large_batches_go_to_a_pack(self, store, root):
        store.store({A: b"x" * 999})
        assert packs(root) == []
        store.store({B: b"x" * 600, C: b"y" * 400})
        [pack] = packs(root)
        assert pack.stat().st_size == 1000 + 2 * HEAD
        assert store.fetch([A, B, C]) == {A: b"x" * 999, B: b"x" * 600, C: b"y" * 400}

    def test_one_writer_fills_one_pack(self, store, root):
        for number in range(20):
            store.store({Digest(bytes([number]) * 32): os.urandom(1000)})
        assert [path.stat().st_size for path in packs(root)] == [20 * (1000 + HEAD)]

    def test_the_next_process_goes_on_with_the_pack(self, opened, root):
        for digest in (A, B, C):
            store = opened()
            store.store({digest: LARGE})
            store.close()
        assert [path.stat().st_size for path in packs(root)] == [3 * (len(LARGE) + HEAD)]

    def test_writers_at_the_same_time_have_packs_of_their_own(self, store, opened, root, monkeypatch):
        other = opened()
        commit = store._commit

        def other_first(*args, **options):  # our bytes are in our pack, their rows are not yet there
            other.store({B: LARGE})
            commit(*args, **options)

        monkeypatch.setattr(store, "_commit", other_first)
        store.store({A: LARGE})
        assert store.fetch([A, B]) == {A: LARGE, B: LARGE}
        assert len(packs(root)) == 2

    def test_a_full_pack_is_followed_by_another(self, store, root, monkeypatch):
        monkeypatch.setattr("agentref.storage._packs._FULL", 2500)
        for number in range(5):
            store.store({Digest(bytes([number]) * 32): bytes([number]) * 1000})
        assert sorted(path.stat().st_size for path in packs(root)) == [2 * (1000 + HEAD), 3 * (1000 + HEAD)]
        assert store.fetch([Digest(bytes([4]) * 32)]) == {Digest(bytes([4]) * 32): bytes([4]) * 1000}

    @pytest.mark.parametrize("damage", [0, 10, None])
    def test_a_blob_whose_pack_is_lost_or_cut_short_counts_as_absent_until_it_is_stored_again(
        self, opened, root, damage
    ):
        opened().store({A: LARGE})
        [path] = packs(root)
        if damage is None:
            path.unlink()
        else:
            os.truncate(path, damage)
        store = opened()
        assert store.stat([A]) == {}
        assert store.fetch([A]).get(A) != LARGE
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}
        assert store.stat([A])[A].stored_size == len(LARGE)

    def test_a_scan_lists_a_blob_whose_pack_is_lost(self, store, root):
        store.store({A: LARGE})
        packs(root)[0].unlink()
        assert [info.digest for info in store.scan()] == [A]

    def test_what_a_dead_writer_left_is_gone_when_the_store_is_opened_again(self, opened, root):
        opened().store({A: LARGE})
        (root / "packs" / "00000000000000aa").write_bytes(b"bytes that no row tells of")
        (root / "packs" / "README").write_text("no pack")
        store = opened()
        assert len(packs(root)) == 2
        assert (root / "packs" / "README").exists()
        assert store.fetch([A]) == {A: LARGE}

    def test_what_a_dead_writer_appended_is_cut_off_by_the_next_one(self, opened, root):
        store = opened()
        store.store({A: LARGE})
        store.close()
        with packs(root)[0].open("ab") as pack:
            pack.write(b"torn" * 10_000)
        store = opened()
        store.store({B: LARGE})
        assert packed_bytes(root) == 2 * (len(LARGE) + HEAD)
        assert store.fetch([A, B]) == {A: LARGE, B: LARGE}
        store.remove([A, B])
        assert packs(root) == []

    def test_a_pack_that_was_cut_short_is_not_written_to_and_keeps_what_is_left(self, opened, root):
        store = opened()
        store.store({A: LARGE, B: LARGE})
        store.close()
        os.truncate(packs(root)[0], len(LARGE) + HEAD + 50)
        store = opened()
        store.store({C: LARGE})
        assert len(packs(root)) == 2
        assert store.fetch([A, C]) == {A: LARGE, C: LARGE}
        store.remove([B])
        store.sweep()
        assert store.fetch([A, C]) == {A: LARGE, C: LARGE}

    def test_an_open_pack_that_was_cut_short_is_not_gone_on_with(self, store, opened, root):
        store.store({A: LARGE, B: LARGE})
        os.truncate(packs(root)[0], 100)
        store.store({C: LARGE})
        assert store.stat([A, B, C]).keys() == {C}
        other = opened()
        other.store({A: LARGE, B: LARGE})
        assert store.fetch([A, B, C]) == {A: LARGE, B: LARGE, C: LARGE}

    @pytest.mark.parametrize("entry", ["directory", "link"])
    def test_what_is_no_file_among_the_packs_is_passed_over(self, opened, root, entry):
        opened().store({A: LARGE})
        place = root / "packs" / "00000000000000aa"
        if entry == "directory":
            place.mkdir()
        else:
            place.symlink_to(root / "index.sqlite3")
        store = opened()
        store.store({B: LARGE})
        assert store.sweep() == 0
        assert store.fetch([A, B]) == {A: LARGE, B: LARGE}
        assert place.exists()

    def test_a_pack_whose_records_cannot_be_told_apart_is_not_given_up(self, opened, root):
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        store = opened()
        store.store(blobs)
        store.close()
        with packs(root)[0].open("r+b") as pack:
            pack.seek(32)
            pack.write(b"\xff\xff\xff\xff")
        store = opened()
        store.remove(list(blobs)[:150])
        assert store.sweep() == 0
        assert store.fetch(list(blobs)) == dict(list(blobs.items())[150:])

    def test_what_a_live_writer_is_writing_is_left_alone(self, store, opened, root, monkeypatch):
        commit = store._commit

        def open_again_first(*args, **options):
            opened()
            assert len(packs(root)) == 1
            commit(*args, **options)

        monkeypatch.setattr(store, "_commit", open_again_first)
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}

    def test_bytes_that_move_from_pack_to_row_and_back_leave_nothing_behind(self, store, root):
        store.store({A: LARGE})
        store.replace({A: b"small"})
        assert (store.fetch([A]), packs(root)) == ({A: b"small"}, [])
        store.replace({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}
        assert store.remove([A]) == 1
        assert packs(root) == []

    def test_another_threshold_reads_what_is_there(self, opened):
        opened().store({A: LARGE, B: b"small"})
        other = opened(pack_from_bytes=1)
        other.store({A: LARGE, B: b"small", C: b"c"})
        assert other.fetch([A, B, C]) == {A: LARGE, B: b"small", C: b"c"}

    def test_space_goes_back_to_the_disk(self, opened, root):
        store = opened(pack_from_bytes=10**8)
        blobs = {Digest(n.to_bytes(32, "big")): os.urandom(900) for n in range(2000)}
        store.store(blobs)
        store.remove(list(blobs))
        store.close()
        assert (root / "index.sqlite3").stat().st_size < 100_000

    @pytest.mark.parametrize("kept", [3, 40])  # few enough for rows; enough for another pack
    def test_a_pack_of_which_little_is_needed_is_given_up(self, opened, root, kept):
        store = opened()
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        store.store(blobs)
        before = packs(root)
        needed = dict(list(blobs.items())[:kept])
        infos = store.stat(list(needed))
        store.remove([digest for digest in blobs if digest not in needed])
        assert not set(before) & set(packs(root))
        assert packed_bytes(root) == ((300 + HEAD) * kept if kept == 40 else 0)
        assert store.fetch(list(blobs)) == needed
        assert store.stat(list(blobs)) == infos

    def test_a_pack_of_which_most_is_needed_stays(self, store, root):
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        store.store(blobs)
        store.remove(list(blobs)[:80])
        assert packed_bytes(root) == 200 * (300 + HEAD)
        assert len(store.fetch(list(blobs))) == 120

    def test_an_empty_blob_keeps_its_place_when_the_rest_of_its_pack_goes(self, store, root):
        store.store({A: LARGE, B: b""})
        store.remove([A])
        assert store.fetch([A, B]) == {B: b""}
        assert packs(root) == []

    def test_a_pack_that_another_writes_to_is_given_up_by_a_sweep_once_it_is_not(self, opened, root):
        writer, other = opened(), opened()
        writer.store({A: LARGE})
        other.remove([A])
        assert len(packs(root)) == 1
        assert other.sweep() == 0
        writer.close()
        assert other.sweep() == 1
        assert packs(root) == []

    def test_a_removal_that_finds_no_room_to_copy_has_removed_all_the_same(self, store, monkeypatch):
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        store.store(blobs)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Packs, "append", full)
        assert store.remove(list(blobs)[:160]) == 160
        monkeypatch.undo()
        assert len(store.fetch(list(blobs))) == 40
        assert store.sweep() == 1
        assert len(store.fetch(list(blobs))) == 40

    def test_a_name_in_the_index_that_is_no_packs_name_is_no_path(self, opened, root, tmp_path):
        (tmp_path / "secret").write_bytes(LARGE)
        store = opened()
        store.store({A: LARGE})
        store.close()
        with closing(sqlite3.connect(root / "index.sqlite3")) as index:
            index.execute("UPDATE pack SET name = '../../secret'")
            index.commit()
        store = opened()
        assert store.fetch([A]) == store.stat([A]) == {}
        assert store.remove([A]) == 1
        assert (tmp_path / "secret").exists()


class TestInterleaving:
    """What happens between two steps of a verb, forced to happen there."""

    def test_a_blob_removed_while_it_is_stored_again_is_written_after_all(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: LARGE})
        append = store._packs.append

        def remove_then_append(blobs, known):
            assert other.remove([A]) == 1
            return append(blobs, known)

        monkeypatch.setattr(store._packs, "append", remove_then_append)
        store.store({A: LARGE, B: LARGE})
        assert store.fetch([A, B]) == {A: LARGE, B: LARGE}
        assert A in other.stat([A])

    def test_a_blob_stored_while_its_pack_is_given_up_is_kept(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: LARGE, B: LARGE})
        shrink = store._shrink

        def store_then_shrink(pack_ids):  # the rows are gone, the pack is not yet
            monkeypatch.undo()
            other.store({A: LARGE})
            return shrink(pack_ids)

        monkeypatch.setattr(store, "_shrink", store_then_shrink)
        assert store.remove([A, B]) == 2
        assert other.fetch([A, B]) == {A: LARGE}
        assert store.fetch([A, B]) == {A: LARGE}

    def test_a_blob_removed_while_its_pack_is_given_up_stays_removed(self, store, opened, monkeypatch):
        other = opened()
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        first, *rest = blobs
        store.store(blobs)
        resettle = store._resettle

        def remove_then_resettle(*args):  # what is needed was copied
            assert other.remove([first]) == 1
            return resettle(*args)

        monkeypatch.setattr(store, "_resettle", remove_then_resettle)
        store.remove(rest[:150])
        assert store.fetch([first]) == {}
        assert len(store.fetch(list(blobs))) == 49

    def test_a_reader_finds_bytes_that_leave_their_pack_under_it(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: LARGE})
        read = store._packs.read

        def replace_then_read(name, spans):
            other.replace({A: b"small"})
            monkeypatch.undo()
            store.sweep()
            return read(name, spans)

        monkeypatch.setattr(store._packs, "read", replace_then_read)
        assert store.fetch([A]) == {A: b"small"}

    def test_two_writers_of_one_blob_agree_on_one_of_the_two(self, store, opened, root, monkeypatch):
        other = opened()
        commit = store._commit

        def other_first(*args, **options):  # ours is in the pack, its row is not yet there
            monkeypatch.undo()
            other.store({A: LARGE + b"compressed otherwise"})
            commit(*args, **options)

        monkeypatch.setattr(store, "_commit", other_first)
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE + b"compressed otherwise"}
        assert A in store.stat([A])
        assert packed_bytes(root) == HEAD + len(LARGE + b"compressed otherwise")

    def test_a_batch_that_fails_at_the_end_leaves_no_row_no_bytes_and_no_lock(
        self, store, root, monkeypatch
    ):
        store.store({B: b"before"})

        def fail(*_, **__):
            raise sqlite3.OperationalError

        monkeypatch.setattr(table, "insert", fail)
        with pytest.raises(StorageError):
            store.store({A: LARGE, C: b"c"})
        monkeypatch.undo()
        assert packed_bytes(root) == 0
        assert store.fetch([A, B, C]) == {B: b"before"}
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}

    def test_an_interrupt_behind_the_commit_takes_nothing_back(self, store, opened, monkeypatch):
        end = store._database.end

        def interrupted(connection, *, commit):
            end(connection, commit=commit)
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(store._database, "end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.store({A: LARGE, B: LARGE})
        assert opened().fetch([A, B]) == {A: LARGE, B: LARGE}
        store.store({C: LARGE})
        assert store.fetch([A, B, C]) == {A: LARGE, B: LARGE, C: LARGE}


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
        assert packed_bytes(root) == 0
        store.store({B: b"b"})
        assert store.fetch([A, B]) == {A: b"a", B: b"b"}

    def test_a_writer_in_another_thread_makes_it_busy(self, opened):
        store = opened(busy_timeout=0.05)
        with store._database.write(), pytest.raises(StoreBusyError, match="Another thread"):
            store.store({A: b"a"})
        store.store({A: b"a"})

    def test_close_waits_for_a_verb_that_runs(self, store, monkeypatch):
        begun, go_on = threading.Event(), threading.Event()
        append = Packs.append

        def slowly(self, blobs, known):
            begun.set()
            go_on.wait(10)
            return append(self, blobs, known)

        monkeypatch.setattr(Packs, "append", slowly)
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
