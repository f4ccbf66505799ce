"""One thread that does small things again and again: renewing leases, and the pins of snapshots."""

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Heartbeat"]

_LONGEST_WAIT: Final = 3600.0
_log = logging.getLogger("agentref.coherence")


class Beat:
    """Something that is done again and again until `stop` is called."""

    def __init__(self, seconds: float, do: Callable[[], bool]) -> None:
        self.seconds = seconds
        self.do = do
        self.stopped = False

    def stop(self) -> None:
        """Do it no more; it may be under way. Takes no lock: a finalizer may call it."""
        self.stopped = True


class Heartbeat:
    """Calls functions every so many seconds, for as long as they return true. Safe for threads; its thread
    ends when there is nothing to do, and does not keep the process from ending."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Beat]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None

    def every(self, seconds: float, do: Callable[[], bool]) -> Beat:
        """Do it `seconds` from now, and again."""
        if self._pid != os.getpid():  # the parent's leases are the parent's
            self._start_afresh()
        beat = Beat(seconds, do)
        with self._changed:
            self._push(beat)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return beat

    def stop(self, beat: Beat) -> None:
        """Do it no more, and let the thread end if that was all there was to do."""
        beat.stop()
        if self._pid == os.getpid():
            with self._changed:
                self._changed.notify()

    def _push(self, beat: Beat) -> None:
        heapq.heappush(self._due, (time.monotonic() + beat.seconds, next(self._order), beat))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._due = [item for item in self._due if not item[2].stopped]
                heapq.heapify(self._due)
                if not self._due:
                    self._thread = None
                    return
                left = self._due[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(min(left, _LONGEST_WAIT))
                    continue
                beat = heapq.heappop(self._due)[2]
            if self._done(beat):
                with self._changed:
                    self._push(beat)

    @staticmethod
    def _done(beat: Beat) -> bool:
        try:
            return not beat.stopped and beat.do()
        except Exception:  # noqa: BLE001  (the others are to beat, whatever it is)
            _log.exception("A heartbeat failed; it is tried again.")
            return True
