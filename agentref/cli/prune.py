"""`agentref prune`: the end of what has expired and nobody needs."""

from dataclasses import asdict
from typing import Annotated

import typer

from agentref.cli.options import EXITS, DryRun, Json, Store, parse_seconds
from agentref.cli.output import print_facts, print_json, progress_bar, show_size
from agentref.cli.stores import Opened, open_store
from agentref.storage.audit import pages

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXITS)(prune)


def prune(
    store: Store = None,
    grace: Annotated[
        str, typer.Option(metavar="SPAN", help="From condemned to removed: 3600, 30m, 1h, 7d.")
    ] = "1h",
    limit: Annotated[int | None, typer.Option(min=1, help="How many blobs are removed at most.")] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Remove what has expired and nothing needs. Safe while others read, write and prune.

    What is not needed is condemned first, and removed by a run that comes --grace later or more: run it
    now and then, from cron or a timer. --grace 0 does both at once: only where nobody writes.

    \b
    Example:
      agentref prune --store ./state_blobs --grace 30m --dry-run
    """
    seconds = parse_seconds("--grace", grace)
    with open_store(store) as opened, progress_bar("prune", lambda: _steps(opened)) as progress:
        report = opened.cas.prune_expired(limit=limit, dry_run=dry_run, grace=seconds, progress=progress)
    if json:
        print_json(asdict(report))
        return
    would = "would be " if dry_run else ""
    print_facts(
        {
            "expired": f"{report.expired:,}",
            "still needed": f"{report.needed:,}",
            f"{would}condemned": f"{report.condemned:,}",
            "waiting": f"{report.waiting:,}",
            f"{would}removed": f"{report.removed:,} ({show_size(report.removed_bytes)})",
            "aliases, pins forgotten": f"{report.forgotten:,}",
        }
    )


def _steps(opened: Opened) -> int:
    """What a prune looks at: what has expired twice, and all that lives once if anything has."""
    expired = sum(map(len, pages(opened.blobs, expires_by=opened.blobs.clock())))
    return expired + opened.cas.stats().blobs if expired else 0
