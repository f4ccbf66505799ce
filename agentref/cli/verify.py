"""`agentref verify`: whether every byte of a store is what it was."""

import typer

from agentref.cli.options import EXITS, Json, Store
from agentref.cli.output import print_json, print_table, progress_bar, say, show_size
from agentref.cli.stores import open_store

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXITS)(verify)


def verify(store: Store = None, json: Json = False) -> None:
    """Read and hash every blob, and look for every blob that another one links to. Writes nothing.

    Exits with 1, and lists them, if blobs are damaged or missing.

    \b
    Example:
      agentref verify --store ./state_blobs
    """
    with (
        open_store(store) as opened,
        progress_bar("verify", lambda: opened.cas.stats().blobs) as progress,
    ):
        report = opened.cas.verify(progress=progress)
    if json:
        print_json(
            {
                "ok": report.ok,
                "checked": report.checked,
                "checked_bytes": report.checked_bytes,
                "corrupt": list(report.corrupt),
                "missing": list(report.missing),
                "damaged_aliases": list(report.damaged_aliases),
            }
        )
    else:
        damage = [*((name, "corrupt") for name in report.corrupt)]
        damage += [(name, "missing") for name in report.missing]
        damage += [(name, "alias that makes no sense") for name in report.damaged_aliases]
        if damage:
            print_table(("hash or name", "damage"), damage)
        verdict = (
            "all sound"
            if report.ok
            else f"{len(report.corrupt):,} corrupt, {len(report.missing):,} missing, "
            f"{len(report.damaged_aliases):,} aliases damaged"
        )
        say(f"{report.checked:,} blobs ({show_size(report.checked_bytes)}) checked: {verdict}.")
    if not report.ok:
        raise typer.Exit(1)
