"""The reading half of a peer: its cache, and when that may be shown."""

import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from agentref.coherence import _arguments as arguments
from agentref.coherence import _steps as steps
from agentref.coherence._clock import elapsed
from agentref.coherence.caching import Cache, Cached, may_show, still_holds, was_set_back
from agentref.coherence.contents import Contents, ContentStore
from agentref.coherence.coordinator import Coordinator
from agentref.coherence.feed import Page
from agentref.coherence.following import Subscription
from agentref.coherence.held import Blocks
from agentref.coherence.keys import Key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import LeaseMode, Row, Versioned, versioned
from agentref.coherence.strategies import Strategies, Strategy
from agentref.coherence.views import View
from agentref.errors import AgentRefError, Conflict, StorageError
from agentref.forks import InChild

__all__ = ["Reader"]


class Reader:
    """What a peer has read. A view is shown again only while the coordinator would take it as a base."""

    def __init__(  # noqa: PLR0913
        self,
        coordinator: Coordinator,
        name: str,
        *,
        backend: ContentStore,
        strategy: Strategy | str,
        strategies: Mapping[Key, Strategy | str] | None,
        cache_bytes: int,
        retain_seconds: float,
    ) -> None:
        self.name = arguments.check_agent("name", name)
        self.coordinator = coordinator
        self._strategies = Strategies(strategy, strategies)
        retain = arguments.check_seconds("retain_seconds", retain_seconds)
        joined = coordinator.table.is_joined
        self._contents = Contents(backend, coordinator.coordinator_id, retain=retain, may_be_undone=joined)
        weakref.finalize(self, _flush, self._contents)  # for those who never close a peer
        self._cache = Cache(arguments.check_limit(cache_bytes))
        self._table = coordinator.table
        self._observers = coordinator.observers
        self._blocks = Blocks()
        # A hold that is rolled back would be believed in.
        self._may_hold = self._strategies.any_of("lease", "access_count") and not joined
        self._holding = threading.RLock()  # while a hold comes or goes: here, and at the coordinator
        self._writing: Counter[Key] = Counter()
        self._in_child = InChild(self._forget_parent)
        self._following: Subscription | None = None
        if self._strategies.any_of("eager", "broadcast"):
            self._following = coordinator.subscribe(self._on_changes)

    def _forget_parent(self) -> None:
        """In a forked child: what is held is the parent's, which goes on; and its threads, of which one may
        have been half-way through something, are not here."""
        self._holding = threading.RLock()
        self._cache = self._cache.emptied()
        self._blocks = Blocks()
        self._writing = Counter()
        self._contents.forget_parent()

    def read(self, key: Key) -> View:
        """What a key stands for now; its `.value` is fetched when it is asked for.

        Raises `InvalidKeyError`. What was never written, or is deleted, is a view too: see `exists`.
        """
        try:
            cached = self._cache.get(key)
        except TypeError:  # it cannot be hashed, so it is no key: encoding it says so
            cached = None
        if cached is None:
            return self._read(key)
        if not self._observers:
            return cached.view if self._shows(cached) else self._read(key)
        began = self._began()
        if not self._shows(cached):
            return self._read(key)
        return self._delivered(cached.view, "hit", began)

    def value(self, key: Key) -> Any:
        """`read(key).value`."""
        return self.read(key).value

    def read_many(self, keys: Iterable[Key]) -> dict[Key, View]:
        """What these keys stand for, all as of one moment, in one look."""
        return self._read_together(keys, "fetch")

    def cached(self, key: Key) -> Versioned | None:
        """What this peer has of a key, whether or not it still stands there, or None. Asks nobody."""
        entry = self._cache.find(key)
        return None if entry is None else entry.view.versioned

    def _read_together(self, keys: Iterable[Key], source: str) -> dict[Key, View]:
        began = self._began()
        wanted = {encode_key(key): key for key in arguments.each_of("keys", keys, "keys")}
        rows = self.coordinator.settled(list(wanted))
        return {
            key: self._delivered(self._keep_for_now(key, code, rows[code]), source, began)
            for code, key in wanted.items()
        }

    def _shows(self, cached: Cached) -> bool:
        """Whether the coordinator would take this view as a base."""
        hold = cached.hold
        if hold is not None and cached.view.key not in self._writing:
            now = self._table.clock()
            lives = still_holds(hold, cached.reads, now)
            if lives and not was_set_back(hold, cached.ahead, now, elapsed()):
                cached.reads -= 1
                if cached.reads == 0:
                    self._give_back(cached)
                return True
            self._give_back(cached)
            return False
        return self._table.probe(cached.code) == cached.revision and (
            not cached.leases or may_show(cached.leases, self._table.clock())
        )

    def _read(self, key: Key) -> View:
        began = self._began()
        code = encode_key(key)
        strategy = self._strategies.of(key)
        view = None
        if self._may_hold and strategy.ttl and strategy.max_accesses != 1 and key not in self._blocks:
            with self._holding:
                view = self._hold(key, code, strategy)
        if view is None:
            view = self._keep(key, code, self.coordinator.settled([code])[code])
        return self._delivered(view, "fetch", began)

    def _hold(self, key: Key, code: bytes, strategy: Strategy) -> View | None:
        """What stands there, under a lease, so that there is no need to ask for a while."""
        known = self._cache.find(key)
        if known is not None and known.hold is not None:  # another thread was faster
            return known.view if self._shows(known) else None
        ttl = strategy.ttl or 0.0
        ahead = self._table.clock() - elapsed()
        acquiring = self.coordinator.acquiring(key, self.name, ttl, LeaseMode.SHARED, 0.0, promised=True)
        try:
            lease, row = steps.run(acquiring)
        except Conflict:  # somebody writes, or waits to
            return None
        view = self._keep(key, code, row, lease, strategy.max_accesses)
        if (entry := self._cache.find(key)) is not None:
            entry.ahead = ahead
        if key in self._blocks:  # another thread waits for a lease by now
            self._free(key)
        return view

    def _give_back(self, cached: Cached) -> None:
        """End a hold: an unused one keeps others waiting, and expires by itself if this fails."""
        with self._holding:
            hold = cached.hold
            if hold is None:
                cached.revision = -1
                return
            for entry in (cached, self._cache.find(cached.view.key)):  # which may be another one by now
                if entry is not None and entry.hold == hold:
                    entry.hold = None
                    entry.revision = -1
            self._release(hold)

    def _release(self, hold: Lease) -> None:
        with suppress(StorageError):
            self.coordinator.release(hold)

    def _free(self, key: Key) -> None:
        cached = self._cache.get(key)
        if cached is not None and cached.hold is not None:
            self._give_back(cached)

    def _keep(
        self, key: Key, code: bytes, row: Row, lease: Lease | None = None, reads: int | None = None
    ) -> View:
        now = versioned(self.coordinator.coordinator_id, key, row)
        with self._holding:
            known = self._cache.get(key)
            view = View(now, self._contents) if known is None else known.view.of(now)
            entry = Cached(code, row, view, lease, -1 if reads is None else reads - 1)
            hold = None if known is None or lease is not None else known.hold
            if known is not None and hold is not None and any(h.fence == hold.fence for h in row.leases):
                if (now.version, now.epoch) < (known.view.version, known.view.epoch):
                    return view  # another thread has kept what it saw later, and nobody asks under a hold
                # Looked at for another reason meanwhile.
                entry.hold, entry.reads, entry.ahead = hold, known.reads, known.ahead
            for forgotten in self._cache.put(key, entry):
                self._release(forgotten)
        return view

    @contextmanager
    def _writing_to(self, keys: Sequence[Key]) -> Iterator[None]:
        """While this peer commits, its other threads ask: under a hold they would still show what was there
        before, when others see the new version already."""
        with self._holding:
            self._writing.update(keys)
        try:
            yield
        finally:
            with self._holding:
                self._writing -= Counter(keys)

    def _keep_for_now(self, key: Key, code: bytes, row: Row) -> View:
        """`_keep`, until the next read takes a hold if the strategy asks for one."""
        view = self._keep(key, code, row)
        if self._may_hold and self._strategies.of(key).ttl is not None:
            with self._holding:
                entry = self._cache.find(key)
                if entry is not None and entry.hold is None:
                    entry.revision = -1
        return view

    def _began(self) -> Sequence[int]:
        return [observer.began() for observer in self._observers]

    def _delivered(self, view: View, source: str, began: Sequence[int]) -> View:
        for observer, number in zip(self._observers, began, strict=True):
            observer.delivered(self.name, view.versioned, source, number)
        return view

    def _on_changes(self, page: Page) -> None:
        """Fetch what the strategies want at hand. A hint: what fails here is read, and fails, later."""
        for key in {change.key: None for change in page.changes if change.writer != self.name}:
            strategy = self._strategies.of(key)
            if strategy.name == "broadcast" or (strategy.name == "eager" and self._cache.get(key)):
                with suppress(AgentRefError):
                    began = self._began()
                    code = encode_key(key)
                    view = self._keep(key, code, self.coordinator.settled([code])[code])
                    if view.exists:
                        view.value  # noqa: B018  (it is loaded by being looked at)
                        self._delivered(view, "prefetch", began)


def _flush(contents: Contents) -> None:
    with suppress(AgentRefError):  # the store may be closed by now
        contents.flush()
