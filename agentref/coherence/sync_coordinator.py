"""The control plane: it versions the hashes of contents, and never sees a content."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

from agentref.coherence import _arguments as arguments
from agentref.coherence import _steps as steps
from agentref.coherence import rules
from agentref.coherence._refusals import conflict
from agentref.coherence.feed import Change, Page, pack_entry, unpack_entry
from agentref.coherence.following import Follower, Subscription
from agentref.coherence.keys import Key, decode_key, encode_key, key_range
from agentref.coherence.leases import Lease
from agentref.coherence.observer import Observer
from agentref.coherence.rows import ABSENT, Held, LeaseMode, Row, Versioned, versioned
from agentref.coherence.rules import Asked, Base, Refusal, Token, Wanted
from agentref.coherence.table import Decision, Table, Transition
from agentref.errors import Conflict, InvalidInputError
from agentref.refs import ContentRef

__all__ = ["SyncCoordinator", "Write"]

_AT_ONCE: Final = 256
_PAGE: Final = 1000
_FEED_SECONDS: Final = 7 * 24 * 3600.0

_Decided = tuple[Mapping[bytes, Row], Sequence[Change], Any]
_Deciding = Callable[[Mapping[bytes, Row], float], _Decided]
"""From rows and the time to the rows as they are to be, what to announce, and a result."""


class Write(NamedTuple):
    """One write of a commit.

    Attributes:
        key: the artifact.
        ref: its new content, which is in a store already; None deletes it.
        base: the view that the new content was made from; None if there was nothing.
        lease: the lease under which it is written, if there is one.
    """

    key: Key
    ref: ContentRef | None
    base: Versioned | None = None
    lease: Lease | None = None


class SyncCoordinator:
    """Versions of content hashes by key, leases on keys, and a feed of what changed.

    Made as `MemoryCoordinator`, `SqliteCoordinator` or `PostgresCoordinator`. Safe for threads. A commit
    costs the same however many agents know the artifact: one row, one entry of the feed.

    Every verb raises `StorageError` when the database cannot be used, `InvalidInputError` for arguments of
    the wrong kind, `InvalidKeyError` for what is no key and `ForeignViewError` for views and leases of
    another coordinator. Each has an asynchronous twin with an `a` in front; one that is cancelled while it
    runs may still take effect.
    """

    def __init__(self, table: Table, *, observers: Iterable[Observer] = ()) -> None:
        self.table = table
        self.observers = tuple(observers)
        self._id: str | None = None
        self._follower = Follower(self)

    @property
    def coordinator_id(self) -> str:
        """The name of this coordinator's data, the same wherever and whenever it is opened."""
        if self._id is None:
            self._id = self.table.table_id
        return self._id

    # Reading and committing

    def read(self, keys: Iterable[Key]) -> dict[Key, Versioned]:
        """What these keys stand for, all as of one moment; version 0 for what was never written."""
        wanted = {encode_key(key): key for key in keys}
        rows = self.settled(list(wanted))
        return {key: versioned(self.coordinator_id, key, rows[code]) for code, key in wanted.items()}

    def commit(
        self, writes: Iterable[Write], *, agent: str, reads: Iterable[Versioned] = ()
    ) -> dict[Key, Versioned]:
        """Let all writes take effect, and become one entry of the feed, or none of them.

        `reads` are views on which the writes rest besides their bases: if one of them has moved, the
        commit is refused as well. A write of what stands there already changes nothing.

        Raises `Conflict` for the first key that does not allow it, and `FutureVersionError` for a view that
        this coordinator cannot have shown.
        """
        rows = self.commit_rows(writes, agent=agent, reads=reads)
        return {key: versioned(self.coordinator_id, key, row) for key, row in rows.items()}

    def commit_rows(
        self, writes: Iterable[Write], *, agent: str, reads: Iterable[Versioned] = ()
    ) -> dict[Key, Row]:
        """`commit`, for those who keep rows."""
        arguments.check_agent("agent", agent)
        origin = self.coordinator_id
        writes = list(writes)
        wanted = {self._checked(write): write for write in writes}
        if len(wanted) < len(writes):
            raise InvalidInputError("A commit writes each key once, and a key was given twice.")
        seen = [(encode_key(arguments.own_view(view, origin).key), view) for view in reads]

        def decide(rows: Mapping[bytes, Row], now: float) -> _Decided:
            for code, view in seen:
                if refusal := rules.current(rows[code], _base(view), now):
                    raise conflict(origin, refusal, view.key, view, rows[code])
            new: dict[bytes, Row] = {}
            changes: list[Change] = []
            for code, (key, ref, base, lease) in wanted.items():
                asked = Asked(agent, ref, base and _base(base), lease and _token(lease))
                row = rules.commit(rows[code], asked, now)
                if isinstance(row, Refusal):
                    raise conflict(origin, row, key, base, rows[code])
                new[code] = row
                if row.version != rows[code].version:
                    changes.append(Change(key, row.version, ref, row.epoch, agent))
            return new, changes, None

        rows, _ = self._transact(agent, list(dict.fromkeys([*wanted, *(code for code, _ in seen)])), decide)
        return {write.key: rows[code] for code, write in wanted.items()}

    def gate(self, view: Versioned, *, lease: Lease | None = None, agent: str = "") -> None:
        """Return if a commit from this view would be accepted now, to be called just before an effect that
        cannot be taken back. Raises `Conflict` otherwise."""
        origin = self.coordinator_id
        arguments.own_view(view, origin)
        if lease is not None:
            arguments.own_lease(lease, origin, view.key)
        code = encode_key(view.key)
        row = self.settled([code])[code]
        if refusal := rules.gate(row, _base(view), lease and _token(lease), self.table.clock()):
            raise self._noted(agent, conflict(origin, refusal, view.key, view, row))

    def keys(self, prefix: Key = ()) -> Iterator[Versioned]:
        """What lies under keys that begin with these parts, in their order, without what is deleted. Read
        page by page: not as of one moment."""
        first, stop = key_range(prefix)
        while page := self.table.scan(first, stop, limit=_PAGE):
            for code, row in page:
                if row.ref is not None:
                    yield versioned(self.coordinator_id, decode_key(code), row)
            first = page[-1][0] + b"\0"

    def versions(self) -> Iterator[tuple[bytes, int]]:
        """The version of every artifact that was ever written, by encoded key."""
        first, stop = key_range(())
        while page := self.table.scan(first, stop, limit=_PAGE):
            yield from ((code, row.version) for code, row in page if row.version)
            first = page[-1][0] + b"\0"

    # Leases

    def acquire(
        self,
        key: Key,
        *,
        holder: str,
        ttl: float,
        mode: LeaseMode | str = LeaseMode.EXCLUSIVE,
        wait: float = 0.0,
    ) -> Lease:
        """A lease of `ttl` seconds. Waits up to `wait` seconds for others; who waits first is next.

        Raises `Conflict` (`held_by_other`), which names who is in the way. A holder that has a lease
        already is refused as well: two tasks of one agent are two.
        """
        return steps.run(self.acquiring(key, holder, ttl, arguments.check_mode(mode), wait))[0]

    def renew(self, lease: Lease, *, ttl: float | None = None) -> Lease:
        """The lease, which ends `ttl` seconds from now (its own length if none is given) or when it did,
        whichever is later. Raises `Conflict` (`lease_lost`) if it has ended."""
        code = arguments.own_lease(lease, self.coordinator_id)
        seconds = lease.ttl if ttl is None else arguments.check_seconds("ttl", ttl)

        def decide(rows: Mapping[bytes, Row], now: float) -> _Decided:
            row, outcome = rules.renew(rows[code], _token(lease), seconds, now)
            if isinstance(outcome, Refusal):
                raise conflict(self.coordinator_id, outcome, lease.key, None, row)
            return {code: row}, (), outcome

        return self._leased(lease.key, self._transact(lease.holder, [code], decide)[1])

    def release(self, lease: Lease) -> None:
        """End the lease. With an exclusive one goes whatever its holder read under it: a commit from a view
        of before is refused. Does nothing if the lease has ended already."""
        code = arguments.own_lease(lease, self.coordinator_id)
        self._transact(
            lease.holder,
            [code],
            lambda rows, now: ({code: rules.release(rows[code], _token(lease), now)}, (), None),
        )

    def recover(self, agent: str) -> list[Key]:
        """End every lease of an agent, to be called when it starts again after a crash: of what it held,
        nothing that it still has in flight is accepted. Returns the keys. Costs a look at every row with a
        lease."""
        arguments.check_agent("agent", agent)
        found = []
        for code in self.table.leased(math.inf):
            row = self.table.load([code]).get(code, ABSENT)
            if any(held.holder == agent for held in row.leases):
                self._evict(code, agent)
                found.append(decode_key(code))
        return found

    def leases(self, key: Key) -> Sequence[Lease]:
        """The leases on a key that live now."""
        rows = self.settled([encode_key(key)])
        return [self._leased(key, held) for row in rows.values() for held in row.leases if not held.waits]

    def sweep(self, *, feed_seconds: float = _FEED_SECONDS) -> list[Key]:
        """Take back every lease that has expired, and drop entries of the feed that are older than
        `feed_seconds` (7 days). Returns the keys.

        Not needed for correctness: a lease that has expired is taken back by whoever comes across it.
        Costs what has expired, not what there is.
        """
        self.table.compact(
            self.table.clock() - arguments.check_seconds("feed_seconds", feed_seconds, zero=True)
        )
        swept: list[Key] = []
        while codes := self.table.leased(self.table.clock(), limit=_AT_ONCE):
            self.settled(codes)
            swept += map(decode_key, codes)
        return swept

    # The feed

    def head(self) -> str:
        """The cursor of the feed as of now: `changes(since=...)` shows what is committed from here on."""
        return self.table.head()

    def changes(self, *, since: str, limit: int = 1000) -> Page:
        """The changes of at most `limit` commits after a cursor, in the order of commits, without a gap.

        Raises `CursorTooOldError` if the feed does not reach back so far, or is not the cursor's.
        """
        entries, cursor = self.table.entries(since, limit=arguments.check_limit(limit))
        return Page([change for entry, after in entries for change in unpack_entry(entry, after)], cursor)

    def wait(self, since: str, *, timeout: float) -> None:
        """Return once something may have been committed after a cursor, or after `timeout` seconds. A hint:
        look at `changes`."""
        if timeout != math.inf:
            arguments.check_seconds("timeout", timeout, zero=True)
        self.table.wait(since, timeout=timeout)

    def subscribe(self, call: Callable[[Page], None]) -> Subscription:
        """Have `call` called with every page of changes that are committed from now on, by anybody: in a
        thread, in order, without a gap (or with `gap` set). A bound method is forgotten with its object."""
        return self._follower.add(call)

    def close(self) -> None:
        """Close what this coordinator opened. Idempotent."""
        self._follower.stop()
        self.table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For peers

    def settled(self, codes: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows as of one moment. A lease among them that has expired is taken back first, so that
        nobody sees a row as it will be and another as it was."""
        rows = self.table.load(codes)
        if any(row.leases for row in rows.values()):
            now = self.table.clock()
            if any(rules.settle(row, now) is not row for row in rows.values()):
                return self._transact(
                    "", codes, lambda rows, now: ({c: rules.settle(rows[c], now) for c in codes}, (), None)
                )[0]
        return {code: rows.get(code, ABSENT) for code in codes}

    def _checked(self, write: Write) -> bytes:
        if not isinstance(write, Write):
            raise InvalidInputError(f"commit() takes Writes, not {type(write).__name__}.")
        code = encode_key(write.key)
        arguments.check_ref(write.ref)
        if write.base is not None:
            arguments.own_view(write.base, self.coordinator_id, write.key)
        if write.lease is not None:
            arguments.own_lease(write.lease, self.coordinator_id, write.key)
        return code

    def acquiring(
        self, key: Key, holder: str, ttl: float, mode: LeaseMode, wait: float
    ) -> steps.Steps[tuple[Lease, Row]]:
        """`acquire`, step by step; the row under the lease comes with it."""
        arguments.check_agent("holder", holder)
        code = encode_key(key)
        ttl = arguments.check_seconds("ttl", ttl)
        until = time.monotonic() + arguments.check_seconds("wait", wait, zero=True)
        while True:
            left = until - time.monotonic()
            row, outcome = self._try_acquire(code, holder, mode, ttl, left)
            if isinstance(outcome, Held):
                return self._leased(key, outcome), row
            for pause in steps.pauses(until):
                yield pause
                ended = outcome.until is not None and outcome.until <= self.table.clock()
                if ended or self.table.probe(code) != row.revision:
                    break
            else:
                raise self._noted(holder, conflict(self.coordinator_id, outcome, key, None, row))

    def _try_acquire(
        self, code: bytes, holder: str, mode: LeaseMode, ttl: float, wait: float
    ) -> tuple[Row, Held | Refusal]:
        def decide(rows: Mapping[bytes, Row], now: float) -> _Decided:
            row, outcome = rules.acquire(rows[code], Wanted(holder, mode, ttl, wait), now)
            return {code: row}, (), outcome

        rows, outcome = self._transact(holder, [code], decide)
        return rows[code], outcome

    def _transact(
        self, agent: str, codes: Sequence[bytes], decide: _Deciding
    ) -> tuple[dict[bytes, Row], Any]:
        """Decide on rows and carry it out; the rows as they are then, and what was decided."""
        revision = int.from_bytes(os.urandom(8)) >> 1 or 1
        seen: tuple[Mapping[bytes, Row], float] = {}, 0.0

        def stamped(rows: Mapping[bytes, Row], now: float) -> Decision:
            nonlocal seen
            seen = rows, now
            new, changes, result = decide(rows, now)
            moved = {c: row._replace(revision=revision) for c, row in new.items() if row is not rows[c]}
            transition = Transition(moved, pack_entry(changes) if changes else None) if moved else None
            return Decision(transition, ({**rows, **moved}, result))

        try:
            rows, result = self.table.transact(codes, stamped)
        except Conflict as error:
            self._repair(error, seen[0])
            raise self._noted(agent, error) from None
        old, now = seen
        for observer in self.observers:
            for code, row in rows.items():
                if row is not old[code]:
                    observer.changed(agent, decode_key(code), old[code], row, now)
        return rows, result

    def _repair(self, error: Conflict, seen: Mapping[bytes, Row]) -> None:
        """Let `current` be what can be a base: not a row with a lease that is about to be taken back."""
        code = encode_key(error.key)
        if seen[code].leases:
            error.current = versioned(self.coordinator_id, error.key, self.settled([code])[code])

    def _noted(self, agent: str, error: Conflict) -> Conflict:
        for observer in self.observers:
            observer.refused(agent, error)
        return error

    def _evict(self, code: bytes, agent: str) -> None:
        self._transact(
            agent, [code], lambda rows, now: ({code: rules.evict(rows[code], agent, now)}, (), None)
        )

    def _leased(self, key: Key, held: Held) -> Lease:
        return Lease(self.coordinator_id, key, held.holder, held.mode, held.fence, held.until, held.ttl)


def _base(view: Versioned) -> Base:
    return Base(view.version, view.ref, view.epoch)


def _token(lease: Lease) -> Token:
    return Token(lease.holder, lease.fence)
