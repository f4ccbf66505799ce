# ruff: noqa: S101
"""The promises of a coordinator about its feed."""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

import pytest

from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.feed import Change
from agentref.coherence.keys import Key
from agentref.errors import CursorTooOldError, InvalidInputError
from agentref.testing._coherence import (
    KEY,
    OTHER,
    Clauses,
    SettableClock,
    changes_of,
    commits_of,
    content,
    delete,
    increment,
    put,
    see,
)
from agentref.testing._common import run_together

__all__ = ["FeedClauses"]


class FeedClauses(Clauses):
    """The clauses of `CoordinatorContract` about the feed, which gives each of them its coordinator."""

    def test_a_change_tells_what_stands_there_now(self, coordinator: Coordinator) -> None:
        lease = coordinator.acquire(KEY, holder="a", ttl=10)
        coordinator.release(lease)
        since = coordinator.head()
        view = put(coordinator, KEY, 1, agent="é\U0001f600")
        gone = delete(coordinator, KEY, view, agent="b")
        page = coordinator.changes(since=since)
        assert [change._replace(cursor="") for change in page.changes] == [
            Change(KEY, 1, view.ref, 1, "é\U0001f600"),
            Change(KEY, 2, None, 1, "b"),
        ]
        assert page.changes[-1].cursor == page.cursor
        assert (gone.version, gone.ref) == (2, None)

    def test_a_commit_is_one_entry(self, coordinator: Coordinator) -> None:
        since = coordinator.head()
        keys = [(*KEY, str(n)) for n in range(3)]
        views = coordinator.commit([Write(key, content(1)) for key in keys], agent="a")
        put(coordinator, OTHER, 1)
        writes = [Write(key, content(2), view) for key, view in reversed(views.items())]
        coordinator.commit(writes, agent="a")
        commits = commits_of(coordinator, since)
        assert [[(c.key, c.version) for c in commit] for commit in commits] == [
            [(key, 1) for key in keys],
            [(OTHER, 1)],
            [(key, 2) for key in reversed(keys)],
        ]
        assert [len({change.cursor for change in commit}) for commit in commits] == [1, 1, 1]

    def test_commits_come_in_their_order(self, coordinator: Coordinator) -> None:
        since, wanted = coordinator.head(), []
        for number in range(1, 8):
            for key in (KEY, OTHER):
                put(coordinator, key, number, see(coordinator, key) if number > 1 else None)
                wanted.append((key, number))
        assert changes_of(coordinator, since) == wanted

    def test_a_page_has_at_most_so_many_commits(self, coordinator: Coordinator) -> None:
        since = coordinator.head()
        wanted = [(("page", str(n)), 1) for n in range(7)]
        for key, _ in wanted:
            put(coordinator, key, 1)
        for limit in (1, 3, 7, 8):
            seen: list[tuple[Key, int]] = []
            at = since
            while (page := coordinator.changes(since=at, limit=limit)).changes:
                assert len(page.changes) == min(limit, len(wanted) - len(seen))
                seen += [(change.key, change.version) for change in page.changes]
                at = page.changes[-1].cursor
                assert at == page.cursor
            assert seen == wanted

    def test_every_cursor_of_a_page_is_a_place_to_go_on_from(self, coordinator: Coordinator) -> None:
        since = coordinator.head()
        for n in range(4):
            put(coordinator, ("page", str(n)), 1)
        changes = coordinator.changes(since=since).changes
        for n, change in enumerate(changes, 1):
            rest = coordinator.changes(since=change.cursor).changes
            assert list(rest) == list(changes[n:])

    def test_the_head_is_after_all_that_was_committed(self, coordinator: Coordinator) -> None:
        put(coordinator, KEY, 1)
        since = coordinator.head()
        page = coordinator.changes(since=since)
        assert list(page.changes) == []
        put(coordinator, OTHER, 1)
        assert changes_of(coordinator, page.cursor) == changes_of(coordinator, since) == [(OTHER, 1)]

    def test_a_page_that_is_read_twice_is_the_same(self, coordinator: Coordinator) -> None:
        since = coordinator.head()
        for number in range(1, 4):
            put(coordinator, ("page", str(number)), number)
        first = coordinator.changes(since=since, limit=2)
        coordinator.changes(since=first.cursor)
        again = coordinator.changes(since=since, limit=2)
        assert len(first.changes) == 2
        assert (list(first.changes), first.cursor) == (list(again.changes), again.cursor)

    def test_every_reader_sees_the_versions_of_a_key_one_by_one(self, coordinator: Coordinator) -> None:
        """Beside those who commit, each reader at its own pace, and afterwards."""
        since, done = coordinator.head(), threading.Event()
        keys = [(*KEY, str(n)) for n in range(2)]
        writers, each = 4, 6

        def write(number: int) -> list[Change]:
            for n in range(each):
                increment(coordinator, keys[(n + number) % 2], tries=writers * each)
            return []

        def read(limit: int) -> list[Change]:
            seen: list[Change] = []
            cursor = since
            while True:
                finished = done.is_set()
                page = coordinator.changes(since=cursor, limit=limit)
                seen += page.changes
                cursor = page.cursor
                if finished and not page.changes:
                    return seen

        def lead() -> list[Change]:
            try:
                run_together([partial(write, n) for n in range(writers)])
            finally:
                done.set()
            return []

        work: list[Callable[[], list[Change]]] = [lead, partial(read, 1), partial(read, 100)]
        for seen in run_together(work)[1:]:
            self._are_all(seen, keys, writers * each)
        self._are_all(coordinator.changes(since=since).changes, keys, writers * each)

    def _are_all(self, changes: Sequence[Change], keys: Sequence[Key], count: int) -> None:
        assert len(changes) == count
        for _, some in groupby(sorted(changes, key=attrgetter("key")), key=attrgetter("key")):
            versions = [change.version for change in some]
            assert versions == list(range(1, len(versions) + 1))
        assert {change.key for change in changes} == set(keys)

    def test_who_follows_step_by_step_misses_nothing(self, coordinator: Coordinator) -> None:
        since, seen = coordinator.head(), []
        wanted = [(("step", str(n)), 1) for n in range(6)]
        for key, _ in wanted:
            put(coordinator, key, 1)
            page = coordinator.changes(since=since)
            seen += [(change.key, change.version) for change in page.changes]
            since = page.cursor
        assert seen == wanted

    # Cursors

    def test_what_is_no_cursor_is_refused(self, coordinator: Coordinator) -> None:
        put(coordinator, KEY, 1)
        head = coordinator.head()
        for bad in ("", "garbage", f"{head}x", f"{head.partition('/')[0]}/", 1, None, b"x", "x" * 10_000):
            since: Any = bad
            with pytest.raises(InvalidInputError):
                coordinator.changes(since=since)

    def test_the_cursor_of_another_feed_is_told_apart(self, coordinator: Coordinator) -> None:
        put(coordinator, KEY, 1)
        owner, _, place = coordinator.head().partition("/")
        for since in (f"{owner}x/{place}", f"other/{place}", f"/{place}"):
            with pytest.raises(CursorTooOldError):
                coordinator.changes(since=since)
            with pytest.raises(CursorTooOldError):
                coordinator.wait(since, timeout=0)

    def test_a_cursor_of_before_what_was_compacted_is_too_old(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        since = coordinator.head()
        first = put(coordinator, KEY, 1)
        clock.let(coordinator.table, first.at)
        middle = coordinator.head()
        second = put(coordinator, KEY, 2, first)
        assert coordinator.table.compact(first.at) == 0
        assert changes_of(coordinator, since) == [(KEY, 1), (KEY, 2)]
        assert coordinator.table.compact(second.at) == 1
        for verb in (coordinator.changes, partial(coordinator.changes, limit=1)):
            with pytest.raises(CursorTooOldError):
                verb(since=since)
        assert changes_of(coordinator, middle) == [(KEY, 2)]
        assert see(coordinator, KEY) == second

    def test_a_sweep_drops_what_is_old(self, coordinator: Coordinator, clock: SettableClock) -> None:
        since = coordinator.head()
        view = put(coordinator, KEY, 1)
        clock.let(coordinator.table, view.at)
        coordinator.sweep()
        assert changes_of(coordinator, since) == [(KEY, 1)]
        coordinator.sweep(feed_seconds=0)
        with pytest.raises(CursorTooOldError):
            coordinator.changes(since=since)
        since = coordinator.head()
        put(coordinator, KEY, 2, view)
        assert changes_of(coordinator, since) == [(KEY, 2)]
