"""Work that is handed to another thread is done once, by whoever comes to it first."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentref.storage import InMemoryCAS, frames, parallel
from agentref.storage.frames import Packed, pack_alone
from agentref.storage.parallel import Task, shared_out

LARGE = 1 << 20


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A pool of one thread, which has something else to do until it is called."""
    monkeypatch.setattr(parallel, "_WORKERS", 2)
    monkeypatch.setattr(parallel, "_pool", None)
    free = threading.Event()
    parallel._threads().submit(free.wait, 30)
    yield free.set
    free.set()
    parallel._threads().shutdown()


def test_what_no_other_thread_has_begun_is_done_here(busy: Callable[[], None]) -> None:
    threads: list[int] = []
    tasks = [Task(lambda: threads.append(threading.get_ident()), LARGE) for _ in range(2)]
    assert tasks[0].do()
    assert not tasks[0].do()
    for task in tasks:
        assert task.result() is None
    busy()
    parallel._threads().submit(int).result(30)
    assert threads == [threading.get_ident()] * 2


def test_what_another_thread_has_begun_is_waited_for(busy: Callable[[], None]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> int:
        begun.set()
        assert go_on.wait(30)
        return threading.get_ident()

    task = Task(work, LARGE)
    busy()
    assert begun.wait(30)
    assert not task.do()
    go_on.set()
    assert task.result() != threading.get_ident()


@pytest.mark.parametrize("size", [1, LARGE])
def test_what_it_raises_is_raised_to_whoever_asks(size: int) -> None:
    with pytest.raises(ZeroDivisionError):
        Task(lambda: 1 // 0, size).result()


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_work_that_is_shared_out_comes_back_in_order(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(parallel, "_WORKERS", workers)
    items = list(range(1000))
    sizes = [random.Random(n).randrange(3000) for n in items]
    assert shared_out(lambda some: [n * 2 for n in some], items, sizes) == [n * 2 for n in items]


def test_an_error_in_work_that_is_shared_out_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_WORKERS", 2)

    def work(some: object) -> list[int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shared_out(work, [1, 2, 3], [10**6] * 3)


def test_a_thread_beside_the_program_shares_out_much_work_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_WORKERS", 2)
    shares: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int]:
        shares.append(list(items))
        return list(items)

    def shared(size: int, part_of: int = 0) -> list[list[int]]:
        shares.clear()
        assert shared_out(work, [1, 2], [size, size], part_of=part_of) == [1, 2]
        return sorted(shares)

    assert shared(LARGE) == [[1], [2]]
    with ThreadPoolExecutor(1, initializer=parallel.keep_to_one_core) as pool:
        assert pool.submit(shared, LARGE).result(30) == [[1, 2]]
        assert pool.submit(shared, 4 * LARGE).result(30) == [[1], [2]]
        assert pool.submit(shared, LARGE, 8 * LARGE).result(30) == [[1], [2]]
        assert pool.submit(shared, 1000, 8 * LARGE).result(30) == [[1, 2]]
    assert shared(LARGE) == [[1], [2]]  # the others do as before


def test_a_large_save_beside_the_program_takes_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_WORKERS", 2)
    where: set[int] = set()

    def noted(blobs: Sequence[Packed]) -> list[bytes]:
        where.add(threading.get_ident())
        return pack_alone(blobs)

    monkeypatch.setattr(frames, "pack_alone", noted)
    chance = random.Random(1)
    with InMemoryCAS() as cas, ThreadPoolExecutor(1, initializer=parallel.keep_to_one_core) as pool:
        for size, threads in ((1 << 20, 1), (24 << 20, 2)):
            where.clear()
            pool.submit(cas.store, cas.encode([chance.randbytes(size)])).result(60)
            assert len(where) == threads
