"""What commands print: one JSON document, or tables for a person; progress goes to stderr."""

import datetime as dt
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = [
    "one_line",
    "print_facts",
    "print_json",
    "print_table",
    "progress_bar",
    "say",
    "seconds_or_none",
    "show_size",
    "show_time",
]

# A file or a pipe has no width of its own; nothing may be cut off there.
_PLAIN_WIDTH: Final = 2000
_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process with code 1, which means something else here."""
        raise BrokenPipeError


def _stdout() -> _Console:
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return _Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


def one_line(text: str) -> str:
    """The text with whatever a terminal would act upon spelled out: it came from a store."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode() for char in text
    )


def seconds_or_none(at: float) -> float | None:
    """A time as JSON has it: seconds since the epoch, or null for a life without an end."""
    return at if math.isfinite(at) else None


def show_time(at: float | None) -> str:
    """A time for a person, in UTC."""
    if at is None or not math.isfinite(at):
        return "never"
    try:
        moment = dt.datetime.fromtimestamp(at, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{at:.0f}"
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def show_size(size: int) -> str:
    """A number of bytes for a person."""
    if size < 1024:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, len(_UNITS))
    return f"{size / 1024**power:,.1f} {_UNITS[power - 1]}"


def print_json(document: Mapping[str, object], **lists: Iterable[object]) -> None:
    """The one document of a command under --json. Of what is in `lists` little is in memory at a time."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False)[:-2])
    for name, items in lists.items():
        sys.stdout.write(f',\n  "{name}": [')
        comma = ""
        for item in items:
            sys.stdout.write(f"{comma}\n    {json.dumps(item, allow_nan=False)}")
            comma = ","
        sys.stdout.write("\n  ]" if comma else "]")
    sys.stdout.write("\n}\n")


def say(text: str) -> None:
    """One line for a person."""
    sys.stdout.write(one_line(text) + "\n")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = ()) -> None:
    """A table; the columns that `numbers` names are set flush right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*[Text(one_line(cell)) for cell in row])
    _stdout().print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Names and what they are, one a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name), Text(one_line(value)))
    _stdout().print(table)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "-/s", style="progress.data.speed")


@contextmanager
def progress_bar(title: str, total: Callable[[], int]) -> Iterator[Callable[[int], None] | None]:
    """A function of how much is done, which moves a bar on stderr; None if that is no terminal.

    `total` is asked only if there is somebody to see it.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=max(total(), 1))
        yield lambda done: progress.update(task, completed=done)
