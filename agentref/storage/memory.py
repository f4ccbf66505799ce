"""A blob store in memory: for tests, for short-lived graphs, and as the model of the others."""

import heapq
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from agentref.errors import StoreUnavailableError
from agentref.forks import watch_forks
from agentref.refs import Digest
from agentref.storage._arguments import (
    check_alias,
    check_digest,
    check_expect,
    check_limit,
    check_name,
    check_owner,
    check_prefix,
    check_time,
    unique_digests,
    unique_owners,
    unique_pins,
    valid_blobs,
)
from agentref.storage.audit import survey_pages
from agentref.storage.protocol import FOREVER, AliasRow, BlobInfo, PinRow

__all__ = ["MemoryBlobStore"]

_FORK_PATIENCE = 5.0


class _Entry(NamedTuple):
    data: bytes
    touched_at: float
    expires_at: float
    condemned_at: float | None = None


class MemoryBlobStore:
    """Blobs in a dict. Safe for threads; a forked child goes on with a copy of its own.

    Nothing is durable: everything is gone with the object, or at `close()`.
    """

    def __init__(self) -> None:
        self._entries: dict[Digest, _Entry] = {}
        self._aliases: dict[str, AliasRow] = {}
        self._settings = 0
        self._pins: dict[str, dict[Digest, float]] = {}
        self._lock = threading.Lock()
        self._held_for_fork = False
        self._closed = False
        self._epoch = 0
        self._store_id = f"mem-{uuid.uuid4().hex[:12]}"
        watch_forks(self)

    @property
    def store_id(self) -> str:
        """`mem-` and 12 hex digits, new for each object."""
        return self._store_id

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """The bytes of each blob that is here; the very objects that were stored, no copies."""
        wanted = unique_digests(digests)
        with self._lock:
            entries = self._open_entries()
            return {digest: entries[digest].data for digest in wanted if digest in entries}

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Keep all blobs; a blob that is here keeps its bytes, is touched, and lives at least as long."""
        check_time("expires_at", expires_at)
        self._keep(valid_blobs(blobs), expires_at, overwrite=False)

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Overwrite the bytes of blobs that are here, whose lives go on; store the others for ever."""
        self._keep(valid_blobs(blobs), FOREVER, overwrite=True)

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """What is known of each blob that is here."""
        wanted = unique_digests(digests)
        with self._lock:
            entries = self._open_entries()
            return {digest: _info(digest, entries[digest]) for digest in wanted if digest in entries}

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Which of them are here; each lives until `expires_at` at least from now on."""
        check_time("expires_at", expires_at)
        wanted = unique_digests(digests)
        with self._lock:
            entries, now = self._open_entries(), time.time()
            here = [digest for digest in wanted if digest in entries]
            for digest in here:
                old = entries[digest]
                if old.expires_at < expires_at or old.condemned_at is not None:
                    entries[digest] = _touched(old, now, expires_at)
            return here

    def peek(self, digests: Collection[Digest], /) -> Mapping[Digest, int]:
        """The first byte of each blob that is here; -1 for an empty one."""
        wanted = unique_digests(digests)
        with self._lock:
            entries = self._open_entries()
            return {digest: [*entries[digest].data[:1], -1][0] for digest in wanted if digest in entries}

    def epoch(self) -> int:
        """How many removals took something away."""
        with self._lock:
            self._open_entries()
            return self._epoch

    def clock(self) -> float:
        """The machine's."""
        with self._lock:
            self._open_entries()
            return time.time()

    def scan(
        self, *, after: Digest | None = None, limit: int = 1000, expires_by: float = FOREVER
    ) -> Sequence[BlobInfo]:
        """The next `limit` blobs in digest order. Costs time in proportion to the whole store."""
        check_limit(limit)
        check_time("expires_by", expires_by)
        if after is not None:
            check_digest(after)
        with self._lock:
            found = [
                digest
                for digest, entry in self._open_entries().items()
                if entry.expires_at <= expires_by and (after is None or digest > after)
            ]
            return [_info(digest, self._entries[digest]) for digest in heapq.nsmallest(limit, found)]

    def survey(self, see: Callable[[Sequence[BlobInfo], int], object], /, *, expires_by: float) -> None:
        """Show those whose life ends by then and, if there are any, the others that link to others."""
        check_time("expires_by", expires_by)
        survey_pages(self, see, expires_by=expires_by)

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """Note that nothing needs these; those whose life ends after `expires_by` are left alone."""
        check_time("expires_by", expires_by)
        wanted = unique_digests(digests)
        with self._lock:
            entries, now = self._open_entries(), time.time()
            mortal = [
                digest
                for digest in wanted
                if digest in entries
                and entries[digest].expires_at <= expires_by
                and entries[digest].condemned_at is None
            ]
            for digest in mortal:
                entries[digest] = entries[digest]._replace(condemned_at=now)
            return len(mortal)

    def remove(
        self,
        digests: Collection[Digest],
        /,
        *,
        expires_by: float = FOREVER,
        condemned_by: float | None = None,
    ) -> int:
        """Remove those whose life ends at `expires_by` or before, and that are condemned if that is
        asked for; says how many."""
        check_time("expires_by", expires_by)
        if condemned_by is not None:
            check_time("condemned_by", condemned_by)
        wanted = unique_digests(digests)
        with self._lock:
            entries = self._open_entries()
            old = [
                digest
                for digest in wanted
                if digest in entries
                and entries[digest].expires_at <= expires_by
                and _is_condemned(entries[digest], condemned_by)
            ]
            for digest in old:
                del entries[digest]
            self._epoch += bool(old)
            return len(old)

    # Roots

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Let a name stand for content; None if `expect` is not the version that stands there now."""
        check_alias(alias)
        check_expect(expect)
        with self._lock:
            old = self._standing(alias.name)
            if expect is not None and expect != (old.version if old else 0):
                return None
            self._settings += 1
            self._aliases[alias.name] = new = alias._replace(version=self._settings)
            return new

    def alias(self, name: str, /) -> AliasRow | None:
        """What a name stands for."""
        check_name("The name of an alias", name)
        with self._lock:
            return self._standing(name)

    def delete_alias(self, name: str, /, *, expect: int | None = None) -> bool:
        """Whether the name was there, at the version expected if one is given; it is gone then."""
        check_name("The name of an alias", name)
        check_expect(expect)
        with self._lock:
            old = self._standing(name)
            if old is None or (expect is not None and expect != old.version):
                return False
            del self._aliases[name]
            return True

    def scan_aliases(
        self, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> Sequence[AliasRow]:
        """The next `limit` names with that prefix, in the order of their code points."""
        check_limit(limit)
        check_prefix(prefix)
        if after is not None:
            check_name("after", after)
        now = time.time()
        with self._lock:
            self._open_entries()
            found = [
                alias
                for alias in self._aliases.values()
                if alias.expires_at > now and _follows(alias.name, prefix, after)
            ]
            return heapq.nsmallest(limit, found)

    def pin(self, rows: Collection[PinRow], /) -> None:
        """Let owners keep blobs alive, besides what they keep already."""
        wanted = unique_pins(rows)
        with self._lock:
            self._open_entries()
            for owner, digest, expires_at in wanted:
                pins = self._pins.setdefault(owner, {})
                pins[digest] = max(pins.get(digest, expires_at), expires_at)

    def store_pinned(
        self, blobs: Mapping[Digest, bytes], pins: Collection[PinRow], /, *, expires_at: float = FOREVER
    ) -> None:
        """`store`, and then `pin`."""
        wanted = unique_pins(pins)
        self.store(blobs, expires_at=expires_at)
        self.pin(wanted)

    def inherit_pins(self, heir: str, digests: Collection[Digest], /, *, parent: str) -> bool:
        """Let `heir` keep what `parent` keeps of these for ever."""
        check_owner(heir)
        check_owner(parent)
        wanted = unique_digests(digests)
        with self._lock:
            self._open_entries()
            kept = self._pins.get(parent, {})
            given = [digest for digest in wanted if kept.get(digest) == FOREVER]
            if given:
                self._pins.setdefault(heir, {}).update(dict.fromkeys(given, FOREVER))
            return len(given) == len(wanted)

    def unpin(self, owners: Collection[str], /) -> int:
        """Take all pins of these owners away; returns how many pins there were."""
        named = unique_owners(owners)
        with self._lock:
            self._open_entries()
            now = time.time()
            gone = [self._pins.pop(owner, {}) for owner in named]
            return sum(expires_at > now for pins in gone for expires_at in pins.values())

    def scan_pins(
        self, *, prefix: str = "", after: tuple[str, Digest] | None = None, limit: int = 1000
    ) -> Sequence[PinRow]:
        """The next `limit` pins of owners with that prefix, in the order of owner and digest."""
        check_limit(limit)
        check_prefix(prefix)
        if after is not None:
            check_owner(after[0])
            check_digest(after[1])
        now = time.time()
        with self._lock:
            self._open_entries()
            found = (
                PinRow(owner, digest, expires_at)
                for owner, pins in self._pins.items()
                if owner.startswith(prefix)
                for digest, expires_at in pins.items()
                if expires_at > now and (after is None or (owner, digest) > after)
            )
            return heapq.nsmallest(limit, found)

    def forget(self, *, expires_by: float) -> int:
        """Drop the aliases and pins whose life ended at `expires_by` or before; returns how many."""
        check_time("expires_by", expires_by)
        with self._lock:
            self._open_entries()
            until = min(expires_by, time.time())
            aliases = [name for name, alias in self._aliases.items() if alias.expires_at <= until]
            for name in aliases:
                del self._aliases[name]
            before = sum(map(len, self._pins.values()))
            left = {
                owner: {digest: at for digest, at in pins.items() if at > until}
                for owner, pins in self._pins.items()
            }
            self._pins = {owner: pins for owner, pins in left.items() if pins}
            return len(aliases) + before - sum(map(len, self._pins.values()))

    def close(self) -> None:
        """Forget every blob. Idempotent; later verbs raise `StoreUnavailableError`."""
        with self._lock:
            self._closed = True
            self._entries, self._aliases, self._pins = {}, {}, {}

    def _standing(self, name: str) -> AliasRow | None:
        self._open_entries()
        alias = self._aliases.get(name)
        return alias if alias is not None and alias.expires_at > time.time() else None

    def _keep(self, blobs: dict[Digest, bytes], expires_at: float, *, overwrite: bool) -> None:
        with self._lock:
            # The time is told under the lock: who waited for it was not there before.
            entries, now = self._open_entries(), time.time()
            for digest, data in blobs.items():
                old = entries.get(digest)
                if old is None:
                    entries[digest] = _Entry(data, now, expires_at)
                    continue
                touched = _touched(old, now, -FOREVER if overwrite else expires_at)
                entries[digest] = touched._replace(data=data) if overwrite else touched

    def _open_entries(self) -> dict[Digest, _Entry]:
        if self._closed:
            raise StoreUnavailableError(f"The blob store {self._store_id} is closed.")
        return self._entries

    def before_fork(self) -> None:
        """Let no thread be half-way through a change that the child would inherit."""
        self._held_for_fork = False
        self._held_for_fork = self._lock.acquire(timeout=_FORK_PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._held_for_fork:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """A lock of the child's own."""
        self._lock = threading.Lock()


def _info(digest: Digest, entry: _Entry) -> BlobInfo:
    return BlobInfo(digest, len(entry.data), entry.touched_at, entry.expires_at, entry.condemned_at)


def _touched(old: _Entry, now: float, expires_at: float) -> _Entry:
    return _Entry(old.data, max(old.touched_at, now), max(old.expires_at, expires_at))


def _is_condemned(entry: _Entry, by: float | None) -> bool:
    return by is None or (entry.condemned_at is not None and entry.condemned_at <= by)


def _follows(name: str, prefix: str, after: str | None) -> bool:
    return name.startswith(prefix) and (after is None or name > after)
