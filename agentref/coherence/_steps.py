"""Work that pauses in between, written once for threads and event loops: a generator of seconds to wait."""

import asyncio
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

__all__ = ["arun", "pauses", "run"]

_Result = TypeVar("_Result")
Steps = Generator[float, None, _Result]

_FIRST: Final = 0.001
_LONGEST: Final = 0.05


def pauses(until: float) -> Iterator[float]:
    """Seconds to wait between tries, longer from one to the next, until then by the monotonic clock."""
    pause = _FIRST
    while (left := until - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(2 * pause, _LONGEST)


def run(steps: Steps[_Result]) -> _Result:
    """Do it in this thread."""
    try:
        while True:
            pause, result = _next(steps)
            if pause is None:
                return cast("_Result", result)
            time.sleep(pause)
    finally:
        steps.close()


async def arun(
    steps: Steps[_Result], *, in_thread: bool, undo: Callable[[_Result], object] | None = None
) -> _Result:
    """Do it from the event loop, each step in a thread if it may wait.

    Who is cancelled while a step runs waits for its end; what came of it is undone then.
    """
    try:
        while True:
            if in_thread:
                step = asyncio.ensure_future(asyncio.to_thread(_next, steps))
                try:
                    pause, result = await asyncio.shield(step)
                except asyncio.CancelledError:
                    pause, result = await step
                    if pause is None and undo is not None:
                        await asyncio.to_thread(undo, cast("_Result", result))
                    raise
            else:
                pause, result = _next(steps)
            if pause is None:
                return cast("_Result", result)
            await asyncio.sleep(pause)
    finally:
        with suppress(ValueError):  # cancelled twice: a step is under way, and it ends with that
            steps.close()


def _next(steps: Steps[_Result]) -> tuple[float | None, Any]:
    try:
        return next(steps), None
    except StopIteration as end:
        return None, end.value
