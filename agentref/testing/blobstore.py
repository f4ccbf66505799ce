# ruff: noqa: S101
"""The promises of `BlobStore` as tests, one promise each: subclass, say how to make a store, run pytest.

class TestMyStore(BlobStoreContract):
    def make_store(self, path):
        return MyStore(path)
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from agentref.errors import InvalidDigestError, InvalidInputError, StoreUnavailableError
from agentref.refs import Digest
from agentref.storage.protocol import FOREVER, BlobStore
from agentref.testing._common import FAR, blobs_of, in_processes, info_of, name_of, run_together
from agentref.testing.lifetimes import LifetimeClauses

__all__ = ["BlobStoreContract", "PersistentBlobStoreContract"]


class BlobStoreContract(LifetimeClauses):
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
        blobs = blobs_of(3) | {name_of(9): bytes(range(256))}
        store.store(blobs)
        assert store.fetch(list(blobs)) == blobs

    def test_fetch_leaves_out_what_is_absent(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        assert store.fetch([name_of(0), name_of(1)]) == blobs_of(1)
        assert store.fetch([name_of(1)]) == {}

    def test_stat_leaves_out_what_is_absent(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        assert list(store.stat([name_of(1), name_of(0)])) == [name_of(0)]

    def test_storing_again_keeps_the_bytes_that_are_here(self, store: BlobStore) -> None:
        store.store({name_of(0): b"first"})
        store.store({name_of(0): b"second"})
        assert store.fetch([name_of(0)]) == {name_of(0): b"first"}

    def test_peek_tells_the_first_byte(self, store: BlobStore) -> None:
        blobs = {name_of(0): bytes(3), name_of(1): b"\xff", name_of(2): b"a" * 1_000_000}
        store.store(blobs)
        assert store.peek(list(blobs)) == {name_of(0): 0, name_of(1): 255, name_of(2): 97}

    def test_peek_tells_an_empty_blob_from_an_absent_one(self, store: BlobStore) -> None:
        store.store({name_of(0): b""})
        assert store.peek([name_of(0), name_of(1)]) == {name_of(0): -1}

    def test_scan_lists_all_in_the_order_of_their_names(self, store: BlobStore) -> None:
        store.store(blobs_of(50))
        listed = store.scan()
        assert [info.digest for info in listed] == sorted(blobs_of(50))
        assert {info.digest: info for info in listed} == store.stat(list(blobs_of(50)))

    def test_pages_of_a_scan_leave_no_gap_and_overlap_nowhere(self, store: BlobStore) -> None:
        store.store(blobs_of(50))
        seen: list[Digest] = []
        after: Digest | None = None
        while page := store.scan(after=after, limit=7):
            assert len(page) <= 7
            seen += [info.digest for info in page]
            after = page[-1].digest
        assert seen == sorted(blobs_of(50))

    def test_a_scan_goes_on_after_a_name_that_is_gone(self, store: BlobStore) -> None:
        names = sorted(blobs_of(5))
        store.store(blobs_of(5))
        store.remove([names[2]])
        assert [info.digest for info in store.scan(after=names[2])] == names[3:]

    def test_a_scan_of_nothing_is_empty(self, store: BlobStore) -> None:
        assert list(store.scan()) == []

    def test_what_was_removed_is_absent_everywhere(self, store: BlobStore) -> None:
        store.store(blobs_of(3))
        assert store.remove([name_of(0), name_of(1)]) == 2
        assert list(store.fetch(list(blobs_of(3)))) == [name_of(2)]
        assert list(store.stat(list(blobs_of(3)))) == [name_of(2)]
        assert [info.digest for info in store.scan()] == [name_of(2)]

    def test_removing_what_is_absent_counts_nothing(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        assert store.remove([name_of(0), name_of(1)]) == 1
        assert store.remove([name_of(0), name_of(1)]) == 0

    def test_the_epoch_moves_when_a_blob_goes_and_only_then(self, store: BlobStore) -> None:
        """While the epoch stands still, what was seen to be here is here."""
        begin = store.epoch()
        store.store({name_of(1): b"one", name_of(2): b"two"})
        store.remove([name_of(3)])
        assert store.epoch() == begin
        store.remove([name_of(1)])
        moved = store.epoch()
        assert moved != begin
        store.remove([name_of(2)])
        assert store.epoch() not in {begin, moved}

    def test_what_was_removed_can_be_stored_anew(self, store: BlobStore) -> None:
        store.store({name_of(0): b"first"})
        store.remove([name_of(0)])
        store.store({name_of(0): b"second"}, expires_at=FAR)
        assert store.fetch([name_of(0)]) == {name_of(0): b"second"}
        assert info_of(store, name_of(0)).expires_at == FAR

    def test_an_empty_batch_is_fine(self, store: BlobStore) -> None:
        store.store({})
        store.replace({})
        assert store.fetch([]) == {}
        assert store.stat([]) == {}
        assert store.remove([]) == 0
        assert store.peek([]) == {}
        assert list(store.touch([], expires_at=FAR)) == []
        assert store.condemn([], expires_by=FOREVER) == 0

    def test_an_empty_blob_is_a_blob(self, store: BlobStore) -> None:
        store.store({name_of(0): b""})
        store.store({name_of(1): b"", name_of(2): b""})
        assert store.fetch([name_of(0), name_of(1), name_of(2)]) == dict.fromkeys(
            map(name_of, range(3)), b""
        )
        assert name_of(0) in store.stat([name_of(0)])

    def test_a_blob_of_a_megabyte_comes_back_whole(self, store: BlobStore) -> None:
        blobs = blobs_of(2, size=1_000_000)
        store.store(blobs)
        assert store.fetch(list(blobs)) == blobs

    def test_a_batch_may_hold_thousands(self, store: BlobStore) -> None:
        blobs = blobs_of(5000, size=16)
        store.store(blobs)
        assert store.fetch(list(blobs)) == blobs
        assert len(store.stat(list(blobs))) == 5000
        assert len(store.peek(list(blobs))) == 5000
        assert len(store.touch(list(blobs), expires_at=FAR)) == 5000
        assert store.condemn(list(blobs), expires_by=FOREVER) == 5000
        assert store.remove(list(blobs)) == 5000

    def test_a_name_given_twice_counts_once(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        assert store.fetch([name_of(0), name_of(0)]) == blobs_of(1)
        assert len(store.touch([name_of(0), name_of(0)], expires_at=FAR)) == 1
        assert store.remove([name_of(0), name_of(0)]) == 1

    def test_replace_overwrites(self, store: BlobStore) -> None:
        store.store({name_of(0): b"damaged"})
        store.replace({name_of(0): b"whole"})
        assert store.fetch([name_of(0)]) == {name_of(0): b"whole"}

    def test_replace_stores_what_is_absent(self, store: BlobStore) -> None:
        store.replace(blobs_of(1))
        assert store.fetch([name_of(0)]) == blobs_of(1)
        assert info_of(store, name_of(0)).expires_at == FOREVER

    def test_a_batch_that_fails_keeps_nothing(self, store: BlobStore) -> None:
        batch: dict[Digest, bytes] = dict(blobs_of(3))
        batch[name_of(3)] = "no bytes"  # type: ignore[assignment]
        with pytest.raises(InvalidInputError):
            store.store(batch)
        assert store.fetch(list(blobs_of(3))) == {}
        store.store(blobs_of(3))
        assert store.fetch(list(blobs_of(3))) == blobs_of(3)

    @pytest.mark.parametrize("name", [b"", b"short", b"x" * 33, "a" * 64, "../" * 10 + "ab", None])
    def test_a_name_that_is_no_digest_is_refused(self, store: BlobStore, name: Digest) -> None:
        for verb in (
            lambda: store.fetch([name]),
            lambda: store.stat([name]),
            lambda: store.store({name: b"data"}),
            lambda: store.remove([name]),
            lambda: store.peek([name]),
            lambda: store.touch([name], expires_at=FAR),
            lambda: store.condemn([name], expires_by=FAR),
        ):
            with pytest.raises(InvalidDigestError):
                verb()
        assert list(store.scan()) == []

    def test_what_was_fetched_stays_when_the_blob_goes(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        fetched, known = store.fetch([name_of(0)]), store.stat([name_of(0)])
        store.remove([name_of(0)])
        assert fetched == blobs_of(1)
        assert list(known) == [name_of(0)]

    def test_a_closed_store_says_so(self, store: BlobStore) -> None:
        store.close()
        store.close()
        for verb in (
            lambda: store.fetch([name_of(0)]),
            lambda: store.stat([name_of(0)]),
            store.scan,
            lambda: store.store(blobs_of(1)),
            lambda: store.replace(blobs_of(1)),
            lambda: store.remove([name_of(0)]),
            lambda: store.peek([name_of(0)]),
            lambda: store.touch([name_of(0)], expires_at=FAR),
            lambda: store.condemn([name_of(0)], expires_by=FAR),
            store.epoch,
            store.clock,
        ):
            with pytest.raises(StoreUnavailableError):
                verb()

    def test_threads_that_store_different_blobs_lose_none(self, store: BlobStore) -> None:
        def work(first: int) -> Callable[[], None]:
            def run() -> None:
                for at in range(first, first + 50, 10):
                    store.store(blobs_of(10, first=at))
                    assert store.fetch(list(blobs_of(10, first=at))) == blobs_of(10, first=at)

            return run

        run_together([work(n * 50) for n in range(8)])
        assert store.fetch(list(blobs_of(400))) == blobs_of(400)

    def test_threads_that_store_the_same_blobs_agree(self, store: BlobStore) -> None:
        def work(number: int) -> Callable[[], None]:
            return lambda: store.store(blobs_of(20), expires_at=FAR + number)

        run_together([work(n) for n in range(8)])
        assert store.fetch(list(blobs_of(20))) == blobs_of(20)
        assert {info.expires_at for info in store.scan()} == {FAR + 7}


class PersistentBlobStoreContract(BlobStoreContract):
    """What a store keeps that outlives its process: `make_store` of one path always opens one store."""

    def test_what_was_stored_is_there_when_opened_again(self, store: BlobStore, tmp_path: Path) -> None:
        blobs = blobs_of(3) | blobs_of(1, first=3, size=1_000_000)
        store.store(blobs, expires_at=FAR)
        known, name = store.stat(list(blobs)), store.store_id
        store.close()
        again = self.make_store(tmp_path)
        assert again.fetch(list(blobs)) == blobs
        assert again.stat(list(blobs)) == known
        assert again.store_id == name
        again.close()

    def test_two_openings_see_each_others_blobs(self, store: BlobStore, tmp_path: Path) -> None:
        other = self.make_store(tmp_path)
        store.store(blobs_of(1))
        assert other.fetch([name_of(0)]) == blobs_of(1)
        assert other.remove([name_of(0)]) == 1
        assert store.stat([name_of(0)]) == {}
        other.close()

    def test_what_was_condemned_is_so_when_opened_again(self, store: BlobStore, tmp_path: Path) -> None:
        store.store(blobs_of(2), expires_at=FAR)
        store.condemn([name_of(0)], expires_by=FAR)
        known = store.stat(list(blobs_of(2)))
        store.close()
        again = self.make_store(tmp_path)
        assert again.stat(list(blobs_of(2))) == known
        again.close()

    def test_a_touch_is_seen_by_another_opening(self, store: BlobStore, tmp_path: Path) -> None:
        other = self.make_store(tmp_path)
        store.store(blobs_of(2), expires_at=FAR)
        assert other.condemn(list(blobs_of(2)), expires_by=FAR) == 2
        store.touch([name_of(0)], expires_at=FAR)
        assert other.remove(list(blobs_of(2)), condemned_by=FOREVER) == 1
        assert list(store.stat(list(blobs_of(2)))) == [name_of(0)]
        other.close()

    def test_processes_that_write_at_once_lose_none(self, store: BlobStore, tmp_path: Path) -> None:
        def work(first: int) -> None:
            mine = self.make_store(tmp_path)
            for at in range(first, first + 50, 10):
                mine.store(blobs_of(10, first=at) | blobs_of(5, first=1000))
            mine.close()

        in_processes([partial(work, n * 50) for n in range(4)])
        assert store.fetch(list(blobs_of(200))) == blobs_of(200)
        assert store.fetch(list(blobs_of(5, first=1000))) == blobs_of(5, first=1000)

    def test_a_forked_child_goes_on_with_the_store_it_was_given(self, store: BlobStore) -> None:
        store.store(blobs_of(1))

        def work() -> None:
            assert store.fetch([name_of(0)]) == blobs_of(1)
            store.store(blobs_of(1, first=1))

        in_processes([work])
        store.store(blobs_of(1, first=2))
        assert store.fetch(list(blobs_of(3))) == blobs_of(3)
