"""One thread that saves, and a graph that does not run away from it.

LangGraph hands values to be saved to a pool of threads, and goes on. Each of them has to get the
interpreter lock back from a computing node whenever it has let go of it, which takes up to 5 ms each
time: a graph whose nodes compute leaves them ever further behind, every value that waits to be saved
stays in memory, and each thread keeps buffers of its own (measured: 135 MiB at the peak where one
thread and a wait between steps take 104). A save of this machine is over in milliseconds while the graph
waits, and is in nobody's way then; one that waits for another machine goes on beside the next node.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from itertools import count
from typing import Final, TypeVar
from weakref import ReferenceType, ref

from agentref.forks import InChild
from agentref.storage.parallel import keep_to_one_core

__all__ = ["Pace"]

_Result = TypeVar("_Result")

_BEHIND: Final = 2
_LONGEST_WAIT: Final = 0.5
_SHORT_WAIT: Final = 0.01
_FEW_STEPS: Final = 3  # a graph that saves something large once, as its input, does not wait for it


class _Run:
    """The saves of one graph that are under way. Each thread in which the loop of a graph runs has one of
    its own; the threads to which LangGraph hands what is to be saved find it in their context."""

    __slots__ = ("of", "saves", "steps")

    def __init__(self) -> None:
        self.of = _here()
        self.steps = 0  # one after the other at the end of which something was being saved
        # Whoever saves holds the other reference: if Ctrl-C ends that, nothing is left to wait for.
        self.saves: dict[int, ReferenceType[Future[None]]] = {}

    def under_way(self) -> list[Future[None]]:
        """They, oldest first."""
        saves = [reference() for reference in list(self.saves.values())]
        return [save for save in saves if save is not None and not save.done()]


_numbers = count()
_run: ContextVar[_Run | None] = ContextVar("agentref_run", default=None)


class Pace:
    """Runs saves one after the other, and lets a graph wait for its own. Thread-safe; a forked child starts
    anew."""

    def __init__(self) -> None:
        self._start()
        self._in_child = InChild(self._start)

    def _start(self) -> None:
        self._saver = ThreadPoolExecutor(
            1, thread_name_prefix="agentref-save", initializer=keep_to_one_core
        )

    def save(self, work: Callable[[], _Result]) -> _Result:
        """The result of `work`, done by the thread that saves."""
        run, number = _run.get() or _Run(), next(_numbers)
        saved: Future[None] = Future()
        run.saves[number] = ref(saved)  # before another thread can be at it
        try:
            try:
                done = self._saver.submit(work)
            except RuntimeError:  # the interpreter is shutting down and starts no more threads
                return work()
            return done.result()
        finally:
            saved.set_result(None)
            run.saves.pop(number, None)

    def wait(self) -> None:
        """Until fewer than two saves of the graph that runs in this thread are under way, for half a second
        at most; then for the last, for 10 ms at most, if each of the last few steps saved something large.
        Never on an event loop."""
        run = _run.get()
        if run is None or run.of != _here():
            _run.set(_Run())
        elif not run.saves:
            run.steps = 0
        elif not _on_an_event_loop():
            saves, run.steps = run.under_way(), run.steps + 1
            wait(saves[: 1 - _BEHIND], _LONGEST_WAIT)
            if run.steps > _FEW_STEPS:
                wait(saves[1 - _BEHIND :], _SHORT_WAIT)


def _here() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def _on_an_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
