"""Room on the stack for values that are nested deeply, whoever asks and from wherever."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from agentref.errors import AgentRefError

__all__ = ["with_room"]

_Result = TypeVar("_Result")


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
