"""The writing half of a peer: contents first, then their pins, then the commit."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any, Final, NamedTuple

from agentref.coherence import _arguments as arguments
from agentref.coherence import _steps as steps
from agentref.coherence.coordinator import Write
from agentref.coherence.held import HeldLease
from agentref.coherence.keys import Key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.reader import Reader
from agentref.coherence.rows import ABSENT, LeaseMode, Row, Versioned, versioned
from agentref.coherence.views import View
from agentref.errors import Conflict, Reason, RetriesExhaustedError, StorageError
from agentref.refs import ContentRef

__all__ = ["MISSING", "Put", "Writer", "bare", "start"]

MISSING: Final = object()
TURN_SECONDS: Final = 5.0
WRITE_LEASE: Final = 10.0
AGAIN: Final = frozenset(set(Reason) - {Reason.LEASE_LOST})
chance: Final = random.SystemRandom().random  # another one in each process, whoever seeds what


class Put(NamedTuple):
    """One of several writes: a new value for what `base` shows, or None if there is nothing yet."""

    key: Key
    value: Any
    base: View | Versioned | None


class Writer(Reader):
    """Commits of a peer, and what it takes to keep their contents alive."""

    def commit(
        self,
        key: Key,
        value: Any,
        *,
        base: View | Versioned | None,
        reads: Iterable[View | Versioned] = (),
        lease: Lease | HeldLease | None = None,
    ) -> View:
        """Let `value` follow what `base` shows; `base=None` creates what is not there.

        `reads` are views on which the value rests besides: if one of them moved, this is refused too.
        Within `with peer.lease(key)` that lease is shown; another one can be given. A value that stands
        there already changes nothing.

        Raises `Conflict`, with `current` to start again from, and `UnsupportedTypeError` for a value that
        cannot be stored. Stores the value first: what is refused stays in the store for `retain_seconds`.
        """
        return self.commit_many([Put(key, value, base)], reads=reads, leases=[lease] if lease else ())[0]

    def commit_many(
        self,
        puts: Iterable[Put | tuple[Key, Any, View | Versioned | None]],
        *,
        reads: Iterable[View | Versioned] = (),
        leases: Iterable[Lease | HeldLease] = (),
    ) -> list[View]:
        """Several commits, all or nothing: (key, value, base) each."""
        wanted = self._checked(puts)
        refs = self._contents.put([put.value for put in wanted])
        return self._commit(wanted, refs, reads, leases)

    def commit_ref(self, key: Key, ref: ContentRef, *, base: View | Versioned | None) -> View:
        """`commit` of what is in the store already, as another agent handed it over. Raises
        `BlobNotFoundError` if it is not."""
        arguments.check_ref(ref)
        return self._commit(self._checked([(key, None, base)]), [ref], (), (), look=True)[0]

    def delete(self, key: Key, *, base: View | Versioned) -> View:
        """Delete what `base` shows. The version goes on: a view of before is stale from now on."""
        return self._commit(self._checked([(key, None, base)]), [None], (), ())[0]

    def update(
        self,
        key: Key,
        change: Callable[[Any], Any],
        *,
        initial: Any = MISSING,
        timeout: float = 30.0,
    ) -> View:
        """Read, compute, commit, and again while others win the race. `change` gets a copy of the value, or
        `initial` if there is none, and returns the new one; it may be called several times.

        Raises `RetriesExhaustedError` after `timeout` seconds, `BlobNotFoundError` if there is nothing and
        no `initial`, and what `change` raises.
        """
        return steps.run(self._updating(key, change, initial, timeout))

    def _checked(self, puts: Iterable[Any]) -> list[Put]:
        wanted = [Put(*put) for put in puts]
        for put in wanted:
            encode_key(put.key)
            if put.base is not None:
                arguments.own_view(bare(put.base), self.coordinator.coordinator_id, put.key)
        return wanted

    def _commit(
        self,
        puts: Sequence[Put],
        refs: Sequence[ContentRef | None],
        reads: Iterable[View | Versioned],
        leases: Iterable[Lease | HeldLease],
        *,
        look: bool = False,
    ) -> list[View]:
        shown = {**self._leases, **{lease.key: _lease(lease) for lease in leases}}
        with self._writing_to([put.key for put in puts]):
            lent = {put.key: self._lend(put.key) for put in puts if put.key not in shown}
            writes = []
            try:
                for put, ref in zip(puts, refs, strict=True):
                    code = encode_key(put.key)
                    base = self._base_of(put, code)
                    if ref is not None and base is not None and ref != base.ref:
                        self._contents.keep(code, base.version + 1, ref, look=look)
                    writes.append(Write(put.key, ref, base, shown.get(put.key) or lent.get(put.key)))
                    self._forget(put)
                began = self._began()
                rows = self._committed(writes, [bare(view) for view in reads], lent)
            except BaseException as error:
                self._take_back(lent)
                if isinstance(error, Conflict):
                    self._lost(writes)
                raise
            return [self._won(write, rows[write.key], lent.get(write.key), began) for write in writes]

    def _forget(self, put: Put) -> None:
        """The new value may have been made by changing the old one, in place."""
        if isinstance(put.base, View):
            put.base.forget()
        if (cached := self._cache.get(put.key)) is not None:
            cached.view.forget()

    def _base_of(self, put: Put, code: bytes) -> Versioned | None:
        """The base; for what is to be created the view of its absence, which has a version and an epoch."""
        if put.base is not None:
            return bare(put.base)
        row = self.coordinator.settled([code])[code]
        return None if row.ref else versioned(self.coordinator.coordinator_id, put.key, row)

    def _lend(self, key: Key) -> Lease | None:
        """The hold under which this peer reads a key, if it has one: the commit needs it. Meanwhile nobody
        reads under it, who would not see what is committed."""
        cached = self._cache.get(key)
        if cached is None or cached.hold is None:
            return None
        hold, cached.hold, cached.revision = cached.hold, None, -1
        return hold

    def _take_back(self, lent: Mapping[Key, Lease | None]) -> None:
        for hold in lent.values():
            if hold is not None:
                with suppress(StorageError):  # it ends by itself
                    self.coordinator.release(hold)

    def _committed(
        self, writes: Sequence[Write], reads: list[Versioned], lent: dict[Key, Lease | None]
    ) -> Mapping[Key, Row]:
        try:
            return self.coordinator.commit_rows(writes, agent=self.name, reads=reads)
        except Conflict as error:
            if error.reason is not Reason.LEASE_LOST or not lent.get(error.key):
                raise
            lost = error.key
        # A hold that was only there to spare questions is over: that is no reason to refuse.
        lent[lost] = None
        spared = [write._replace(lease=None) if write.key == lost else write for write in writes]
        return self._committed(spared, reads, lent)

    def _lost(self, writes: Sequence[Write]) -> None:
        """Nobody else takes away what was pinned for a version that others have passed already."""
        rows = self._table.load([encode_key(write.key) for write in writes])
        for write in writes:
            code = encode_key(write.key)
            if write.base is not None and write.base.version + 1 < rows.get(code, ABSENT).version:
                self._contents.supersede(code, write.base.version + 1)

    def _won(self, write: Write, row: Row, hold: Lease | None, began: Sequence[int]) -> View:
        code = encode_key(write.key)
        base = write.base
        if base is not None and base.ref is not None and row.version != base.version:
            self._contents.supersede(code, base.version)
        cached = self._cache.get(write.key)
        reads = 0 if cached is None else cached.reads
        return self._delivered(self._keep(write.key, code, row, hold, reads), "commit", began)

    def _updating(
        self, key: Key, change: Callable[[Any], Any], initial: Any, timeout: float
    ) -> steps.Steps[View]:
        until = time.monotonic() + arguments.check_seconds("timeout", timeout, zero=True)
        code = encode_key(key)
        for pause in chain((0.0,), steps.pauses(until)):
            yield pause * chance()
            leave = self._table.turn(code, timeout=min(TURN_SECONDS, until - time.monotonic()))
            try:
                return self._tried(key, change, initial)
            except Conflict as error:
                if error.reason not in AGAIN:
                    raise
                held = error.reason is Reason.HELD_BY_OTHER
            finally:
                if leave is not None:
                    leave()
            if held:
                return (yield from self._updating_alone(key, change, initial, until))
        raise exhausted(key, timeout)

    def _updating_alone(
        self, key: Key, change: Callable[[Any], Any], initial: Any, until: float
    ) -> steps.Steps[View]:
        """Under a lease of one's own: leases of others are in the way, and may come and go for ever."""
        self._free(key)
        left = max(until - time.monotonic(), 0.0)
        acquiring = self.coordinator.acquiring(key, self.name, WRITE_LEASE, LeaseMode.EXCLUSIVE, left)
        try:
            lease, _ = yield from acquiring
        except Conflict as error:
            raise exhausted(key, left) from error
        with self._under(lease):
            return self._tried(key, change, initial)

    @contextmanager
    def _under(self, lease: Lease) -> Iterator[None]:
        self._leases[lease.key] = lease
        try:
            yield
        finally:
            del self._leases[lease.key]
            self.coordinator.release(lease)

    def _tried(self, key: Key, change: Callable[[Any], Any], initial: Any) -> View:
        view = self.read(key)
        return self.commit(key, change(start(view, initial)), base=view)


def bare(view: View | Versioned) -> Versioned:
    """What the coordinator said, without the way to the value."""
    return view.versioned if isinstance(view, View) else view


def start(view: View, initial: Any) -> Any:
    """What a change is made from."""
    return view.copy() if view.exists or initial is MISSING else initial


def exhausted(key: Key, timeout: float) -> RetriesExhaustedError:
    """The error of who never won."""
    return RetriesExhaustedError(
        f"Others changed or held {'/'.join(key)!r:.120} whenever this tried, for {timeout:g} seconds. Try "
        f"with a longer timeout=, or hold it: with peer.lease(key, ttl=30, wait=60)."
    )


def _lease(lease: Lease | HeldLease) -> Lease:
    return lease.lease if isinstance(lease, HeldLease) else lease
