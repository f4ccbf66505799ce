"""What the tests of coordinators in PostgreSQL share."""

import os
import signal
import time
import traceback
import warnings
from typing import ClassVar

import pytest

from agentref.coherence import Conflict, Write
from agentref.coherence.postgres import PostgresCoordinator
from agentref.errors import StoreUnavailableError
from agentref.refs import ContentRef, Digest

KEY = ("project", "plan")


def content(number):
    return ContentRef(Digest(number.to_bytes(32, "big")), "raw", 3)


def see(coordinator, key=KEY):
    return coordinator.read([key])[key]


def put(coordinator, number, base=None, *, key=KEY, agent="a", lease=None):
    return coordinator.commit([Write(key, content(number), base, lease)], agent=agent)[key]


def increment(coordinator, key=KEY, *, agent="a"):
    """Commit the next number, however often others are quicker; the version."""
    while True:
        view = see(coordinator, key)
        try:
            return put(
                coordinator, view.version + 1, view if view.version else None, key=key, agent=agent
            ).version
        except Conflict:
            pass


def follow(coordinator, since, limit=1000):
    """All that comes after a cursor as of now, and the cursor after it."""
    changes = []
    while True:
        page = coordinator.changes(since=since, limit=limit)
        changes += page.changes
        since = page.cursor
        if not page.changes:
            return changes, since


class Child:
    """A function in a forked process, which does not outlive the test: see `children_end`."""

    running: ClassVar = []

    def __init__(self, work):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                work()
                code = 0
            except BaseException:  # noqa: BLE001  (of a process that ends here)
                traceback.print_exc()
            finally:
                os._exit(code)
        self.running.append(self)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self):
        self.running.remove(self)
        return os.waitpid(self.pid, 0)[1]


@pytest.fixture(autouse=True)
def children_end():
    yield
    for child in list(Child.running):
        child.kill()
        child.wait()


def keep_incrementing(dsn, log, *, each=None):
    """Increment until killed, or so many times; one byte for each that succeeded, or may have."""
    coordinator = PostgresCoordinator(dsn)
    done = 0
    while each is None or done < each:
        try:
            increment(coordinator, agent=str(os.getpid()))
            os.write(log, b"+")
        except StoreUnavailableError as error:
            os.write(log, b"?" if "not known" in str(error) else b"-")
            time.sleep(0.05)
        done += 1
