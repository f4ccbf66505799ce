"""Saves run one after the other, and a graph waits for them, but never for long."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentref.adapters.langgraph import pace
from agentref.adapters.langgraph.pace import Pace


class Held:
    """A save that is under way until it is let go."""

    def __init__(self, saves: Pace) -> None:
        self.begun, self.free = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.saved = self._pool.submit(saves.save, self._work)
        assert self.begun.wait(30)

    def _work(self) -> str:
        self.begun.set()
        self.free.wait(30)
        return "saved"

    def close(self) -> None:
        self.free.set()
        self._pool.shutdown()


@pytest.fixture
def saves() -> Pace:
    return Pace()


@pytest.fixture
def held(saves: Pace) -> Iterator[Held]:
    save = Held(saves)
    yield save
    save.close()


def test_a_graph_waits_until_what_it_saved_is_saved(
    monkeypatch: pytest.MonkeyPatch, saves: Pace, held: Held
) -> None:
    monkeypatch.setattr(pace, "_SHORT_WAIT", 600)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(saves.wait)
        time.sleep(0.1)
        assert not waits.done()
        held.free.set()
        assert waits.result(30) is None
    assert held.saved.result(30) == "saved"
    assert saves.waiting == 0


def test_nothing_to_wait_for_costs_no_wait(saves: Pace) -> None:
    saves.wait()
    assert saves.save(lambda: 1) == 1
    saves.wait()


def test_a_single_save_that_takes_long_goes_on_beside_the_graph(
    monkeypatch: pytest.MonkeyPatch, saves: Pace, held: Held
) -> None:
    monkeypatch.setattr(pace, "_LONGEST_WAIT", 600)
    saves.wait()
    assert saves.waiting == 1


def test_a_graph_that_is_two_saves_ahead_waits_longer_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, saves: Pace, held: Held
) -> None:
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(saves.save, lambda: "too")
        while saves.waiting < 2:
            time.sleep(0.001)
        waits = pool.submit(saves.wait)
        time.sleep(0.1)
        assert not waits.done()
        held.free.set()
        assert waits.result(30) is None
        assert second.result(30) == "too"


def test_a_save_that_hangs_does_not_stop_the_graph_for_ever(
    monkeypatch: pytest.MonkeyPatch, saves: Pace, held: Held
) -> None:
    monkeypatch.setattr(pace, "_LONGEST_WAIT", 0.02)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(saves.save, str)
        while saves.waiting < 2:
            time.sleep(0.001)
        saves.wait()
        assert saves.waiting == 2
        held.free.set()


def test_an_event_loop_is_never_blocked(monkeypatch: pytest.MonkeyPatch, saves: Pace, held: Held) -> None:
    monkeypatch.setattr(pace, "_SHORT_WAIT", 600)

    async def step() -> None:
        saves.wait()

    begun = time.monotonic()
    asyncio.run(step())
    assert time.monotonic() - begun < 300
    assert saves.waiting == 1


def test_an_error_of_a_save_is_its_callers(saves: Pace) -> None:
    def fail() -> None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        saves.save(fail)
    assert saves.waiting == 0
