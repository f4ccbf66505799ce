"""CPU work on many blobs, spread over the cores. BLAKE3 and zstd let go of the interpreter lock."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from agentref.errors import AgentRefError

__all__ = ["spread", "with_room"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_WORKERS: Final = min(os.cpu_count() or 1, 8)
# Below this much, handing work over costs more than it saves.
_WORTHWHILE_BYTES: Final = 256 * 1024

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _pool  # noqa: PLW0603  (one pool a process; a forked child has none of its threads)
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def spread(work: Callable[[_Item], _Result], items: Sequence[_Item], total_bytes: int) -> list[_Result]:
    """`[work(item) for item in items]`, on several cores if `total_bytes` make it worth it."""
    global _pool  # noqa: PLW0603  (made on first use)
    if _WORKERS == 1 or len(items) < 2 or total_bytes < _WORTHWHILE_BYTES:
        return [work(item) for item in items]
    if _pool is None:
        _pool = ThreadPoolExecutor(_WORKERS - 1, thread_name_prefix="agentref")
    pool = _pool
    # Strided shares are of about equal weight, and one task a share keeps the hand-over cheap.
    shares = [items[start::_WORKERS] for start in range(_WORKERS)]
    try:
        futures = [pool.submit(lambda share: [work(item) for item in share], share) for share in shares[1:]]
    except RuntimeError:  # the interpreter is shutting down and starts no more threads
        return [work(item) for item in items]
    results: list[_Result] = [None] * len(items)  # type: ignore[list-item]
    results[0::_WORKERS] = [work(item) for item in shares[0]]
    for start, future in enumerate(futures, start=1):
        results[start::_WORKERS] = future.result()
    return results


def with_room(work: Callable[[], _Result], too_deep: Callable[[], AgentRefError]) -> _Result:
    """`work()`; where the caller's stack leaves too little room for it, again on a stack of its own."""
    try:
        return work()
    except RecursionError:
        pass
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="agentref-deep") as pool:
            return pool.submit(work).result()
    except RecursionError as error:
        raise too_deep() from error
