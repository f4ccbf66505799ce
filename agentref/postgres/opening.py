"""A database of ours, as a store or a coordinator has it open."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from agentref.errors import InvalidInputError, StoreUnavailableError
from agentref.forks import watch_forks
from agentref.postgres.address import Address
from agentref.postgres.blobs import transaction_id
from agentref.postgres.clock import Clock, ask_the_time
from agentref.postgres.errors import typed_errors
from agentref.postgres.migrate import bring_up
from agentref.postgres.pool import Connection, Joined, Pool

__all__ = ["Opening"]

_Result = TypeVar("_Result")


class Opening:
    """Connections to one database, whose tables are brought up to date at the first verb. Safe for threads,
    and across a fork.

    Args:
        dsn: a connection string, as libpq takes it. None if a connection is given.
        connection: the caller's own: every verb runs there, as a savepoint in the caller's transaction.
        create: make the tables, or bring them up to date.
        min_size, max_size, timeout: as of `Pool`.
        kind: what it is to the user, for messages: a store, a coordinator.
        look: is called with a connection whose tables are up to date, and `found` with what it returned;
            each time that the tables are brought up.

    Attributes:
        pool: None on a connection of the caller's.
        shown: the database, for messages, without a password.

    Raises `InvalidInputError` unless either a dsn or a connection is given, and for what is none.
    """

    def __init__(  # noqa: PLR0913
        self,
        dsn: str | None,
        *,
        connection: Connection | None,
        create: bool,
        min_size: int,
        max_size: int,
        timeout: float,
        kind: str,
        look: Callable[[Connection], Any] = lambda _: None,
        found: Callable[[Any], object] = lambda _: None,
    ) -> None:
        if (dsn is None) == (connection is None):
            raise InvalidInputError(
                "Either a dsn, such as 'postgresql://...', or connection=connection is needed, not both."
            )
        self._create = create
        self._kind = kind
        self._look = look
        self._found = found
        self.pool: Pool | None = None
        if connection is None:
            self.pool = Pool(Address.read(dsn), min_size=min_size, max_size=max_size, timeout=timeout)
            self._sessions: Pool | Joined = self.pool
        else:
            self._sessions = Joined(connection)
        self.shown = self._sessions.shown
        self._clock: Clock | None = None
        self._is_up = False
        self._made_in: str | None = None
        self._bringing_up = threading.Lock()
        self._closed = False
        watch_forks(self)

    def run(self, work: Callable[[Connection], _Result], *, repeatable: bool = True) -> _Result:
        """What `work` makes of a connection; see `Sessions`."""
        self._be_up()
        return self._sessions.run(work, repeatable=repeatable)

    def pages(self, read: Callable[[Connection], Iterator[_Result]]) -> Generator[_Result]:
        """What `read` yields; see `Sessions`. Raises `StorageError`; what its user raises is left alone."""
        self._be_up()
        pages = self._sessions.pages(read)
        try:
            while True:
                with typed_errors(self.shown):
                    try:
                        page = next(pages)
                    except StopIteration:
                        return
                yield page
        finally:
            with suppress(psycopg.Error):  # it was to end anyway, and its user's own error counts
                pages.close()

    def _be_up(self) -> None:
        self.check_open()
        if not self._is_up:
            with self._bringing_up:
                if not self._is_up:
                    self._bring_up()

    def clock(self) -> float:
        """The server's time. It is asked once a minute; in between, this machine measures what passed."""
        self.check_open()
        clock = self._clock
        if clock is None or not clock.holds():
            self._clock = clock = self.run(ask_the_time)
        return clock.now()

    def look_again(self) -> None:
        """Bring the tables up once more, whether they seem to be or not."""
        with self._bringing_up:
            self._bring_up()

    def check_open(self) -> None:
        """Raises `StoreUnavailableError` after `close`."""
        if self._closed:
            raise StoreUnavailableError(f"The {self._kind} in PostgreSQL ({self.shown}) is closed.")

    def close(self) -> None:
        """Close the connections that were opened here. Idempotent."""
        self._closed = True
        self._sessions.close()

    def before_fork(self) -> None:
        """Let no thread be half-way through opening a pool."""
        if self.pool is not None:
            self.pool.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self.pool is not None:
            self.pool.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Connections of the child's own, from the next verb on."""
        self._bringing_up = threading.Lock()
        if self.pool is not None:
            self.pool.after_fork_in_child()

    def _bring_up(self) -> None:
        if self.pool is not None:
            # Beside the pool: what is wrong with the address is said at once, and by the server itself.
            with typed_errors(self.shown), self.pool.connect() as connection:
                bring_up(connection, self.shown, create=self._create)
                found = self._look(connection)
            self._found(found)
            self._is_up = True
        else:
            # What was made in the caller's transaction may be rolled back with it.
            made, found, transaction = self._sessions.run(
                lambda connection: (
                    bring_up(connection, self.shown, create=self._create),
                    self._look(connection),
                    transaction_id(connection),
                )
            )
            self._found(found)
            self._made_in = transaction if made else self._made_in
            self._is_up = transaction is None or transaction != self._made_in
