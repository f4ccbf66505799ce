"""What every benchmark shares: rows to report, interleaved timings, children, scratch directories."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from examples._demo.corpus import Corpus

__all__ = ["MB", "Cost", "Row", "child", "corpus", "cost", "interleaved", "ratio", "scratch"]

MB: Final = 1_000_000


@dataclass(frozen=True)
class Row:
    """One measured number, and the bar it has to reach if it has one."""

    name: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the bar is reached; None without one."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    @property
    def bar(self) -> str:
        """The bar in words."""
        if self.at_most is not None:
            return f"<= {self.at_most:,.4g}"
        return "" if self.at_least is None else f">= {self.at_least:,.4g}"


class Cost(NamedTuple):
    """Seconds on the wall and of CPU, all threads of this process."""

    wall: float
    cpu: float


def cost(work: Callable[[], object]) -> Cost:
    """What one call costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Cost]]:
    """The cost of each work, round by round, in turns; the order turns round after every round.

    Slow and fast moments of the machine so fall on all alike: compare within a round, with `ratio`.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for index in range(rounds):
        for name in list(works) if index % 2 == 0 else reversed(list(works)):
            costs[name].append(cost(works[name]))
    return costs


def ratio(ours: list[Cost], theirs: list[Cost], *, cpu: bool = False) -> float:
    """The median over the rounds of our time by theirs."""
    return statistics.median(
        (our.cpu / their.cpu) if cpu else (our.wall / their.wall)
        for our, their in zip(ours, theirs, strict=True)
    )


def child(module: str, *arguments: str) -> Any:
    """Run a module in a process of its own; what its last line says, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="agentref-bench-") as directory:
        yield Path(directory)


@cache
def corpus() -> Corpus:
    """Real text, read once a process."""
    return Corpus()
