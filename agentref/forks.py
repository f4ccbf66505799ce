"""What must happen to open stores and databases when the process forks."""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["ForkAware", "InChild", "watch_forks"]


class ForkAware(Protocol):
    """Something that holds locks or files which a forked child must not share."""

    def before_fork(self) -> None:
        """Finish what runs, let nothing new begin. Must not raise, must return in bounded time. Ctrl-C may
        end it anywhere: what comes after the fork must not believe then that nothing runs."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Start afresh: no other thread of the parent is here, and its locks may be held for ever."""
        ...


_watched: weakref.WeakSet[ForkAware] = weakref.WeakSet()
_lock = threading.Lock()
_forking: list[ForkAware] = []


def watch_forks(resource: ForkAware) -> None:
    """Have the three methods of `resource` called around every fork, for as long as it lives."""
    with _lock:
        _watched.add(resource)


class InChild:
    """Calls a method in every forked child, for as long as its object lives and this is kept."""

    def __init__(self, method: Callable[[], None]) -> None:
        self._method = weakref.WeakMethod(method)
        watch_forks(self)

    def before_fork(self) -> None:
        """Nothing to do."""

    def after_fork_in_parent(self) -> None:
        """Nothing was changed."""

    def after_fork_in_child(self) -> None:
        """Call it."""
        if (method := self._method()) is not None:
            method()


def _before() -> None:
    _lock.acquire()
    _forking.extend(_watched)
    interrupted: BaseException | None = None
    for resource in _forking:
        try:
            resource.before_fork()
        except BaseException as error:  # noqa: BLE001  (the fork comes all the same: all others need to know)
            interrupted = error
    if interrupted is not None:
        raise interrupted


def _after_in_parent() -> None:
    for resource in _forking:
        resource.after_fork_in_parent()
    _forking.clear()
    _lock.release()


def _after_in_child() -> None:
    for resource in _forking:
        resource.after_fork_in_child()
    _forking.clear()
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
