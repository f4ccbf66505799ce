"""`agentref stats`: how much is in a store."""

import typer

from agentref.cli.options import EXITS, Json, Store
from agentref.cli.output import print_facts, print_json, show_size
from agentref.cli.stores import Opened, open_store
from agentref.storage import RootStore
from agentref.storage.audit import pages

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=EXITS)(stats)


def stats(store: Store = None, json: Json = False) -> None:
    """Count what is in a store, by a scan of its index. Reads no payload.

    \b
    Example:
      agentref stats --store ./state_blobs --json
    """
    with open_store(store) as opened:
        found = _count(opened)
        document = {"store": opened.name, "store_id": opened.blobs.store_id, **found}
    if json:
        print_json(document)
        return
    print_facts(
        {
            "store": opened.name,
            "store id": str(document["store_id"]),
            "blobs": f"{found['blobs']:,}",
            "stored": show_size(found["stored_bytes"]),
            "expired": f"{found['expired']:,} blobs, {show_size(found['expired_bytes'])}",
            "condemned": f"{found['condemned']:,} blobs",
            "aliases": f"{found['aliases']:,}",
            "pins": f"{found['pins']:,}",
        }
    )


def _count(opened: Opened) -> dict[str, int]:
    found = dict.fromkeys(("blobs", "stored_bytes", "expired", "expired_bytes", "condemned"), 0)
    now = opened.blobs.clock()
    for page in pages(opened.blobs):
        expired = [info.stored_size for info in page if info.expires_at <= now]
        found["blobs"] += len(page)
        found["stored_bytes"] += sum([info.stored_size for info in page])
        found["expired"] += len(expired)
        found["expired_bytes"] += sum(expired)
        found["condemned"] += sum([info.condemned_at is not None for info in page])
    has_roots = isinstance(opened.blobs, RootStore)
    found["aliases"] = sum(1 for _ in opened.cas.iter_aliases()) if has_roots else 0
    found["pins"] = sum(1 for _ in opened.cas.iter_pins()) if has_roots else 0
    return found
