"""`agentref gc`: what checkpoints carry against what is pinned for them."""

import json as text_form
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import import_module
from itertools import islice
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Final

import typer

from agentref.cli.checkpoints import Checkpoints, open_checkpoints
from agentref.cli.options import EXITS, DryRun, Json, Store, parse_seconds
from agentref.cli.output import print_facts, print_json, progress_bar, say
from agentref.cli.stores import open_store
from agentref.errors import ConfigurationError, MissingExtraError

__all__ = ["register"]

_SHOWN: Final = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXITS)(gc)


Databases = Annotated[
    list[str],
    typer.Option(metavar="DB", help="A file of SqliteSaver, or a DSN of PostgresSaver. Name each of them."),
]
Names = Annotated[list[str] | None, typer.Option(metavar="NAME", help="What refs call the store as well.")]
RemoveStale = Annotated[
    bool,
    typer.Option(
        "--remove-stale",
        help="Take away the pins of checkpoints that are gone. Those of a database that is NOT NAMED look "
        "the same: name all that use the store.",
    ),
]
Grace = Annotated[
    str, typer.Option(metavar="SPAN", help="Longer than any save takes; waited for once: 60s, 5m.")
]


def gc(  # noqa: PLR0913, PLR0917  (a command's options)
    checkpoints: Databases,
    store: Store = None,
    backend_alias: Names = None,
    remove_stale: RemoveStale = False,
    grace: Grace = "60s",
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Compare what checkpoints carry with what is pinned for them, and pin what is not.

    Reads all checkpoints of LangGraph in each DB, and changes none. Tells each difference. Exits with 1
    if payloads are missing or damaged, or if something is unpinned or stale and stays so. Safe while
    graphs run. A later prune removes what nothing needs any more.

    \b
    Example:
      agentref gc --checkpoints checkpoints.db --store ./state_blobs --dry-run
    """
    seconds = parse_seconds("--grace", grace)
    langgraph = _langgraph()
    with ExitStack() as stack:
        opened = stack.enter_context(open_store(store, backend_aliases=backend_alias or ()))
        databases = [stack.enter_context(open_checkpoints(name)) for name in checkpoints]
        spool = stack.enter_context(TemporaryFile("w+", encoding="utf-8"))

        def steps() -> int:
            pins = sum(1 for _ in opened.cas.iter_pins("langgraph:"))
            return 2 * (pins + sum(database.how_many() for database in databases))

        with progress_bar("gc", steps) as progress, _naming(databases):
            report = langgraph.collect_pins(
                [database.saver for database in databases],
                opened.cas,
                remove_stale=remove_stale,
                dry_run=dry_run,
                grace=seconds,
                on_difference=lambda found: spool.write(text_form.dumps(found._asdict()) + "\n"),
                progress=progress,
            )
        spool.seek(0)
        if json:
            print_json({**asdict(report), "ok": report.ok}, differences=map(text_form.loads, spool))
        else:
            _print(report, spool)
    if not report.ok:
        raise typer.Exit(1)


@contextmanager
def _naming(databases: Sequence[Checkpoints]) -> Iterator[None]:
    """Tell a refusal because of an empty database in the terms of a shell."""
    try:
        yield
    except ConfigurationError:
        empty = [database.name for database in databases if not database.how_many()]
        if not empty:
            raise
        raise ConfigurationError(
            f"There is no checkpoint at all in {', '.join(empty)}, and pins look stale: if that is the "
            f"wrong database, what they keep would be lost. Nothing was changed. Leave it out; or, if it "
            f"was emptied on purpose and is the only one: agentref pins list langgraph:, and agentref pins "
            f"rm OWNER."
        ) from None


def _langgraph() -> Any:
    try:
        return import_module("agentref.adapters.langgraph")
    except MissingExtraError:
        raise
    except ImportError:
        raise MissingExtraError(
            "To read checkpoints needs LangGraph: pip install 'agentref-checkpoint[langgraph]'"
        ) from None


def _print(report: Any, differences: IO[str]) -> None:
    print_facts(
        {
            "checkpoints": f"{report.checkpoints:,}",
            "pins": f"{report.pins:,}",
            "unpinned": f"{report.unpinned:,} ({report.pinned:,} pinned now)",
            "stale pins": f"{report.stale:,} ({report.removed:,} removed now)",
            "surplus pins": f"{report.surplus:,}",
            "missing": f"{report.missing:,}",
            "damaged": f"{report.damaged:,}",
            "foreign": f"{report.foreign:,}",
        }
    )
    for line in islice(differences, _SHOWN):
        found = text_form.loads(line)
        place = [found[key] for key in ("thread_id", "checkpoint_ns", "checkpoint_id")]
        where = found["owner"] if place[0] is None else " ".join(filter(None, ["thread", *place]))
        say(f"{found['kind']}: {found['hash']}, {where}")
    if next(differences, None) is not None:
        say("There are more: --json has all of them.")
    if report.foreign:
        say("Foreign refs name another store. If this one is meant, tell its names with --backend-alias.")
    if report.stale > report.removed and not report.dry_run:
        say("Stale pins stay until --remove-stale. First name every database that uses the store.")
