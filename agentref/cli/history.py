"""`agentref history`: whether what agents saw was coherent."""

from pathlib import Path
from typing import Annotated

import typer

from agentref.cli.guard import Guarded
from agentref.cli.options import EXITS, Json
from agentref.cli.output import print_json, print_table, say
from agentref.coherence.checking import Fault, Finding, HistoryReport, check_history
from agentref.coherence.events import Event
from agentref.coherence.history import read_history

__all__ = ["register"]

_SHOWN = 3

Logs = Annotated[
    list[Path],
    typer.Argument(
        metavar="LOG...", help="What History(path) wrote, of all processes.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Guarded, no_args_is_help=True, rich_markup_mode=None, epilog=EXITS)
    group.command("check", epilog=EXITS)(check)
    group.callback()(_alone)
    app.add_typer(
        group,
        name="history",
        help="Logs of who saw what.\n\n\b\nExample:\n  agentref history check planner.jsonl writer.jsonl",
        epilog=EXITS,
    )


def _alone() -> None:
    """Keeps the one command under its name."""


def check(logs: Logs, json: Json = False) -> None:
    """Confirm or refute each guarantee of a coordinator by the logs of the processes that used it.

    Give all of them at once: a change that is in none of the logs leaves guarantees undecided. Exits with 1
    if one is refuted, and shows the events that do so.

    \b
    Example:
      agentref history check planner.jsonl writer.jsonl
    """
    report = check_history(*map(read_history, logs))
    if json:
        print_json(_as_json(report))
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


def _as_json(report: HistoryReport) -> dict[str, object]:
    return {
        "ok": report.ok,
        "events": report.events,
        "instances": report.instances,
        "keys": report.keys,
        "guarantees": {
            name.value: {
                "verdict": finding.verdict.value,
                "checked": finding.checked,
                "fault_count": finding.fault_count,
                "faults": [
                    {"message": fault.message, "events": [event._asdict() for event in fault.events]}
                    for fault in finding.faults
                ],
                "doubts": dict(finding.doubts),
            }
            for name, finding in report.guarantees.items()
        },
    }


def _print(report: HistoryReport) -> None:
    rows = [
        (name.value, finding.verdict.value, f"{finding.checked:,}", _why(finding))
        for name, finding in report.guarantees.items()
    ]
    print_table(("guarantee", "verdict", "checked", "why"), rows, numbers=("checked",))
    for name, finding in report.guarantees.items():
        for fault in finding.faults[:_SHOWN]:
            _print_fault(name.value, fault)
    say(f"{report.events:,} events of {report.instances:,} histories, {report.keys:,} keys.")


def _why(finding: Finding) -> str:
    if finding.faults:
        return f"{finding.fault_count:,} faults; the first: {finding.faults[0].message}"
    return "; ".join(f"{reason} ({count:,})" for reason, count in finding.doubts.items())


def _print_fault(name: str, fault: Fault) -> None:
    say(f"{name}: {fault.message}")
    for event in fault.events:
        say(f"  {_shown(event)}")


def _shown(event: Event) -> str:
    what = f"{event.kind.value} {'/'.join(event.key)} version {event.version} epoch {event.epoch}"
    lease = f" lease {event.lease} of {event.holder}" if event.lease else ""
    return f"{event.instance}#{event.sequence} {what} by {event.agent}{lease}"
