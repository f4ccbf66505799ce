"""`agentref pins`: who keeps what alive."""

from typing import Annotated

import typer

from agentref.cli.guard import Guarded
from agentref.cli.options import EXITS, DryRun, Json, Prefix, Store
from agentref.cli.output import print_json, print_table, say, seconds_or_none, show_time
from agentref.cli.secrets import scrub
from agentref.cli.stores import open_store

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Guarded, no_args_is_help=True, rich_markup_mode=None, epilog=EXITS)
    group.command("list", epilog=EXITS)(list_pins)
    group.command("rm", epilog=EXITS)(remove)
    app.add_typer(
        group,
        name="pins",
        help="Owners, and what they keep alive.\n\n\b\nExample:\n  agentref pins list run-",
        epilog=EXITS,
    )


def list_pins(prefix: Prefix = "", store: Store = None, json: Json = False) -> None:
    """List the pins of owners that begin with PREFIX, in order.

    \b
    Example:
      agentref pins list run- --store ./state_blobs
    """
    with open_store(store) as opened:
        found = list(opened.cas.iter_pins(prefix))
    if json:
        pins = [
            {"owner": pin.owner, "hash": pin.hash, "expires_at": seconds_or_none(pin.expires_at)}
            for pin in found
        ]
        print_json({"pins": pins})
        return
    rows = [(pin.owner, pin.hash, show_time(pin.expires_at)) for pin in found]
    print_table(("owner", "hash", "expires (UTC)"), rows)


def remove(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Whose pins go: all of them.")],
    store: Store = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Take away all that an owner keeps. Exits with 1 if it keeps nothing.

    What nothing else needs goes in a later prune.

    \b
    Example:
      agentref pins rm run-17 --store ./state_blobs --dry-run
    """
    with open_store(store) as opened:
        if dry_run:
            count = sum(pin.owner == owner for pin in opened.cas.iter_pins(owner))
        else:
            count = opened.cas.unpin(owner)
    shown = owner if count else scrub(owner)  # a DSN in the wrong place owns nothing
    if json:
        print_json({"owner": shown, "pins": count, "dry_run": dry_run})
    else:
        say(f"{shown}: {count:,} pins {'would be' if dry_run else 'are'} taken away.")
    if not count:
        raise typer.Exit(1)
