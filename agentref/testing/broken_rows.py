"""Tables that break one promise each about their rows and keys."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from agentref.coherence.keys import decode_key
from agentref.coherence.memory import MemoryTable
from agentref.coherence.rows import ABSENT, Row
from agentref.coherence.table import Decide, Decision, Transition
from agentref.errors import IntegrityError, StoreUnavailableError

_MOMENT = 0.01


class Altering(MemoryTable):
    """Keeps something else than what was decided."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """And returns what was decided."""

        def altered(rows: Mapping[bytes, Row], now: float) -> Decision:
            transition, result = decide(rows, now)
            return Decision(transition and self._altered(transition, rows), result)

        return super().transact(keys, altered)

    def _altered(self, transition: Transition, rows: Mapping[bytes, Row], /) -> Transition:
        kept = {key: self._kept(key, rows[key], row) for key, row in transition.rows.items()}
        return transition._replace(rows=kept)

    def _kept(self, key: bytes, old: Row, new: Row, /) -> Row:
        raise NotImplementedError


class FindsAnything(MemoryTable):
    """Has a default for what is not there."""

    def load(self, keys: Sequence[bytes], /) -> Mapping[bytes, Row]:
        """Some other row."""
        return dict.fromkeys(keys, next(iter(self._rows.values()), ABSENT)) | dict(super().load(keys))


class ForgetsWhere(Altering):
    """Has no column for the backend of a ref."""

    def _kept(self, _key: bytes, _old: Row, new: Row, /) -> Row:
        ref = new.ref
        return new._replace(ref=ref and type(ref)(ref.digest, ref.codec, ref.size))


class ForgetsWriters(Altering):
    """Has no column for who wrote."""

    def _kept(self, _key: bytes, old: Row, new: Row, /) -> Row:
        return new._replace(writer=old.writer)


class SwapsWithoutComparing(MemoryTable):
    """Decides on the rows that it saw when it looked last."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """On a cache of its own."""
        seen: dict[bytes, Row] = self.__dict__.setdefault("seen", {})

        def stale(rows: Mapping[bytes, Row], now: float) -> Decision:
            old = {key: seen[key] if seen.get(key, ABSENT).version else row for key, row in rows.items()}
            seen.update(rows)
            return decide(old, now)

        return super().transact(keys, stale)


class LooksThenSwaps(MemoryTable):
    """Reads, decides and writes without a lock."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """Whoever is last undoes what the others did."""
        found = self.load(keys)
        time.sleep(_MOMENT)
        decision = decide({key: found.get(key, ABSENT) for key in keys}, self.clock())
        return super().transact(keys, lambda *_: decision)


class LocksWhatIsThere(MemoryTable):
    """Has no lock for a row that does not exist yet."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """Inserts or replaces."""
        if self.load(keys):
            return super().transact(keys, decide)
        time.sleep(_MOMENT)
        decision = decide(dict.fromkeys(keys, ABSENT), self.clock())
        return super().transact(keys, lambda *_: decision)


class _MovedError(Exception):
    """A row that is to be written has changed."""


class LocksWhatIsWritten(MemoryTable):
    """Compares only the rows that change: snapshot isolation."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """Tries again if one of those was changed meanwhile."""
        while True:
            found = self.load(keys)
            rows = {key: found.get(key, ABSENT) for key in keys}
            time.sleep(_MOMENT)
            decision = decide(rows, self.clock())
            with suppress(_MovedError):
                return super().transact(keys, self._swapping(rows, decision))

    def _swapping(self, rows: Mapping[bytes, Row], decision: Decision) -> Decide:
        def swap(now: Mapping[bytes, Row], _: float) -> Decision:
            written = decision.transition.rows if decision.transition else ()
            if any(now[key] is not rows[key] for key in written):
                raise _MovedError
            return decision

        return swap


class KeepsHalf(Altering):
    """Stops in the middle of a commit."""

    def _altered(self, transition: Transition, _rows: Mapping[bytes, Row], /) -> Transition:
        kept = list(transition.rows.items())
        return transition._replace(rows=dict(kept[: len(kept) // 2 or 1]))


class LoadsRowByRow(MemoryTable):
    """Has no snapshot."""

    def load(self, keys: Sequence[bytes], /) -> Mapping[bytes, Row]:
        """One after the other."""
        found: dict[bytes, Row] = {}
        for key in keys:
            found |= super().load([key])
            time.sleep(_MOMENT / 4)
        return found


class LoadsFromACache(MemoryTable):
    """Never looks twice."""

    def load(self, keys: Sequence[bytes], /) -> Mapping[bytes, Row]:
        """What was there the first time."""
        cache: dict[bytes, Row] = self.__dict__.setdefault("cache", {})
        return {key: cache.setdefault(key, row) for key, row in super().load(keys).items()}


class DropsTombstones(MemoryTable):
    """Deletes what was deleted."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """And with it the version."""
        result = super().transact(keys, decide)
        for key in keys:
            if key in self._rows and self._rows[key].ref is None:
                del self._rows[key]
        return result


class KeepsContent(Altering):
    """Takes NULL for "as it was"."""

    def _kept(self, _key: bytes, old: Row, new: Row, /) -> Row:
        return new._replace(ref=new.ref or old.ref)


class ReusesRows(Altering):
    """Names rows by their content."""

    def _kept(self, key: bytes, _old: Row, new: Row, /) -> Row:
        known: dict[Any, Row] = self.__dict__.setdefault("known", {})
        return known.setdefault((key, new.ref), new)


class OneContent(Altering):
    """Stores the content of everything once."""

    def _kept(self, _key: bytes, _old: Row, new: Row, /) -> Row:
        return new._replace(ref=self.__dict__.setdefault("ref", new.ref))


class TouchesAlways(MemoryTable):
    """Writes whatever it has looked at."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """With a new revision."""

        def touching(rows: Mapping[bytes, Row], now: float) -> Decision:
            transition, result = decide(rows, now)
            touched = {key: row._replace(revision=row.revision + 1) for key, row in rows.items()}
            return Decision(Transition({**touched, **(transition or Transition({})).rows},
                                       transition and transition.entry), result)  # fmt: skip

        return super().transact(keys, touching)


class SwallowsErrors(MemoryTable):
    """Takes corruption for "nothing to do"."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """The rows as they are."""
        try:
            return super().transact(keys, decide)
        except IntegrityError:
            return {key: self._rows.get(key, ABSENT) for key in keys}, None


class WrapsErrors(MemoryTable):
    """Takes whatever is raised for a failure of its own."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """Typed, at least."""
        try:
            return super().transact(keys, decide)
        except Exception as error:
            raise StoreUnavailableError(f"The transaction failed: {error!r}") from error


class CountsRevisions(Altering):
    """Names a row by its version."""

    def _kept(self, _key: bytes, _old: Row, new: Row, /) -> Row:
        return new._replace(revision=new.version + 1)


class ProbesVersions(MemoryTable):
    """Sees only commits."""

    def probe(self, key: bytes, /) -> int:
        """And no lease."""
        return self._rows.get(key, ABSENT).version


class StuckProbe(MemoryTable):
    """Never looks twice."""

    def probe(self, key: bytes, /) -> int:
        """What was there the first time."""
        seen: dict[bytes, int] = self.__dict__.setdefault("seen", {})
        return seen.setdefault(key, super().probe(key))


class OldSnapshot(MemoryTable):
    """Probes in a transaction that is open since the thread's last one."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """Begins a new one."""
        result = super().transact(keys, decide)
        self.__dict__.setdefault("open", threading.local()).rows = dict(self._rows)
        return result

    def probe(self, key: bytes, /) -> int:
        """What it was then."""
        rows: dict[bytes, Row] = getattr(self.__dict__.get("open"), "rows", self._rows)
        return rows.get(key, ABSENT).revision


class NeverClosed(MemoryTable):
    """Goes on."""

    def close(self) -> None:
        """Does nothing."""


class SameName(MemoryTable):
    """Is named after its kind."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.table_id = "table"


class OfOneThread(MemoryTable):
    """Is like a connection of SQLite."""

    is_local = False

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self._thread = threading.get_ident()

    def head(self) -> str:
        """Not from another thread."""
        if threading.get_ident() != self._thread:
            raise StoreUnavailableError("It was made in another thread.")
        return super().head()


# Keys


class Placing(MemoryTable):
    """Keeps a row at some other key."""

    def transact(self, keys: Sequence[bytes], decide: Decide, /) -> Any:
        """Which two may share."""
        places = {self._place(key): key for key in keys}

        def placed(rows: Mapping[bytes, Row], now: float) -> Decision:
            transition, result = decide({places[place]: row for place, row in rows.items()}, now)
            if transition:
                kept = {self._place(key): row for key, row in transition.rows.items()}
                transition = transition._replace(rows=kept)
            return Decision(transition, result)

        return super().transact(list(places), placed)

    def _place(self, key: bytes) -> bytes:
        raise NotImplementedError


class FoldsCase(Placing):
    """Compares keys as SQLite's NOCASE does."""

    def _place(self, key: bytes) -> bytes:
        return key.lower()


class JoinsParts(Placing):
    """Takes a key for a path."""

    def _place(self, key: bytes) -> bytes:
        return "/".join(decode_key(key)).encode()


class CutsKeys(Placing):
    """Has a column of 255 bytes."""

    def _place(self, key: bytes) -> bytes:
        return key[:255]


class ScansText(MemoryTable):
    """Takes a prefix for a text."""

    def scan(self, first: bytes, stop: bytes, /, *, limit: int) -> Sequence[tuple[bytes, Row]]:
        """("a",) is in front of ("ab",)."""
        return super().scan(first.removesuffix(b"\xff"), stop, limit=limit)


class ScansBackwards(MemoryTable):
    """Sorts the other way."""

    def scan(self, first: bytes, stop: bytes, /, *, limit: int) -> Sequence[tuple[bytes, Row]]:
        """The last one comes first."""
        return super().scan(first, stop, limit=limit)[::-1]


class ScansToTheStop(MemoryTable):
    """Is a BETWEEN."""

    def scan(self, first: bytes, stop: bytes, /, *, limit: int) -> Sequence[tuple[bytes, Row]]:
        """Both bounds are in it."""
        return super().scan(first, stop + b"\0", limit=limit)
