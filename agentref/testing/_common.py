# ruff: noqa: S101
"""What the clauses of all contracts are written with."""

import os
import threading
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

from agentref.coherence.table import Table
from agentref.refs import Digest
from agentref.storage.protocol import BlobInfo, BlobStore, RootStore

__all__ = [
    "FAR",
    "NAMES",
    "NO_TIMES",
    "TimedRootStore",
    "blobs_of",
    "fork",
    "in_processes",
    "info_of",
    "name_of",
    "run_together",
    "surveyed",
    "wait",
]

_Result = TypeVar("_Result")

FAR: Final = 4_102_444_800.0  # the year 2100
NO_TIMES: Final = (float("nan"), True, "1", b"1", 10**400)
_MOMENT: Final = 0.02
_PATIENCE: Final = 500


# Each of these is another's prefix to a store that takes it for a pattern, folds its case or normalises it.
NAMES: Final = (
    "%",
    "*",
    "?",
    "A",
    "[a]",
    "\\",
    "_",
    "a",
    "a ",
    "a%",
    "a_",
    "ab",
    "e\u0301",
    "\u00e9",
    "\ud7ff",
    "\ud7ffa",
    "\uff21",
    "\U0001f600",
    "\U0010ffff",
    "\U0010ffffa",
)


class TimedRootStore(RootStore, Protocol):
    """A store of roots with `fetch`, `clock` and `close`, as a blob store has them."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """The bytes of each blob that is here."""
        ...

    def clock(self) -> float:
        """Seconds since the epoch, by the clock that lives are measured with."""
        ...

    def close(self) -> None:
        """Release files and connections. Idempotent; any later verb raises `StoreUnavailableError`."""
        ...


def name_of(number: int) -> Digest:
    """A digest that is no hash; those of successive numbers are in no order."""
    return Digest((number * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big") + number.to_bytes(24, "big"))


def blobs_of(count: int, *, first: int = 0, size: int = 100) -> dict[Digest, bytes]:
    """Some blobs, each with bytes of its own."""
    return {name_of(n): n.to_bytes(8, "big") * (size // 8) for n in range(first, first + count)}


def info_of(store: BlobStore, digest: Digest) -> BlobInfo:
    """What `store` knows of a blob that is here."""
    return store.stat([digest])[digest]


def surveyed(store: BlobStore, expires_by: float) -> list[BlobInfo]:
    """All that a survey shows."""
    shown: list[BlobInfo] = []
    store.survey(lambda page, _: shown.extend(page), expires_by=expires_by)
    return shown


def wait(store: BlobStore | TimedRootStore | Table, until: float | None = None) -> float:
    """Let the store's own clock, maybe another machine's, pass a moment, or `until`; the time then."""
    until = store.clock() if until is None else until
    for _ in range(_PATIENCE):
        time.sleep(_MOMENT)
        if (now := store.clock()) > until:
            return now
    raise AssertionError(f"The clock of {store!r} stands still at {store.clock()}.")


def run_together(work: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Run each in a thread, all at once; what they returned."""
    barrier = threading.Barrier(len(work))

    def started(task: Callable[[], _Result]) -> _Result:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(started, task) for task in work]]


def in_processes(work: list[Callable[[], None]]) -> None:
    """Run each in a forked child, all at once; fail if one of them fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner has threads of its own
        children = [fork(task) for task in work]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)


def fork(task: Callable[[], None]) -> int:
    """Run it in a child, which ends with 1 if it raises. The child's process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        task()
        status = 0
    finally:
        os._exit(status)
