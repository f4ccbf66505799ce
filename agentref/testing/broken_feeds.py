"""Tables that break one promise each about the feed."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from agentref.coherence.cursors import written
from agentref.coherence.feed import Change, pack_entry, unpack_entry
from agentref.coherence.keys import decode_key
from agentref.coherence.memory import MemoryTable
from agentref.coherence.rows import Row
from agentref.coherence.table import Decide, Decision, Transition
from agentref.errors import CursorTooOldError, InvalidInputError, StoreUnavailableError
from agentref.testing.broken_rows import Altering

_Entries = tuple[Sequence[tuple[bytes, str]], str]


class ForgetsEpochsOfChanges(MemoryTable):
    """Leaves out what it thinks that nobody reads."""

    def _append(self, now: float, entry: bytes) -> None:
        super()._append(now, pack_entry([c._replace(epoch=0) for c in unpack_entry(entry, "")]))


class LosesEntries(MemoryTable):
    """Loses every third."""

    def _append(self, now: float, entry: bytes) -> None:
        self.count = self.__dict__.get("count", 0) + 1
        if self.count % 3:
            super()._append(now, entry)


class DoublesEntries(MemoryTable):
    """Delivers at least once."""

    def _append(self, now: float, entry: bytes) -> None:
        super()._append(now, entry)
        super()._append(now, entry)


class EntryForEachKey(MemoryTable):
    """Has a row for each change."""

    def _append(self, now: float, entry: bytes) -> None:
        for change in unpack_entry(entry, ""):
            super()._append(now, pack_entry([change]))


class NumbersBeforeTheCommit(MemoryTable):
    """Sorts by a number that was drawn before the commit before it."""

    def _append(self, now: float, entry: bytes) -> None:
        super()._append(now, entry)
        self._entries[-2:] = self._entries[-2:][::-1]


class AppendsAfterwards(MemoryTable):
    """Commits first, and then tells of it."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """Every second time a little later."""
        entries: list[bytes] = []

        def silent(rows: Mapping[bytes, Row], now: float) -> Decision:
            transition, result = decide(rows, now)
            if transition and transition.entry:
                entries.append(transition.entry)
                transition = transition._replace(entry=None)
            return Decision(transition, result)

        result = super().transact(keys, silent)
        for entry in entries:
            self.late = not self.__dict__.get("late", False)
            time.sleep(0.005 * self.late)
            with self._committed:
                self._append(self.clock(), entry)
        return result


class EntriesForLeases(Altering):
    """Tells of every change of a row."""

    def _altered(self, transition: Transition, _rows: Mapping[bytes, Row], /) -> Transition:
        changes = [
            Change(decode_key(key), row.version, row.ref, row.epoch, row.writer)
            for key, row in transition.rows.items()
        ]
        return transition._replace(entry=transition.entry or pack_entry(changes))


class IgnoresTheLimit(MemoryTable):
    """Has pages of its own."""

    def entries(self, since: str, /, *, limit: int) -> _Entries:
        """Of any size."""
        return super().entries(since, limit=limit + 1)


class OneCursorForAPage(MemoryTable):
    """Counts pages."""

    def entries(self, since: str, /, *, limit: int) -> _Entries:
        """All of one have one cursor."""
        page, cursor = super().entries(since, limit=limit)
        return [(entry, cursor) for entry, _ in page], cursor


class HeadIsTheBeginning(MemoryTable):
    """Shows everything to everybody."""

    def head(self) -> str:
        """From the first entry on."""
        super().head()
        return written(self.table_id, self._dropped)


class ConsumesEntries(MemoryTable):
    """Is a queue."""

    def entries(self, since: str, /, *, limit: int) -> _Entries:
        """What was read is gone."""
        page = super().entries(since, limit=limit)
        self._drop(len(page[0]))
        return page


class TakesAnyCursor(MemoryTable):
    """Begins anew with what it does not understand."""

    def entries(self, since: str, /, *, limit: int) -> _Entries:
        """From the first entry on."""
        try:
            return super().entries(since, limit=limit)
        except InvalidInputError:
            return super().entries(written(self.table_id, self._dropped), limit=limit)


class TakesAnyFeed(MemoryTable):
    """Looks only at the number."""

    def entries(self, since: str, /, *, limit: int) -> _Entries:
        """Whoever's it is."""
        return super().entries(written(self.table_id, since.partition("/")[2]), limit=limit)


class SkipsWhatIsGone(MemoryTable):
    """Goes on with what there is."""

    def entries(self, since: str, /, *, limit: int) -> _Entries:
        """Without a word."""
        try:
            return super().entries(since, limit=limit)
        except CursorTooOldError:
            return super().entries(written(self.table_id, self._dropped), limit=limit)


class NeverCompacts(MemoryTable):
    """Has all the disk in the world."""

    def compact(self, before: float, /) -> int:
        """Keeps everything."""
        return super().compact(0 * before)


class DeafWait(MemoryTable):
    """Sleeps."""

    def wait(self, since: str, /, *, timeout: float) -> None:
        """Whatever happens after that cursor."""
        super().wait(since, timeout=0)
        time.sleep(min(timeout, 1.0))


class FailsInTheEnd(MemoryTable):
    """Takes silence for a failure."""

    def wait(self, since: str, /, *, timeout: float) -> None:
        """Raises if nothing was committed."""
        super().wait(since, timeout=timeout)
        if since == self.head():
            raise StoreUnavailableError("Nothing has been heard of the others.")
