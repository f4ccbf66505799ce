"""The demo: one LangGraph graph with and without agentref, then killed in the middle and resumed.

Needs no key and no network. Exits with 1 if a proof fails.

With --postgres, the same in a PostgreSQL: the one that AGENTREF_TEST_DSN names, or one out of a wheel.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

ROOT: Final = Path(__file__).resolve().parent.parent
if not __package__:  # started as a file, not as a module
    sys.path.insert(0, str(ROOT))

from examples._demo.corpus import ROUNDS, write_texts  # noqa: E402
from examples._demo.graph import NODES  # noqa: E402
from examples._demo.places import Files, Place, postgres  # noqa: E402
from examples._demo.show import Screen, Step  # noqa: E402
from examples._demo.worker import Report  # noqa: E402

_SEED: Final = "demo"
_AGENTREF: Final = "--agentref"
_KILLED: Final = "killed"
_TEXTS: Final = "texts"


@dataclass(frozen=True)
class Run:
    """A run that ended, what it left on disk, and what the next process read of it."""

    report: Report
    checkpoints: int
    store: int
    reread: str


@contextmanager
def _child(place: Place, directory: Path, run: str, *options: str) -> Iterator["subprocess.Popen[str]"]:
    work = directory / run
    work.mkdir(exist_ok=True)
    given = [str(directory / _TEXTS), str(work), *place.options(), *options]
    command = [sys.executable, "-m", "examples._demo.worker", *given]
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": search, **place.environment(run)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _lines(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def _finish(place: Place, directory: Path, run: str, step: Step, *options: str) -> Report:
    """Run the graph to its end in a process of its own."""
    said: dict[str, Any] = {}
    with _child(place, directory, run, *options) as process:
        for said in _lines(process):
            if "done" in said:
                step(said["done"])
        if process.wait():
            raise SystemExit(f"A run failed with exit status {process.returncode}.")
    return cast("Report", said)


def _compare(screen: Screen, place: Place, directory: Path) -> dict[str, Run]:
    """The same graph with and without agentref, and what a new process reads back of each."""
    runs = {}
    for name, options in ((place.saver, []), ("with agentref", [_AGENTREF])):
        run = "with" if options else "without"
        with screen.run(f"{name}, {NODES} nodes", NODES) as step:
            report = _finish(place, directory, run, step, *options)
        with screen.run("   its last checkpoint, read by another process") as step:
            reread = _finish(place, directory, run, step, "--read", *options)
        runs[name] = Run(report, *place.sizes(run), reread["hash"])
    return runs


def _kill(screen: Screen, place: Place, directory: Path, draw: random.Random) -> int:
    """Start a run, and kill it somewhere in its middle; how many of its nodes were acknowledged by then."""
    fatal = 1 + 4 * draw.randint(ROUNDS // 4, 3 * ROUNDS // 4) + draw.randint(1, 4)
    patience = draw.uniform(0, 0.05)
    acknowledged = 0
    with (
        screen.run(f"A second run, killed in round {(fatal - 2) // 4 + 1}", NODES) as step,
        _child(place, directory, _KILLED, _AGENTREF, "--durability", "sync") as process,
    ):
        for said in _lines(process):
            if said.get("done", 0) < fatal:
                step(said.get("done", 0))
                continue
            # The update of a node arrives once the checkpoint of the node before is on disk.
            acknowledged = said["done"] - 1
            time.sleep(patience)
            process.send_signal(signal.SIGKILL)
            break
        if process.wait() != -signal.SIGKILL:
            raise SystemExit("The run ended before it could be killed.")
    return acknowledged


def _show(screen: Screen, runs: dict[str, Run]) -> None:
    stock, ours = runs.values()

    def line(name: str, unit: float, before: float, after: float, digits: int) -> list[str]:
        share = f"{after / before:.1%}" if before else ""
        return [name, f"{before / unit:,.{digits}f}", f"{after / unit:,.{digits}f}", share]

    rows = [
        line("checkpoint database, MB", 1e6, stock.checkpoints, ours.checkpoints, 1),
        line("store, MB", 1e6, stock.store, ours.store, 1),
        line("both, MB", 1e6, stock.checkpoints + stock.store, ours.checkpoints + ours.store, 1),
        line("peak memory, MiB", 2**20, stock.report["peak"], ours.report["peak"], 0),
        line("   before the run, MiB", 2**20, stock.report["idle"], ours.report["idle"], 0),
        line("time, s", 1, stock.report["seconds"], ours.report["seconds"], 1),
        line("CPU time, s", 1, stock.report["cpu"], ours.report["cpu"], 1),
        ["SHA-256 of the state", stock.report["hash"][:12], ours.report["hash"][:12], ""],
    ]
    screen.table(f"The same graph, {NODES} node executions", ["", *runs, "share"], rows)


def _proofs(runs: dict[str, Run], acknowledged: int, resumed: Report) -> dict[str, bool]:
    stock, ours = runs.values()
    expected = stock.report["hash"]
    return {
        f"each run executed {NODES} nodes": stock.report["nodes"] == ours.report["nodes"] == NODES,
        "both ended in the same state": ours.report["hash"] == expected,
        "a new process reads that state from either checkpoint": stock.reread == ours.reread == expected,
        f"killed after {acknowledged} acknowledged nodes, a new process found the checkpoint of node "
        f"{resumed['found']}": acknowledged <= resumed["found"] < NODES,
        f"it went on from there, {resumed['nodes']} nodes more": (
            NODES - 1 <= resumed["found"] + resumed["nodes"] <= NODES
        ),
        "and ended in the same state": resumed["hash"] == expected,
    }


def _demo(screen: Screen, place: Place, directory: Path, seed: str) -> dict[str, Any]:
    texts = directory / _TEXTS
    texts.mkdir()
    with screen.run("Texts, from the documents and sources of Python itself"):
        write_texts(texts, seed)
    runs = _compare(screen, place, directory)
    acknowledged = _kill(screen, place, directory, random.Random(seed))
    with screen.run("Resumed from its last checkpoint", NODES) as step:
        resumed = _finish(place, directory, _KILLED, step, "--resume", _AGENTREF)
    _show(screen, runs)
    proofs = _proofs(runs, acknowledged, resumed)
    for text, holds in proofs.items():
        screen.proof(text, holds=holds)
    measured = {
        name: {**run.report, "checkpoint_bytes": run.checkpoints, "store_bytes": run.store}
        for name, run in runs.items()
    }
    return {"runs": measured, "acknowledged": acknowledged, "resumed": resumed, "proofs": proofs}


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in DIR, which must be new, and leave it"
    )
    parser.add_argument("--seed", default=_SEED, help="draws the texts and the moment of the kill")
    parser.add_argument(
        "--postgres", action="store_true", help="PostgresSaver and a store in the same database"
    )
    arguments = parser.parse_args()
    if arguments.postgres and find_spec("langgraph.checkpoint.postgres") is None:
        parser.error('--postgres needs more packages: make demo ARGS="--postgres" installs them.')
    screen = Screen(quiet=arguments.json)
    with ExitStack() as stack:
        if arguments.keep is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentref-demo-")))
        elif arguments.keep.exists():
            parser.error(f"{arguments.keep} is there already: name a new directory.")
        else:
            arguments.keep.mkdir(parents=True)
            directory = arguments.keep.resolve()
        place = stack.enter_context(postgres()) if arguments.postgres else Files(directory)
        found = _demo(screen, place, directory, arguments.seed)
    if arguments.json:
        print(json.dumps(found, indent=2))
    return 0 if all(found["proofs"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
