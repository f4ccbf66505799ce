"""Print every measured bar: `python -m benchmarks [group ...] [--json]`. Fails if one is missed."""

import argparse
import importlib
import json
import os
import sys
from dataclasses import asdict

from benchmarks.measure import Row

GROUPS = (
    "checkpoints",
    "engine",
    "throughput",
    "durable",
    "streams",
    "demo_graph",
    "postgres",
    "crowd",
    "migrate",
    "coherence",
    "contention",
    "frameworks",
)


def _line(row: Row) -> str:
    verdict = {True: "ok", False: "MISSED", None: ""}[row.reached]
    note = f"  ({row.note})" if row.note else ""
    return f"  {row.value:>12,.3f} {row.unit:<5} {row.bar:<9} {verdict:<7} {row.name}{note}"


def main() -> int:
    """Run the groups that were asked for, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("group", nargs="*", choices=[*GROUPS, []], help=", ".join(GROUPS))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    missed = 0
    for group in arguments.group or GROUPS:
        if not arguments.json:
            load = os.getloadavg()[0]
            print(f"{group}   (load {load:.1f} on {os.cpu_count()} cores)", flush=True)
        for row in importlib.import_module(f"benchmarks.{group}").rows():
            missed += row.reached is False
            said = json.dumps({"group": group, **asdict(row), "reached": row.reached})
            print(said if arguments.json else _line(row), flush=True)
    if not arguments.json:
        print(f"{missed} bars missed" if missed else "every bar reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
