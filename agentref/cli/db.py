"""`agentref db`: the tables of a store in PostgreSQL."""

from importlib import import_module
from typing import Any

import typer

from agentref.cli.guard import Guarded
from agentref.cli.options import EXITS, DryRun, Json, Store
from agentref.cli.output import print_json, print_table, say
from agentref.cli.stores import database_name, driver_errors

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Guarded, no_args_is_help=True, rich_markup_mode=None, epilog=EXITS)
    group.command("status", epilog=EXITS)(status)
    group.command("upgrade", epilog=EXITS)(upgrade)
    app.add_typer(
        group,
        name="db",
        help="The tables of a store in PostgreSQL.\n\n\b\nExample:\n  agentref db status",
        epilog=EXITS,
    )


def status(store: Store = None, json: Json = False) -> None:
    """List the migrations that were applied to a database, and those that were not yet.

    \b
    Example:
      agentref db status --store postgresql://owner@db.internal/agents
    """
    dsn, _ = database_name(store)
    with driver_errors():
        found = _postgres().status(dsn)
    if json:
        print_json(_document(found.applied, found.pending))
        return
    rows = [(f"{number:04}", name, "applied") for number, name in found.applied]
    rows += [(f"{step.number:04}", step.name, "pending") for step in found.pending]
    print_table(("number", "migration", "state"), rows)


def upgrade(store: Store = None, dry_run: DryRun = False, json: Json = False) -> None:
    """Apply all migrations that a database lacks; make the tables, if it has none. All of it or nothing.

    Needs the rights of the tables' owner. First end every process that runs an older version, if one of
    the migrations is a `post`.

    \b
    Example:
      agentref db upgrade --store postgresql://owner@db.internal/agents
    """
    dsn, shown = database_name(store)
    with driver_errors():
        steps = _postgres().status(dsn).pending if dry_run else _postgres().upgrade(dsn)
    if json:
        print_json({"applied": [_shown(step.number, step.name) for step in steps], "dry_run": dry_run})
        return
    if not steps:
        say(f"{shown} is up to date.")
    for step in steps:
        say(f"{'would apply' if dry_run else 'applied'} {step.number:04} {step.name}")


def _postgres() -> Any:
    return import_module("agentref.postgres")


def _document(applied: Any, pending: Any) -> dict[str, object]:
    return {
        "applied": [_shown(number, name) for number, name in applied],
        "pending": [_shown(step.number, step.name) for step in pending],
    }


def _shown(number: int, name: str) -> dict[str, object]:
    return {"number": number, "name": name}
