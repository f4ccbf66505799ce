"""CPU work on many blobs, shared among the cores. BLAKE3 and zstd let go of the interpreter lock."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import accumulate, chain
from typing import Final, Generic, TypeVar

__all__ = ["Task", "keep_to_one_core", "shared_out"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_WORKERS: Final = min(os.cpu_count() or 1, 8)
# Below this much, handing work over costs more than it saves.
_WORTHWHILE_BYTES: Final = 128 * 1024
# Below this much, a thread for which nobody waits leaves the other cores to those that compute. Each thread
# that compresses keeps buffers, too: a graph that saves 1 MB a step peaked 2 MiB lower.
_MUCH_BYTES: Final = 4 * 1024 * 1024

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool  # noqa: PLW0603  (one pool a process; a forked child has none of its threads)
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


class _Here(threading.local):
    worthwhile = _WORTHWHILE_BYTES


_here = _Here()


def keep_to_one_core() -> None:
    """Let the calling thread share out only what would take it long: it works beside the program."""
    _here.worthwhile = _MUCH_BYTES


def shared_out(
    work: Callable[[Sequence[_Item]], list[_Result]],
    items: Sequence[_Item],
    sizes: Sequence[int],
    *,
    part_of: int = 0,
) -> list[_Result]:
    """`work(items)`, a list with a result for each item; in shares of equal size, if they make it worth it.
    They may be a part of a work of so many bytes, which is done bit by bit.

    The threads stay: zstandard's own, started anew for each call, made nothing faster (median of 30 runs:
    40 leaves of 24 KiB unpacked in 49 us each by one thread, 36 by two of its own, 25 by two that stay).
    """
    total = sum(sizes)
    whole = max(total, part_of)
    if _WORKERS == 1 or len(items) < 2 or total < _WORTHWHILE_BYTES or whole < _here.worthwhile:
        return work(items)
    first, *others = _shares(items, sizes, total)
    tasks = [Task(partial(work, share), whole) for share in others]
    results = work(first)
    for task in reversed(tasks):
        task.do()  # what the other threads have not begun with, since something else keeps them busy
    return list(chain(results, *[task.result() for task in tasks]))


def _shares(items: Sequence[_Item], sizes: Sequence[int], total: int) -> list[list[_Item]]:
    shares: list[list[_Item]] = [[] for _ in range(_WORKERS)]
    for item, begin in zip(items, accumulate(sizes, initial=0), strict=False):
        shares[min(begin * _WORKERS // total, _WORKERS - 1)].append(item)
    return [share for share in shares if share]


class Task(Generic[_Result]):
    """`work()`, done once: by another thread, if `size` makes that worth it, or by the one that asks for
    it, whoever comes first."""

    def __init__(self, work: Callable[[], _Result], size: int) -> None:
        self._work = work
        self._future: Future[_Result] | None = None
        self._results: list[_Result] = []
        if _WORKERS > 1 and size >= _here.worthwhile:
            with suppress(RuntimeError):  # the interpreter is shutting down and starts no more threads
                self._future = _threads().submit(work)

    @property
    def is_done(self) -> bool:
        """Whether there is a result, or an error, without waiting."""
        return bool(self._results) or (self._future is not None and self._future.done())

    def do(self) -> bool:
        """Do it here, unless somebody has begun; whether it was done here."""
        if self._results or (self._future is not None and not self._future.cancel()):
            return False
        self._results.append(self._work())
        return True

    def result(self) -> _Result:
        """What it returned, or raised."""
        self.do()
        return self._results[0] if self._results or self._future is None else self._future.result()


def _threads() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603  (made on first use)
    if _pool is None:
        _pool = ThreadPoolExecutor(_WORKERS - 1, thread_name_prefix="agentref")
    return _pool
