"""What a coordinator and its peers tell those who watch them."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Final, NamedTuple, Protocol, runtime_checkable

from agentref.coherence.keys import Key
from agentref.coherence.rows import Row, Versioned
from agentref.coherence.rules import Asked
from agentref.errors import Conflict

__all__ = ["NO_SPAN", "Observer", "RowChange", "Spanning", "spanned"]

NO_SPAN: Final = nullcontext()


class RowChange(NamedTuple):
    """A row of this process's doing.

    Attributes:
        origin: the coordinator.
        key: the artifact.
        agent: who did it; empty if a lease whose time was over was come across.
        old, new: the row before and after. Their revisions put the changes of one key in their order,
            whenever they are told.
        now: when, in seconds since the epoch, by the coordinator's clock.
        asked: what a commit asked for: its base, and the lease that it showed. None for everything else.
        evicts: whether leases were taken away by `recover`.
    """

    origin: str
    key: Key
    agent: str
    old: Row
    new: Row
    now: float
    asked: Asked | None = None
    evicts: bool = False


class Observer(Protocol):
    """Is told what happened, in the thread in which it happened, after it happened.

    What it raises is raised to the caller, whose commit stands nevertheless.
    """

    def began(self) -> int:
        """The number of the last thing that was noted before a read begins."""
        ...

    def changed(self, change: RowChange) -> None:
        """A row was changed. Two changes of one row by two threads may be told in either order."""
        ...

    def delivered(self, agent: str, view: Versioned, source: str, began: int) -> None:
        """An agent was shown a version; `source` is `hit`, `fetch`, `prefetch`, `commit` or `snapshot`, and
        `began` is what `began()` returned before the coordinator was asked for it."""
        ...

    def refused(self, agent: str, conflict: Conflict) -> None:
        """An agent was refused something."""
        ...


@runtime_checkable
class Spanning(Protocol):
    """An observer that also wants to know how long a verb takes."""

    def spanning(self, verb: str, agent: str, keys: Sequence[Key]) -> AbstractContextManager[object]:
        """Entered before `commit` or `acquire` begins, left when it ends, perhaps in another thread. What
        the verb raises passes through it."""
        ...


@contextmanager
def spanned(watching: Sequence[Spanning], verb: str, agent: str, keys: Sequence[Key]) -> Iterator[None]:
    """The spans of all who want one, around a verb."""
    with ExitStack() as stack:
        for each in watching:
            stack.enter_context(each.spanning(verb, agent, keys))
        yield
