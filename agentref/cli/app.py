"""All commands under one name. A new one is a module with `register(app)`, and one line here."""

from importlib import import_module
from typing import Final

import typer

from agentref.cli.guard import Guarded
from agentref.cli.options import EXITS

__all__ = ["app"]

_COMMANDS: Final = (
    "stats",
    "ls",
    "show",
    "verify",
    "prune",
    "gc",
    "migrate",
    "alias",
    "pins",
    "db",
    "history",
)

app = typer.Typer(
    name="agentref",
    cls=Guarded,
    help="""Looks after a store of agentref: a directory, or a database of Postgres.

    A store is named with --store, or by the environment variable AGENTREF_STORE; the variable keeps a
    password out of the list of processes. No command but `db upgrade` and `migrate --create` makes a store.

    \b
    Example:
      agentref stats --store ./state_blobs
    """,
    epilog=EXITS,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # What a program holds in its variables (a DSN, say) is not for a terminal or a log.
    pretty_exceptions_enable=False,
)

for _name in _COMMANDS:
    import_module(f"agentref.cli.{_name}").register(app)
