"""What is known of a saver: how to read a thread's rows, write them as another thread, and delete some.

A *script* says what to ask of the saver's database and takes the answers, whoever waits for them: so each
rule is written once, for both colours. It runs in one transaction, under the saver's own lock.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

__all__ = [
    "Ask",
    "AsyncTables",
    "Doomed",
    "Row",
    "Rows",
    "Script",
    "Tables",
    "aplay",
    "play",
    "through_its_loop",
]

T = TypeVar("T")


class Ask(NamedTuple):
    """A query and its arguments."""

    sql: str
    arguments: Sequence[Any]


class Tell(NamedTuple):
    """A statement without an answer, and the arguments of each time that it is executed."""

    sql: str
    times: Sequence[Sequence[Any]]


Row = dict[str, Any]
"""A row by the names of its columns."""

Script = Generator[Ask | Tell, list[Row], T]
"""Is sent the rows of each answer (none, for what it tells), and returns a T."""

Doomed = Mapping[str, Sequence[str]]
"""Checkpoint ids by namespace."""


@dataclass(frozen=True, slots=True)
class Rows:
    """All of a thread as its saver keeps it, without the thread's name."""

    checkpoints: list[Row]
    writes: list[Row]
    blobs: list[Row]


class Tables(Protocol):
    """The tables of one type of saver. The savers are `Any`: their packages may not be installed."""

    def read(self, saver: Any, thread_id: str) -> Script[Rows]:
        """All of a thread, as of one moment."""

    def is_taken(self, saver: Any, thread_id: str) -> Script[bool]:
        """Whether there is a checkpoint in that thread."""

    def write(self, saver: Any, thread_id: str, rows: Rows) -> Script[bool]:
        """Make that thread of these rows. False, and nothing written, if there is a checkpoint in it."""

    def erase(self, saver: Any, thread_id: str, doomed: Doomed) -> Script[None]:
        """Delete checkpoints with their writes, and what only they need. Whose parent goes has none."""

    def values(self, saver: Any, rows: Rows) -> Iterator[tuple[str, str, Any]]:
        """Namespace, checkpoint id and value of every channel and every write."""

    def run(self, saver: Any, script: Script[T]) -> T:
        """Run a script in the saver's database: all of it, or nothing."""


@runtime_checkable
class AsyncTables(Tables, Protocol):
    """The tables of a type of saver that has async verbs as well."""

    async def arun(self, saver: Any, script: Script[T]) -> T:
        """`run` for the event loop."""


def play(script: Script[T], answer: Callable[[Ask | Tell], list[Row]]) -> T:
    """Run a script to its end."""
    try:
        asked = next(script)
        while True:
            asked = script.send(answer(asked))
    except StopIteration as done:
        value: T = done.value
        return value


async def aplay(script: Script[T], answer: Callable[[Ask | Tell], Awaitable[list[Row]]]) -> T:
    """`play` for the event loop."""
    try:
        asked = next(script)
        while True:
            asked = script.send(await answer(asked))
    except StopIteration as done:
        value: T = done.value
        return value


def through_its_loop(saver: Any, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What a saver that lives on an event loop does for another thread, which waits for it."""
    try:
        is_here = asyncio.get_running_loop() is saver.loop
    except RuntimeError:
        is_here = False
    if is_here:
        raise asyncio.InvalidStateError(
            f"The sync verbs of {type(saver).__qualname__} would wait for the loop that they hold up. "
            f"Here, await the verb that begins with an a: acopy_thread, aprune, adelete_for_runs."
        )
    return asyncio.run_coroutine_threadsafe(work(), saver.loop).result()
