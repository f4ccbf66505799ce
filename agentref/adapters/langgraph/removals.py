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
        """Nothing to do."""

    def after_fork_in_parent(self) -> None:
        """Another era, unless none can begin now."""
        if self.era is not None:
            self.era = object()

    def after_fork_in_child(self) -> None:
        """Whoever took something away is not here."""
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
