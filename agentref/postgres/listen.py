"""Telling others that something was committed, and being told: hints, which only save waiting.

A notification in the transaction that commits would have all commits of the database wait for each other.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final

import psycopg

from agentref.errors import StorageError
from agentref.postgres.channels import listen, notify_listeners
from agentref.postgres.errors import typed_errors
from agentref.postgres.pool import Connection, Pool

__all__ = ["Listener", "Notifier"]

_BETWEEN: Final = 0.025
_UNHEARD: Final = 0.25
_IDLE: Final = 5.0
_LOOK: Final = 1.0
_POLL: Final = 0.05
_AFTER_ERROR: Final = 0.5
_RECONNECT: Final = 10.0
_PATIENCE: Final = 1.0
_log = logging.getLogger("agentref.postgres")

# Connections of the parent: if they were collected in a forked child, it would end the parent's session.
_inherited: list[object] = []


class Notifier:
    """Tells others soon after a commit, but 40 times a second at most, and 4 times while nobody listens.

    Its thread runs while there is something to tell, and 5 seconds longer, with a connection of its own:
    sessions that are lent to one and then the other have cold caches. Where there is no room for it, it
    takes one of the pool's. Safe for threads.
    """

    def __init__(self, pool: Pool, channel: str) -> None:
        self._pool = pool
        self._channel = channel
        self._start()

    def _start(self) -> None:
        self._news = threading.Condition()
        self._is_dirty = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._connection: Connection | None = None
        self._connects_at = 0.0

    def committed(self) -> None:
        """There is something to tell."""
        if self._is_dirty and self._thread is not None:
            return
        with self._news:
            self._is_dirty = True
            if self._thread is None and not self._is_closed:
                thread = threading.Thread(target=self._run, name="agentref-notifier", daemon=True)
                # Where there may be no more threads, others look by themselves, a little later.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread
            self._news.notify_all()

    def close(self) -> None:
        """Tell what is left to tell, if that takes no more than a second. Idempotent."""
        with self._news:
            self._is_closed = True
            thread = self._thread
            self._news.notify_all()
        if thread is not None:
            thread.join(_PATIENCE)

    def after_fork_in_child(self) -> None:
        """The parent tells what it has to tell."""
        _inherited.append(self._connection)
        self._start()

    def _run(self) -> None:
        pause = 0.0
        try:
            while self._is_wanted(pause):
                pause = self._say()
        finally:
            with self._news:
                if self._thread is threading.current_thread():
                    self._leave()

    def _is_wanted(self, pause: float) -> bool:
        with self._news:
            self._news.wait_for(lambda: self._is_closed, pause)
            self._news.wait_for(lambda: self._is_dirty or self._is_closed, _IDLE)
            is_wanted, self._is_dirty = self._is_dirty, False
            if not is_wanted:
                self._leave()
            return is_wanted

    def _leave(self) -> None:
        """Whoever commits from now on begins another thread."""
        self._hang_up()
        self._thread = None

    def _say(self) -> float:
        """After how many seconds it may be said again."""
        try:
            with typed_errors(self._pool.shown):
                is_heard = self._is_heard()
        except StorageError:
            return _AFTER_ERROR
        return _BETWEEN if is_heard else _UNHEARD

    def _is_heard(self) -> bool:
        try:
            if self._connection is None and time.monotonic() >= self._connects_at:
                self._connects_at = time.monotonic() + _RECONNECT
                self._connection = self._pool.connect()
            if self._connection is not None:
                return notify_listeners(self._connection, self._channel)
        except (psycopg.Error, StorageError):
            self._hang_up()
        return self._pool.run(lambda connection: notify_listeners(connection, self._channel))

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Listener:
    """Waits for what others tell, on a connection of its own that all waiting threads share.

    It is open while somebody waits, and 5 seconds longer. Where it cannot hear anything (behind a pooler,
    or without a pool), or is lost, those who wait look by themselves, 20 times a second; else once.
    """

    def __init__(self, pool: Pool | None, channel: str) -> None:
        self._pool = pool
        self._channel = channel
        self._start()

    def _start(self) -> None:
        self._told = threading.Condition()
        self._count = 0
        self._listens = False
        self._running = False
        self._deaf = self._pool is None
        self._closed = False
        self._wanted_until = 0.0
        self._connection: Connection | None = None
        self._pid = os.getpid()

    def wait(self, is_there: Callable[[], bool], timeout: float) -> None:
        """Return once it is there, or after so many seconds."""
        end = time.monotonic() + timeout
        while True:
            if timeout > 0:
                self._want()
            count = self._count
            left = end - time.monotonic()
            if is_there() or left <= 0:
                return
            with self._told:
                pause = _LOOK if self._listens else _POLL
                if self._count == count and not self._closed:
                    self._told.wait(min(left, pause))

    def close(self) -> None:
        """Wake all who wait. Idempotent."""
        with self._told:
            self._closed = True
            self._told.notify_all()

    def after_fork_in_child(self) -> None:
        """A connection of the child's own, if it waits."""
        _inherited.append(self._connection)
        self._start()

    def _want(self) -> None:
        with self._told:
            self._wanted_until = time.monotonic() + _IDLE
            if not self._running and not self._deaf and not self._closed:
                self._running = True
                threading.Thread(target=self._run, name="agentref-listener", daemon=True).start()

    def _run(self) -> None:
        while self._is_wanted():
            pool = self._pool
            assert pool is not None  # noqa: S101
            try:
                with typed_errors(pool.shown), pool.connect() as connection:
                    self._connection = connection
                    self._listen(connection)
            except StorageError as error:
                _log.debug("Nothing can be heard of other processes at the moment: %s", error)
                self._hear(listens=False)  # those who wait look by themselves meanwhile
                time.sleep(_AFTER_ERROR)
            finally:
                self._connection = None
                self._hear(listens=False)

    def _is_wanted(self) -> bool:
        with self._told:
            wanted = not self._closed and not self._deaf and time.monotonic() < self._wanted_until
            self._running = wanted
            return wanted

    def _listen(self, connection: Connection) -> None:
        server = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
        # A pooler, which names itself: what is told to a session of the server does not reach its clients.
        self._deaf = server is None or server[0] != connection.info.backend_pid
        if self._deaf:
            return
        listen(connection, self._channel)
        self._hear(listens=True)
        while self._is_wanted():
            for _ in connection.notifies(timeout=_LOOK, stop_after=1):
                self._hear(listens=True)

    def _hear(self, *, listens: bool) -> None:
        with self._told:
            self._listens = listens
            self._count += 1
            self._told.notify_all()
