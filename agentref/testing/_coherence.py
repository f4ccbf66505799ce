# ruff: noqa: S101
"""What the clauses on coordinators are written with."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import pytest

from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.feed import Change
from agentref.coherence.keys import Key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import Versioned
from agentref.coherence.table import Table
from agentref.errors import Conflict
from agentref.refs import ContentRef
from agentref.testing._common import name_of, run_together, wait

__all__ = [
    "KEY",
    "LONG",
    "OTHER",
    "Clauses",
    "SettableClock",
    "changes_of",
    "commits_of",
    "content",
    "delete",
    "increment",
    "put",
    "race",
    "refusal",
    "revision",
    "see",
    "spawn",
    "until",
]

_Won = TypeVar("_Won")

KEY: Final = ("project", "plan")
OTHER: Final = ("project", "budget")
LONG: Final = 3600.25  # seconds: of a lease that does not end by itself while a clause runs
_BRIEF: Final = 1.0
_START: Final = 4_000_000_000.0


class SettableClock:
    """Seconds since the epoch, which pass only when they are told to. Safe for threads.

    A table that goes by a clock of its own is waited for.
    """

    def __init__(self) -> None:
        self.now = _START

    def __call__(self) -> float:
        return self.now

    def leads(self, table: Table) -> bool:
        """Whether the table goes by this clock."""
        return table.clock() == self.now

    def brief(self, table: Table) -> float:
        """The length of a lease that is to end while a clause runs."""
        return LONG if self.leads(table) else _BRIEF

    def let(self, table: Table, until: float) -> None:
        """Let the table's clock pass that time."""
        if self.leads(table):
            self.now = max(self.now, until) + 0.001
        else:
            wait(table, until)


class Clauses:
    """What each clause may ask of the contract that it is in."""

    patience = 15.0
    """Seconds after which what has to happen in another thread has not happened."""

    def make_table(self, path: Path, clock: Callable[[], float]) -> Table:
        """An open table; `path` is a directory that it may use, and `clock` the one that it is to go by,
        if it can."""
        raise NotImplementedError


def content(number: int) -> ContentRef:
    """The ref of some content; different numbers have different ones."""
    return ContentRef(name_of(number), "json", 100 + number)


def put(  # noqa: PLR0913
    coordinator: Coordinator,
    key: Key,
    number: int,
    base: Versioned | None = None,
    *,
    agent: str = "writer",
    lease: Lease | None = None,
) -> Versioned:
    """Commit some content to one key."""
    return coordinator.commit([Write(key, content(number), base, lease)], agent=agent)[key]


def delete(coordinator: Coordinator, key: Key, base: Versioned, *, agent: str = "writer") -> Versioned:
    """Commit nothing to one key."""
    return coordinator.commit([Write(key, None, base)], agent=agent)[key]


def see(coordinator: Coordinator, key: Key) -> Versioned:
    """What one key stands for."""
    return coordinator.read([key])[key]


def revision(coordinator: Coordinator, key: Key) -> int:
    """What the table says of the row."""
    return coordinator.table.probe(encode_key(key))


def refusal(verb: Callable[[], object]) -> Conflict:
    """The conflict that it is refused with."""
    with pytest.raises(Conflict) as caught:
        verb()
    return caught.value


def race(tries: Sequence[Callable[[], _Won]]) -> tuple[list[_Won], list[Conflict]]:
    """Run all at once; what those returned that won, and what was raised to those that lost."""
    lost: list[Conflict] = []

    def outcome(attempt: Callable[[], _Won]) -> list[_Won]:
        try:
            return [attempt()]
        except Conflict as conflict:
            lost.append(conflict)
            return []

    outcomes = run_together([partial(outcome, attempt) for attempt in tries])
    return [won for each in outcomes for won in each], lost


def increment(coordinator: Coordinator, key: Key, *, tries: int, agent: str = "writer") -> int:
    """Commit on top of what stands there, again as long as others are first; the version."""
    for _ in range(tries):
        view = see(coordinator, key)
        with suppress(Conflict):
            return put(coordinator, key, view.version + 1, view, agent=agent).version
    raise AssertionError(f"Refused {tries} times: more often than anybody else has committed.")


def commits_of(coordinator: Coordinator, since: str) -> list[list[Change]]:
    """The feed after a cursor, commit by commit."""
    commits = []
    while (page := coordinator.changes(since=since, limit=1)).changes:
        assert page.cursor != since
        commits.append(list(page.changes))
        since = page.cursor
    return commits


def changes_of(coordinator: Coordinator, since: str) -> list[tuple[Key, int]]:
    """Which versions of what are in the feed after a cursor."""
    return [(change.key, change.version) for each in commits_of(coordinator, since) for change in each]


def spawn(task: Callable[[], _Won]) -> Future[_Won]:
    """Start it in a thread that nobody has to wait for."""
    future: Future[_Won] = Future()

    def run() -> None:
        try:
            future.set_result(task())
        except BaseException as error:  # noqa: BLE001  (it is raised to whoever asks for the result)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(condition: Callable[[], bool], patience: float) -> None:
    """Return once it is true; fail if it does not become so."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
