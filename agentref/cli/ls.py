"""`agentref ls`: the blobs of a store, in the order of their hashes."""

import re
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Final

import typer

from agentref.cli.options import EXITS, Json, Store
from agentref.cli.output import print_json, print_table, say, seconds_or_none, show_size, show_time
from agentref.cli.stores import open_store
from agentref.errors import InvalidInputError
from agentref.refs import DIGEST_SIZE, Digest, parse_digest
from agentref.storage import FOREVER, BlobInfo, BlobStore

__all__ = ["register"]

_PREFIX: Final = re.compile(r"[0-9a-f]{0,64}", re.ASCII)
_PAGE: Final = 1000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXITS)(ls)


def ls(  # noqa: PLR0913, PLR0917  (a command's options)
    store: Store = None,
    limit: Annotated[int, typer.Option(min=0, help="How many at most; 0 for all.")] = 100,
    after: Annotated[str, typer.Option(metavar="HASH", help="Begin behind this one.")] = "",
    prefix: Annotated[str, typer.Option(metavar="HEX", help="Only hashes that begin so.")] = "",
    expired: Annotated[bool, typer.Option("--expired", help="Only blobs whose life has ended.")] = False,
    json: Json = False,
) -> None:
    """List blobs: hash, size as kept, end of life, and since when a prune has condemned them.

    \b
    Example:
      agentref ls --store ./state_blobs --expired --limit 20
    """
    if not _PREFIX.fullmatch(prefix):
        raise InvalidInputError(f"--prefix is up to 64 lower-case hex digits, not {prefix!r:.80}.")
    begin = parse_digest(after) if after else None
    with open_store(store) as opened:
        ends_by = opened.blobs.clock() if expired else FOREVER
        found = _blobs(opened.blobs, begin, prefix, ends_by, limit)
        rows = list(islice(found, min(limit, sys.maxsize) or None))
        more = bool(limit) and next(found, None) is not None
    if json:
        print_json({"blobs": [_as_json(info) for info in rows], "more": more})
        return
    print_table(
        ("hash", "stored", "expires (UTC)", "condemned (UTC)"),
        [
            (
                info.digest.hex(),
                show_size(info.stored_size),
                show_time(info.expires_at),
                "" if info.condemned_at is None else show_time(info.condemned_at),
            )
            for info in rows
        ],
        numbers=("stored",),
    )
    if more:
        say(f"There are more: --after {rows[-1].digest.hex()}, or --limit 0 for all.")


def _blobs(
    store: BlobStore, after: Digest | None, prefix: str, ends_by: float, limit: int
) -> Iterator[BlobInfo]:
    first = int(prefix.ljust(2 * DIGEST_SIZE, "0"), 16)
    before = Digest((first - 1).to_bytes(DIGEST_SIZE, "big")) if first else None
    after = max(filter(None, (after, before)), default=None)
    size = min(limit + 1, _PAGE) if limit else _PAGE
    while page := store.scan(after=after, limit=size, expires_by=ends_by):
        for info in page:
            if not info.digest.hex().startswith(prefix):
                return
            yield info
        after = page[-1].digest


def _as_json(info: BlobInfo) -> dict[str, object]:
    return {
        "hash": info.digest.hex(),
        "stored_size": info.stored_size,
        "expires_at": seconds_or_none(info.expires_at),
        "condemned_at": info.condemned_at,
    }
