"""`agentref show`: what a ref stands for, and who keeps it alive."""

import reprlib
import shutil
import sys
from typing import Annotated, Final

import typer

from agentref.cli.naming import REF_HELP, extent, find_ref, kind_of
from agentref.cli.options import EXITS, Json, Store
from agentref.cli.output import print_facts, print_json, say, seconds_or_none, show_size, show_time
from agentref.cli.stores import Opened, open_store
from agentref.errors import InvalidInputError
from agentref.refs import ContentRef
from agentref.storage import RootStore
from agentref.storage.cas import RAW_CODEC

__all__ = ["register"]

_MAX_SHOWN: Final = 10_000
_MAX_DIGITS: Final = 2000
_LONG_BITS: Final = 4 * _MAX_DIGITS  # fewer digits than Python refuses to write


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXITS)(show)


def show(
    ref: Annotated[str, typer.Argument(metavar="REF", help=REF_HELP)],
    store: Store = None,
    content: Annotated[
        bool, typer.Option("--content", help="Write the bytes, or the beginning of a value, instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Tell of a ref: kind, size, blobs below it, end of life, who pins it, its aliases.

    --content writes bytes as they are, and a value as Python would, cut after 10,000 characters. Values
    of classes (dataclasses, models, ...) are refused: no stored class is looked up or run here.

    \b
    Examples:
      agentref show @plan --store ./state_blobs
      agentref show @report --content > report.pdf
    """
    if content and json:
        raise InvalidInputError("--content and --json exclude one another.")
    with open_store(store) as opened:
        found = find_ref(opened, ref)
        if content:
            _write_content(opened, found)
            return
        document = _describe(opened, found)
    if json:
        print_json(document)
    else:
        _print(document, found)


def _describe(opened: Opened, ref: ContentRef) -> dict[str, object]:
    kind = kind_of(opened, ref.digest)
    below, stored, missing = extent(opened, ref.digest)
    info = opened.blobs.stat([ref.digest])[ref.digest]
    has_roots = isinstance(opened.blobs, RootStore)
    pins = [pin for pin in opened.cas.iter_pins() if pin.hash == ref.hash] if has_roots else []
    aliases = [alias for alias in opened.cas.iter_aliases() if alias.ref == ref] if has_roots else []
    return {
        "ref": ref.to_dict(),
        "hash": ref.hash,
        "kind": kind,
        "codec": ref.codec,
        "size": ref.size,
        "stored_size": info.stored_size,
        "stored_bytes": stored,
        "blobs_below": below,
        "blobs_missing": missing,
        "expires_at": seconds_or_none(info.expires_at),
        "condemned_at": info.condemned_at,
        "pins": [{"owner": pin.owner, "expires_at": seconds_or_none(pin.expires_at)} for pin in pins],
        "aliases": [alias.name for alias in aliases],
    }


def _print(document: dict[str, object], ref: ContentRef) -> None:
    pins, aliases = document["pins"], document["aliases"]
    below, missing, condemned = (document[key] for key in ("blobs_below", "blobs_missing", "condemned_at"))
    facts = {
        "hash": ref.hash,
        "kind": f"{document['kind']}, codec {ref.codec}",
        "size": f"{show_size(ref.size)} ({ref.size:,} bytes)",
    }
    if isinstance(below, int) and isinstance(document["stored_bytes"], int):
        facts["stored"] = f"{show_size(document['stored_bytes'])} in all"
        facts["blobs below"] = f"{below:,}" + (f", {missing} MISSING" if missing else "")
    expires = document["expires_at"]
    facts["expires (UTC)"] = show_time(expires if isinstance(expires, float) else None)
    if isinstance(condemned, float):
        facts["condemned (UTC)"] = show_time(condemned)
    facts["pinned by"] = ", ".join(pin["owner"] for pin in pins) if isinstance(pins, list) else ""
    facts["aliases"] = ", ".join(aliases) if isinstance(aliases, list) else ""
    print_facts(facts)


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Digits of base 16 where the others would take too long; Python refuses to write them."""
        if x.bit_length() <= _LONG_BITS:
            return super().repr_int(x, level)
        text = hex(x)
        return text if len(text) <= _MAX_DIGITS else f"{text[:_MAX_DIGITS]}... ({x.bit_length():,} bits)"


def _write_content(opened: Opened, ref: ContentRef) -> None:
    if ref.codec == RAW_CODEC:
        with opened.cas.open(ref) as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 1024 * 1024)
        sys.stdout.buffer.flush()
        return
    short = _Repr()
    short.maxlevel = 8
    short.maxdict = short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = 50
    short.maxdeque = short.maxarray = 50
    short.maxstring = short.maxother = short.maxlong = _MAX_DIGITS
    text = short.repr(opened.cas.load(ref))
    say(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... (cut)")
