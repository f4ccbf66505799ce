"""Rows in PostgreSQL, for the processes of many machines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from agentref.coherence import _postgres_feed as places
from agentref.coherence._postgres_rows import rows_of
from agentref.coherence._postgres_swaps import Swaps
from agentref.coherence._postgres_turns import PostgresTurns
from agentref.coherence.coordinator import Coordinator
from agentref.coherence.cursors import place_in
from agentref.coherence.observer import Observer
from agentref.coherence.rows import Row, row_of
from agentref.coherence.table import Decide
from agentref.errors import StoreUnavailableError
from agentref.forks import watch_forks
from agentref.postgres import Connection, Opening, artifacts, channels, feed
from agentref.postgres.listen import Listener, Notifier

__all__ = ["PostgresCoordinator", "PostgresTable"]

_Result = TypeVar("_Result")

_DROPPED_AT_ONCE: Final = 10_000
_TRIES: Final = 3


class PostgresTable:
    """See `Table`. In the tables `agentref_*` of one database, in the current search_path; for many
    threads, processes and machines, and across a fork.

    A commit is one round trip if nobody else wrote the rows since they were seen here, and four if somebody
    did; a probe, and a load, are one. Durable on return, as far as the server is. A verb survives a restart
    of the server; only a commit that it cut off, and that others followed, raises `StoreUnavailableError`:
    whether it took effect cannot be known. Times are the server's.

    The feed needs `synchronous_commit` to be on, as it is by default: if commits that were read are lost in
    a crash of the server, followers may miss what takes their place.

    Connects at the first verb.

    Args:
        dsn: a connection string, as libpq takes it. None if a connection is given.
        connection: the caller's own `psycopg.Connection`, of READ COMMITTED: all verbs run there, inside of
            the caller's transaction, so that versions, blobs and the caller's rows are committed together.
            Until it ends, others wait where they need a row that was written there, and two of these that
            write several artifacts in different orders may wait for each other (`StoreBusyError`). Once the
            transaction has written something the feed is not read there (`ConfigurationError`).
        create: make the tables, or bring them up to date, at the first verb.
        min_size, max_size: how many connections are kept, and how many there may be.
        timeout: seconds that a verb waits for a connection.

    Raises as `agentref.storage.PostgresBlobStore` does.
    """

    is_local = False

    def __init__(  # noqa: PLR0913
        self,
        dsn: str | None = None,
        *,
        connection: Connection | None = None,
        create: bool = True,
        min_size: int = 0,
        max_size: int = 8,
        timeout: float = 30.0,
    ) -> None:
        self._opening = Opening(
            dsn,
            connection=connection,
            create=create,
            min_size=min_size,
            max_size=max_size,
            timeout=timeout,
            kind="coordinator",
            look=feed.bring_up,
            found=self._open_beside,
        )
        self._run = self._opening.run
        self._check_open = self._opening.check_open
        self.clock = self._opening.clock
        self._swaps = Swaps(self._run, self.clock, self._opening.shown, joined=self.is_joined)
        self._turns = PostgresTurns()
        self._table_id: str | None = None
        self._notifier: Notifier | None = None
        self._listener: Listener | None = None
        watch_forks(self)

    @property
    def is_joined(self) -> bool:
        """See `Table`."""
        return self._opening.pool is None

    @property
    def table_id(self) -> str:
        """See `Table`. Made with the tables, and anew for a copy of them on another server. Connects, if
        nothing did yet."""
        if self._table_id is None:
            self._run(lambda _: None)
        assert self._table_id is not None  # noqa: S101
        return self._table_id

    def probe(self, key: bytes, /) -> int:
        """See `Table`. One round trip."""
        return self._run(lambda connection: artifacts.probe(connection, key))

    def load(self, keys: Sequence[bytes], /) -> Mapping[bytes, Row]:
        """See `Table`. One round trip."""
        rows = rows_of(self._swaps.load(keys).rows, keys)
        self._swaps.recent.see(rows)
        return {key: row for key, row in rows.items() if row.revision}

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """See `Table`."""
        self._check_open()
        chosen = self._swaps.transact(keys, decide, self._turns.lost)
        if chosen.swap is not None and chosen.swap.entry is not None:
            self._tell()
        return chosen.result

    def scan(self, first: bytes, stop: bytes, /, *, limit: int) -> Sequence[tuple[bytes, Row]]:
        """See `Table`."""
        found = self._run(lambda connection: artifacts.scan(connection, first, stop, limit))
        return [(columns[0], row_of(columns)) for columns in found]

    def leased(self, until: float, /, *, limit: int | None = None) -> Sequence[bytes]:
        """See `Table`."""
        return self._run(lambda connection: artifacts.leased(connection, float(until), limit))

    def turn(self, key: bytes, /, *, timeout: float) -> Callable[[], None] | None:
        """See `Table`. Among the threads of this process; while a key is contended, on Linux, among those
        of the machine."""
        return self._turns.take(key, timeout=timeout)

    def head(self) -> str:
        """See `Table`."""
        return self._read_feed(places.head)

    def entries(self, since: str, /, *, limit: int) -> tuple[Sequence[tuple[bytes, str]], str]:
        """See `Table`. In an order that keeps that of each key, and that of cause and effect: no commit
        comes before one that had ended when it began."""
        name = self.table_id
        place = places.read_place(place_in(since, name))
        return self._read_feed(lambda connection: places.entries(connection, name, place, limit))

    def wait(self, since: str, /, *, timeout: float) -> None:
        """See `Table`. Whoever listens is told of commits some 25 ms after them, who just began to listen
        some 250 ms after them; behind a pooler it is looked 20 times a second."""

        def is_there() -> bool:
            self._check_open()
            return bool(self.entries(since, limit=1)[0])

        if not is_there() and timeout > 0:
            assert self._listener is not None  # noqa: S101
            self._listener.wait(is_there, timeout)

    def compact(self, before: float, /) -> int:
        """See `Table`."""
        number, kept = 0, set[int]()
        after: int | None = 0
        while after is not None:
            drop = partial(feed.drop, before=float(before), after=after, kept=kept, limit=_DROPPED_AT_ONCE)
            dropped, after = self._run(drop)
            number += dropped
        return number

    def close(self) -> None:
        """See `Table`. A connection of the caller's is left open."""
        if self._notifier is not None:
            self._notifier.close()
        if self._listener is not None:
            self._listener.close()
        self._turns.close()
        self._opening.close()

    def before_fork(self) -> None:
        """Nothing to do: what must not be shared minds itself."""

    def after_fork_in_parent(self) -> None:
        """Nothing was changed."""

    def after_fork_in_child(self) -> None:
        """Threads of the child's own, from the next verb on."""
        self._swaps.recent.after_fork_in_child()
        self._turns.after_fork_in_child()
        for each in (self._notifier, self._listener):
            if each is not None:
                each.after_fork_in_child()

    def _tell(self) -> None:
        if self.is_joined:  # in the caller's transaction, and heard once that is committed
            self._run(lambda connection: channels.notify(connection, _channel(self.table_id)))
        elif self._notifier is not None:
            self._notifier.committed()

    def _read_feed(self, read: Callable[[Connection], _Result]) -> _Result:
        for _ in range(_TRIES):
            try:
                return self._run(read)
            except places.Unnoted:
                self._opening.look_again()
        raise StoreUnavailableError(
            f"The server of PostgreSQL ({self._opening.shown}) is another one each time that it is asked."
        )

    def _open_beside(self, table_id: str) -> None:
        if table_id == self._table_id:
            return
        self._table_id = table_id
        pool = self._opening.pool
        self._listener = Listener(pool, _channel(table_id))
        if pool is not None:
            self._notifier = Notifier(pool, _channel(table_id))
            self._turns.open(table_id)


class PostgresCoordinator(Coordinator):
    """A coordinator in PostgreSQL, for the processes of many machines.

    Takes the options of `PostgresTable`. `observers` are told of what is decided here. Connects when it is
    used first.

    Raises `InvalidInputError` for what is no connection string, and `MissingExtraError` if psycopg is not
    installed.
    """

    def __init__(  # noqa: PLR0913
        self,
        dsn: str | None = None,
        *,
        connection: Connection | None = None,
        create: bool = True,
        min_size: int = 0,
        max_size: int = 8,
        timeout: float = 30.0,
        observers: Iterable[Observer] = (),
    ) -> None:
        table = PostgresTable(
            dsn, connection=connection, create=create, min_size=min_size, max_size=max_size, timeout=timeout
        )
        super().__init__(table, observers=observers)


def _channel(table_id: str) -> str:
    return f"agentref-{table_id}"
