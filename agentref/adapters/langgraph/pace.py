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
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from agentref.storage.parallel import keep_to_one_core

__all__ = ["Pace"]

_Result = TypeVar("_Result")

_BEHIND: Final = 2
_LONGEST_WAIT: Final = 0.5
_SHORT_WAIT: Final = 0.01


class Pace:
    """Runs saves one after the other, and counts those that are `waiting`. Thread-safe; a forked child
    starts anew."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self.waiting = 0
        self._changed = threading.Condition()
        self._saver = ThreadPoolExecutor(
            1, thread_name_prefix="agentref-save", initializer=keep_to_one_core
        )

    def save(self, work: Callable[[], _Result]) -> _Result:
        """The result of `work`, done by the thread that saves."""
        if self._pid != os.getpid():
            self._start()
        with self._changed:
            self.waiting += 1
        try:
            try:
                done = self._saver.submit(work)
            except RuntimeError:  # the interpreter is shutting down and starts no more threads
                return work()
            return done.result()
        finally:
            with self._changed:
                self.waiting -= 1
                self._changed.notify_all()

    def wait(self) -> None:
        """Until fewer than two saves are under way, for half a second at most, and then for the last, for
        10 ms at most. Never on an event loop."""
        if not self.waiting or self._pid != os.getpid() or _on_an_event_loop():
            return
        with self._changed:
            self._changed.wait_for(lambda: self.waiting < _BEHIND, _LONGEST_WAIT)
            self._changed.wait_for(lambda: not self.waiting, _SHORT_WAIT)


def _on_an_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
