# ruff: noqa: S101
"""The promises of a coordinator about reads and commits."""

import threading
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

import pytest

from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.keys import encode_key
from agentref.coherence.rows import Row
from agentref.errors import FutureVersionError, Reason
from agentref.refs import ContentRef
from agentref.testing._coherence import (
    KEY,
    OTHER,
    Clauses,
    changes_of,
    commits_of,
    content,
    delete,
    increment,
    put,
    race,
    refusal,
    revision,
    see,
)
from agentref.testing._common import name_of, run_together

__all__ = ["CommitClauses"]


class _OddError(Exception):
    """What nobody expects."""


class CommitClauses(Clauses):
    """The clauses of `CoordinatorContract` about versions, which gives each of them its coordinator."""

    def test_what_was_never_written_is_at_version_0(self, coordinator: Coordinator) -> None:
        put(coordinator, OTHER, 1)
        view = see(coordinator, KEY)
        assert (view.key, view.ref, view.version, view.epoch) == (KEY, None, 0, 0)
        assert not view.exists

    def test_a_commit_is_what_is_read_from_then_on(self, coordinator: Coordinator) -> None:
        before = coordinator.table.clock()
        ref = ContentRef(name_of(1), "a.codec", 2**63 - 1, "store:1")
        view = coordinator.commit([Write(KEY, ref)], agent="é\U0001f600")[KEY]
        assert (view.version, view.epoch, view.writer, view.ref) == (1, 0, "é\U0001f600", ref)
        assert before <= view.at <= coordinator.table.clock()
        found = see(coordinator, KEY)
        assert found == view
        assert found.ref is not None
        assert (found.ref.size, found.ref.backend_id) == (ref.size, ref.backend_id)

    def test_every_change_is_the_next_version(self, coordinator: Coordinator) -> None:
        view = None
        for number in range(1, 6):
            view = put(coordinator, KEY, number, view, agent=f"writer {number}")
            assert (view.version, view.writer, view.ref) == (number, f"writer {number}", content(number))
            assert see(coordinator, KEY) == view

    def test_a_write_from_a_stale_view_is_refused_and_changes_nothing(
        self, coordinator: Coordinator
    ) -> None:
        first = put(coordinator, KEY, 1, agent="a")
        second = put(coordinator, KEY, 2, first, agent="b")
        since = coordinator.head()
        conflict = refusal(lambda: put(coordinator, KEY, 3, first, agent="c"))
        assert (conflict.reason, conflict.key) == (Reason.VERSION_MISMATCH, KEY)
        assert (conflict.base, conflict.current) == (first, second)
        assert see(coordinator, KEY) == second
        assert commits_of(coordinator, since) == []

    def test_a_refusal_carries_what_can_be_the_next_base(self, coordinator: Coordinator) -> None:
        first = put(coordinator, KEY, 1)
        put(coordinator, KEY, 2, first)
        current: Any = refusal(lambda: put(coordinator, KEY, 3, first)).current
        assert put(coordinator, KEY, 3, current).version == 3

    def test_of_writers_from_one_view_exactly_one_wins(self, coordinator: Coordinator) -> None:
        for racers in (2, 5, 16):
            key = (*KEY, str(racers))
            base = put(coordinator, key, 0)
            won, lost = race([partial(put, coordinator, key, n, base) for n in range(1, racers + 1)])
            assert won == [see(coordinator, key)]
            assert won[0].version == 2
            assert {conflict.reason for conflict in lost} == {Reason.VERSION_MISMATCH}
            assert [conflict.current for conflict in lost] == won * (racers - 1)

    def test_of_writers_that_create_exactly_one_wins(self, coordinator: Coordinator) -> None:
        for racers in (2, 5, 16):
            key = (*KEY, str(racers))
            won, lost = race([partial(put, coordinator, key, n) for n in range(racers)])
            assert won == [see(coordinator, key)]
            assert won[0].version == 1
            assert {conflict.reason for conflict in lost} == {Reason.EXISTS}
            assert [conflict.current for conflict in lost] == won * (racers - 1)

    def test_no_increment_is_lost(self, coordinator: Coordinator) -> None:
        writers, each = 8, 5
        tries = writers * each

        def work() -> list[int]:
            return [increment(coordinator, KEY, tries=tries) for _ in range(each)]

        acknowledged = sorted(chain.from_iterable(run_together([work] * writers)))
        assert acknowledged == list(range(1, tries + 1))
        assert see(coordinator, KEY).version == tries

    def test_a_commit_of_many_keys_is_all_or_nothing(self, coordinator: Coordinator) -> None:
        keys = [(*KEY, str(n)) for n in range(5)]
        views = coordinator.commit([Write(key, content(1)) for key in keys], agent="writer")
        assert coordinator.read(keys) == views
        assert {view.version for view in views.values()} == {1}
        moved = put(coordinator, keys[3], 2, views[keys[3]])
        before, since = coordinator.read(keys), coordinator.head()
        writes = [Write(key, content(3), views[key]) for key in keys]
        conflict = refusal(lambda: coordinator.commit(writes, agent="writer"))
        assert (conflict.key, conflict.current) == (keys[3], moved)
        assert coordinator.read(keys) == before
        assert commits_of(coordinator, since) == []

    def test_what_is_read_together_is_of_one_moment(self, coordinator: Coordinator) -> None:
        """Beside a writer that moves both keys in each of its commits."""
        keys, enough = [KEY, OTHER], threading.Event()

        def write() -> None:
            views: Mapping[Any, Any] = dict.fromkeys(keys)
            number = 0
            while not enough.is_set():
                number += 1
                writes = [Write(key, content(number), views[key]) for key in keys]
                views = coordinator.commit(writes, agent="writer")

        def read() -> None:
            try:
                for order in (keys, keys[::-1]) * 15:
                    seen = coordinator.read(order)
                    assert seen[KEY].version == seen[OTHER].version
            finally:
                enough.set()

        run_together([write, read])

    def test_a_commit_that_rests_on_what_has_moved_is_refused(self, coordinator: Coordinator) -> None:
        first = put(coordinator, OTHER, 1)
        second = put(coordinator, OTHER, 2, first, agent="b")
        writes, since = [Write(KEY, content(1))], coordinator.head()
        for reads in ([first], [second, first], [first, second]):
            conflict = refusal(partial(coordinator.commit, writes, agent="a", reads=reads))
            assert (conflict.reason, conflict.key) == (Reason.VERSION_MISMATCH, OTHER)
            assert (conflict.base, conflict.current) == (first, second)
        assert see(coordinator, KEY).version == 0
        assert commits_of(coordinator, since) == []
        coordinator.commit(writes, agent="a", reads=[second])
        assert changes_of(coordinator, since) == [(KEY, 1)]
        assert see(coordinator, OTHER) == second

    def test_two_commits_that_rest_on_each_other_do_not_both_pass(self, coordinator: Coordinator) -> None:
        for number in range(4):
            keys = [(*key, str(number)) for key in (KEY, OTHER)]
            views = coordinator.commit([Write(key, content(0)) for key in keys], agent="writer")
            mine, yours = (views[key] for key in keys)
            won, lost = race(
                [
                    partial(self._relying, coordinator, mine, yours),
                    partial(self._relying, coordinator, yours, mine),
                ]
            )
            assert (len(won), len(lost)) == (1, 1)

    def _relying(self, coordinator: Coordinator, base: Any, on: Any) -> Any:
        write = Write(base.key, content(1), base)
        return coordinator.commit([write], agent="writer", reads=[on])[base.key]

    def test_a_deletion_is_a_version_and_versions_never_restart(self, coordinator: Coordinator) -> None:
        first = put(coordinator, KEY, 1)
        gone = delete(coordinator, KEY, first, agent="b")
        assert (gone.version, gone.exists, gone.writer) == (2, False, "b")
        assert see(coordinator, KEY) == gone
        for verb in (
            lambda: put(coordinator, KEY, 2, first),
            lambda: put(coordinator, KEY, 1, first),
            lambda: delete(coordinator, KEY, first),
        ):
            conflict = refusal(verb)
            assert (conflict.reason, conflict.current) == (Reason.DELETED, gone)
        back = put(coordinator, KEY, 1)
        assert back.version == 3
        conflict = refusal(lambda: put(coordinator, KEY, 2))
        assert (conflict.reason, conflict.base, conflict.current) == (Reason.EXISTS, None, back)
        assert refusal(lambda: put(coordinator, KEY, 2, gone)).reason is Reason.VERSION_MISMATCH
        assert put(coordinator, KEY, 1, delete(coordinator, KEY, back)).version == 5

    def test_content_that_came_back_is_not_what_it_was(self, coordinator: Coordinator) -> None:
        first = put(coordinator, KEY, 1)
        back = put(coordinator, KEY, 1, put(coordinator, KEY, 2, first))
        assert (back.ref, back.version) == (first.ref, 3)
        conflict = refusal(lambda: put(coordinator, KEY, 3, first))
        assert (conflict.reason, conflict.current) == (Reason.VERSION_MISMATCH, back)
        assert put(coordinator, KEY, 3, back).version == 4

    def test_a_commit_that_changes_nothing_moves_nothing(self, coordinator: Coordinator) -> None:
        view = put(coordinator, KEY, 1, agent="a")
        since, before = coordinator.head(), revision(coordinator, KEY)
        assert put(coordinator, KEY, 1, view, agent="b") == view
        assert coordinator.commit([], agent="b", reads=[view]) == {}
        assert (revision(coordinator, KEY), see(coordinator, KEY)) == (before, view)
        writes = [Write(KEY, content(1), view), Write(OTHER, content(1))]
        assert coordinator.commit(writes, agent="b")[KEY] == view
        assert changes_of(coordinator, since) == [(OTHER, 1)]
        assert revision(coordinator, KEY) == before

    def test_a_view_of_the_future_is_corruption(self, coordinator: Coordinator) -> None:
        view = put(coordinator, KEY, 1)
        since = coordinator.head()
        for base in (view._replace(version=2), view._replace(epoch=1)):
            for verb in (
                lambda base=base: put(coordinator, KEY, 2, base),
                lambda base=base: coordinator.commit([Write(OTHER, content(1))], agent="a", reads=[base]),
                lambda base=base: coordinator.gate(base),
            ):
                with pytest.raises(FutureVersionError):
                    verb()
        assert coordinator.read([KEY, OTHER])[KEY] == view
        assert see(coordinator, OTHER).version == 0
        assert commits_of(coordinator, since) == []

    def test_a_view_of_another_history_is_refused(self, coordinator: Coordinator) -> None:
        other = put(coordinator, OTHER, 1)
        view = put(coordinator, KEY, 2)
        forged = view._replace(ref=other.ref)
        conflict = refusal(lambda: put(coordinator, KEY, 3, forged))
        assert (conflict.reason, conflict.current) == (Reason.CONTENT_MISMATCH, view)
        assert see(coordinator, KEY) == view

    def test_a_gate_lets_pass_what_stands(self, coordinator: Coordinator) -> None:
        first = put(coordinator, KEY, 1)
        coordinator.gate(first)
        second = put(coordinator, KEY, 2, first)
        conflict = refusal(lambda: coordinator.gate(first))
        assert (conflict.reason, conflict.current) == (Reason.VERSION_MISMATCH, second)
        coordinator.gate(second)

    # The table by itself

    def test_what_a_decision_raises_is_raised_as_it_is(self, coordinator: Coordinator) -> None:
        view = put(coordinator, KEY, 1)

        def decide(rows: Mapping[bytes, Row], now: float) -> Any:
            raise _OddError(rows, now)

        with pytest.raises(_OddError):
            coordinator.table.transact([encode_key(KEY)], decide)
        assert put(coordinator, KEY, 2, view).version == 2  # and nothing is locked

    def test_a_probe_tells_of_every_change_of_a_row(self, coordinator: Coordinator) -> None:
        assert revision(coordinator, KEY) == 0
        seen = [0]
        view = put(coordinator, KEY, 1)
        seen.append(revision(coordinator, KEY))
        lease = coordinator.acquire(KEY, holder="a", ttl=10)
        seen.append(revision(coordinator, KEY))
        coordinator.renew(lease, ttl=20)
        seen.append(revision(coordinator, KEY))
        coordinator.release(lease)
        seen.append(revision(coordinator, KEY))
        delete(coordinator, KEY, view._replace(epoch=1))
        seen.append(revision(coordinator, KEY))
        put(coordinator, OTHER, 1)
        assert len(set(seen)) == len(seen)
        assert revision(coordinator, KEY) == seen[-1]
        row = coordinator.table.load([encode_key(KEY)])[encode_key(KEY)]
        assert row.revision == seen[-1]
