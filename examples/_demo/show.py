"""What the demo prints: a bar that moves on a terminal, plain lines elsewhere, and a table."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

__all__ = ["Screen", "Step"]

_PLAIN_WIDTH = 110


class Step(Protocol):
    """Says how many nodes are done."""

    def __call__(self, done: int, /) -> None: ...


class Screen:
    """Prints for a person; `quiet` prints nothing at all."""

    def __init__(self, *, quiet: bool) -> None:
        # A file or a pipe has no width of its own; nothing may be cut off there.
        width = None if sys.stdout.isatty() else _PLAIN_WIDTH
        self._console = Console(quiet=quiet, highlight=False, width=width)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def run(self, title: str, total: int | None = None) -> Iterator[Step]:
        """Show how a run goes on, from a title to the seconds that it took; `total` is in nodes."""
        if not self._console.is_terminal or self._console.quiet:
            started = time.perf_counter()
            yield lambda _done: None
            self.say(f"{title:<52} {time.perf_counter() - started:6.1f} s")
            return
        columns = (
            TextColumn("{task.description:<52}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)
            if total is None:
                progress.update(task, total=1, completed=1)

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table whose first column is names and whose others are numbers."""
        table = Table(title=title, title_justify="left", title_style="bold")
        for index, name in enumerate(head):
            table.add_column(name, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def proof(self, text: str, *, holds: bool) -> None:
        """One proof, and whether it holds."""
        mark, colour = ("ok", "green") if holds else ("FAILED", "red")
        self._console.print(f"[{colour}]{mark:>6}[/] ", end="")
        self._console.print(text, markup=False, soft_wrap=True)
