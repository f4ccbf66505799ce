"""What a coordinator and its peers tell those who watch them."""

from typing import Protocol

from agentref.coherence.keys import Key
from agentref.coherence.rows import Row, Versioned
from agentref.errors import Conflict

__all__ = ["Observer"]


class Observer(Protocol):
    """Is told what happened, in the thread in which it happened, after it happened.

    What it raises is raised to the caller, whose commit stands nevertheless.
    """

    def began(self) -> int:
        """The number of the last thing that was noted before a read begins."""
        ...

    def changed(self, agent: str, key: Key, old: Row, new: Row, now: float) -> None:
        """A row of this process's doing: from what it was to what it is."""
        ...

    def delivered(self, agent: str, view: Versioned, source: str, began: int) -> None:
        """An agent was shown a version; `source` is `hit`, `fetch`, `prefetch`, `commit` or `snapshot`."""
        ...

    def refused(self, agent: str, conflict: Conflict) -> None:
        """An agent was refused something."""
        ...
