"""The time of the server, between one look at it and the next."""

import time
from typing import Any, Final, NamedTuple

import psycopg

from agentref.postgres.blobs import clock

__all__ = ["Clock", "ask_the_time", "elapsed"]

_SECONDS: Final = 60.0
_STEP: Final = 0.1
_TRIES: Final = 3
_ERROR: Final = 0.001

_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", None)


def elapsed() -> float:
    """Seconds since some moment, the time in which this machine was suspended included. Never goes back."""
    return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)


class Clock(NamedTuple):
    """The server's time at one moment, and what the clocks of this machine said then."""

    server: float
    wall: float
    elapsed: float

    def holds(self) -> bool:
        """Whether it is good enough: not for long, nor after this machine was set."""
        passed = elapsed() - self.elapsed
        return passed < _SECONDS and abs(time.time() - self.wall - passed) < _STEP

    def now(self) -> float:
        """The server's time now."""
        return self.server + (elapsed() - self.elapsed)


def ask_the_time(connection: psycopg.Connection[Any]) -> Clock:
    """The answer that came soonest: it was written half-way between asking and reading, or nearly so."""
    asked: list[tuple[float, Clock]] = []
    while len(asked) < _TRIES and not (asked and asked[-1][0] < _ERROR):
        begun = elapsed()
        server = clock(connection)
        took = elapsed() - begun
        asked.append((took, Clock(server, time.time() - took / 2, begun + took / 2)))
    return min(asked)[1]
