# ruff: noqa: S101
"""The promises of `BlobStore` about lives: how they lengthen, how they end, and what measures them.

"Now" is always the store's own, which may be the clock of another machine.
"""

from functools import partial
from typing import Any

import pytest

from agentref.errors import InvalidInputError
from agentref.refs import Digest
from agentref.storage.frames import LINKS
from agentref.storage.protocol import FOREVER, BlobStore
from agentref.testing._common import FAR, NO_TIMES, blobs_of, info_of, name_of, run_together, surveyed, wait

__all__ = ["LifetimeClauses"]


class LifetimeClauses:
    """The clauses of `BlobStoreContract` about lives, which gives each of them its store."""

    def test_stat_tells_name_size_and_times(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        info = info_of(store, name_of(0))
        assert info.digest == name_of(0)
        assert info.stored_size > 0
        assert 1e9 < info.touched_at < FAR
        assert info.expires_at == FAR

    def test_a_life_has_no_end_unless_one_is_given(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        assert info_of(store, name_of(0)).expires_at == FOREVER

    def test_storing_again_lengthens_a_life(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        store.store(blobs_of(1), expires_at=FAR + 1)
        assert info_of(store, name_of(0)).expires_at == FAR + 1

    def test_storing_again_never_shortens_a_life(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        store.store(blobs_of(1), expires_at=FAR - 1)
        assert info_of(store, name_of(0)).expires_at == FAR

    def test_what_lives_for_ever_never_becomes_mortal(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        store.store(blobs_of(1), expires_at=FAR)
        assert info_of(store, name_of(0)).expires_at == FOREVER

    def test_storing_again_touches(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        before = info_of(store, name_of(0)).touched_at
        wait(store)
        store.store(blobs_of(1))
        assert info_of(store, name_of(0)).touched_at > before

    def test_asking_and_reading_do_not_touch(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        before = info_of(store, name_of(0))
        wait(store)
        store.fetch([name_of(0)])
        store.stat([name_of(0)])
        store.scan()
        assert info_of(store, name_of(0)) == before

    def test_replace_never_shortens_a_life_and_touches(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        before = info_of(store, name_of(0))
        wait(store)
        store.replace(blobs_of(1))
        after = info_of(store, name_of(0))
        assert after.expires_at >= before.expires_at
        assert after.touched_at > before.touched_at

    # The clock

    def test_the_clock_goes_on(self, store: BlobStore) -> None:
        before = store.clock()
        assert 1e9 < before < FAR
        assert wait(store) > before

    def test_what_is_written_is_touched_at_the_time_of_the_clock(self, store: BlobStore) -> None:
        for write in (
            lambda: store.store(blobs_of(1), expires_at=FAR),
            lambda: store.store(blobs_of(1), expires_at=FAR),
            lambda: store.replace(blobs_of(1)),
            lambda: store.touch([name_of(0)], expires_at=FAR + 1),
        ):
            begin = wait(store)
            write()
            assert begin <= info_of(store, name_of(0)).touched_at <= store.clock()

    def test_what_is_condemned_is_so_at_the_time_of_the_clock(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        begin = wait(store)
        store.condemn([name_of(0)], expires_by=FOREVER)
        at = info_of(store, name_of(0)).condemned_at
        assert at is not None
        assert begin <= at <= store.clock()

    # Touching

    def test_touch_tells_what_is_here(self, store: BlobStore) -> None:
        store.store(blobs_of(3), expires_at=FAR)
        for expires_at in (FAR - 1, FAR + 1, FOREVER, FAR):
            assert set(store.touch([name_of(0), name_of(2)], expires_at=expires_at)) == {
                name_of(0),
                name_of(2),
            }

    def test_touch_leaves_out_what_is_absent(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        assert list(store.touch([name_of(1), name_of(0)], expires_at=FAR)) == [name_of(0)]
        assert store.stat([name_of(1)]) == {}

    def test_touch_lengthens_a_life(self, store: BlobStore) -> None:
        store.store(blobs_of(2), expires_at=FAR)
        before = info_of(store, name_of(0))
        wait(store)
        store.touch([name_of(0)], expires_at=FAR + 1)
        after = info_of(store, name_of(0))
        assert after.expires_at == FAR + 1
        assert after.touched_at > before.touched_at
        assert info_of(store, name_of(1)).expires_at == FAR
        store.touch([name_of(0)], expires_at=FOREVER)
        assert info_of(store, name_of(0)).expires_at == FOREVER

    def test_touch_never_shortens_a_life(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        store.store(blobs_of(1, first=1))
        store.touch(list(blobs_of(2)), expires_at=FAR - 1)
        assert info_of(store, name_of(0)).expires_at == FAR
        assert info_of(store, name_of(1)).expires_at == FOREVER

    def test_a_touch_that_lengthens_nothing_writes_nothing(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        before = info_of(store, name_of(0))
        wait(store)
        store.touch([name_of(0)], expires_at=FAR)
        assert info_of(store, name_of(0)) == before

    def test_touch_takes_back_a_condemnation(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        store.condemn([name_of(0)], expires_by=FAR)
        before = wait(store)
        store.touch([name_of(0)], expires_at=FAR - 1)
        after = info_of(store, name_of(0))
        assert after.condemned_at is None
        assert after.touched_at >= before
        assert after.expires_at == FAR

    # What has ended

    def test_a_scan_of_what_has_ended_lists_only_that(self, store: BlobStore) -> None:
        for number in range(5):
            store.store(blobs_of(1, first=number), expires_at=FAR + number)
        store.store(blobs_of(1, first=5))
        listed = [info.digest for info in store.scan(expires_by=FAR + 2)]
        assert listed == sorted(map(name_of, range(3)))
        assert list(store.scan(expires_by=FAR - 1)) == []
        assert len(store.scan(expires_by=FOREVER)) == 6

    def test_pages_of_a_scan_of_what_has_ended_are_full(self, store: BlobStore) -> None:
        store.store(blobs_of(50))
        store.store(blobs_of(10, first=50), expires_at=FAR)
        wanted = sorted(name_of(n) for n in range(50, 60))
        pages: list[list[Digest]] = []
        after: Digest | None = None
        while page := [info.digest for info in store.scan(after=after, limit=4, expires_by=FAR)]:
            pages.append(page)
            after = page[-1]
        assert [len(page) for page in pages] == [4, 4, 2]
        assert [digest for page in pages for digest in page] == wanted

    # Surveys

    def test_a_survey_shows_what_has_ended_and_what_links(self, store: BlobStore) -> None:
        linking, plain = bytes([LINKS]) + b"node", bytes([0xFF - LINKS]) + b"leaf"
        store.store(blobs_of(10), expires_at=FAR)
        store.store({name_of(10): linking, name_of(11): plain, name_of(12): b""})
        store.store({name_of(13): linking}, expires_at=FAR)
        store.store({name_of(14): linking, name_of(15): plain}, expires_at=FAR + 1)
        wanted = [name_of(n) for n in (*range(11), 13, 14)]
        shown = surveyed(store, FAR)
        assert sorted(info.digest for info in shown) == sorted(wanted)
        assert {info.digest: info for info in shown} == store.stat(wanted)

    def test_a_survey_of_what_has_ended_shows_each_of_thousands_once(self, store: BlobStore) -> None:
        store.store(blobs_of(5000), expires_at=FAR)
        store.store(blobs_of(10, first=5000))
        assert sorted(info.digest for info in surveyed(store, FAR)) == sorted(blobs_of(5000))

    def test_who_is_shown_blobs_may_use_the_store(self, store: BlobStore) -> None:
        store.store(blobs_of(2), expires_at=FAR)

        def see(_: object, __: int) -> None:
            assert len(store.stat(list(blobs_of(2)))) == 2
            store.store(blobs_of(1, first=2))

        store.survey(see, expires_by=FAR)
        assert store.stat([name_of(2)])

    def test_what_is_raised_on_seeing_blobs_ends_a_survey(self, store: BlobStore) -> None:
        store.store(blobs_of(2), expires_at=FAR)
        with pytest.raises(ZeroDivisionError):
            store.survey(lambda _, __: 1 // 0, expires_by=FAR)
        assert store.remove(list(blobs_of(2)), expires_by=FAR) == 2

    # Condemning

    def test_nothing_is_condemned_by_itself(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=store.clock() - 1)
        assert info_of(store, name_of(0)).condemned_at is None

    def test_condemn_counts_what_was_not_condemned_before(self, store: BlobStore) -> None:
        store.store(blobs_of(3), expires_at=FAR)
        assert store.condemn([name_of(0), name_of(0), name_of(9)], expires_by=FAR) == 1
        assert store.condemn(list(blobs_of(3)), expires_by=FAR) == 2
        assert store.condemn(list(blobs_of(3)), expires_by=FAR) == 0

    def test_condemn_leaves_alone_what_lives_longer(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        store.store(blobs_of(1, first=1), expires_at=FAR + 1)
        store.store(blobs_of(1, first=2))
        assert store.condemn(list(blobs_of(3)), expires_by=FAR) == 1
        condemned = [
            d for d, info in store.stat(list(blobs_of(3))).items() if info.condemned_at is not None
        ]
        assert condemned == [name_of(0)]

    def test_a_condemned_blob_stays_readable(self, store: BlobStore) -> None:
        store.store(blobs_of(2))
        store.condemn([name_of(0)], expires_by=FOREVER)
        assert store.fetch(list(blobs_of(2))) == blobs_of(2)
        assert store.peek([name_of(0)]) == {name_of(0): 0}
        assert {info.digest: info for info in store.scan()} == store.stat(list(blobs_of(2)))

    def test_condemning_changes_nothing_else(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        before, epoch = info_of(store, name_of(0)), store.epoch()
        wait(store)
        store.condemn([name_of(0)], expires_by=FAR)
        assert info_of(store, name_of(0))._replace(condemned_at=None) == before
        assert store.epoch() == epoch

    def test_condemning_again_does_not_move_the_time(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        store.condemn([name_of(0)], expires_by=FOREVER)
        before = info_of(store, name_of(0)).condemned_at
        wait(store)
        store.condemn([name_of(0)], expires_by=FOREVER)
        assert info_of(store, name_of(0)).condemned_at == before

    def test_storing_again_takes_back_a_condemnation(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        store.condemn([name_of(0)], expires_by=FAR)
        store.store(blobs_of(1), expires_at=FAR - 1)
        assert info_of(store, name_of(0)).condemned_at is None

    def test_replacing_takes_back_a_condemnation(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        store.condemn([name_of(0)], expires_by=FAR)
        store.replace(blobs_of(1))
        assert info_of(store, name_of(0)).condemned_at is None

    def test_a_blob_that_is_stored_anew_is_not_condemned(self, store: BlobStore) -> None:
        store.store(blobs_of(1))
        store.condemn([name_of(0)], expires_by=FOREVER)
        store.remove([name_of(0)])
        store.store(blobs_of(1))
        assert info_of(store, name_of(0)).condemned_at is None

    # Removing

    def test_remove_spares_what_lives_longer(self, store: BlobStore) -> None:
        store.store(blobs_of(2), expires_at=FAR)
        store.store(blobs_of(1, first=2))
        store.touch([name_of(0)], expires_at=FAR + 1)
        assert store.remove(list(blobs_of(3)), expires_by=FAR) == 1
        assert set(store.fetch(list(blobs_of(3)))) == {name_of(0), name_of(2)}
        assert store.remove(list(blobs_of(3)), expires_by=FOREVER) == 2

    def test_remove_takes_only_the_condemned_if_so_asked(self, store: BlobStore) -> None:
        store.store(blobs_of(3))
        store.condemn([name_of(0), name_of(1)], expires_by=FOREVER)
        by = info_of(store, name_of(0)).condemned_at
        assert store.remove([name_of(0), name_of(2), name_of(9)], condemned_by=by) == 1
        assert set(store.stat(list(blobs_of(3)))) == {name_of(1), name_of(2)}

    def test_remove_spares_what_was_condemned_later(self, store: BlobStore) -> None:
        store.store(blobs_of(2))
        store.condemn([name_of(0)], expires_by=FOREVER)
        by = wait(store)
        wait(store)
        store.condemn([name_of(1)], expires_by=FOREVER)
        assert store.remove(list(blobs_of(2)), condemned_by=by) == 1
        assert list(store.stat(list(blobs_of(2)))) == [name_of(1)]

    def test_remove_spares_what_was_touched_since_it_was_condemned(self, store: BlobStore) -> None:
        store.store(blobs_of(4))
        store.condemn(list(blobs_of(4)), expires_by=FOREVER)
        store.touch([name_of(0)], expires_at=FAR)
        store.store(blobs_of(1, first=1))
        store.replace(blobs_of(1, first=2))
        assert store.remove(list(blobs_of(4)), condemned_by=FOREVER) == 1
        assert set(store.stat(list(blobs_of(4)))) == set(blobs_of(3))

    def test_remove_keeps_to_both_times_if_given_both(self, store: BlobStore) -> None:
        store.store(blobs_of(1), expires_at=FAR)
        store.store(blobs_of(3, first=1), expires_at=FAR + 1)
        store.condemn([name_of(0), name_of(1)], expires_by=FOREVER)
        names = list(blobs_of(4))
        assert store.remove(names, expires_by=FAR, condemned_by=FOREVER) == 1
        assert set(store.stat(names)) == set(blobs_of(3, first=1))

    def test_a_time_that_is_none_is_refused(self, store: BlobStore) -> None:
        names = [name_of(0)]
        store.store(blobs_of(1))
        before = store.stat(names)
        for bad in NO_TIMES:
            time: Any = bad
            for verb in (
                lambda time=time: store.store(blobs_of(1, first=1), expires_at=time),
                lambda time=time: store.touch(names, expires_at=time),
                lambda time=time: store.scan(expires_by=time),
                lambda time=time: store.condemn(names, expires_by=time),
                lambda time=time: store.survey(lambda _, __: None, expires_by=time),
                lambda time=time: store.remove(names, expires_by=time),
                lambda time=time: store.remove(names, condemned_by=time),
            ):
                with pytest.raises(InvalidInputError):
                    verb()
        assert store.stat([*names, name_of(1)]) == before

    def test_threads_that_condemn_the_same_blobs_count_each_once(self, store: BlobStore) -> None:
        store.store(blobs_of(20))
        counts = run_together([lambda: store.condemn(list(blobs_of(20)), expires_by=FOREVER)] * 8)
        assert sum(counts) == 20

    def test_threads_that_touch_the_same_blobs_agree(self, store: BlobStore) -> None:
        names = list(blobs_of(20))
        store.store(blobs_of(20), expires_at=FAR)
        run_together([partial(store.touch, names, expires_at=FAR + n) for n in range(8)])
        assert {info.expires_at for info in store.scan()} == {FAR + 7}
