"""Pins that are set together with blobs: one sync for both, that of the pack.

They lie in the batch of the blobs, and the index gets them in a transaction that waits for no disk. If a
power cut takes that away, whoever opens the store next finds them there: `pinned` says up to where the
index has them. It is written in the same transaction, so that what was let go of since never comes back.
"""

from collections.abc import Collection, Iterable

from agentref.sqlite import Database
from agentref.storage import _blob_table as table
from agentref.storage._batches import Batch, pins_in
from agentref.storage._packs import Pack
from agentref.storage._roots import set_pins
from agentref.storage.protocol import PinRow

__all__ = ["index_pins", "recover_pins"]


def index_pins(database: Database, pack: Pack, batch: Batch, pins: Collection[PinRow]) -> None:
    """Let the index have the pins of a batch that was just synced. When it cannot, the batch is cut off."""
    try:
        with database.write_unsynced() as connection:
            set_pins(connection, pins, is_synced=False)
            table.set_pinned(connection, pack.id, batch.end)
    except BaseException:
        # The error may have come when all was committed, as Ctrl-C does: then others rely on it.
        with database.read() as connection:
            known = {row.id: row.pinned for row in table.packs(connection)}
        if known.get(pack.id, 0) < batch.end:
            pack.cut(batch.begin)
        raise


def recover_pins(
    database: Database, known: table.PackRow, batches: Iterable[Batch], *, end: int | None = None
) -> None:
    """Let the index have the pins in these batches of a pack, but for those that it has had. `end` is where
    the pack ends, if it is this process's alone.

    Whoever opens the store does that, even if another has the pack: that one may be about to do the same.
    """
    found = [(batch.begin, pin) for batch in batches for pin in pins_in(batch)]
    if found or (end is not None and end < known.pinned):
        with database.write() as connection:
            pinned = [row.pinned for row in table.packs(connection) if row.id == known.id]
            set_pins(connection, [pin for begin, pin in found if pinned and begin >= pinned[0]])
            if end is not None:
                table.set_pinned(connection, known.id, end)
