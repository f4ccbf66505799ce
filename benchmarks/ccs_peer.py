"""The earlier system, agent-coherence, measured on this machine, so that our numbers can stand beside its.

It is never installed beside agentref: it has an environment of its own in the directory for temporary
files, made once, and `_ccs_worker.py` runs in there. `python -m benchmarks.ccs_peer` prints the numbers.
"""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.measure import Row, scratch

__all__ = ["COMPARED", "PeerUnavailableError", "measure", "rows"]

_VERSION: Final = "0.15.0"
_REQUIREMENT: Final = f"agent-coherence[langgraph]=={_VERSION}"  # CCSStore is a store of LangGraph
_WORKER: Final = Path(__file__).with_name("_ccs_worker.py")
_INSTALL_SECONDS: Final = 300
_WORK_SECONDS: Final = 240  # it takes 60 where nothing else runs

COMPARED: Final = {
    "get_hit_us": ("CCSStore, 10 KB: get, a hit", "us"),
    "put_1_us": ("CCSStore, 10 KB: put, 1 agent", "us"),
    "put_64_us": ("CCSStore, 10 KB: put, 64 agents, 63 of them hold it", "us"),
    "put_1000_us": ("CCSStore, 10 KB: put, 1000 agents, 999 of them hold it", "us"),
    "sqlite_commit_cas_us": ("CoordinatorService on SQLite: commit_cas, nobody else holds it", "us"),
    "hot_1_wins_per_s": ("CoherentVolume, 10 KB, one file: write_cas, 1 process", "/s"),
    "hot_8_wins_per_s": ("CoherentVolume, 10 KB, one file: write_cas, 8 processes", "/s"),
    "hot_8_failures": ("CoherentVolume, 10 KB, one file: write_cas that gave up, 8 processes", ""),
}
"""What a bar may be set against: name in `measure()`, words, unit."""


class PeerUnavailableError(RuntimeError):
    """agent-coherence could not be had or measured; says which numbers are missing."""

    def __init__(self, why: str, details: str) -> None:
        told = [line for line in details.splitlines() if line and not line.startswith("WARNING")]
        tail = "\n".join(told[-8:])
        missing = "\n".join(f"  {name}: {words}" for name, (words, _) in COMPARED.items())
        super().__init__(f"{why}\n{tail}\nThese cannot be compared:\n{missing}")


def _cache() -> Path:
    """A directory that only we can write to: what is in there will be run."""
    directory = Path(tempfile.gettempdir()) / f"agentref-bench-peer-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or directory.is_symlink():
        raise PeerUnavailableError(f"{directory} is not ours alone; remove it.", "")
    return directory


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], seconds: float, why: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailableError(f"{why}: not done after {seconds:.0f} s.", "") from error
    if done.returncode:
        raise PeerUnavailableError(f"{why}.", done.stderr or done.stdout)
    return done.stdout


def _python() -> Path:
    """The Python of the environment that has agent-coherence; made if there is none yet."""
    tag = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = _cache() / f"agent-coherence-{_VERSION}-py{tag}"
    python, complete = home / "bin" / "python", home / "complete"
    with _locked(Path(f"{home}.lock")):
        if not complete.exists():
            make = [sys.executable, "-m", "venv", "--clear", str(home)]
            _run(make, _INSTALL_SECONDS, "An environment for agent-coherence could not be made")
            install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
            why = f"pip could not install {_REQUIREMENT} from the package index"
            _run([*install, _REQUIREMENT], _INSTALL_SECONDS, why)
            complete.touch()
    return python


@cache
def measure() -> dict[str, float]:
    """Every number of agent-coherence by name: medians, in the unit that the name ends with.

    Takes about a minute, and more the first time, when it is installed. One put among 1000 agents takes
    8 seconds, so that median is of three at most. `hot_N_wins_per_s` is the median over five seconds.
    Beside what is in `COMPARED` there are the settings (`sqlite_synchronous`: 1 is NORMAL, 2 FULL), the
    kinds of failures, attempts for each win, and increments lost.

    Raises PeerUnavailableError.
    """
    python = _python()
    with scratch() as directory:
        command = [str(python), "-I", str(_WORKER), str(directory)]
        said = _run(command, _WORK_SECONDS, f"agent-coherence {_VERSION} could not be measured")
    lines = map(json.loads, said.splitlines())
    return {line["name"]: float(line["value"]) for line in lines}


def rows() -> Iterator[Row]:
    """All of it, without bars."""
    for name, value in measure().items():
        words, unit = COMPARED.get(name, (name, ""))
        yield Row(words, value, unit, note=f"agent-coherence {_VERSION}")


if __name__ == "__main__":
    for key, number in measure().items():
        print(json.dumps({"name": key, "value": number}))
