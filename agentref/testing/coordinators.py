# ruff: noqa: S101
"""The promises of a coordinator as tests, one promise each.

A backend is a `Table`. It is held against them by a subclass that says how to make one:

    class TestMyTable(CoordinatorContract):
        def make_table(self, path, clock):
            return MyTable(path / "rows", clock=clock)

What a coordinator checks by itself, whatever its table is, is no part of it.
"""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.keys import MAX_KEY_BYTES, Key, encode_key, key_range
from agentref.coherence.rows import LeaseMode
from agentref.errors import Conflict, ForeignViewError, Reason, StoreUnavailableError
from agentref.testing._coherence import (
    KEY,
    LONG,
    OTHER,
    Clauses,
    SettableClock,
    changes_of,
    commits_of,
    content,
    delete,
    increment,
    put,
    refusal,
    revision,
    see,
    spawn,
)
from agentref.testing._common import in_processes
from agentref.testing.commits import CommitClauses
from agentref.testing.feeds import FeedClauses
from agentref.testing.holding import LeaseClauses
from agentref.testing.waiting import WaitingClauses

__all__ = ["CoordinatorContract", "PersistentCoordinatorContract"]

# Each of these is another one to whoever joins the parts, folds case, normalises or cuts at a NUL.
_KEYS: Final[tuple[Key, ...]] = (
    ("a",),
    ("a", ""),
    ("", "a"),
    ("a", "b"),
    ("a", "b", "c"),
    ("a/b",),
    ("a", "b/c"),
    ("ab",),
    ("ab", "c"),
    ("A",),
    ("a\0",),
    ("a\0b",),
    ("a\n",),
    ("a ",),
    ("a%",),
    ("a_",),
    ("a\x7f",),
    ("a\xff",),
    ("a", "\xff"),
    ("e\u0301",),
    ("\u00e9",),
    ("a\U0001f600",),
    ("\U0010ffff",),
    ("user1", "memories"),
    ("user2", "memories"),
)


class KeyClauses(Clauses):
    """The clauses of `CoordinatorContract` about keys."""

    def test_keys_are_told_apart(self, coordinator: Coordinator) -> None:
        for number, key in enumerate(_KEYS):
            assert put(coordinator, key, number).version == 1
        assert {key: view.ref for key, view in coordinator.read(_KEYS).items()} == {
            key: content(number) for number, key in enumerate(_KEYS)
        }

    def test_keys_are_listed_by_the_parts_that_they_begin_with(self, coordinator: Coordinator) -> None:
        views = coordinator.commit([Write(key, content(1)) for key in _KEYS], agent="a")
        for prefix in ((), *_KEYS, ("user",), ("user1",), ("nothing",)):
            wanted = sorted((key for key in _KEYS if key[: len(prefix)] == prefix), key=encode_key)
            assert list(coordinator.keys(prefix)) == [views[key] for key in wanted]

    def test_what_is_deleted_is_not_listed(self, coordinator: Coordinator) -> None:
        view = put(coordinator, KEY, 1)
        other = put(coordinator, OTHER, 1)
        coordinator.release(coordinator.acquire(("project", "never"), holder="a", ttl=1))
        gone = delete(coordinator, KEY, view)
        assert list(coordinator.keys()) == [other]
        back = put(coordinator, KEY, 1, gone)
        assert list(coordinator.keys(("project",))) == [other, back]

    def test_pages_of_keys_leave_no_gap_and_overlap_nowhere(self, coordinator: Coordinator) -> None:
        coordinator.commit([Write(key, content(1)) for key in _KEYS], agent="a")
        (first, stop), seen = key_range(()), list[bytes]()
        while page := coordinator.table.scan(first, stop, limit=3):
            assert len(page) == min(3, len(_KEYS) - len(seen))
            seen += [key for key, _ in page]
            first = page[-1][0] + b"\0"
        assert seen == sorted(map(encode_key, _KEYS))

    def test_the_bounds_of_a_scan_are_from_and_before(self, coordinator: Coordinator) -> None:
        coordinator.commit([Write((name,), content(1)) for name in "abcd"], agent="a")
        codes = {name: encode_key((name,)) for name in "abcd"}
        page = coordinator.table.scan(codes["b"], codes["d"], limit=10)
        assert [key for key, _ in page] == [codes["b"], codes["c"]]
        assert dict(page) == coordinator.table.load([codes["b"], codes["c"]])

    def test_a_key_may_be_long(self, coordinator: Coordinator) -> None:
        longest = "é" * ((MAX_KEY_BYTES - 1) // 2)
        keys = [(longest,), (longest[:-1],), (longest[:-1] + "e",), ("x",) * 32]
        for number, key in enumerate(keys):
            put(coordinator, key, number)
        found = coordinator.read(keys)
        assert [found[key].ref for key in keys] == [content(number) for number in range(len(keys))]
        assert [view.key for view in coordinator.keys((longest,))] == [(longest,)]


class CoordinatorContract(CommitClauses, LeaseClauses, WaitingClauses, FeedClauses, KeyClauses):
    """What every coordinator keeps. Each test is given a new one over an empty table.

    Leases are let expire by the clock that `make_table` is given, which stands still until it is set; a
    table that goes by another one is waited for, about a second at a time.
    """

    @pytest.fixture
    def clock(self) -> SettableClock:
        """The clock that the table of one test goes by, if it can."""
        return SettableClock()

    @pytest.fixture
    def coordinator(self, tmp_path: Path, clock: SettableClock) -> Iterator[Coordinator]:
        """The coordinator of one test, closed after it."""
        with Coordinator(self.make_table(tmp_path, clock)) as coordinator:
            yield coordinator

    def test_a_table_has_a_name_of_its_own(
        self, coordinator: Coordinator, clock: SettableClock, tmp_path: Path
    ) -> None:
        assert re.fullmatch(r"[a-z0-9-]{1,64}", coordinator.coordinator_id)
        assert coordinator.coordinator_id == coordinator.table.table_id == coordinator.table.table_id
        with Coordinator(self.make_table(_directory(tmp_path), clock)) as another:
            assert another.coordinator_id != coordinator.coordinator_id

    def test_views_and_leases_of_another_coordinator_are_foreign(
        self, coordinator: Coordinator, clock: SettableClock, tmp_path: Path
    ) -> None:
        with Coordinator(self.make_table(_directory(tmp_path), clock)) as another:
            view, mine = put(another, KEY, 1), put(coordinator, KEY, 1)
            lease = another.acquire(KEY, holder="a", ttl=LONG)
        for verb in (
            lambda: put(coordinator, KEY, 2, view),
            lambda: put(coordinator, KEY, 2, mine, lease=lease),
            lambda: coordinator.commit([Write(OTHER, content(1))], agent="a", reads=[view]),
            lambda: coordinator.gate(view),
            lambda: coordinator.gate(mine, lease=lease),
            lambda: coordinator.renew(lease),
            lambda: coordinator.release(lease),
        ):
            with pytest.raises(ForeignViewError):
                verb()
        assert [*coordinator.keys()] == [mine]

    def test_a_closed_coordinator_says_so(self, coordinator: Coordinator) -> None:
        view = put(coordinator, KEY, 1)
        lease = coordinator.acquire(KEY, holder="a", ttl=LONG)
        since = coordinator.head()
        coordinator.close()
        coordinator.close()
        for verb in (
            lambda: coordinator.read([KEY]),
            lambda: put(coordinator, KEY, 2, view),
            lambda: coordinator.gate(view),
            lambda: list(coordinator.keys()),
            lambda: coordinator.acquire(KEY, holder="a", ttl=1),
            lambda: coordinator.renew(lease),
            lambda: coordinator.release(lease),
            lambda: coordinator.recover("a"),
            lambda: coordinator.leases(KEY),
            coordinator.sweep,
            coordinator.head,
            lambda: coordinator.changes(since=since),
            lambda: coordinator.wait(since, timeout=0),
            lambda: revision(coordinator, KEY),
        ):
            with pytest.raises(StoreUnavailableError):
                verb()

    # Event loops

    def test_the_verbs_for_event_loops_do_the_same(
        self, coordinator: Coordinator, clock: SettableClock
    ) -> None:
        asyncio.run(asyncio.wait_for(self._drive(coordinator, clock), 4 * self.patience))

    async def _drive(self, it: Coordinator, clock: SettableClock) -> None:
        since = await it.ahead()
        assert since == it.head()
        view = (await it.acommit([Write(KEY, content(1))], agent="a"))[KEY]
        assert await it.aread([KEY, OTHER]) == it.read([KEY, OTHER])
        assert (await it.aread([KEY]))[KEY] == view
        await it.agate(view)
        with pytest.raises(Conflict) as caught:
            await it.acommit([Write(KEY, content(2))], agent="b", reads=[view])
        assert (caught.value.reason, caught.value.current) == (Reason.EXISTS, view)
        assert [each async for each in it.akeys(("project",))] == [view]
        assert await it.achanges(since=since) == it.changes(since=since)
        await it.await_change(since, timeout=4 * self.patience)
        lease = await it.aacquire(KEY, holder="a", ttl=clock.brief(it.table), mode="shared")
        longer = await it.arenew(lease, ttl=2 * LONG)
        assert it.leases(KEY) == [longer]
        await it.arelease(longer)
        assert await it.arecover("a") == []
        lease = await it.aacquire(OTHER, holder="a", ttl=clock.brief(it.table))
        clock.let(it.table, lease.until)
        assert await it.asweep(feed_seconds=LONG**2) == [OTHER]
        assert changes_of(it, since) == [(KEY, 1)]

    def test_an_event_loop_goes_on_while_one_of_its_tasks_waits(self, coordinator: Coordinator) -> None:
        asyncio.run(asyncio.wait_for(self._wait_in_a_loop(coordinator), 4 * self.patience))

    async def _wait_in_a_loop(self, it: Coordinator) -> None:
        first, since = await it.aacquire(KEY, holder="a", ttl=LONG), await it.ahead()
        waiting = asyncio.create_task(it.aacquire(KEY, holder="b", ttl=LONG, wait=self.patience))
        told = asyncio.create_task(it.await_change(since, timeout=4 * self.patience))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await it.acommit([Write(OTHER, content(1))], agent="a")
        await asyncio.wait_for(told, self.patience)
        await it.arelease(first)
        assert (await waiting).fence > first.fence

    def test_tasks_of_an_event_loop_lose_no_increment(self, coordinator: Coordinator) -> None:
        tasks, each = 8, 5

        async def work(it: Coordinator) -> None:
            for _ in range(each):
                await asyncio.to_thread(increment, it, KEY, tries=tasks * each)

        async def drive(it: Coordinator) -> None:
            await asyncio.gather(*[work(it) for _ in range(tasks)])

        asyncio.run(drive(coordinator))
        assert see(coordinator, KEY).version == tasks * each


class PersistentCoordinatorContract(CoordinatorContract):
    """What a coordinator keeps that outlives its process: `make_table` of one path opens one table."""

    def _again(self, path: Path, clock: SettableClock) -> Coordinator:
        return Coordinator(self.make_table(path, clock))

    def test_all_is_there_when_opened_again(
        self, coordinator: Coordinator, clock: SettableClock, tmp_path: Path
    ) -> None:
        since = coordinator.head()
        view = put(coordinator, KEY, 1, put(coordinator, KEY, 0))
        coordinator.release(coordinator.acquire(KEY, holder="a", ttl=LONG))
        delete(coordinator, ("gone",), put(coordinator, ("gone",), 1))
        lease = coordinator.acquire(OTHER, holder="a", ttl=LONG)
        changes, before, probe = (
            changes_of(coordinator, since),
            coordinator.head(),
            revision(coordinator, KEY),
        )
        coordinator.close()
        with self._again(tmp_path, clock) as again:
            assert again.coordinator_id == coordinator.coordinator_id
            assert see(again, KEY) == view._replace(epoch=1)
            assert (see(again, ("gone",)).version, see(again, ("gone",)).exists) == (2, False)
            assert (changes_of(again, since), again.head(), revision(again, KEY)) == (
                changes,
                before,
                probe,
            )
            assert again.leases(OTHER) == [lease]
            assert again.renew(lease).fence == lease.fence
            assert refusal(lambda: put(again, KEY, 2, view)).reason is Reason.STALE_EPOCH
            assert put(again, KEY, 2, see(again, KEY)).version == 3
            assert changes_of(again, before) == [(KEY, 3)]

    def test_two_openings_are_one(
        self, coordinator: Coordinator, clock: SettableClock, tmp_path: Path
    ) -> None:
        with self._again(tmp_path, clock) as other:
            since = other.head()
            told = spawn(lambda: other.wait(since, timeout=4 * self.patience))
            view = put(coordinator, KEY, 1)
            told.result(self.patience)
            assert see(other, KEY) == view
            assert changes_of(other, since) == [(KEY, 1)]
            assert refusal(lambda: put(other, KEY, 2)).current == view
            lease = other.acquire(KEY, holder="a", ttl=LONG)
            assert refusal(lambda: coordinator.acquire(KEY, holder="b", ttl=LONG)).until == lease.until
            waiting = spawn(partial(coordinator.acquire, KEY, holder="b", ttl=LONG, wait=self.patience))
            other.release(lease)
            assert waiting.result(self.patience).fence > lease.fence

    def test_of_processes_that_write_from_one_view_exactly_one_wins(
        self, coordinator: Coordinator, clock: SettableClock, tmp_path: Path
    ) -> None:
        for racers in (2, 5, 16):
            key, since = (*KEY, str(racers)), coordinator.head()
            base = put(coordinator, key, 0)

            def work(number: int, key: Key = key, base: Any = base) -> None:
                with self._again(tmp_path, clock) as mine, suppress(Conflict):
                    put(mine, key, number, base, agent=str(number))

            in_processes([partial(work, n) for n in range(1, racers + 1)])
            assert changes_of(coordinator, since) == [(key, 1), (key, 2)]
            assert see(coordinator, key).ref == content(int(see(coordinator, key).writer))

    def test_no_increment_of_a_process_is_lost(
        self, coordinator: Coordinator, clock: SettableClock, tmp_path: Path
    ) -> None:
        processes, each, since = 4, 10, coordinator.head()

        def work() -> None:
            with self._again(tmp_path, clock) as mine:
                for _ in range(each):
                    increment(mine, KEY, tries=processes * each)

        in_processes([work] * processes)
        assert changes_of(coordinator, since) == [(KEY, n) for n in range(1, processes * each + 1)]

    def test_a_holder_that_was_killed_is_fenced_off(
        self, coordinator: Coordinator, clock: SettableClock, tmp_path: Path
    ) -> None:
        view, ttl = put(coordinator, KEY, 1), clock.brief(coordinator.table)
        child = os.fork()
        if not child:
            try:
                self._again(tmp_path, clock).acquire(KEY, holder="dead", ttl=ttl)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        (lease,) = coordinator.leases(KEY) or pytest.fail("there is no lease")
        clock.let(coordinator.table, lease.until)
        mine = coordinator.acquire(KEY, holder="alive", ttl=LONG, mode=LeaseMode.EXCLUSIVE)
        assert mine.fence > lease.fence
        assert see(coordinator, KEY) == view._replace(epoch=1)
        assert refusal(lambda: coordinator.renew(lease)).reason is Reason.LEASE_LOST
        assert commits_of(coordinator, coordinator.head()) == []


def _directory(path: Path) -> Path:
    other = path / "another"
    other.mkdir()
    return other
