"""Packs of which little is needed: that is copied elsewhere, and their files are deleted."""

import sqlite3
from collections.abc import Collection, Iterable
from contextlib import suppress

from agentref.errors import StorageError
from agentref.refs import Digest
from agentref.sqlite import Database
from agentref.storage import _blob_table as table
from agentref.storage._batches import ENTRY_SIZE
from agentref.storage._journal import Journal
from agentref.storage._packs import Pack
from agentref.storage._tail import Appended

__all__ = ["shrink", "try_to_shrink"]


def try_to_shrink(database: Database, journal: Journal, pack_ids: Collection[int]) -> None:
    """What was asked for is done. If there is no room to copy, or no time, a sweep will do it."""
    with suppress(OSError, sqlite3.Error, StorageError):
        shrink(database, journal, pack_ids)


def shrink(database: Database, journal: Journal, pack_ids: Collection[int]) -> int:
    """Give up those of the packs of which less than half is needed, and nobody writes to; says how many."""
    if not pack_ids:
        return 0
    with database.read() as connection:
        found = [pack for pack in table.packs(connection) if pack.id in pack_ids]
    gone = [pack for pack in found if 2 * pack.live < pack.size and _move_out(database, journal, pack)]
    return len(gone)


def _move_out(database: Database, journal: Journal, old: table.PackRow) -> bool:
    """Copy what is needed out of a pack, and delete its file. False if another has the pack, or it is
    damaged."""
    pack = journal.take(old) if old.is_open else journal.packs.take(old.name)
    if pack is None:
        return False
    moved = False
    try:
        pack.end = pack.end or old.size
        needed = _needed(database, journal, old, pack)
        # If we die before all is said and done, the copies are taken for what somebody has stored. They
        # lengthen no life then, and what was removed meanwhile is back without one.
        with journal.appended(needed, 0.0) as appended:
            moved = _resettle(journal, old, needed, appended)
    finally:
        if moved:
            journal.packs.unlink([old.name])
        pack.close()
    return moved


def _needed(database: Database, journal: Journal, old: table.PackRow, pack: Pack) -> dict[Digest, bytes]:
    digests: Iterable[Digest] = (
        [digest for batch in pack.batches() for digest in batch.digests] if old.live else ()
    )
    with database.read() as connection:
        rows = table.rows(connection, dict.fromkeys(digests))
    here = sorted((row.place, row.stored_size, row.digest) for row in rows if row.pack_id == old.id)
    read = journal.packs.read(old.name, [(place, size) for place, size, _ in here])
    return {
        digest: data for (_, size, digest), data in zip(here, read or (), strict=False) if len(data) == size
    }


def _resettle(
    journal: Journal, old: table.PackRow, needed: dict[Digest, bytes], appended: Appended
) -> bool:
    """Let the rows of a pack say where their bytes are now, and give the pack up: nothing came to it.

    Not if anything is in it that was not found: then it is damaged, and stays as it is.
    """
    with journal.settled() as connection:
        here = {row.digest for row in table.rows(connection, needed) if row.pack_id == old.id}
        now = [(pack.size, pack.live) for pack in table.packs(connection) if pack.id == old.id]
        found = now == [(old.size, sum([ENTRY_SIZE + len(needed[digest]) for digest in here]))]
        if found:
            rows = appended.rows(here)
            table.move(connection, rows)
            appended.commit(connection, rows)
            table.give_up(connection, old.id)
    return found
