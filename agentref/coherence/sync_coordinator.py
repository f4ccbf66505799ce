"""The control plane: it versions the hashes of contents, and never sees a content."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Self

from agentref.coherence import _arguments as arguments
from agentref.coherence import rules
from agentref.coherence._refusals import conflict
from agentref.coherence.feed import Change, Page, unpack_entry
from agentref.coherence.following import Follower, Subscription
from agentref.coherence.keys import Key, decode_key, encode_key, key_range
from agentref.coherence.leases import Lease
from agentref.coherence.leasing import Leasing
from agentref.coherence.observer import Observer, spanned
from agentref.coherence.rows import Row, Versioned, versioned
from agentref.coherence.rules import Asked, Refusal
from agentref.coherence.table import Table
from agentref.coherence.transacting import Decided, base_of, token_of
from agentref.errors import ConfigurationError, InvalidInputError
from agentref.refs import ContentRef

__all__ = ["SyncCoordinator", "Write"]

_AT_ONCE: Final = 256
_PAGE: Final = 1000
_FEED_SECONDS: Final = 7 * 24 * 3600.0


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


class SyncCoordinator(Leasing):
    """Versions of content hashes by key, leases on keys, and a feed of what changed.

    Made as `MemoryCoordinator`, `SqliteCoordinator` or `PostgresCoordinator`. Safe for threads. A commit
    costs the same however many agents know the artifact: one row, one entry of the feed.

    Every verb raises `StorageError` when the database cannot be used, `InvalidInputError` for arguments of
    the wrong kind, `InvalidKeyError` for what is no key and `ForeignViewError` for views and leases of
    another coordinator. Each has an asynchronous twin with an `a` in front; one that is cancelled while it
    runs may still take effect.
    """

    def __init__(self, table: Table, *, observers: Iterable[Observer] = ()) -> None:
        super().__init__(table, observers=observers)
        self._follower = Follower(self)

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
        asked: dict[bytes, Asked] = {}

        def decide(rows: Mapping[bytes, Row], now: float) -> Decided:
            for code, view in seen:
                if refusal := rules.current(rows[code], base_of(view), now):
                    raise conflict(origin, refusal, view.key, view, rows[code])
            new: dict[bytes, Row] = {}
            changes: list[Change] = []
            for code, (key, ref, base, lease) in wanted.items():
                asked[code] = wish = Asked(agent, ref, base and base_of(base), lease and token_of(lease))
                row = rules.commit(rows[code], wish, now)
                if isinstance(row, Refusal):
                    raise conflict(origin, row, key, base, rows[code])
                new[code] = row
                if row.version != rows[code].version:
                    changes.append(Change(key, row.version, ref, row.epoch, agent))
            return new, changes, None

        codes = list(dict.fromkeys([*wanted, *(code for code, _ in seen)]))
        if self.spanning:
            with spanned(self.spanning, "commit", agent, [write.key for write in wanted.values()]):
                rows, _ = self.transact(agent, codes, decide, asked=asked)
        else:
            rows, _ = self.transact(agent, codes, decide, asked=asked)
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
        if refusal := rules.gate(row, base_of(view), lease and token_of(lease), self.table.clock()):
            raise self.noted(agent, conflict(origin, refusal, view.key, view, row))

    def keys(self, prefix: Key = ()) -> Iterator[Versioned]:
        """What lies under keys that begin with these parts, in their order, without what is deleted. Read
        page by page: not as of one moment."""
        first, stop = key_range(prefix)
        while page := self.table.scan(first, stop, limit=_PAGE):
            for code, row in page:
                if row.leases:
                    row = self.settled([code])[code]  # noqa: PLW2901
                if row.ref is not None:
                    yield versioned(self.coordinator_id, decode_key(code), row)
            first = page[-1][0] + b"\0"

    def versions(self) -> Iterator[tuple[bytes, int]]:
        """The version of every artifact that was ever written, by encoded key."""
        first, stop = key_range(())
        while page := self.table.scan(first, stop, limit=_PAGE):
            yield from ((code, row.version) for code, row in page if row.version)
            first = page[-1][0] + b"\0"

    def sweep(self, *, feed_seconds: float = _FEED_SECONDS) -> list[Key]:
        """Take back every lease that has expired, and drop entries of the feed that are older than
        `feed_seconds` (7 days). Returns the keys.

        Not needed for correctness: a lease that has expired is taken back by whoever comes across it.
        Costs what has expired, not what there is.
        """
        now = self.table.clock()
        self.table.compact(now - arguments.check_seconds("feed_seconds", feed_seconds, zero=True))
        swept: dict[bytes, None] = {}  # once each: what lives by the clock of a transaction is found again
        while codes := [code for code in self.table.leased(now, limit=_AT_ONCE) if code not in swept]:
            self.settled(codes)
            swept |= dict.fromkeys(codes)
        return list(map(decode_key, swept))

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

    def subscribe(self, call: Callable[[Page], object]) -> Subscription:
        """Have `call` called with every page of changes that are committed from now on, by anybody: in a
        thread, in order, without a gap (or with `gap` set). A bound method is forgotten with its object."""
        if self.table.is_joined:
            raise ConfigurationError(
                "A coordinator on a connection of yours has nobody who could follow the feed. Subscribe, "
                "or use the strategies eager and broadcast, with one that has connections of its own."
            )
        return self._follower.add(call)

    def close(self) -> None:
        """Close what this coordinator opened. Idempotent."""
        self._follower.stop()
        self.table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
