"""Whether checkpoints of this process may rely on the pins of those before them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agentref.forks import InChild

__all__ = ["Removals", "removals"]


class Removals:
    """Takings away of pins, and the eras between them. Thread-safe; a forked child begins an era.

    Attributes:
        era: while it is the same object, nobody in this process took pins of checkpoints away; None while
            somebody does.
    """

    era: object | None

    def __init__(self) -> None:
        self._begin()
        self._in_child = InChild(self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._under_way = 0
        self.era = object()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """From before the look at who needs what, until pins are gone."""
        with self._lock:
            self._under_way += 1
            self.era = None
        try:
            yield
        finally:
            with self._lock:
                self._under_way = max(self._under_way - 1, 0)  # a child may have begun anew within
                self.era = None if self._under_way else object()


removals: Final = Removals()
"""Those of this process, whichever saver they are about."""
