"""`agentref migrate`: all that one store keeps, to another."""

from dataclasses import asdict
from typing import Annotated, Final

import typer

from agentref.cli.options import EXITS, DryRun, Json
from agentref.cli.output import print_facts, print_json, progress_bar, say, show_size
from agentref.cli.stores import open_store
from agentref.storage import MigrationReport, migrate_cas

__all__ = ["register"]

_SHOWN: Final = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXITS)(migrate)


def migrate(  # noqa: PLR0913, PLR0917  (one for each option)
    source: Annotated[str, typer.Argument(metavar="SRC", help="A directory or a DSN.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="A directory or a DSN, of a store.")],
    workers: Annotated[int, typer.Option(min=1, max=16, help="Threads that read, verify and write.")] = 2,
    create: Annotated[bool, typer.Option("--create", help="Make DST if it is not there.")] = False,
    overwrite_aliases: Annotated[
        bool,
        typer.Option("--overwrite-aliases", help="Names in DST that stand for something else follow SRC."),
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Copy content, lives, aliases and pins from one store to another, while both are in use.

    Sends what the target lacks, and verifies each blob. Run it again to finish what was cut short, or to
    bring over what came since. Exits with 1 if something is damaged, missing or in conflict. A password
    is better kept in PGPASSWORD or ~/.pgpass than in a DSN that others see in the list of processes.

    \b
    Example:
      agentref migrate ./state_blobs postgresql://app@db.internal/agents --dry-run
    """
    with open_store(source) as old, open_store(target, create=create and not dry_run) as new:
        with progress_bar("migrate", lambda: old.cas.stats().blobs) as progress:
            report = migrate_cas(
                old.cas,
                new.cas,
                dry_run=dry_run,
                workers=workers,
                overwrite_aliases=overwrite_aliases,
                progress=progress,
            )
        name = old.cas.backend_id
    if json:
        print_json({**asdict(report), "ok": report.ok})
    else:
        _print(report, name)
    if not report.ok:
        raise typer.Exit(1)


def _print(report: MigrationReport, old_name: str) -> None:
    would = "would be " if report.dry_run else ""
    print_facts(
        {
            "blobs": f"{report.blobs:,}",
            f"{would}copied": f"{report.copied:,} ({show_size(report.copied_bytes)})",
            "pins": f"{report.pins:,}",
            "aliases": f"{report.aliases:,}",
            "damaged": f"{len(report.corrupt):,}",
            "missing": f"{len(report.missing):,}",
            "conflicts": f"{len(report.conflicts):,}",
        }
    )
    for what, names in (
        ("damaged", report.corrupt),
        ("missing", report.missing),
        ("conflict", report.conflicts),
        ("left out", report.skipped),
    ):
        for name in names[:_SHOWN]:
            say(f"{what}: {name}")
    say(
        f"Give the new store backend_aliases=[{old_name!r}], or whatever backend_id the old one was given, "
        f"and it answers to old refs."
    )
