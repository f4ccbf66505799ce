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
_log = logging.getLogger("agentref.postgres")

# Connections of the parent: if they were collected in a forked child, it would end the parent's session.
_inherited: list[object] = []


class Notifier:
    """Tells others soon after a commit, but 40 times a second at most, and 4 times while nobody listens.

    Its thread runs while there is something to tell, and 5 seconds longer, with a connection of its own:
    sessions that are lent to one and then the other have cold caches. Safe for threads.
    """

    def __init__(self, pool: Pool, channel: str) -> None:
        self._pool = pool
        self._channel = channel
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._running = False
        self._saying = threading.Lock()
        self._connection: Connection | None = None

    def committed(self) -> None:
        """There is something to tell."""
        if self._dirty.is_set():
            return
        with self._lock:
            self._dirty.set()
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="agentref-notifier", daemon=True).start()

    def close(self) -> None:
        """Tell what is left to tell."""
        with self._saying:
            if self._dirty.is_set():
                self._say()
            self._hang_up()

    def after_fork_in_child(self) -> None:
        """The parent tells what it has to tell."""
        _inherited.append(self._connection)
        self._start()

    def _run(self) -> None:
        while self._is_wanted():
            with self._saying:
                is_heard = self._say()
            time.sleep(_BETWEEN if is_heard else _UNHEARD)
        with self._saying:
            self._hang_up()

    def _is_wanted(self) -> bool:
        if self._dirty.wait(_IDLE):
            return True
        with self._lock:
            self._running = self._dirty.is_set()
            return self._running

    def _say(self) -> bool:
        """Whether somebody may have heard it. If not, they look by themselves, a little later."""
        self._dirty.clear()
        with contextlib.suppress(StorageError), typed_errors(self._pool.shown):
            try:
                return self._said()
            except psycopg.Error:
                self._hang_up()
            return self._said()
        self._hang_up()
        return True

    def _said(self) -> bool:
        if self._connection is None:
            self._connection = self._pool.connect()
        return notify_listeners(self._connection, self._channel)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


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
