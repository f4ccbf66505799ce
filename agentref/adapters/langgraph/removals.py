"""Whether checkpoints of this process may rely on the pins of those before them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from agentref.forks import watch_forks

__all__ = ["Removals", "removals"]


class Removals:
    """Takings away of pins, and the eras between them. Thread-safe. A fork begins an era in both processes:
    from then on the other one may take away what both have.

    Attributes:
        era: while it is the same object, nobody in this process took pins of checkpoints away; None while
            somebody does.
    """

    era: object | None

    def __init__(self) -> None:
        self.after_fork_in_child()
        watch_forks(self)

    def before_fork(self) -> None:
        """No era: as soon as there is a child, it may take away what both have."""
        with self._lock:
            self._is_forking, self.era = True, None

    def after_fork_in_parent(self) -> None:
        """Another era, unless none can begin now."""
        with self._lock:
            self._is_forking = False
            self._begin_if_over()

    def after_fork_in_child(self) -> None:
        """Whoever took something away is not here."""
        self._lock = threading.Lock()
        self._under_way, self._is_forking = 0, False
        self._begin_if_over()

    def _begin_if_over(self) -> None:
        self.era = None if self._under_way or self._is_forking else object()

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
                self._begin_if_over()


removals: Final = Removals()
"""Those of this process, whichever saver they are about."""
