"""The filesystem store's own promises: its directory, its files, its format, and what may go wrong."""

import math
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

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
from agentref.storage import _compaction
from agentref.storage._batches import batch_parts
from agentref.storage._index import open_index
from agentref.storage._packs import Pack, Packs
from agentref.storage.filesystem import FilesystemBlobStore

A, B, C, D = (Digest(bytes([n]) * 32) for n in (1, 2, 3, 4))
LARGE = b"large" * 1000
HEAD, ENTRY = 40, 36  # of a batch in a pack, and of each blob in it


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def opened(root):
    """Open the store again and again; all are closed at the end."""
    stores = []

    def open_store(**options):
        stores.append(FilesystemBlobStore(root, **options))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened()


def packs(root):
    return sorted((root / "packs").glob("*"))


def sizes(root):
    return sorted(path.stat().st_size for path in packs(root))


def batch_size(*datas):
    return HEAD + sum(ENTRY + len(data) for data in datas)


def in_index(root):
    """What the index knows without the packs, by digest."""
    with closing(sqlite3.connect(root / "index.sqlite3")) as index:
        return {Digest(digest) for (digest,) in index.execute("SELECT digest FROM blob")}


def end_like_a_killed_process(store):
    """Let go of its packs, as the kernel does, and tell nobody."""
    store._journal.packs.close()
    store._database.close()


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
        with closing(FilesystemBlobStore("store")) as store:
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
        with closing(FilesystemBlobStore(root)) as store:
            store.store({A: b"a"})
            assert store.fetch([A]) == {A: b"a"}
        assert (root / "lost+found").is_dir()

    def test_making_a_store_that_was_cut_short_is_taken_up_again(self, root):
        root.mkdir()
        (root / "index.sqlite3.new").write_bytes(b"half")
        (root / "index.sqlite3.new-journal").write_bytes(b"half")
        FilesystemBlobStore(root).close()
        assert {path.name for path in root.iterdir()} == {"index.sqlite3", "marks"}

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
    def test_a_batch_is_a_head_and_its_blobs(self, store, root):
        store.store({A: b"x" * 600, B: b"y" * 400})
        assert sizes(root) == [batch_size(b"x" * 600, b"y" * 400)]

    def test_one_writer_fills_one_pack(self, store, root):
        for number in range(20):
            store.store({Digest(bytes([number]) * 32): os.urandom(1000)})
        store.close()
        assert sizes(root) == [20 * batch_size(bytes(1000))]

    def test_the_next_process_goes_on_with_the_pack(self, opened, root):
        for digest in (A, B, C):
            store = opened()
            store.store({digest: LARGE})
            store.close()
        assert sizes(root) == [3 * batch_size(LARGE)]

    def test_writers_at_the_same_time_have_packs_of_their_own(self, store, opened, root):
        other = opened()
        for turn in range(3):
            store.store({Digest(bytes([turn]) * 32): LARGE})
            other.store({Digest(bytes([100 + turn]) * 32): LARGE})
        assert len(packs(root)) == 2
        names = [Digest(bytes([n]) * 32) for n in (0, 1, 2, 100, 101, 102)]
        assert store.fetch(names) == other.fetch(names) == dict.fromkeys(names, LARGE)

    def test_a_full_pack_is_followed_by_another(self, store, root, monkeypatch):
        for module in ("_journal", "_packs", "_blob_table"):
            monkeypatch.setattr(f"agentref.storage.{module}.FULL", 2500)
        blobs = {Digest(bytes([number]) * 32): bytes([number]) * 1000 for number in range(5)}
        for digest, data in blobs.items():
            store.store({digest: data})
        assert in_index(root) == set(list(blobs)[:3])  # those of the full pack
        store.close()
        assert sizes(root) == [2 * batch_size(bytes(1000)), 3 * batch_size(bytes(1000))]
        with closing(FilesystemBlobStore(root)) as again:
            again.store({A: b"last"})
            assert again.fetch(list(blobs)) == blobs
        assert sizes(root)[1] == 3 * batch_size(bytes(1000))

    @pytest.mark.parametrize("damage", [0, 10, None])
    def test_a_blob_whose_pack_is_lost_or_cut_short_counts_as_absent_until_it_is_stored_again(
        self, opened, root, damage
    ):
        store = opened()
        store.store({A: LARGE})
        store.close()
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

    def test_a_pack_that_was_cut_short_is_not_written_to_and_keeps_what_is_left(self, opened, root):
        store = opened()
        store.store({A: LARGE, B: LARGE})
        store.close()
        os.truncate(packs(root)[0], batch_size(LARGE) + ENTRY + 50)
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

    def test_a_name_in_the_index_that_is_no_packs_name_is_no_path(self, opened, root, tmp_path):
        (tmp_path / "secret").write_bytes(LARGE)
        store = opened()
        store.store({A: LARGE})
        store.close()
        with closing(sqlite3.connect(root / "index.sqlite3")) as index:
            index.execute("UPDATE pack SET name = '../../secret'")
            index.commit()
        store = opened()
        assert store.fetch([A]) == {A: LARGE}  # from the pack, which is one that nobody knew of
        assert store.remove([A]) == 1
        store.sweep()
        assert (tmp_path / "secret").exists()

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE pack SET name = x'00ff'",
            "UPDATE pack SET size = 'much', live = 'more'",
            "UPDATE pack SET state = 'open'",
            "UPDATE blob SET stored_size = 'much'",
            "UPDATE blob SET stored_size = 1 << 40",
            "UPDATE blob SET stored_size = 1 << 62, place = 1 << 62",
            "UPDATE blob SET place = 'here'",
            "UPDATE blob SET pack_id = 'mine'",
            "UPDATE blob SET touched_at = 'yesterday', expires_at = 'never'",
        ],
    )
    def test_whatever_is_in_the_index_no_verb_fails_in_another_way_than_it_says(self, opened, root, change):
        store = opened()
        store.store({A: LARGE, B: LARGE})
        store.close()
        with closing(sqlite3.connect(root / "index.sqlite3")) as index:
            index.execute(change)
            index.commit()
        store = opened()
        for verb in (
            lambda: store.fetch([A]),
            lambda: store.stat([A]),
            store.scan,
            lambda: store.store({A: LARGE, C: LARGE}),
            lambda: store.replace({B: LARGE}),
            lambda: store.remove([A]),
            store.sweep,
        ):
            with suppress(StorageError):
                verb()
        with suppress(StorageError):  # what is acknowledged, is there
            store.store({D: LARGE})
            assert store.fetch([D]) == {D: LARGE}
            assert D in store.stat([D])


class TestJournal:
    """What is in a pack, and not in the index yet."""

    def test_a_put_leaves_the_index_alone_and_all_see_it(self, store, opened, root):
        other = opened()
        store.store({A: b"a", B: b""}, expires_at=2e9)
        assert in_index(root) == set()
        assert other.fetch([A, B, C]) == {A: b"a", B: b""}
        assert other.stat([A]) == store.stat([A])
        assert other.stat([A])[A].expires_at == 2e9

    @pytest.mark.parametrize("how", ["scan", "close", "remove", "again", "many"])
    def test_the_index_learns_of_it_at_last(self, store, root, how, monkeypatch):
        monkeypatch.setattr("agentref.storage._journal._MANY", 3 if how == "many" else 4096)
        store.store({A: b"a", B: b"b"})
        before = store.stat([A, B])
        if how == "scan":
            store.scan()
        elif how == "remove":
            store.remove([C])
        elif how == "again":
            store.store({A: b"a", C: b"c"})
        elif how == "many":
            store.store({C: b"c"})
        else:
            store.close()
        assert in_index(root) >= {A, B}
        if how != "close":
            assert store.fetch([A, B]) == {A: b"a", B: b"b"}
            assert store.stat([B])[B] == before[B]

    def test_what_one_process_settles_another_no_longer_believes_itself(self, store, opened):
        other = opened()
        store.store({A: b"a", B: b"b"})
        assert other.fetch([A, B]) == {A: b"a", B: b"b"}
        other.remove([A])
        assert store.fetch([A, B]) == {B: b"b"}
        assert store.stat([A, B]).keys() == {B}
        store.store({A: b"again"})
        assert other.fetch([A, B]) == {A: b"again", B: b"b"}

    def test_two_writers_of_one_blob_both_keep_their_promise(self, store, opened, monkeypatch):
        other = opened()
        append = store._journal.append

        def other_first(blobs, expires_at, pins):  # neither knew of it
            other.store({A: b"theirs"}, expires_at=3e9)
            append(blobs, expires_at, pins)

        monkeypatch.setattr(store._journal, "append", other_first)
        store.store({A: b"ours"}, expires_at=2e9)
        (info,) = opened().scan()
        assert info.expires_at == 3e9
        assert store.fetch([A]) == other.fetch([A]) != {}
        assert store.remove([A]) == 1
        assert store.fetch([A]) == other.fetch([A]) == {}

    @pytest.mark.parametrize("lives", [(3e9, 2e9), (2e9, 3e9)])
    @pytest.mark.parametrize(
        "ends", [lambda store: None, end_like_a_killed_process], ids=["lives", "killed"]
    )
    def test_two_threads_that_append_one_blob_to_one_pack_only_lengthen_its_life(
        self, store, opened, root, lives, ends
    ):
        for expires_at in lives:  # neither had found it
            store._journal.append({A: b"data", B: b"%f" % expires_at}, expires_at)
        ((_, info),) = store.stat([A]).items()
        assert info.expires_at == 3e9
        assert [row.expires_at for row in store._journal.find([A]).values()] == [3e9]
        ends(store)
        assert {info.expires_at for info in opened().scan()} == {3e9}
        assert opened().remove([A, B]) == 2

    def test_the_epoch_moves_with_a_removal_and_is_never_the_same_while_one_may_be_under_way(
        self, store, opened, monkeypatch
    ):
        other = opened()
        store.store({A: b"a", B: b"b"})
        before = other.epoch()
        assert before == other.epoch()
        assert store.remove([A]) == 1
        after = other.epoch()
        assert after not in (before, None)
        assert after == other.epoch()

        def killed(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(table, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            store.remove([B])
        monkeypatch.undo()
        assert len({after, other.epoch(), other.epoch(), other.epoch()}) == 4
        assert store.remove([B]) == 1
        assert other.epoch() == other.epoch() == store.epoch()

    def test_a_removal_after_which_the_index_is_busy_has_been_made(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: b"a", B: b"b"})
        delete, write = table.delete, store._database.write

        def busy_from_now_on(connection, old):
            def busy():
                raise StoreBusyError("held by another")

            monkeypatch.setattr(store._database, "write", busy)
            return delete(connection, old)

        monkeypatch.setattr(table, "delete", busy_from_now_on)
        assert store.remove([A]) == 1
        monkeypatch.undo()
        assert store._database.write.__func__ is write.__func__
        assert other.epoch() != other.epoch()  # nobody trusts what he remembers
        assert store.fetch([A, B]) == other.fetch([A, B]) == {B: b"b"}
        assert store.remove([B]) == 1
        assert other.epoch() == other.epoch()

    @pytest.mark.parametrize("marks", ["here", "lost"])
    def test_what_a_killed_writer_acknowledged_is_here(self, opened, root, marks):
        store = opened()
        store.store({A: LARGE})
        store.store({B: LARGE, C: b"c"})
        end_like_a_killed_process(store)
        if marks == "lost":  # as after a power cut
            (root / "marks").unlink()
        store = opened()
        assert store.fetch([A, B, C]) == {A: LARGE, B: LARGE, C: b"c"}
        assert [info.digest for info in store.scan()] == [A, B, C]

    @pytest.mark.parametrize("torn", [1, 20, 60, 1000])
    def test_a_batch_that_was_cut_short_is_cut_off(self, opened, root, torn):
        store = opened()
        store.store({A: LARGE})
        end = store._journal.packs._idle[0].end
        store.store({B: LARGE})
        end_like_a_killed_process(store)
        (root / "marks").unlink()
        [pack] = packs(root)
        with pack.open("r+b") as file:
            file.seek(end + torn)
            file.write(bytes(batch_size(LARGE) - torn))
        store = opened()
        assert sizes(root) == [batch_size(LARGE)]
        assert store.fetch([A, B]) == {A: LARGE}
        store.store({B: LARGE})
        assert store.fetch([A, B]) == {A: LARGE, B: LARGE}

    def test_a_damaged_batch_hides_none_behind_it(self, opened, root):
        store = opened()
        for digest in (A, B, C):
            store.store({digest: LARGE})
        end_like_a_killed_process(store)
        (root / "marks").unlink()
        with packs(root)[0].open("r+b") as pack:
            pack.seek(batch_size(LARGE) + 40)
            pack.write(b"!!!!")
        store = opened()
        assert store.fetch([A, B, C]) == {A: LARGE, C: LARGE}

    def test_a_pack_that_reaches_less_far_than_was_promised_is_left_as_it_is(self, opened, root):
        store = opened()
        store.store({A: LARGE})
        store.store({B: LARGE})
        end_like_a_killed_process(store)
        with packs(root)[0].open("r+b") as pack:
            pack.seek(batch_size(LARGE))
            pack.write(bytes(batch_size(LARGE)))
        store = opened()
        store.store({C: LARGE})
        assert store.fetch([A, B, C]) == {A: LARGE, C: LARGE}
        assert len(packs(root)) == 2

    def test_packs_of_which_an_older_index_does_not_know_are_taken_in(self, opened, root):
        store = opened()
        store.store({A: LARGE})
        store.close()
        for file in root.glob("index*"):
            file.unlink()
        older = root.with_name("older")
        with closing(FilesystemBlobStore(older)) as other:
            other.store({B: LARGE})
        for path in [older / "index.sqlite3", *packs(older)]:
            path.rename(root / path.relative_to(older))
        store = opened()
        assert store.fetch([A, B]) == {A: LARGE, B: LARGE}

    @pytest.mark.parametrize("full", [False, True])
    def test_what_packs_hold_beyond_an_older_index_is_taken_in(self, opened, root, full, monkeypatch):
        store = opened()
        store.store({A: LARGE})
        store.close()
        older = (root / "index.sqlite3").read_bytes()
        if full:
            for module in ("_journal", "_packs", "_blob_table"):
                monkeypatch.setattr(f"agentref.storage.{module}.FULL", 2 * len(LARGE))
        store = opened()
        store.store({B: LARGE})
        store.store({C: LARGE})
        store.close()
        monkeypatch.undo()
        (root / "index.sqlite3").write_bytes(older)
        assert in_index(root) == {A}
        store = opened()
        assert store.fetch([A, B, C]) == {A: LARGE, B: LARGE, C: LARGE}
        assert [info.digest for info in store.scan()] == [A, B, C]

    def test_what_others_stored_counts_for_what_may_wait(self, opened, root, monkeypatch):
        monkeypatch.setattr("agentref.storage._journal._MANY", 20)
        stores = [opened() for _ in range(4)]
        for number in range(40):
            stores[number % 4].store({Digest(bytes([number]) * 32): b"x"})
            waiting = number + 1 - len(in_index(root))
            assert waiting <= 20
        assert len(in_index(root)) >= 20

    def test_a_pack_in_which_nothing_whole_is_goes_when_the_store_is_opened(self, opened, root):
        opened().store({A: LARGE})
        (root / "packs" / "00000000000000aa").write_bytes(b"bytes that are no batch")
        (root / "packs" / "README").write_text("no pack")
        store = opened()
        assert len(packs(root)) == 2
        assert (root / "packs" / "README").exists()
        assert store.fetch([A]) == {A: LARGE}

    def test_bytes_of_a_user_that_look_like_a_batch_are_none(self, opened, root):
        fake, _ = batch_parts({B: b"fake"}, "0" * 16, 0, stored_at=1.0, expires_at=2.0)
        _, [forged] = batch_parts({B: b"fake"}, "0" * 16, 0, stored_at=1.0, expires_at=2.0)
        assert fake.end == len(forged)
        store = opened()
        store.store({A: forged * 20})
        end_like_a_killed_process(store)
        (root / "marks").unlink()
        with packs(root)[0].open("r+b") as pack:
            pack.seek(8)
            pack.write(b"!")
        assert opened().fetch([A, B]) == {}

    def test_marks_that_are_too_short_to_be_read_are_refused(self, opened, root):
        opened().close()
        os.truncate(root / "marks", 100)
        with pytest.raises(StoreUnavailableError, match="made anew"):
            FilesystemBlobStore(root)

    def test_no_two_open_packs_share_a_place_for_their_marks(self, opened, root, monkeypatch):
        monkeypatch.setattr("agentref.storage._marks.Marks.PLACES", 3)
        stores = [opened() for _ in range(3)]
        for number, store in enumerate(stores):
            store.store({Digest(bytes([number]) * 32): b"x"})
        for store in stores[1:]:
            store.remove([Digest(bytes([stores.index(store)]) * 32)])
            store.close()
        for _ in range(4):  # packs that come and go
            with closing(FilesystemBlobStore(root)) as other:
                other.store({A: b"a"})
                other.remove([A])
        with closing(sqlite3.connect(root / "index.sqlite3")) as index:
            ids = [number for (number,) in index.execute("SELECT id FROM pack WHERE state = 0")]
        assert len({number % 3 for number in ids}) == len(ids)
        assert stores[0].fetch([Digest(bytes(32))]) == {Digest(bytes(32)): b"x"}


class TestSpace:
    @pytest.mark.parametrize("kept", [3, 40])
    def test_a_pack_of_which_little_is_needed_is_given_up(self, opened, root, kept):
        store = opened()
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        store.store(blobs)
        before = packs(root)
        needed = dict(list(blobs.items())[:kept])
        infos = store.stat(list(needed))
        store.remove([digest for digest in blobs if digest not in needed])
        assert not set(before) & set(packs(root))
        assert store.fetch(list(blobs)) == needed
        moved = {digest: info._replace(place=0) for digest, info in store.stat(list(blobs)).items()}
        assert moved == {digest: info._replace(place=0) for digest, info in infos.items()}
        store.close()
        assert sizes(root) == [batch_size(*needed.values())]

    def test_nothing_is_left_when_nothing_is_needed(self, store, root):
        store.store({A: LARGE, B: b"b"})
        store.remove([A, B])
        assert packs(root) == []

    def test_a_pack_of_which_most_is_needed_stays(self, store, root):
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        store.store(blobs)
        store.remove(list(blobs)[:80])
        assert len(store.fetch(list(blobs))) == 120
        store.close()
        assert sizes(root) == [batch_size(*blobs.values())]

    def test_an_empty_blob_keeps_its_place_when_the_rest_of_its_pack_goes(self, store):
        store.store({A: LARGE, B: b""})
        store.remove([A])
        assert store.fetch([A, B]) == {B: b""}

    def test_a_pack_that_another_writes_to_is_given_up_by_a_sweep_once_it_is_not(self, opened, root):
        writer, other = opened(), opened()
        writer.store({A: LARGE})
        other.remove([A])
        assert len(packs(root)) == 1
        assert other.sweep() == 0
        writer.close()
        assert other.sweep() == 1
        assert packs(root) == []

    def test_a_pack_that_was_given_up_and_whose_file_stayed_goes_with_the_next_opening(
        self, opened, root, monkeypatch
    ):
        store = opened()
        store.store({A: LARGE})
        monkeypatch.setattr(Packs, "unlink", lambda *_: None)  # killed before it came to that
        store.remove([A])
        monkeypatch.undo()
        assert len(packs(root)) == 1
        assert opened().fetch([A]) == {}
        assert packs(root) == []

    def test_a_removal_that_finds_no_room_to_copy_has_removed_all_the_same(self, store, monkeypatch):
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        store.store(blobs)

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Pack, "append", full)
        assert store.remove(list(blobs)[:160]) == 160
        monkeypatch.undo()
        assert len(store.fetch(list(blobs))) == 40
        assert store.sweep() == 1
        assert len(store.fetch(list(blobs))) == 40

    def test_a_pack_whose_batches_cannot_be_told_apart_is_not_given_up(self, opened, root):
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

    def test_space_of_the_index_goes_back_to_the_disk(self, opened, root):
        store = opened()
        blobs = {Digest(n.to_bytes(32, "big")): os.urandom(900) for n in range(2000)}
        store.store(blobs)
        store.scan()
        store.remove(list(blobs))
        store.close()
        assert (root / "index.sqlite3").stat().st_size < 100_000


class TestInterleaving:
    """What happens between two steps of a verb, forced to happen there."""

    def test_a_blob_removed_while_it_is_stored_again_is_written_after_all(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: LARGE})
        appended = store._journal.appended

        def remove_then_append(*args):
            monkeypatch.undo()
            assert other.remove([A]) == 1
            return appended(*args)

        monkeypatch.setattr(store._journal, "appended", remove_then_append)
        store.store({A: LARGE, B: LARGE})
        assert store.fetch([A, B]) == {A: LARGE, B: LARGE}
        assert A in other.stat([A])

    def test_a_blob_stored_while_its_pack_is_given_up_is_kept(self, store, opened, monkeypatch):
        other = opened()
        store.store({A: LARGE, B: LARGE})

        def store_then_shrink(*args):  # the rows are gone, the pack is not yet
            monkeypatch.undo()
            other.store({A: LARGE})
            return _compaction.try_to_shrink(*args)

        monkeypatch.setattr("agentref.storage.filesystem.try_to_shrink", store_then_shrink)
        assert store.remove([A, B]) == 2
        assert other.fetch([A, B]) == {A: LARGE}
        assert store.fetch([A, B]) == {A: LARGE}

    def test_a_blob_removed_while_its_pack_is_given_up_stays_removed(self, store, opened, monkeypatch):
        other = opened()
        blobs = {Digest(bytes([n]) * 32): os.urandom(300) for n in range(200)}
        first, *rest = blobs
        store.store(blobs)
        resettle = _compaction._resettle

        def remove_then_resettle(*args):  # what is needed was copied
            assert other.remove([first]) == 1
            return resettle(*args)

        monkeypatch.setattr(_compaction, "_resettle", remove_then_resettle)
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

    def test_what_is_appended_while_the_index_learns_waits_for_the_next_time(
        self, store, root, monkeypatch
    ):
        store.store({A: b"a"})
        rows = table.rows

        def append_first(connection, digests):
            monkeypatch.undo()
            thread = threading.Thread(target=store.store, args=({B: b"b"},))
            thread.start()
            thread.join(10)
            return rows(connection, digests)

        monkeypatch.setattr(table, "rows", append_first)
        assert [info.digest for info in store.scan()] == [A]
        assert store.fetch([A, B]) == {A: b"a", B: b"b"}
        assert [info.digest for info in store.scan()] == [A, B]

    def test_a_batch_that_fails_at_the_end_leaves_no_row_no_bytes_and_no_lock(
        self, store, root, monkeypatch
    ):
        store.store({B: b"before"})

        def fail(*_, **__):
            raise sqlite3.OperationalError

        monkeypatch.setattr(table, "touch", fail)
        with pytest.raises(StorageError):
            store.store({A: LARGE, B: b"before", C: b"c"})
        monkeypatch.undo()
        assert store.fetch([A, B, C]) == {B: b"before"}
        store.close()
        assert sizes(root) == [batch_size(b"before")]

    def test_a_batch_that_cannot_be_synced_is_taken_back(self, store, root, monkeypatch):
        store.store({B: b"before"})

        def fail(_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("agentref.storage._packs._sync", fail)
        with pytest.raises(StoreUnavailableError):
            store.store({A: LARGE})
        monkeypatch.undo()
        assert store.fetch([A, B]) == {B: b"before"}
        store.store({A: LARGE})
        store.close()
        assert sizes(root) == [batch_size(b"before") + batch_size(LARGE)]

    def test_an_interrupt_behind_the_commit_takes_nothing_back(self, store, opened, monkeypatch):
        store.store({A: b"a"})
        end = store._database.end

        def interrupted(*given, commit):
            end(*given, commit=commit)
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(store._database, "end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.store({A: b"a", B: LARGE})
        assert opened().fetch([A, B]) == {A: b"a", B: LARGE}
        store.store({C: LARGE})
        assert store.fetch([A, B, C]) == {A: b"a", B: LARGE, C: LARGE}

    def test_an_interrupt_behind_the_sync_harms_nothing(self, store, opened, monkeypatch):
        def interrupted(*_):
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(store._journal._marks, "set_durable", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.store({A: LARGE})
        store.store({B: LARGE})
        assert store.fetch([B]) == opened().fetch([B]) == {B: LARGE}
        assert store.fetch([A]).get(A, LARGE) == LARGE
        store.store({A: LARGE})
        assert store.fetch([A]) == {A: LARGE}


class TestWaiting:
    def test_a_writer_elsewhere_does_not_stop_what_is_new(self, opened, root):
        store = opened(busy_timeout=0.05)
        store.store({A: b"a"})
        with closing(sqlite3.connect(root / "index.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store.store({B: b"b", C: LARGE})
            assert store.fetch([A, B, C]) == {A: b"a", B: b"b", C: LARGE}
            with pytest.raises(StoreBusyError, match="busy_timeout"):
                store.store({A: b"a"})  # to touch it
            with pytest.raises(StoreBusyError, match="busy_timeout"):
                store.remove([A])
            other.execute("ROLLBACK")
        assert store.remove([A]) == 1
        assert store.fetch([A, B]) == {B: b"b"}

    def test_when_the_index_is_locked_it_learns_later(self, opened, root, monkeypatch):
        monkeypatch.setattr("agentref.storage._journal._MANY", 2)
        store = opened(busy_timeout=0.05)
        store.store({A: b"a"})
        with closing(sqlite3.connect(root / "index.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store.store({B: b"b"})
            other.execute("ROLLBACK")
        assert in_index(root) == set()
        store.store({C: b"c", Digest(bytes(32)): b""})
        assert len(in_index(root)) == 4

    def test_a_writer_in_another_thread_makes_it_busy(self, opened):
        store = opened(busy_timeout=0.05)
        store.store({A: b"a"})
        with (
            ThreadPoolExecutor(1) as pool,
            store._database.write(),
            pytest.raises(StoreBusyError, match="Another thread"),
        ):
            pool.submit(store.store, {A: b"a"}).result()
        store.store({A: b"a"})

    def test_close_waits_for_a_verb_that_runs(self, store, monkeypatch):
        begun, go_on = threading.Event(), threading.Event()
        append = Pack.append

        def slowly(self, *args, **options):
            begun.set()
            go_on.wait(10)
            return append(self, *args, **options)

        monkeypatch.setattr(Pack, "append", slowly)
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
