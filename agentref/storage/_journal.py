"""The open packs as a journal: what was appended and synced is here, and the index learns of it later.

A batch costs one sync, of its pack. Its rows wait in memory, with every process that looks, until a few
thousand can go to the index at once: names are random, and a hundred of them touch as many pages of the
index as a thousand do. `settle` moves them. A process that dies in between leaves nothing to repair: the
packs tell all that their rows would.
"""

import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Final

from agentref.errors import StoreBusyError, StoreFullError
from agentref.forks import watch_forks
from agentref.refs import Digest
from agentref.sqlite import Database
from agentref.storage import _blob_table as table
from agentref.storage._batches import pins_in
from agentref.storage._marks import Marks
from agentref.storage._packs import FULL, Pack, Packs
from agentref.storage._pinning import index_pins, recover_pins
from agentref.storage._roots import set_pins
from agentref.storage._tail import Appended, Tail, longest
from agentref.storage.protocol import PinRow

__all__ = ["Journal"]

_MANY: Final = 4096
"""Blobs that may wait for the index, whoever stored them: less than 2 MB of memory."""


class Journal:
    """The open packs of one store. Safe for threads, processes and across forks.

    To be used within sessions of the database. `changes` is another number than before if the index or
    another process may have got something new, as far as `find` could see.
    """

    def __init__(self, root: Path, database: Database, *, patience: float) -> None:
        self._database = database
        self.packs = Packs(root)
        self._marks = Marks(root / "marks", patience=patience)
        self._lock = threading.Lock()
        self._tails: dict[int, Tail] = {}
        self._listing = -1
        self.changes = 0
        self._doubts = count(2)
        self._waiting = 0
        self._more = 0
        self._names: dict[int, str] = {}
        watch_forks(self)

    # Looking

    def find(self, digests: Iterable[Digest]) -> dict[Digest, table.Row]:
        """Those that the index may not know yet. To be asked before the index is."""
        self._look()
        found: dict[Digest, table.Row] = {}
        for tail in list(self._tails.values()):
            if rows := tail.rows:
                for digest in digests:
                    if (row := rows.get(digest)) is not None:
                        found[digest] = longest(found[digest], row) if digest in found else row
        return found

    def whole(self, rows: Collection[table.Row]) -> list[table.Row]:
        """Those of which all bytes are in their packs."""
        names = self.names({row.pack_id for row in rows})
        sizes = {pack_id: self.packs.size(name) for pack_id, name in names.items()}
        return [row for row in rows if row.place + row.stored_size <= sizes.get(row.pack_id, -1)]

    def names(self, pack_ids: Collection[int]) -> dict[int, str]:
        """The names of packs; one that is deleted may be among them. No two packs ever have one id."""
        if not all(map(self._names.__contains__, pack_ids)):
            with self._database.read() as connection:
                self._names = {pack.id: pack.name for pack in table.packs(connection)}
        return {pack_id: self._names[pack_id] for pack_id in pack_ids if pack_id in self._names}

    def _look(self) -> None:
        with self._lock:
            if self._marks.listing != self._listing:
                self._list()
            for tail in self._tails.values():
                durable, settled = self._marks.of(tail.id)
                if settled <= tail.settled and durable <= tail.position:
                    continue
                self.changes += 1
                size = self.packs.size(tail.name)  # whatever is in the marks
                if settled > tail.settled:
                    tail.settle(min(settled, max(size, tail.position)))
                durable = min(durable, size)
                if durable > tail.position:
                    for batch in self.packs.batches(tail.name, tail.position, durable):
                        tail.add(batch)
                    tail.position = durable  # even if something on the way is damaged

    def _list(self) -> None:
        listing = self._marks.listing  # before we look: what comes later is for the next time
        with self._database.read() as connection:
            found = table.open_packs(connection)
        self.changes += 1
        self._tails = {pack.id: self._tails.get(pack.id) or Tail(pack) for pack in found}
        self._listing = listing

    # Appending

    def append(
        self, blobs: Mapping[Digest, bytes], expires_at: float, pins: Collection[PinRow] = ()
    ) -> None:
        """Keep blobs that are not here, and pins; durable, and visible to all processes, on return."""
        pack = self._claim()
        try:
            batch = pack.append(blobs, stored_at=time.time(), expires_at=expires_at, pins=pins)
            if pins:
                index_pins(self._database, pack, batch, pins)
            self._marks.set_durable(pack.id, batch.end)
            with self._lock:
                if pack.id not in self._tails:
                    self._list()
                tail = self._tails.get(pack.id)
                if tail is not None and tail.position == batch.begin:
                    tail.add(batch)
                self._waiting += len(blobs)
        finally:
            self.packs.give_back(pack)
        waiting = sum([len(tail.rows) for tail in list(self._tails.values())])
        if batch.end >= FULL or waiting >= _MANY + self._more:
            self.try_to_settle()

    @contextmanager
    def appended(self, blobs: Mapping[Digest, bytes], expires_at: float) -> Iterator[Appended]:
        """Append blobs, of which nobody knows before the block has called `commit` in a transaction.

        When the block raises, or does not call it, they are cut off again.
        """
        if not blobs:
            yield Appended(Pack("", -1), None)
            return
        pack = self._claim()
        try:
            batch = pack.append(blobs, stored_at=time.time(), expires_at=expires_at)
            try:
                yield Appended(pack, batch)
            finally:
                # The error may have come when all was committed, as Ctrl-C does: then others rely on it.
                with self._database.read() as connection:
                    known = {row.id: row.size for row in table.packs(connection)}
                if known.get(pack.id, 0) >= batch.end:
                    self._marks.set_durable(pack.id, batch.end)
                    self._marks.set_settled(pack.id, batch.end)
                else:
                    pack.cut(batch.begin)
        finally:
            self.packs.give_back(pack)

    def _claim(self) -> Pack:
        self._marks.check_file()
        pack = self.packs.idle()
        if pack is not None:
            return pack
        self._database.check_file()
        if self._waiting:
            self.try_to_settle()  # the pack of those that wait may be lost, and others should know
        with self._database.read() as connection:
            found = table.open_packs(connection)
        full = False
        for known in found:
            pack = self.take(known)
            if pack is None:
                continue
            if pack.end < FULL:
                return pack
            pack.close()
            full = True
        if full:
            self.try_to_settle()  # nobody need look at them again
        return self._create()

    def take(self, known: table.PackRow) -> Pack | None:
        """An open pack for this process alone; None if another has it, or if it is not whole any more."""
        pack = self.packs.take(known.name)
        if pack is None or pack.id:
            return pack
        ready = False
        try:
            ready = self._make_ready(pack, known.id)
        finally:
            if not ready:
                pack.close()
        return pack if ready else None

    def _make_ready(self, pack: Pack, pack_id: int) -> bool:
        """Find out how far a pack reaches that we have just locked. Its last writer may have crashed."""
        with self._database.read() as connection:  # not before: until now, others could write to it
            known = next((row for row in table.open_packs(connection) if row.id == pack_id), None)
        size = pack.file_size
        if known is None or known.size > size:
            return False  # it was given up, or cut short
        if not pack.recover(known.size, at_least=min(self._marks.of(pack_id)[0], size)):
            return False
        pack.id = pack_id
        recover_pins(self._database, known, pack.batches(known.pinned), end=pack.end)
        self._marks.take(pack_id, pack.end, known.size)
        self._marks.list_anew()  # whoever made it may have died before he could say so
        return True

    def _create(self) -> Pack:
        pack = self.packs.create()
        try:
            self._register(pack)
        except BaseException:
            pack.close()
            self.packs.unlink([pack.name])
            raise
        return pack

    def _register(self, pack: Pack, pins: Collection[PinRow] = ()) -> None:
        with self._database.write() as connection:
            pack.id = table.add_pack(connection, pack.name, shares_place=Marks.PLACES)
            set_pins(connection, pins)
            table.set_pinned(connection, pack.id, pack.end)
            self._marks.take(pack.id, pack.end, 0)  # before anybody can find it in the index
        self._marks.list_anew()

    # Settling

    @contextmanager
    def settled(self) -> Iterator[sqlite3.Connection]:
        """A transaction in which the index knows all that was appended before it."""
        self._marks.check_file()
        with self._database.write() as connection:
            ends = self._settle(connection)
            yield connection
        for pack_id, end in ends.items():
            self._marks.set_settled(pack_id, end)

    def begin_removal(self) -> int:
        """To be called in a transaction before it takes blobs away: nobody trusts what he knew to be here
        until `end_removal` is called with what this returns."""
        # Odd before anything is gone, and until after all of it is. If we die in between it stays so: then
        # nobody remembers anything until the next removal, which is slow, and safe.
        self._marks.epoch = begun = (self._marks.epoch + 1) | 1
        return begun

    def end_removal(self, begun: int) -> None:
        """The transaction has ended. If the index is busy now, the removal counts as under way still."""
        with suppress(StoreBusyError, sqlite3.OperationalError), self._database.write():
            # In here nobody else begins a removal; before it, somebody may have.
            if self._marks.epoch == begun:
                self._marks.epoch = begun + 1

    def epoch(self) -> int:
        """A number that moves whenever blobs are removed; never the same twice while they may be."""
        epoch = self._marks.epoch
        return epoch if epoch % 2 == 0 else -next(self._doubts)

    def settle(self) -> None:
        """Let the index know all that was appended until now, if there is something."""
        self._look()
        if any(tail.rows for tail in self._tails.values()):
            with self.settled():
                pass

    def try_to_settle(self) -> None:
        """`settle`, if there is room, and nobody has locked the index; else when as many more have come."""
        self._more += _MANY
        with suppress(OSError, sqlite3.Error, StoreBusyError, StoreFullError):
            self.settle()
            self._more = 0

    def _settle(self, connection: sqlite3.Connection) -> dict[int, int]:
        self._look()
        with self._lock:  # other threads append: what is in the rows and how far they reach must agree
            tails = {tail.id: (tail.position, list(tail.rows.values())) for tail in self._tails.values()}
            self._waiting = 0
        found = table.open_packs(connection)
        # Of a pack that may not grow any more the index knows all; its last writer may have died before he
        # could say so.
        closed = {pack_id for pack_id, _ in self._marks.unsettled()}.difference([pack.id for pack in found])
        ends = {pack_id: self._marks.of(pack_id)[0] for pack_id in closed}
        for pack in found:
            if pack.id not in tails:
                continue  # it was made a moment ago
            position, rows = tails[pack.id]
            rows = [row for row in rows if row.place >= pack.size]
            known = {row.digest: row for row in table.rows(connection, [row.digest for row in rows])}
            ends[pack.id] = max(position, pack.size)
            if ends[pack.id] > pack.size:
                new = [row for row in rows if row.digest not in known]
                table.insert(connection, new)
                if known:
                    new += self._settle_again(
                        connection, known, [row for row in rows if row.digest in known]
                    )
                table.fill_pack(connection, pack.id, ends[pack.id], new)
        return ends

    def _settle_again(
        self, connection: sqlite3.Connection, known: dict[Digest, table.Row], rows: list[table.Row]
    ) -> list[table.Row]:
        """Two writers came with one blob at the same time, or its first pack is lost. All promises hold.

        Returns the rows that now say where the blob is.
        """
        whole = {row.digest for row in self.whole(known.values())}
        for row in rows:
            table.touch(connection, [row.digest], now=row.touched_at, expires_at=row.expires_at)
        moved = [row for row in rows if row.digest not in whole]
        table.loosen(connection, [known[row.digest] for row in moved])
        table.move(connection, moved)
        return moved

    # Opening and closing

    def adopt(self) -> int:
        """Take over what crashed writers left; delete the files of packs that were given up.

        Returns how many files were deleted.
        """
        dropped = self._drop_given_up()
        with self._database.read() as connection:
            found = table.packs(connection)
        for pack in filter(attrgetter("is_open"), found):
            durable, settled = self._marks.of(pack.id)
            size = self.packs.size(pack.name)
            recover_pins(self._database, pack, self.packs.batches(pack.name, pack.pinned, size))
            # The index cannot know less than the marks say, unless an older one was put back.
            if settled > pack.size or size > max(pack.size, durable):
                taken = self.take(pack)
                if taken is not None:
                    taken.close()
        for name in set(self.packs.names()).difference([pack.name for pack in found]):
            dropped += self._adopt_unlisted(name)
        return dropped

    def take_over(self) -> None:
        """Let the index have what writers left who died before they could tell anybody."""
        self._look()
        for tail in list(self._tails.values()):
            if self.packs.size(tail.name) > self._marks.of(tail.id)[0]:
                with self._database.read() as connection:
                    found = [pack for pack in table.open_packs(connection) if pack.id == tail.id]
                if found and (pack := self.take(found[0])) is not None:
                    self.packs.give_back(pack)

    def _drop_given_up(self) -> int:
        with self._database.read() as connection:
            gone = table.given_up(connection)
        if gone:
            self.packs.unlink([pack.name for pack in gone])
            with self._database.write() as connection:
                table.forget_packs(connection, gone)
        return len(gone)

    def _adopt_unlisted(self, name: str) -> bool:
        """A pack that the index does not know: an older one was put back, or a writer died with its first
        batch. True if nothing was in it."""
        pack = self.packs.take(name)
        if pack is None:
            return False  # its writer lives
        try:
            with self._database.read() as connection:
                listed = any(known.name == name for known in table.packs(connection))
            if listed or pack.id:
                return False
            pack.recover(0)
            if pack.end:
                self._register(pack, [pin for batch in pack.batches() for pin in pins_in(batch)])
                return False
            self.packs.unlink([name])
            return True
        finally:
            pack.close()

    @property
    def waits(self) -> bool:
        """Whether blobs that we appended wait for the index."""
        return self._waiting > 0

    def close(self) -> None:
        """Let go of packs and marks."""
        self.packs.close()
        self._marks.close()

    def before_fork(self) -> None:
        """Nothing: verbs that run are waited for by the database."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """A lock of the child's own."""
        self._lock = threading.Lock()
