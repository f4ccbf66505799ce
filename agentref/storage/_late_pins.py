"""Pins that need not stand at once, many in one transaction."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from agentref.errors import InvalidInputError, StorageError
from agentref.forks import InChild
from agentref.refs import ContentRef
from agentref.storage._arguments import check_owner
from agentref.storage.protocol import FOREVER, PinRow, RootStore

__all__ = ["LatePins"]

_log: Final = logging.getLogger("agentref.storage")

_DELAY: Final = 1.0
_OVERDUE: Final = 5.0
_MOST: Final = 512


class LatePins:
    """Pins on their way to a store: set after a second, or with others that are set.

    Thread-safe. A process that ends takes them along. A forked child begins without any: they are the
    parent's to set.
    """

    def __init__(self, store: RootStore) -> None:
        self._store = store
        self._is_closed = False
        self._begin()
        self._in_child = InChild(self._begin)

    def _begin(self) -> None:
        self._waiting: list[tuple[Callable[[], str], Sequence[ContentRef]]] = []
        self._since = 0.0
        self._is_timed = False
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
            is_timed, self._is_timed = self._is_timed, True
        if not is_timed:
            self._start(_DELAY)
        return True

    def _start(self, delay: float) -> None:
        timer = threading.Timer(delay, self._in_time)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError as error:  # no more threads, for now or at the end of the process
            self._is_timed = False
            _log.warning("No thread could be started to set pins: %s", error)

    def _in_time(self) -> None:
        # Whoever adds from here on starts another timer; what was added before is set here.
        self._is_timed = False
        self._flush_or_tell()
        with self._adding:
            again = bool(self._waiting) and not self._is_timed
            self._is_timed = self._is_timed or again
        if again:
            self._start(_OVERDUE)

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
            late = [row for owner, refs in waiting for row in _rows(owner(), refs)]
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


def _rows(owner: str, refs: Sequence[ContentRef]) -> list[PinRow]:
    try:
        check_owner(owner)
    except InvalidInputError as error:  # it must not keep all others waiting
        _log.error("Not pinned: %s", error)
        return []
    return [PinRow(owner, ref.digest, FOREVER) for ref in refs]
