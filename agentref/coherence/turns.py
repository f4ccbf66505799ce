"""Turns at keys among the threads of a process."""

import threading
from collections.abc import Callable

__all__ = ["Turns"]


class Turns:
    """Who has his turn at which key. Safe for threads; a turn may end in another thread."""

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._taken: dict[bytes, object] = {}

    def take(self, key: bytes, *, timeout: float) -> Callable[[], None] | None:
        """Wait, for at most so many seconds; what ends the turn is returned, or None if it never came."""
        mine = object()
        with self._free:
            if not self._free.wait_for(lambda: key not in self._taken, timeout):
                return None
            self._taken[key] = mine

        def leave() -> None:
            with self._free:
                if self._taken.get(key) is mine:
                    del self._taken[key]
                    self._free.notify_all()

        return leave
