"""What was appended to a pack, on its way into the index."""

import sqlite3
from collections.abc import Collection
from itertools import repeat

from agentref.refs import Digest
from agentref.storage import _blob_table as table
from agentref.storage._batches import Batch
from agentref.storage._packs import Pack

__all__ = ["Appended", "Tail", "longest"]


class Tail:
    """What an open pack holds that the index did not know when we looked."""

    __slots__ = ("id", "name", "position", "rows", "settled")

    def __init__(self, pack: table.PackRow) -> None:
        self.id = pack.id
        self.name = pack.name
        self.position = self.settled = pack.size
        self.rows: dict[Digest, table.Row] = {}

    def add(self, batch: Batch) -> None:
        _, _, digests, places, sizes, stored_at, expires_at, *_ = batch
        pack, since, until = repeat(self.id), repeat(stored_at), repeat(expires_at)
        columns = zip(digests, pack, places, sizes, since, until, repeat(None), strict=False)
        rows = dict(zip(digests, map(table.Row._make, columns), strict=True))
        if not self.rows.keys().isdisjoint(rows):
            # Two threads came with one blob, one after the other into one pack: its life only lengthens.
            for digest in self.rows.keys() & rows.keys():
                rows[digest] = longest(self.rows[digest], rows[digest])
        self.rows.update(rows)
        self.position = batch.end

    def settle(self, end: int) -> None:
        """The index knows what lies before `end`, and knows better from now on."""
        self.settled = end
        if end >= self.position:
            self.position = end
            self.rows.clear()
        else:
            self.rows = {digest: row for digest, row in self.rows.items() if row.place >= end}


def longest(one: table.Row, other: table.Row) -> table.Row:
    """The second row of a blob that was appended twice, with the longer life of the two."""
    return other._replace(
        touched_at=max(one.touched_at, other.touched_at), expires_at=max(one.expires_at, other.expires_at)
    )


class Appended:
    """A batch that was synced, and which only a transaction of the caller's makes visible."""

    def __init__(self, pack: Pack, batch: Batch | None) -> None:
        self._pack = pack
        self._batch = batch

    def rows(self, digests: Collection[Digest]) -> list[table.Row]:
        """The rows of those blobs of the batch."""
        if self._batch is None:
            return []
        _, _, names, places, sizes, stored_at, expires_at, *_ = self._batch
        return [
            table.Row(digest, self._pack.id, place, size, stored_at, expires_at)
            for digest, place, size in zip(names, places, sizes, strict=True)
            if digest in digests
        ]

    def commit(self, connection: sqlite3.Connection, new: Collection[table.Row]) -> None:
        """Of the batch these rows live; to be called in the transaction."""
        if self._batch is not None:
            table.fill_pack(connection, self._pack.id, self._batch.end, new)
