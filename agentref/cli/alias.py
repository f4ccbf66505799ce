"""`agentref alias`: names for refs."""

from typing import Annotated, Literal

import typer

from agentref.cli.guard import Guarded
from agentref.cli.naming import REF_HELP, extent, find_expected, find_ref
from agentref.cli.options import EXITS, DryRun, Json, Prefix, Store, parse_seconds
from agentref.cli.output import print_json, print_table, say, seconds_or_none, show_size, show_time
from agentref.cli.stores import Opened, open_store
from agentref.errors import AliasConflictError, AliasNotFoundError, BlobNotFoundError
from agentref.refs import ContentRef
from agentref.storage import Alias

__all__ = ["register"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="The alias, without an @.")]
Expect = Annotated[
    str | None,
    typer.Option(metavar="REF", help="Only if it stands for this now."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(cls=Guarded, no_args_is_help=True, rich_markup_mode=None, epilog=EXITS)
    group.command("list", epilog=EXITS)(list_aliases)
    group.command("get", epilog=EXITS)(get)
    group.command("set", epilog=EXITS)(set_alias)
    group.command("rm", epilog=EXITS)(remove)
    app.add_typer(
        group,
        name="alias",
        help="Names for refs.\n\n\b\nExample:\n  agentref alias list run-",
        epilog=EXITS,
    )


def list_aliases(prefix: Prefix = "", store: Store = None, json: Json = False) -> None:
    """List the names that begin with PREFIX, in order.

    \b
    Example:
      agentref alias list run- --store ./state_blobs
    """
    with open_store(store) as opened:
        found = list(opened.cas.iter_aliases(prefix))
    if json:
        print_json({"aliases": [_as_json(alias) for alias in found]})
    else:
        _print(found)


def get(name: Name, store: Store = None, json: Json = False) -> None:
    """Tell what a name stands for.

    \b
    Example:
      agentref alias get plan --store ./state_blobs --json
    """
    with open_store(store) as opened:
        alias = opened.cas.get_alias(name)
    if json:
        print_json(_as_json(alias))
    else:
        _print([alias])


def set_alias(  # noqa: PLR0913, PLR0917  (a command's options)
    name: Name,
    ref: Annotated[str, typer.Argument(metavar="REF", help=REF_HELP)],
    store: Store = None,
    ttl: Annotated[str | None, typer.Option(metavar="SPAN", help="Its life: 3600, 30m, 7d.")] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="REF", help='Only if it stands for this now, or "absent".')
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Let a name stand for a ref, which is kept as long as the name is.

    \b
    Example:
      agentref alias set plan @draft --expect absent --store ./state_blobs
    """
    life = None if ttl is None else parse_seconds("--ttl", ttl)
    with open_store(store) as opened:
        target = find_ref(opened, ref)
        wanted: ContentRef | Literal["absent"] | None = None
        if expect is not None:
            wanted = "absent" if expect == "absent" else find_expected(opened, expect)
        if dry_run:
            _check(opened, name, wanted)
            if not opened.cas.exists(target.hash) or extent(opened, target.digest).missing:
                raise BlobNotFoundError(f"Not all that {target.hash} needs is in the store.")
            version: int | None = None
        else:
            version = opened.cas.set_alias(name, target, ttl=life, expect=wanted).version
    if json:
        print_json({"name": name, "ref": target.to_dict(), "version": version, "dry_run": dry_run})
    else:
        say(f"{name} {'would stand' if dry_run else 'stands'} for {target}.")


def remove(
    name: Name,
    store: Store = None,
    expect: Expect = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Drop a name. Exits with 1 if it is not there.

    \b
    Example:
      agentref alias rm plan --store ./state_blobs --dry-run
    """
    with open_store(store) as opened:
        wanted = None if expect is None else find_expected(opened, expect)
        if dry_run:
            opened.cas.get_alias(name)
            _check(opened, name, wanted)
        elif not opened.cas.delete_alias(name, expect=wanted):
            raise AliasNotFoundError(f"No alias {name!r} is in the store {opened.cas.backend_id}.")
    if json:
        print_json({"name": name, "removed": not dry_run, "dry_run": dry_run})
    else:
        say(f"{name} {'would be' if dry_run else 'is'} removed.")


def _check(opened: Opened, name: str, wanted: ContentRef | Literal["absent"] | None) -> None:
    """Raise what a compare-and-swap would raise now."""
    try:
        current: ContentRef | None = opened.cas.resolve_alias(name)
    except AliasNotFoundError:
        current = None
    if wanted is None:
        return
    if current is None if wanted == "absent" else current is not None and current.hash == wanted.hash:
        return
    stands = "does not exist now" if current is None else f"stands for {current} now"
    raise AliasConflictError(f"The alias {name!r} {stands}.", name=name, current=current)


def _as_json(alias: Alias) -> dict[str, object]:
    return {
        "name": alias.name,
        "ref": alias.ref.to_dict(),
        "version": alias.version,
        "expires_at": seconds_or_none(alias.expires_at),
    }


def _print(aliases: list[Alias]) -> None:
    print_table(
        ("name", "hash", "codec", "size", "expires (UTC)"),
        [
            (one.name, one.ref.hash, one.ref.codec, show_size(one.ref.size), show_time(one.expires_at))
            for one in aliases
        ],
        numbers=("size",),
    )
