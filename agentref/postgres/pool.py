"""How a verb comes by a connection: from a pool of this process, or the caller's own."""

import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool, PoolTimeout

from agentref.errors import ConfigurationError, InvalidInputError, StoreUnavailableError
from agentref.postgres.address import Address
from agentref.postgres.errors import is_lost, is_undone, typed_errors

__all__ = ["Connection", "Joined", "Pool", "Sessions"]

_Result = TypeVar("_Result")
Connection = psycopg.Connection[Any]
"""What a verb works on."""

_IDLE_SECONDS: Final = 5.0
_ATTEMPTS: Final = 3
_TOO_LONG: Final = 1e6
_FORK_PATIENCE: Final = 5.0

# What a forked child inherited. Were it collected, it would wait for threads that the child does not have.
_inherited: list[object] = []


class Sessions(Protocol):
    """Something that lends connections, one verb at a time. Safe for many threads."""

    shown: str

    def run(self, work: Callable[[Connection], _Result], *, repeatable: bool = True) -> _Result:
        """What `work` makes of a connection, which is in autocommit or in a savepoint.

        `work` may be called again, if that is safe: always when the server took everything back; when the
        connection was lost half-way, only if it is `repeatable`. Raises `StorageError`.
        """
        ...

    def pages(self, read: Callable[[Connection], Iterator[_Result]]) -> Generator[_Result]:
        """What `read` yields, in one transaction, however long it takes; close it to end that. Other verbs
        may run meanwhile. Errors are psycopg's, and nothing is tried again.
        """
        ...

    def close(self) -> None:
        """Let go of what is held. Idempotent; `run` raises `StoreUnavailableError` from now on."""
        ...


# A page may be rare, and whoever is shown one may be slow. (Not every server knows all of these.)
_TAKE_YOUR_TIME: Final = """
SELECT set_config(name, '0', true) FROM pg_settings
WHERE name IN ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')
"""


class _Pooled(psycopg.Connection[Any]):
    """A connection that knows when it last worked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.worked_at = time.monotonic()


class Pool:
    """Connections of this process to one address. Safe for threads; a forked child makes its own.

    Nothing is opened before the first verb. A connection that idled for 5 seconds is tried before it is
    used, and one that is lost is replaced: a restart of the server costs a verb some time, no error.
    Nothing is left in a session that must be there the next time (no settings, no open transaction), so it
    may run through a pooler that gives each transaction another connection.

    Args:
        address: where the database is.
        min_size, max_size: how many connections are kept, and how many there may be.
        timeout: seconds that a verb waits for a connection.
    """

    def __init__(
        self, address: Address, *, min_size: int = 0, max_size: int = 8, timeout: float = 30.0
    ) -> None:
        if not (_is_int(min_size) and _is_int(max_size) and 0 <= min_size <= max_size != 0):
            raise InvalidInputError(
                f"min_size and max_size must be ints, 0 <= min_size <= max_size and max_size >= 1; not "
                f"{min_size!r:.40} and {max_size!r:.40}."
            )
        if not ((_is_int(timeout) or type(timeout) is float) and 0 < timeout < _TOO_LONG):
            raise InvalidInputError(f"timeout must be seconds, more than 0; not {timeout!r:.40}.")
        self.shown = address.shown
        self._address = address
        self._sizes = min_size, max_size
        self._timeout = float(timeout)
        self._pool: ConnectionPool[_Pooled] | None = None
        self._pid = os.getpid()
        self._doubted_at = 0.0
        self._lock = threading.Lock()
        self._held_for_fork = False
        self._closed = False
        self._beside: set[Connection] = set()

    def connect(self) -> Connection:
        """A connection beside the pool, in autocommit. Raises `StoreUnavailableError` and says why."""
        self._check_open()
        with typed_errors(self.shown):
            return psycopg.connect(self._address.conninfo, autocommit=True, prepare_threshold=None)

    def run(self, work: Callable[[Connection], _Result], *, repeatable: bool = True) -> _Result:
        """See `Sessions`. `work` is given a connection in autocommit."""
        with typed_errors(self.shown):
            for attempt in range(_ATTEMPTS):
                pool = self._opened()
                connection = self._take(pool, certain=not repeatable)
                try:
                    return self._worked(connection, work(connection))
                except psycopg.Error as error:
                    lost = is_lost(error, connection)
                    if lost:
                        self._doubted_at = time.monotonic()
                    again = is_undone(error) or (lost and repeatable)
                    if not again or attempt == _ATTEMPTS - 1:
                        raise
                finally:
                    pool.putconn(connection)
        raise AssertionError

    def pages(self, read: Callable[[Connection], Iterator[_Result]]) -> Generator[_Result]:
        """See `Sessions`. On a connection beside the pool, which may have but one."""
        with closing(self.connect()) as connection:
            self._beside.add(connection)
            try:
                with connection.transaction():
                    connection.execute(_TAKE_YOUR_TIME, prepare=False)
                    yield from read(connection)
            except psycopg.Error as error:
                if is_lost(error, connection):  # whatever psycopg made of what it found there
                    raise psycopg.OperationalError("the connection was lost") from error
                raise
            finally:
                self._beside.discard(connection)

    def close(self) -> None:
        """Close all connections; those that are lent out, when they come back. Idempotent."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
            mine = self._pid == os.getpid()
        if pool is not None and mine:
            pool.close()

    def before_fork(self) -> None:
        """Let no thread be half-way through opening a pool."""
        self._held_for_fork = False
        self._held_for_fork = self._lock.acquire(timeout=_FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._held_for_fork:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """A pool of the child's own, at the next verb; the parent's connections are left alone."""
        self._lock = threading.Lock()
        self._leave_inheritance()
        for connection in self._beside:
            _sever(connection)

    def _leave_inheritance(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            _inherited.append(self._pool)
            self._pool = None

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailableError(f"The store in PostgreSQL ({self.shown}) is closed.")

    def _opened(self) -> ConnectionPool[_Pooled]:
        with self._lock:
            self._check_open()
            self._leave_inheritance()
            if self._pool is None:
                low, high = self._sizes
                self._pool = ConnectionPool(
                    self._address.conninfo,
                    connection_class=_Pooled,
                    kwargs={"autocommit": True, "prepare_threshold": None},
                    min_size=low,
                    max_size=high,
                    timeout=self._timeout,
                    # When it gives up, the next verb tries at once instead of waiting out a long delay.
                    reconnect_timeout=self._timeout,
                    open=False,
                    num_workers=1,
                )
                self._pool.open()
            return self._pool

    @staticmethod
    def _worked(connection: _Pooled, result: _Result) -> _Result:
        connection.worked_at = time.monotonic()
        return result

    def _take(self, pool: ConnectionPool[_Pooled], *, certain: bool) -> _Pooled:
        """A connection that works, as far as one can tell; one that is `certain` was tried just now."""
        until = time.monotonic() + self._timeout
        while True:
            try:
                connection = pool.getconn(max(until - time.monotonic(), 0.001))
            except PoolTimeout:
                self.connect().close()  # either it says why, or there are too few
                raise
            since = max(self._doubted_at, time.monotonic() - _IDLE_SECONDS)
            if not certain and connection.worked_at > since:
                return connection
            try:
                connection.execute("")
            except BaseException as error:
                pool.putconn(connection)
                if not isinstance(error, psycopg.Error):
                    raise
            else:
                return connection


class Joined:
    """The caller's connection: each verb is a savepoint in the transaction that is open there.

    Commits and rolls back nothing that is not its own, so that what is stored and what the caller writes
    become durable together. Where the connection is in autocommit and no transaction is open, each verb is
    one. Safe for threads, one verb at a time. Closing it leaves the connection open.
    """

    def __init__(self, connection: Connection) -> None:
        if not isinstance(connection, psycopg.Connection):
            raise InvalidInputError(
                f"connection must be an open psycopg.Connection, not {type(connection).__name__}."
            )
        self.shown = Address.of(connection).shown if not connection.closed else "closed"
        self._connection = connection
        self._lock = threading.RLock()
        self._closed = False

    def run(self, work: Callable[[Connection], _Result], *, repeatable: bool = True) -> _Result:  # noqa: ARG002
        """See `Sessions`. Nothing is tried again: the transaction is the caller's. Raises
        `ConfigurationError` for a connection that does not speak UTF-8."""
        with typed_errors(self.shown), self._savepoint() as connection:
            return work(connection)

    def pages(self, read: Callable[[Connection], Iterator[_Result]]) -> Generator[_Result]:
        """See `Sessions`. Until the end, the caller can neither commit nor roll back, and other threads
        wait. Raises `ConfigurationError` within a `pipeline()`."""
        with self._savepoint() as connection:
            if connection.pgconn.pipeline_status != PipelineStatus.OFF:
                raise ConfigurationError(
                    f"The connection to PostgreSQL ({self.shown}) is in a pipeline(), where no cursor can "
                    f"be read. Prune outside of it."
                )
            yield from read(connection)

    @contextmanager
    def _savepoint(self) -> Iterator[Connection]:
        with self._lock:
            if self._closed:
                raise StoreUnavailableError(f"The store in PostgreSQL ({self.shown}) is closed.")
            connection = self._connection
            self._check_encoding(connection)
            if not connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
                connection.execute(
                    "SELECT 1", prepare=False
                )  # or transaction() would begin one, and commit
            with connection.transaction():
                _check_isolation(connection)
                yield connection

    def _check_encoding(self, connection: Connection) -> None:
        """As the session is now: it may be set at any time, and costs nothing to look at."""
        encoding = connection.pgconn.parameter_status(b"client_encoding")
        if encoding not in {b"UTF8", None}:  # None: it is closed, which psycopg says
            raise ConfigurationError(
                f"The connection to PostgreSQL ({self.shown}) has the client_encoding "
                f"{encoding.decode(errors='replace')}, in which not every name can be sent. Connect with "
                f"client_encoding='UTF8', or execute: SET client_encoding TO 'UTF8'"
            )

    def close(self) -> None:
        """Take no more verbs. Idempotent."""
        self._closed = True


def _sever(connection: Connection) -> None:
    """Let nothing that is said on it reach the server: to close it would end the parent's session, too."""
    ours, theirs = socket.socketpair()
    with ours, suppress(psycopg.Error, OSError):
        theirs.close()
        os.dup2(ours.fileno(), connection.fileno())


def _check_isolation(connection: Connection) -> None:
    """Raises `ConfigurationError` for a snapshot that is older than the statement: what others removed
    since would seem to be here, and would be relied upon."""
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    level = cursor.execute("SELECT current_setting('transaction_isolation')", prepare=False).fetchone()
    if level is not None and level[0] not in {"read committed", "read uncommitted"}:
        raise ConfigurationError(
            f"The transaction of the connection is {level[0].upper()}; a store in it needs READ COMMITTED: "
            f"connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED."
        )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
