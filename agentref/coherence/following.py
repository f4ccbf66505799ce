"""Being called when something is committed: one thread a coordinator that follows its feed."""

import asyncio
import inspect
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from agentref.coherence.feed import Page
from agentref.errors import AgentRefError, CursorTooOldError, InvalidInputError, StoreUnavailableError
from agentref.forks import InChild

__all__ = ["Bell", "Feed", "Follower", "Subscription"]

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

    def __init__(self, call: Callable[[Page], object], follower: "Follower") -> None:
        self._call = _weakly(call)
        self._follower = follower
        self.closed = False

    @property
    def is_heard(self) -> bool:
        """Whether there is still somebody to call."""
        return not self.closed and self._call() is not None

    def close(self) -> None:
        """Call it no more; a call may be under way."""
        self.closed = True
        self._follower.remove(self)

    def __call__(self, page: Page) -> None:
        if self.closed:
            return
        call = self._call()
        if call is None:
            self.close()
            return
        try:
            call(page)
        except Exception:  # noqa: BLE001  (others are to be told, whatever it is)
            _log.exception("A subscriber to changes failed; it is told of the next ones.")


class Bell:
    """Rings in an event loop, whichever thread pulls the rope."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.moved = asyncio.Event()
        self._loop = loop

    def ring(self, _: Page) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.moved.set)


class Follower:
    """Follows one feed for all subscriptions, in a thread that runs while there are some. Safe for threads.

    Every subscription is told of what is committed after it was made: in order, without a gap, once. Where
    the feed was compacted before it was read, the next page says so (`gap`). No lock is held while a
    subscription is told: it may subscribe others, and wait for threads that do.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._in_child = InChild(self._start_afresh)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        self._subscriptions: list[Subscription] = []
        self._pages: deque[tuple[Page, Sequence[Subscription]]] = deque()
        self._thread: threading.Thread | None = None
        self._cursor = ""
        self._gap = False

    def add(self, call: Callable[[Page], object]) -> Subscription:
        """Call it with what is committed from now on."""
        if not callable(call):
            raise InvalidInputError(f"subscribe() takes a function of a Page, not {call!r:.80}.")
        subscription = Subscription(call, self)
        with self._lock:
            if self._thread is None:
                self._cursor = self._feed.head()
            else:
                while self._look():  # what was before is for the others
                    pass
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
            for subscription in self._subscriptions:
                subscription.closed = True
            self._subscriptions.clear()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            with self._lock:
                self._subscriptions = [each for each in self._subscriptions if each.is_heard]
                if not self._subscriptions:
                    self._thread = None
                    self._pages.clear()
                    return
                cursor = None if self._pages else self._cursor
            try:
                if cursor is not None:
                    self._feed.wait(cursor, timeout=_LOOK_SECONDS)
                    with self._lock:
                        self._look()
            except StoreUnavailableError as error:
                _log.debug("The feed cannot be followed at the moment: %s", error)
                pause.wait(_AFTER_ERROR if self._subscriptions else 0)
            except AgentRefError:
                _log.exception("The feed cannot be followed at the moment; it is tried again.")
                pause.wait(_AFTER_ERROR)
            self._tell()

    def _look(self) -> bool:
        """Take note of the next page, and of whom to tell. False if there is none."""
        try:
            page = self._feed.changes(since=self._cursor)
        except CursorTooOldError:
            self._cursor = self._feed.head()
            self._gap = True
            return False
        if page.changes or self._gap:
            self._pages.append((page._replace(gap=self._gap), tuple(self._subscriptions)))
            self._gap = False
        moved = page.cursor != self._cursor
        self._cursor = page.cursor
        return moved

    def _tell(self) -> None:
        while True:
            with self._lock:
                if not self._pages:
                    return
                page, subscriptions = self._pages.popleft()
            for subscription in subscriptions:
                subscription(page)


def _weakly(call: Callable[[Page], object]) -> Callable[[], Callable[[Page], object] | None]:
    if inspect.ismethod(call):
        with suppress(TypeError):  # its object cannot be referred to weakly
            return weakref.WeakMethod(call)
    return lambda: call
