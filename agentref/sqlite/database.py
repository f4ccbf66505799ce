"""Connections to one SQLite database, for many threads, many processes, and across forks."""

import os
import sqlite3
import threading
import time
import weakref
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Literal, NoReturn, get_args

from agentref.errors import InvalidInputError, StoreBusyError, StoreUnavailableError
from agentref.forks import watch_forks
from agentref.sqlite.blocks import Read, Session, Turn, Write
from agentref.sqlite.failures import Subject

__all__ = [
    "WAL_TOLERATED",
    "Database",
    "Synchronous",
    "check_synchronous",
    "configure",
    "connect",
    "identity",
]

Synchronous = Literal["FULL", "NORMAL"]
"""What a commit survives: with FULL also a power cut, with NORMAL only the death of the process.

At NORMAL a power cut may take back the last commits, of which others already know; none is torn.
"""

_IDLE_CONNECTIONS: Final = 2
_CACHE_KIB: Final = 1024
_SECONDS_BETWEEN_LOOKS: Final = 1.0
_PAUSE: Final = 0.001
_CHECKPOINT_PAGES: Final = 1024  # 2 MB: on a full disk the log must not be most of what there is
_WAL_KEPT: Final = 8 * 1024 * 1024
WAL_TOLERATED: Final = 32 * 1024 * 1024

_inherited: list[list[sqlite3.Connection]] = []
"""Connections of a parent process. Closing one would run SQLite's clean-up on the parent's files."""


def connect(path: Path, *, busy_timeout: float, query: str = "mode=rw") -> sqlite3.Connection:
    """A bare connection to a database that exists, without Python's implicit transactions."""
    return sqlite3.connect(
        f"{path.as_uri()}?{query}",
        uri=True,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def check_synchronous(synchronous: object) -> None:
    """Raise `InvalidInputError` unless it is FULL or NORMAL: it becomes part of a statement."""
    if synchronous not in get_args(Synchronous):
        raise InvalidInputError(f"synchronous must be FULL or NORMAL, not {synchronous!r:.40}.")


def configure(connection: sqlite3.Connection, synchronous: Synchronous) -> None:
    """Give a connection the settings that all which write share."""
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}").fetchall()
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}").fetchall()


class Database:
    """A pool of connections to a database in WAL mode.

    Work is done inside a `session`, within it any number of `read` and `write` blocks one after the
    other. No connection is ever used by two threads at once; readers never wait for a writer.

    Before a fork all sessions are waited for and all connections closed. A child that inherits one
    believes that it holds the parent's file locks: it takes none of its own, and the parent, closing
    its last connection, deletes the log that the child has committed to.

    Args:
        path: the database, absolute; it must exist.
        busy_timeout: seconds to wait for another writer.
        subject: what its users know it as; error messages use it.
        synchronous: what a commit survives.
    """

    def __init__(
        self, path: Path, *, busy_timeout: float, subject: Subject, synchronous: Synchronous = "FULL"
    ) -> None:
        check_synchronous(synchronous)
        self._path = path
        self._subject = subject
        self.synchronous = synchronous
        self._name = str(path)
        self._log = path.with_name(f"{path.name}-wal")
        self.busy_timeout = busy_timeout
        self._closed = False
        self._refuse = False
        self._refuse_child = False
        self._start()
        self._file = identity(self._name)
        watch_forks(self)

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lock = (
            threading.Lock()
        )  # to wait on a condition is Python code, which Ctrl-C may leave locked
        # By their ids, weakly, and with their threads: Ctrl-C may have kept one from leaving.
        self._sessions: dict[int, tuple[weakref.ref[object], int]] = {}
        self._gate_shut = False
        self.writing = threading.RLock()  # one that knows whose it is; nobody means to take it twice
        self.turn: Turn | None = None  # whose it is
        self._next_look = 0.0
        self._idle: dict[Synchronous, list[sqlite3.Connection]] = {"FULL": [], "NORMAL": []}

    def session(self) -> Session:
        """Keep the database open, and the process from forking, until the block ends."""
        return Session(self)

    def enter(self, session: object) -> None:
        """Begin a session, which this object stands for.

        Raises `StoreUnavailableError` if the database is closed, or was forked.
        """
        if self._pid != os.getpid() or self._refuse:
            raise StoreUnavailableError(
                f"{self._path} was in use by another thread while this process was forked. "
                f"Open the store anew after the fork, or fork before threads use it."
            )
        try:
            while not self._closed:
                with self._lock:
                    if not (self._gate_shut or self._closed):
                        self._sessions[id(session)] = weakref.ref(session), threading.get_ident()
                        return
                time.sleep(_PAUSE)
        except BaseException:  # Ctrl-C among them: whoever closes the store would wait for this session
            self._sessions.pop(id(session), None)
            raise
        raise StoreUnavailableError(f"The {self._subject} is closed.")

    def leave(self, session: object) -> None:
        """End a session, and what Ctrl-C left of a turn in it."""
        self._sessions.pop(id(session), None)
        turn, me = self.turn, threading.get_ident()
        if turn is not None and turn.thread == me and not self._has_sessions(of=me):
            turn.abandon()

    def read(self) -> Read:
        """A connection on which each statement sees one consistent state."""
        return Read(self)

    def write(self) -> Write:
        """A transaction that excludes every other writer from its start; committed when the block is left.

        What that survives, `synchronous` says. Rolled back, and nothing kept, when the block raises.
        """
        return Write(Turn(self, self.synchronous))

    def write_unsynced(self) -> Write:
        """`write` at NORMAL. The next commit at FULL makes it durable as well: a power cut takes the end
        off the log, and nothing from its midst."""
        return Write(Turn(self, "NORMAL"))

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction. Whoever does holds `writing`."""
        self._look_around(connection)
        connection.execute("BEGIN IMMEDIATE")

    def end(self, connection: sqlite3.Connection, *, commit: bool) -> None:
        """Commit, or roll back; the connection is closed if something went wrong."""
        try:
            if commit:
                connection.execute("COMMIT")
        except BaseException:
            commit = False
            raise
        finally:
            if not commit:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                connection.close()

    def raise_busy(self) -> NoReturn:
        """Another thread of this process has the turn."""
        raise StoreBusyError(
            f"Another thread wrote to {self._path} for longer than busy_timeout. Try again, or open it "
            f"with a longer one."
        )

    def check_file(self) -> None:
        """Raise `StoreUnavailableError` if the database's file is no longer the one that was opened."""
        if identity(self._name) != self._file:
            raise StoreUnavailableError(
                f"{self._path} was deleted, moved or replaced while in use. Open it again."
            )

    def _look_around(self, connection: sqlite3.Connection) -> None:
        """Is our file still there, and (once a second) is the log in bounds?

        A commit to a file that was deleted or replaced would be lost without a word. Readers that
        overlap can keep SQLite's own checkpoints from ever starting the log afresh.
        """
        self.check_file()
        now = time.monotonic()
        if now < self._next_look:
            return
        if self._log.exists() and self._log.stat().st_size > WAL_TOLERATED:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._next_look = now + _SECONDS_BETWEEN_LOOKS

    def borrow(self, synchronous: Synchronous) -> sqlite3.Connection:
        """A connection for the caller alone, whose commits survive that."""
        with self._lock:
            if idle := self._idle[synchronous]:
                return idle.pop()
        connection = connect(self._path, busy_timeout=self.busy_timeout)
        try:
            configure(connection, synchronous)
        except BaseException:
            connection.close()
            raise
        return connection

    def give_back(self, connection: sqlite3.Connection, synchronous: Synchronous) -> None:
        """Let others have a connection on which no statement runs."""
        with self._lock:
            idle = self._idle[synchronous]
            if len(idle) < _IDLE_CONNECTIONS:
                idle.append(connection)
                return
        connection.close()

    def close(self, *, patience: float | None = None) -> None:
        """Refuse new sessions, wait for those that run, close every connection. Idempotent."""
        if self._pid != os.getpid():
            self._leave_to_parent()
            return
        with self._lock:
            self._closed = True
        # A session of ours has not left: Ctrl-C kept it from that, or came while it ran and closes.
        self._drain(self.busy_timeout if patience is None else patience, but_of=threading.get_ident())

    def _drain(self, patience: float, *, but_of: int | None = None) -> bool:
        """Close what is idle once no session runs, but for those of a thread; false if one still runs after
        `patience` seconds."""
        deadline = time.monotonic() + patience
        while self._has_sessions(but_of=but_of) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        with self._lock:
            drained = not self._has_sessions(but_of=but_of)
            idle = [connection for connections in self._idle.values() for connection in connections]
            for connections in self._idle.values():
                connections.clear()
        for connection in idle:
            with closing(connection), suppress(sqlite3.Error):
                connection.execute("PRAGMA busy_timeout = 0").fetchall()
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return drained

    def _has_sessions(self, *, of: int | None = None, but_of: int | None = None) -> bool:
        return any(
            session() is not None and thread != but_of and of in {None, thread}
            for session, thread in list(self._sessions.values())
        )

    def before_fork(self) -> None:
        """Close every connection, or make sure that the child will refuse to work."""
        self._refuse_child = True
        with self._lock:
            self._gate_shut = True
        self._refuse_child = not self._drain(self.busy_timeout)

    def after_fork_in_parent(self) -> None:
        """Let sessions in again."""
        self._gate_shut = False

    def after_fork_in_child(self) -> None:
        """Start with nothing of the parent's, except for the database's name."""
        self._refuse = self._refuse or self._refuse_child
        self._leave_to_parent()
        self._start()

    def _leave_to_parent(self) -> None:
        _inherited.extend(self._idle.values())


def identity(path: str) -> tuple[int, int] | None:
    """Which file is at the path; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  (before every commit: half of what Path.stat takes)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
