"""What a coordinator asks of the place where its rows are: to load them, and to swap them as a whole."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from agentref.coherence.rows import Row

__all__ = ["Decide", "Decision", "Table", "Transition"]


class Transition(NamedTuple):
    """Rows that change, by encoded key, and the entry for the feed if it was a commit."""

    rows: Mapping[bytes, Row]
    entry: bytes | None = None


class Decision(NamedTuple):
    """What was decided on the rows as they are: a transition, if something changes, and its result."""

    transition: Transition | None
    result: Any


Decide = Callable[[Mapping[bytes, Row], float], Decision]
"""From the rows that were asked for (`ABSENT` for those which are not there) and the time to a decision.

Pure, and may be asked again if its rows have changed meanwhile. When it raises, nothing changes.
"""


class Table(Protocol):
    """Rows, and a feed of entries. It decides nothing.

    Every implementation is safe for many threads; the durable ones for many processes, and across a fork.
    Verbs raise `StorageError`, and for damaged rows `MalformedBlobError`.
    """

    @property
    def table_id(self) -> str:
        """Which table this is, wherever it is opened: 1 to 64 characters of `[a-z0-9-]`."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether the verbs never wait: they may be called from an event loop."""
        ...

    @property
    def is_joined(self) -> bool:
        """Whether the verbs are part of a transaction of the caller's: what they did may be undone, and
        nobody but the caller may call them."""
        ...

    def clock(self) -> float:
        """Seconds since the epoch. All who share the table mean the same clock, within its accuracy."""
        ...

    def probe(self, key: bytes, /) -> int:
        """The revision of one row as of now, 0 if it is not there; as cheap as it can be."""
        ...

    def load(self, keys: Sequence[bytes], /) -> Mapping[bytes, Row]:
        """The rows of these keys as of one moment; those that are not there are left out."""
        ...

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """Have it decided on these rows, and carry it out: all of it, durably, or nothing. The result.

        Nobody changes one of the rows between the look at them and the transition, and the time is not
        older than the moment at which nobody could any more.
        """
        ...

    def scan(self, first: bytes, stop: bytes, /, *, limit: int) -> Sequence[tuple[bytes, Row]]:
        """The next `limit` rows from the key `first` on and before `stop`, in the order of keys."""
        ...

    def leased(self, until: float, /, *, limit: int | None = None) -> Sequence[bytes]:
        """The keys of rows with a lease that ends by `until`, those that end first at the front. Costs what
        it finds, and nothing for rows without leases."""
        ...

    def turn(self, key: bytes, /, *, timeout: float) -> Callable[[], None] | None:
        """Wait for one's turn at a key, for at most `timeout` seconds; what ends the turn is returned, or
        None if it never came. With 0 it does not wait at all: it may be called from an event loop then.

        A courtesy among those who read, compute and commit, so that they do not do it in vain. Nobody has
        to take part, and who does not get a turn goes on without one.
        """
        ...

    def head(self) -> str:
        """The cursor of the feed as of now: what is committed from here on comes after it."""
        ...

    def entries(self, since: str, /, *, limit: int) -> tuple[Sequence[tuple[bytes, str]], str]:
        """The next entries after a cursor, each with the cursor that follows it, and the last of these.

        No entry is left out or comes twice, and none comes before one that was committed before it began.
        Raises `CursorTooOldError`, and `InvalidInputError` for a text that is no cursor.
        """
        ...

    def wait(self, since: str, /, *, timeout: float) -> None:
        """Return once something may have been committed after a cursor, or after `timeout` seconds."""
        ...

    def compact(self, before: float, /) -> int:
        """Drop the entries of commits before that time; returns how many."""
        ...

    def close(self) -> None:
        """Let go of what is open. Idempotent; verbs raise `StoreUnavailableError` then."""
        ...
