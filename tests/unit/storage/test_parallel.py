"""Work that is handed to another thread is done once, by whoever comes to it first."""

import threading
from collections.abc import Callable, Iterator

import pytest

from agentref.storage import parallel
from agentref.storage.parallel import Task

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
    assert not tasks[1].is_elsewhere
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
    assert task.is_elsewhere
    assert not task.do()
    go_on.set()
    assert task.result() != threading.get_ident()


@pytest.mark.parametrize("size", [1, LARGE])
def test_what_it_raises_is_raised_to_whoever_asks(size: int) -> None:
    with pytest.raises(ZeroDivisionError):
        Task(lambda: 1 // 0, size).result()
