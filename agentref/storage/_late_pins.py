"""Pins that need not stand at once, many in one transaction."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final

from agentref.errors import StorageError
from agentref.forks import InChild
from agentref.refs import ContentRef
from agentref.storage.protocol import FOREVER, PinRow, RootStore

__all__ = ["LatePins"]

_log: Final = logging.getLogger("agentref.storage")

_DELAY: Final = 1.0
_OVERDUE: Final = 5.0
_MOST: Final = 512


class LatePins:
    """Pins on their way to a store: set after a second, or with others that are set, or at exit.

    Thread-safe. A forked child begins without any: they are the parent's to set.
    """

    def __init__(self, store: RootStore) -> None:
        self._store = store
        self._is_closed = False
        self._begin()
        self._in_child = InChild(self._begin)

    def _begin(self) -> None:
        self._waiting: list[tuple[Callable[[], str], Sequence[ContentRef]]] = []
        self._since = 0.0
        self._at_exit: weakref.finalize[Any, Any] | None = None  # of the timer that runs
        self._setting = threading.Lock()
        self._adding = threading.Lock()

    def add(self, owner: Callable[[], str], refs: Sequence[ContentRef]) -> bool:
        """Set these later, when `owner` is asked for the name. False, and they are not, if so many wait
        already, or so long that the store must have refused them, or it is closed."""
        with self._adding:
            now = time.monotonic()
            if not self._waiting:
                self._since = now
            if self._is_closed or len(self._waiting) >= _MOST or now - self._since > _OVERDUE:
                return False
            self._waiting.append((owner, refs))
            timer = self._timer(_DELAY) if self._at_exit is None else None
        if timer is not None:
            self._start(timer)
        return True

    def _timer(self, delay: float) -> threading.Timer:
        timer = threading.Timer(delay, self._in_time)
        timer.daemon = True
        # It is younger than the store's own finalizer, and so comes before that.
        self._at_exit = weakref.finalize(timer, self._flush_or_tell)
        return timer

    def _start(self, timer: threading.Timer) -> None:
        try:
            timer.start()
        except RuntimeError:  # the interpreter is shutting down and starts no more threads
            self._flush_or_tell()

    def _in_time(self) -> None:
        # Whoever adds from here on starts another timer; what was added before is set here.
        at_exit, self._at_exit = self._at_exit, None
        self._flush_or_tell()
        with self._adding:
            timer = self._timer(_OVERDUE) if self._waiting and self._at_exit is None else None
        if timer is not None:
            self._start(timer)
        if at_exit is not None:
            at_exit.detach()

    def flush(self) -> None:
        """All that was added before stands when this returns. What cannot be set waits on."""
        if self._waiting:
            self.set([])

    def set(self, rows: Sequence[PinRow]) -> None:
        """Set these now, and what waits: all or none."""
        if not self._waiting:
            self._store.pin(rows)
            return
        with self._setting:
            waiting = self._waiting[:]
            named = [(owner(), refs) for owner, refs in waiting]
            late = [PinRow(owner, ref.digest, FOREVER) for owner, refs in named for ref in refs]
            self._store.pin([*late, *rows])
            with self._adding:
                del self._waiting[: len(waiting)]
                self._since = time.monotonic()

    def close(self) -> None:
        """Set what waits, if that can be done. Nothing is added any more."""
        self._flush_or_tell()
        with self._adding:
            self._is_closed = True
            self._waiting.clear()

    def _flush_or_tell(self) -> None:
        """`flush` where nobody is to hear of an error but the log."""
        try:
            self.flush()
        except StorageError as error:
            _log.warning("The pins of %d owners could not be set yet: %s", len(self._waiting), error)
