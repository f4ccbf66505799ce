"""Options that commands share, and how a text becomes a value."""

import re
from typing import Annotated, Final

import typer

from agentref.errors import InvalidInputError

__all__ = ["EXITS", "DryRun", "Json", "Prefix", "Store", "parse_seconds"]

EXITS: Final = """\b
Exit codes:
  0    done
  1    verify or migrate found damage, gc differences that stay, history a broken guarantee, an alias is
       in conflict, or something is not found or not to be trusted
  2    bad usage, or the store cannot be opened or used, or the output cannot be written
  130  interrupted
  141  the reader of the output has gone
"""

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        "-s",
        metavar="STORE",
        envvar="AGENTREF_STORE",
        help="A directory, or a DSN: postgresql://...",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; tell what would be done.")]
Prefix = Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only names that begin so.")]

_SPAN: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw]?)", re.ASCII)
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_seconds(name: str, text: str) -> float:
    """Seconds from `3600`, `90s`, `30m`, `1h`, `7d` or `2w`. Raises `InvalidInputError`."""
    found = _SPAN.fullmatch(text.strip())
    if not found:
        raise InvalidInputError(
            f"{name} is a number of seconds, or one with a unit: 90s, 30m, 1h, 7d, 2w; not {text!r:.40}."
        )
    return float(found[1]) * _UNITS[found[2]]
