"""Being called when something is committed: one thread a coordinator that follows its feed."""

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from agentref.coherence.feed import Page
from agentref.errors import AgentRefError, CursorTooOldError, StoreUnavailableError

__all__ = ["Feed", "Follower", "Subscription"]

_LOOK_SECONDS: Final = 1.0
_AFTER_ERROR: Final = 0.5
_log = logging.getLogger("agentref.coherence")


class Feed(Protocol):
    """What is followed."""

    def head(self) -> str:
        """Where it stands."""
        ...

    def changes(self, *, since: str, limit: int = 1000) -> Page:
        """What comes after a cursor."""
        ...

    def wait(self, since: str, *, timeout: float) -> None:
        """Until something may have come."""
        ...


class Subscription:
    """A function that is called with each page of changes, until `close`. Of a bound method, only the
    object's own life keeps it."""

    def __init__(self, call: Callable[[Page], None], follower: "Follower") -> None:
        self._call: Callable[[], Callable[[Page], None] | None]
        self._call = weakref.WeakMethod(call) if hasattr(call, "__self__") else lambda: call
        self._follower = follower

    def close(self) -> None:
        """Call it no more; a call may be under way."""
        self._follower.remove(self)

    def __call__(self, page: Page) -> None:
        call = self._call()
        if call is None:
            self.close()
            return
        try:
            call(page)
        except Exception:  # noqa: BLE001  (others are to be told, whatever it is)
            _log.exception("A subscriber to changes failed; it is told of the next ones.")


class Follower:
    """Follows one feed for all subscriptions, in a thread that runs while there are some. Safe for threads.

    Every subscription is told of what is committed after it was made: in order, without a gap, once. Where
    the feed was compacted before it was read, the next page says so (`gap`).
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._subscriptions: list[Subscription] = []
        self._thread: threading.Thread | None = None
        self._cursor = ""
        self._gap = False

    def add(self, call: Callable[[Page], None]) -> Subscription:
        """Call it with what is committed from now on."""
        subscription = Subscription(call, self)
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._thread, self._subscriptions = os.getpid(), None, []
            if self._thread is None:
                self._cursor = self._feed.head()
            else:
                self._drain()  # the others are told of what was before this one
            self._subscriptions.append(subscription)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="agentref-follower", daemon=True)
                self._thread.start()
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Call it no more."""
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

    def stop(self) -> None:
        """Call nobody any more."""
        with self._lock:
            self._subscriptions.clear()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._lock:
                if not self._subscriptions:
                    self._thread = None
                    return
                cursor = self._cursor
            try:
                self._feed.wait(cursor, timeout=_LOOK_SECONDS)
                with self._lock:
                    self._drain()
            except StoreUnavailableError as error:
                _log.debug("The feed cannot be followed at the moment: %s", error)
                pause.wait(_AFTER_ERROR)
            except AgentRefError:
                _log.exception("The feed cannot be followed at the moment; it is tried again.")
                pause.wait(_AFTER_ERROR)

    def _drain(self) -> None:
        while True:
            try:
                page = self._feed.changes(since=self._cursor)
            except CursorTooOldError:
                self._cursor = self._feed.head()
                self._gap = True
                return
            if page.changes or self._gap:
                page = page._replace(gap=self._gap)
                self._gap = False
                for subscription in list(self._subscriptions):
                    subscription(page)
            if page.cursor == self._cursor:
                return
            self._cursor = page.cursor
