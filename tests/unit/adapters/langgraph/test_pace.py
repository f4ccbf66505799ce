"""Saves run one after the other, and a graph waits for its own, but never for long."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

import pytest

from agentref.adapters.langgraph import pace
from agentref.adapters.langgraph.pace import Pace
from tests.forking import fork, statuses


def under_way(count: int) -> None:
    """Wait until so many saves of the graph of this thread are."""
    run = pace._run.get()
    assert run is not None
    while len(run.under_way()) != count:
        time.sleep(0.001)


class Graph:
    """A graph whose loop runs in this thread, and the threads that are to save what it hands them."""

    def __init__(self) -> None:
        self.saves = Pace()
        self.saves.wait()  # its first step
        self.free = threading.Event()
        self._threads = ThreadPoolExecutor(4)

    def save(self, work: Callable[[], object]) -> "Future[object]":
        return self._threads.submit(copy_context().run, self.saves.save, work)

    def save_until_free(self) -> "Future[bool]":
        begun = threading.Event()

        def work() -> bool:
            begun.set()
            return self.free.wait(60)

        saved: Future[bool] = self._threads.submit(copy_context().run, self.saves.save, work)
        assert begun.wait(30)
        under_way(1)
        return saved

    def close(self) -> None:
        self.free.set()
        self._threads.shutdown()


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph()
    yield graph
    graph.close()


def freed_soon(graph: Graph) -> None:
    threading.Timer(0.05, graph.free.set).start()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that waits for ever."""
    monkeypatch.setattr(pace, "_SHORT_WAIT", 600)
    monkeypatch.setattr(pace, "_LONGEST_WAIT", 600)


@pytest.mark.usefixtures("patient")
def test_a_graph_waits_until_what_it_saved_is_saved(graph: Graph) -> None:
    saved = graph.save_until_free()
    for _ in range(pace._FEW_STEPS):  # it has not saved step after step yet
        graph.saves.wait()
    assert not saved.done()
    freed_soon(graph)
    graph.saves.wait()
    assert graph.free.is_set()
    assert saved.result(30)


def test_a_step_that_saves_nothing_ends_the_row_of_those_that_do(graph: Graph) -> None:
    run = pace._run.get()
    assert run is not None
    saved = graph.save_until_free()
    graph.saves.wait()
    assert run.steps == 1
    graph.free.set()
    assert saved.result(30)
    while run.saves:
        time.sleep(0.001)
    graph.saves.wait()
    assert run.steps == 0


@pytest.mark.usefixtures("patient")
def test_no_graph_waits_for_what_another_one_saves(graph: Graph) -> None:
    graph.save_until_free()
    with ThreadPoolExecutor(1) as other:
        for _ in range(3):
            other.submit(graph.saves.wait).result(30)
    assert not graph.free.is_set()


def test_a_single_save_that_takes_long_goes_on_beside_the_graph(
    monkeypatch: pytest.MonkeyPatch, graph: Graph
) -> None:
    monkeypatch.setattr(pace, "_LONGEST_WAIT", 600)
    saved = graph.save_until_free()
    for _ in range(pace._FEW_STEPS + 1):
        graph.saves.wait()
    assert not saved.done()


def test_a_graph_that_is_two_saves_ahead_waits_longer(
    monkeypatch: pytest.MonkeyPatch, graph: Graph
) -> None:
    monkeypatch.setattr(pace, "_LONGEST_WAIT", 600)
    graph.save_until_free()
    second = graph.save(lambda: "too")
    under_way(2)
    freed_soon(graph)
    graph.saves.wait()
    assert graph.free.is_set()
    assert second.result(30) == "too"


def test_a_save_that_hangs_does_not_stop_the_graph_for_ever(
    monkeypatch: pytest.MonkeyPatch, graph: Graph
) -> None:
    monkeypatch.setattr(pace, "_LONGEST_WAIT", 0.02)
    graph.save_until_free()
    graph.save(str)
    under_way(2)
    graph.saves.wait()
    under_way(2)


@pytest.mark.usefixtures("patient")
def test_an_event_loop_is_never_blocked(graph: Graph) -> None:
    async def step() -> None:
        graph.saves.wait()

    saved = graph.save_until_free()
    for _ in range(pace._FEW_STEPS):
        graph.saves.wait()
    asyncio.run(step())
    assert not saved.done()


def test_an_error_of_a_save_is_its_callers(graph: Graph) -> None:
    def fail() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        graph.save(fail).result(30)
    under_way(0)


def test_a_forked_child_saves_with_a_thread_of_its_own(graph: Graph) -> None:
    graph.save_until_free()

    def child() -> None:
        graph.saves.wait()
        with ThreadPoolExecutor(8) as threads:
            done = list(threads.map(lambda n: graph.saves.save(lambda: n), range(64)))
        assert done == list(range(64))

    assert statuses([fork(child)]) == [0]
