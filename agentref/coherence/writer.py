"""The writing half of a peer: contents first, then their pins, then the commit."""

import copy
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from agentref.coherence import _arguments as arguments
from agentref.coherence import _steps as steps
from agentref.coherence._clock import elapsed
from agentref.coherence.contents import ContentStore, Version
from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.heartbeat import Heartbeat
from agentref.coherence.held import HeldLease
from agentref.coherence.keys import Key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.reader import Reader
from agentref.coherence.rows import ABSENT, LeaseMode, Row, Versioned, versioned
from agentref.coherence.views import UNKNOWN, View
from agentref.errors import (
    Conflict,
    ForeignViewError,
    InvalidInputError,
    Reason,
    RetriesExhaustedError,
)
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


class Asked(NamedTuple):
    """A commit whose arguments are in order: writes, what they rest on, and leases that were given."""

    puts: Sequence[Put]
    reads: Sequence[Versioned]
    leases: Mapping[Key, Lease]
    at: float


class Writer(Reader):
    """Commits of a peer, and what it takes to keep their contents alive."""

    def __init__(
        self, coordinator: Coordinator, name: str, *, backend: ContentStore, **options: Any
    ) -> None:
        super().__init__(coordinator, name, backend=backend, **options)
        self._heartbeat = Heartbeat(f"agentref-{name}")
        self._pinning = Heartbeat(f"agentref-{name}-pins")  # a slow store must not cost a lease

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
        asked = self._checked(puts, reads, leases)
        encoded = self._contents.encode([put.value for put in asked.puts])
        return self._commit(asked, encoded.refs, encoded)

    def commit_ref(self, key: Key, ref: ContentRef, *, base: View | Versioned | None) -> View:
        """`commit` of what is in the store already, as another agent handed it over. Raises
        `BlobNotFoundError` if it is not."""
        if not isinstance(ref, ContentRef):
            raise InvalidInputError(
                f"commit_ref() takes a ContentRef, as CAS.dump() returns it; not {type(ref).__name__}. To "
                f"delete, call delete(key, base=view)."
            )
        return self._commit(self._checked([(key, UNKNOWN, base)]), [ref])[0]

    def delete(self, key: Key, *, base: View | Versioned) -> View:
        """Delete what `base` shows. The version goes on: a view of before is stale from now on."""
        return self._commit(self._checked([(key, None, base)]), [None])[0]

    def update(
        self,
        key: Key,
        change: Callable[[Any], Any],
        *,
        initial: Any = MISSING,
        timeout: float = 30.0,
    ) -> View:
        """Read, compute, commit, and again while others win the race. `change` gets a copy of the value, or
        of `initial` if there is none, and returns the new one; it may be called several times.

        Raises `RetriesExhaustedError` after `timeout` seconds, `BlobNotFoundError` if there is nothing and
        no `initial`, and what `change` raises.
        """
        until = time.monotonic() + arguments.check_seconds("timeout", timeout, zero=True)
        code = encode_key(key)
        if not callable(change):
            raise InvalidInputError(f"update() takes a function of the value, not {type(change).__name__}.")
        for pause in chain((0.0,), steps.pauses(until)):
            if pause:  # to sleep for no time takes as long as a lookup in the database
                time.sleep(pause * chance())
            leave = self._table.turn(code, timeout=min(TURN_SECONDS, until - time.monotonic()))
            try:
                outcome = self._tried(key, change, initial)
            finally:
                if leave is not None:
                    leave()
            if isinstance(outcome, Conflict) and outcome.reason is Reason.HELD_BY_OTHER:
                outcome = self._tried_alone(key, change, initial, until)
            elif isinstance(outcome, Conflict) and outcome.reason not in AGAIN:
                raise outcome
            if isinstance(outcome, View):
                return outcome
        raise exhausted(key, timeout)

    def lease(
        self, key: Key, *, ttl: float, mode: LeaseMode | str = LeaseMode.EXCLUSIVE, wait: float = 0.0
    ) -> HeldLease:
        """`with peer.lease(key, ttl=30) as lease:` keeps others from committing, and renews itself until
        the block ends. Commits of that key within are made under it. `async with` as well.

        Entering raises `Conflict` (`held_by_other`) if it cannot be had within `wait` seconds.
        """
        encode_key(key)
        return HeldLease(
            self.coordinator,
            self._heartbeat,
            key,
            holder=self.name,
            ttl=arguments.check_seconds("ttl", ttl),
            mode=arguments.check_mode(mode),
            wait=arguments.check_seconds("wait", wait, zero=True),
            free=self._free,
            blocks=self._blocks,
        )

    def _checked(
        self,
        puts: Iterable[Any],
        reads: Iterable[View | Versioned] = (),
        leases: Iterable[Lease | HeldLease] = (),
    ) -> "Asked":
        """Everything that can be wrong with a commit, before anything is stored."""
        origin = self.coordinator.coordinator_id
        wanted = [_put(put) for put in arguments.each_of("puts", puts, "(key, value, base)")]
        keys = {encode_key(put.key) for put in wanted}
        if len(keys) < len(wanted):
            raise InvalidInputError("A commit writes each key once, and a key was given twice.")
        for put in wanted:
            if put.base is not None:
                arguments.own_view(bare(put.base), origin, put.key)
        seen = [arguments.own_view(bare(v), origin) for v in arguments.each_of("reads", reads, "views")]
        shown = {}
        for each in arguments.each_of("leases", leases, "leases"):
            lease = each.lease if isinstance(each, HeldLease) else each
            if arguments.own_lease(lease, origin) not in keys:
                raise ForeignViewError(f"The lease is on {lease.key!r:.80}, which is not written here.")
            shown[lease.key] = lease
        for put in wanted:
            self._forget(put)
        return Asked(wanted, seen, shown, elapsed())

    def _commit(self, asked: "Asked", refs: Sequence[ContentRef | None], encoded: Any = None) -> list[View]:
        """Without `encoded`, what the refs stand for is in the store already."""
        writes = []
        versions: list[Version] = []
        for put, ref in zip(asked.puts, refs, strict=True):
            code = encode_key(put.key)
            base = self._base_of(put, code)
            if ref is not None and base is not None and ref != base.ref:
                versions.append((code, base.version + 1, ref))
            writes.append(Write(put.key, ref, base, asked.leases.get(put.key) or self._own_lease(put.key)))
        if encoded is not None:
            self._contents.put(encoded, versions)
        if encoded is None or elapsed() - asked.at > self._contents.retain / 10:
            # Who was stopped since the content was stored may have come too late to pin it.
            self._contents.keep(versions)
        with self._writing_to([put.key for put in asked.puts]):
            began = self._began()
            try:
                rows = self._committed(writes, asked)
            except Conflict:
                self._lost(writes)
                raise
            except BaseException:
                for put in asked.puts:  # it may have taken effect, and nobody asks under a hold
                    self._free(put.key)
                raise
            views = [self._won(write, rows[write.key], began) for write in writes]
        for put, ref, view in zip(asked.puts, refs, views, strict=True):
            if ref is not None and ref == view.ref:
                view.know(put.value)
        return views

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

    def _own_lease(self, key: Key) -> Lease | None:
        """That of a block, or the one under which this peer reads without asking."""
        return self._blocks.lease_on(key) or self._hold_on(key)

    def _hold_on(self, key: Key) -> Lease | None:
        cached = self._cache.find(key)
        return None if cached is None else cached.hold

    def _committed(self, writes: list[Write], asked: "Asked") -> Mapping[Key, Row]:
        try:
            return self.coordinator.commit_rows(writes, agent=self.name, reads=asked.reads)
        except Conflict as error:
            lease = next((write.lease for write in writes if write.key == error.key), None)
            if error.key in asked.leases or not self._in_own_way(error, lease):
                raise
        with self._holding:
            for number, write in enumerate(writes):
                if write.key not in asked.leases:
                    writes[number] = write._replace(lease=self._living_lease(write.key))
            return self.coordinator.commit_rows(writes, agent=self.name, reads=asked.reads)

    def _in_own_way(self, error: Conflict, lease: Lease | None) -> bool:
        """Whether it may have been refused only because of what other threads of this peer do: of a hold,
        which is there to spare questions and has ended, or is being taken or given back; or of a block that
        is left by now."""
        if error.reason is Reason.LEASE_LOST and lease is not None:
            block = self._blocks.lease_on(error.key)
            return block is None or block.fence != lease.fence
        return error.reason is Reason.HELD_BY_OTHER and error.holder == self.name

    def _living_lease(self, key: Key) -> Lease | None:
        """`_own_lease`, but no hold that has ended. To be called under the lock of holds."""
        hold = self._hold_on(key)
        if hold is not None and all(lease.fence != hold.fence for lease in self.coordinator.leases(key)):
            self._free(key)
        return self._own_lease(key)

    def _lost(self, writes: Sequence[Write]) -> None:
        """Nobody else takes away what was pinned for a version that others have passed already."""
        rows = self._table.load([encode_key(write.key) for write in writes])
        for write in writes:
            code = encode_key(write.key)
            if write.base is not None and write.base.version + 1 < rows.get(code, ABSENT).version:
                self._contents.supersede(code, write.base.version + 1)

    def _won(self, write: Write, row: Row, began: Sequence[int]) -> View:
        code = encode_key(write.key)
        base = write.base
        if base is not None and base.version and row.version != base.version:
            self._contents.supersede(code, base.version, base.ref, age=row.at - base.at)
        view = self._keep_for_now(write.key, code, row)
        return self._delivered(view, "commit", began)

    def _tried_alone(
        self, key: Key, change: Callable[[Any], Any], initial: Any, until: float
    ) -> View | Conflict:
        """Under a lease of one's own: leases of others are in the way, and may come and go for ever."""
        left = max(until - time.monotonic(), 0.0)
        held = self.lease(key, ttl=WRITE_LEASE, wait=left)
        try:
            held.__enter__()
        except Conflict as error:
            raise exhausted(key, left) from error
        try:
            return self._tried(key, change, initial)
        finally:
            held.__exit__(None, None, None)

    def _tried(self, key: Key, change: Callable[[Any], Any], initial: Any) -> View | Conflict:
        view = self.read(key)
        value = change(start(view, initial))  # what it raises, a `Conflict` as well, is the caller's
        try:
            return self.commit(key, value, base=view)
        except Conflict as error:
            return error


def bare(view: View | Versioned) -> Versioned:
    """What the coordinator said, without the way to the value."""
    return view.versioned if isinstance(view, View) else view


def start(view: View, initial: Any) -> Any:
    """What a change is made from, which it may change in place."""
    return view.copy() if view.exists or initial is MISSING else copy.deepcopy(initial)


def exhausted(key: Key, timeout: float) -> RetriesExhaustedError:
    """The error of who never won."""
    return RetriesExhaustedError(
        f"Others changed or held {'/'.join(key)!r:.120} whenever this tried, for {timeout:g} seconds. Try "
        f"with a longer timeout=, or hold it: with peer.lease(key, ttl=30, wait=60)."
    )


def _put(put: Any) -> Put:
    try:
        return Put(*put)
    except TypeError:
        raise InvalidInputError(f"A commit takes (key, value, base), not {put!r:.80}.") from None
