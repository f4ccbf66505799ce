# ruff: noqa: S101
"""The promises of `BlobStore` as tests, one promise each: subclass, say how to make a store, run pytest.

class TestMyStore(BlobStoreContract):
    def make_store(self, path):
        return MyStore(path)
"""

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentref.errors import InvalidDigestError, InvalidInputError, StoreUnavailableError
from agentref.refs import Digest
from agentref.storage.protocol import FOREVER, BlobInfo, BlobStore

__all__ = ["BlobStoreContract", "PersistentBlobStoreContract"]

_FAR = 4_102_444_800.0  # the year 2100
_MOMENT = 0.02


def _name(number: int) -> Digest:
    return Digest((number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") + number.to_bytes(24, "big"))


def _blobs(count: int, *, first: int = 0, size: int = 100) -> dict[Digest, bytes]:
    return {_name(n): n.to_bytes(8, "big") * (size // 8) for n in range(first, first + count)}


def _info(store: BlobStore, digest: Digest) -> BlobInfo:
    return store.stat([digest])[digest]


def _run_together(work: list[Callable[[], object]]) -> None:
    barrier = threading.Barrier(len(work))

    def started(task: Callable[[], object]) -> object:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(started, task) for task in work]:
            future.result()


class BlobStoreContract:
    """What every blob store keeps. Each test is given a new, empty store."""

    def make_store(self, path: Path) -> BlobStore:
        """An open store; `path` is an empty directory that it may use."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[BlobStore]:
        """The store of one test, closed after it."""
        store = self.make_store(tmp_path)
        yield store
        store.close()

    def test_it_has_every_verb_and_one_name(self, store: BlobStore) -> None:
        assert isinstance(store, BlobStore)
        assert isinstance(store.store_id, str)
        assert store.store_id
        assert store.store_id == store.store_id

    def test_what_was_stored_is_fetched(self, store: BlobStore) -> None:
        blobs = _blobs(3) | {_name(9): bytes(range(256))}
        store.store(blobs)
        assert store.fetch(list(blobs)) == blobs

    def test_fetch_leaves_out_what_is_absent(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        assert store.fetch([_name(0), _name(1)]) == _blobs(1)
        assert store.fetch([_name(1)]) == {}

    def test_stat_leaves_out_what_is_absent(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        assert list(store.stat([_name(1), _name(0)])) == [_name(0)]

    def test_stat_tells_name_size_and_times(self, store: BlobStore) -> None:
        store.store(_blobs(1), expires_at=_FAR)
        info = _info(store, _name(0))
        assert info.digest == _name(0)
        assert info.stored_size > 0
        assert 1e9 < info.touched_at < _FAR
        assert info.expires_at == _FAR

    def test_a_life_has_no_end_unless_one_is_given(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        assert _info(store, _name(0)).expires_at == FOREVER

    def test_storing_again_lengthens_a_life(self, store: BlobStore) -> None:
        store.store(_blobs(1), expires_at=_FAR)
        store.store(_blobs(1), expires_at=_FAR + 1)
        assert _info(store, _name(0)).expires_at == _FAR + 1

    def test_storing_again_never_shortens_a_life(self, store: BlobStore) -> None:
        store.store(_blobs(1), expires_at=_FAR)
        store.store(_blobs(1), expires_at=_FAR - 1)
        assert _info(store, _name(0)).expires_at == _FAR

    def test_what_lives_for_ever_never_becomes_mortal(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        store.store(_blobs(1), expires_at=_FAR)
        assert _info(store, _name(0)).expires_at == FOREVER

    def test_storing_again_keeps_the_bytes_that_are_here(self, store: BlobStore) -> None:
        store.store({_name(0): b"first"})
        store.store({_name(0): b"second"})
        assert store.fetch([_name(0)]) == {_name(0): b"first"}

    def test_storing_again_touches(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        before = _info(store, _name(0)).touched_at
        time.sleep(_MOMENT)
        store.store(_blobs(1))
        assert _info(store, _name(0)).touched_at > before

    def test_asking_and_reading_do_not_touch(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        before = _info(store, _name(0))
        time.sleep(_MOMENT)
        store.fetch([_name(0)])
        store.stat([_name(0)])
        store.scan()
        assert _info(store, _name(0)) == before

    def test_scan_lists_all_in_the_order_of_their_names(self, store: BlobStore) -> None:
        store.store(_blobs(50))
        listed = store.scan()
        assert [info.digest for info in listed] == sorted(_blobs(50))
        assert {info.digest: info for info in listed} == store.stat(list(_blobs(50)))

    def test_pages_of_a_scan_leave_no_gap_and_overlap_nowhere(self, store: BlobStore) -> None:
        store.store(_blobs(50))
        seen: list[Digest] = []
        after: Digest | None = None
        while page := store.scan(after=after, limit=7):
            assert len(page) <= 7
            seen += [info.digest for info in page]
            after = page[-1].digest
        assert seen == sorted(_blobs(50))

    def test_a_scan_goes_on_after_a_name_that_is_gone(self, store: BlobStore) -> None:
        names = sorted(_blobs(5))
        store.store(_blobs(5))
        store.remove([names[2]])
        assert [info.digest for info in store.scan(after=names[2])] == names[3:]

    def test_a_scan_of_nothing_is_empty(self, store: BlobStore) -> None:
        assert list(store.scan()) == []

    def test_what_was_removed_is_absent_everywhere(self, store: BlobStore) -> None:
        store.store(_blobs(3))
        assert store.remove([_name(0), _name(1)]) == 2
        assert list(store.fetch(list(_blobs(3)))) == [_name(2)]
        assert list(store.stat(list(_blobs(3)))) == [_name(2)]
        assert [info.digest for info in store.scan()] == [_name(2)]

    def test_removing_what_is_absent_counts_nothing(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        assert store.remove([_name(0), _name(1)]) == 1
        assert store.remove([_name(0), _name(1)]) == 0

    def test_remove_spares_what_was_touched_since(self, store: BlobStore) -> None:
        store.store(_blobs(2))
        time.sleep(_MOMENT)
        store.store(_blobs(1))
        since = _info(store, _name(0)).touched_at
        assert store.remove([_name(0), _name(1)], untouched_since=since) == 1
        assert list(store.fetch([_name(0), _name(1)])) == [_name(0)]

    def test_the_epoch_moves_when_a_blob_goes_and_only_then(self, store: BlobStore) -> None:
        """While the epoch stands still, what was seen to be here is here."""
        begin = store.epoch()
        store.store({_name(1): b"one", _name(2): b"two"})
        store.remove([_name(3)])
        assert store.epoch() == begin
        store.remove([_name(1)])
        moved = store.epoch()
        assert moved != begin
        store.remove([_name(2)])
        assert store.epoch() not in {begin, moved}

    def test_what_was_removed_can_be_stored_anew(self, store: BlobStore) -> None:
        store.store({_name(0): b"first"})
        store.remove([_name(0)])
        store.store({_name(0): b"second"}, expires_at=_FAR)
        assert store.fetch([_name(0)]) == {_name(0): b"second"}
        assert _info(store, _name(0)).expires_at == _FAR

    def test_an_empty_batch_is_fine(self, store: BlobStore) -> None:
        store.store({})
        store.replace({})
        assert store.fetch([]) == {}
        assert store.stat([]) == {}
        assert store.remove([]) == 0

    def test_an_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        store.store({_name(0): b""})
        store.store({_name(1): b"", _name(2): b""})
        assert store.fetch([_name(0), _name(1), _name(2)]) == dict.fromkeys(map(_name, range(3)), b"")
        assert _name(0) in store.stat([_name(0)])

    def test_a_blob_of_a_megabyte_comes_back_whole(self, store: BlobStore) -> None:
        blobs = _blobs(2, size=1_000_000)
        store.store(blobs)
        assert store.fetch(list(blobs)) == blobs

    def test_a_batch_may_hold_thousands(self, store: BlobStore) -> None:
        blobs = _blobs(5000, size=16)
        store.store(blobs)
        assert store.fetch(list(blobs)) == blobs
        assert len(store.stat(list(blobs))) == 5000
        assert store.remove(list(blobs)) == 5000

    def test_a_name_given_twice_counts_once(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        assert store.fetch([_name(0), _name(0)]) == _blobs(1)
        assert store.remove([_name(0), _name(0)]) == 1

    def test_replace_overwrites(self, store: BlobStore) -> None:
        store.store({_name(0): b"damaged"})
        store.replace({_name(0): b"whole"})
        assert store.fetch([_name(0)]) == {_name(0): b"whole"}

    def test_replace_stores_what_is_absent(self, store: BlobStore) -> None:
        store.replace(_blobs(1))
        assert store.fetch([_name(0)]) == _blobs(1)
        assert _info(store, _name(0)).expires_at == FOREVER

    def test_replace_never_shortens_a_life_and_touches(self, store: BlobStore) -> None:
        store.store(_blobs(1), expires_at=_FAR)
        before = _info(store, _name(0))
        time.sleep(_MOMENT)
        store.replace(_blobs(1))
        after = _info(store, _name(0))
        assert after.expires_at >= before.expires_at
        assert after.touched_at > before.touched_at

    def test_a_batch_that_fails_keeps_nothing(self, store: BlobStore) -> None:
        batch: dict[Digest, bytes] = dict(_blobs(3))
        batch[_name(3)] = "no bytes"  # type: ignore[assignment]
        with pytest.raises(InvalidInputError):
            store.store(batch)
        assert store.fetch(list(_blobs(3))) == {}
        store.store(_blobs(3))
        assert store.fetch(list(_blobs(3))) == _blobs(3)

    @pytest.mark.parametrize("name", [b"", b"short", b"x" * 33, "a" * 64, "../" * 10 + "ab", None])
    def test_a_name_that_is_no_digest_is_refused(self, store: BlobStore, name: Digest) -> None:
        for verb in (
            lambda: store.fetch([name]),
            lambda: store.stat([name]),
            lambda: store.store({name: b"data"}),
            lambda: store.remove([name]),
        ):
            with pytest.raises(InvalidDigestError):
                verb()
        assert list(store.scan()) == []

    def test_what_was_fetched_stays_when_the_blob_goes(self, store: BlobStore) -> None:
        store.store(_blobs(1))
        fetched, known = store.fetch([_name(0)]), store.stat([_name(0)])
        store.remove([_name(0)])
        assert fetched == _blobs(1)
        assert list(known) == [_name(0)]

    def test_a_closed_store_says_so(self, store: BlobStore) -> None:
        store.close()
        store.close()
        for verb in (
            lambda: store.fetch([_name(0)]),
            lambda: store.stat([_name(0)]),
            store.scan,
            lambda: store.store(_blobs(1)),
            lambda: store.replace(_blobs(1)),
            lambda: store.remove([_name(0)]),
        ):
            with pytest.raises(StoreUnavailableError):
                verb()

    def test_threads_that_store_different_blobs_lose_none(self, store: BlobStore) -> None:
        def work(first: int) -> Callable[[], None]:
            def run() -> None:
                for at in range(first, first + 50, 10):
                    store.store(_blobs(10, first=at))
                    assert store.fetch(list(_blobs(10, first=at))) == _blobs(10, first=at)

            return run

        _run_together([work(n * 50) for n in range(8)])
        assert store.fetch(list(_blobs(400))) == _blobs(400)

    def test_threads_that_store_the_same_blobs_agree(self, store: BlobStore) -> None:
        def work(number: int) -> Callable[[], None]:
            return lambda: store.store(_blobs(20), expires_at=_FAR + number)

        _run_together([work(n) for n in range(8)])
        assert store.fetch(list(_blobs(20))) == _blobs(20)
        assert {info.expires_at for info in store.scan()} == {_FAR + 7}


class PersistentBlobStoreContract(BlobStoreContract):
    """What a store keeps that outlives its process: `make_store` of one path always opens one store."""

    def test_what_was_stored_is_there_when_opened_again(self, store: BlobStore, tmp_path: Path) -> None:
        blobs = _blobs(3) | _blobs(1, first=3, size=1_000_000)
        store.store(blobs, expires_at=_FAR)
        known, name = store.stat(list(blobs)), store.store_id
        store.close()
        again = self.make_store(tmp_path)
        assert again.fetch(list(blobs)) == blobs
        assert again.stat(list(blobs)) == known
        assert again.store_id == name
        again.close()

    def test_two_openings_see_each_others_blobs(self, store: BlobStore, tmp_path: Path) -> None:
        other = self.make_store(tmp_path)
        store.store(_blobs(1))
        assert other.fetch([_name(0)]) == _blobs(1)
        assert other.remove([_name(0)]) == 1
        assert store.stat([_name(0)]) == {}
        other.close()

    def test_processes_that_write_at_once_lose_none(self, store: BlobStore, tmp_path: Path) -> None:
        def work(first: int) -> None:
            mine = self.make_store(tmp_path)
            for at in range(first, first + 50, 10):
                mine.store(_blobs(10, first=at) | _blobs(5, first=1000))
            mine.close()

        _in_processes([lambda first=n * 50: work(first) for n in range(4)])  # type: ignore[misc]
        assert store.fetch(list(_blobs(200))) == _blobs(200)
        assert store.fetch(list(_blobs(5, first=1000))) == _blobs(5, first=1000)

    def test_a_forked_child_goes_on_with_the_store_it_was_given(self, store: BlobStore) -> None:
        store.store(_blobs(1))

        def work() -> None:
            assert store.fetch([_name(0)]) == _blobs(1)
            store.store(_blobs(1, first=1))

        _in_processes([work])
        store.store(_blobs(1, first=2))
        assert store.fetch(list(_blobs(3))) == _blobs(3)


def _in_processes(work: list[Callable[[], None]]) -> None:
    """Run each in a forked child, all at once; fail if one of them fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner has threads of its own
        children = [_fork(task) for task in work]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)


def _fork(task: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        task()
        status = 0
    finally:
        os._exit(status)
