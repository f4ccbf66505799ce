"""The life of what is stored: names for it, owners that keep it, and the end of what nobody needs."""

import asyncio
from abc import ABC
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from agentref.errors import (
    AliasConflictError,
    AliasNotFoundError,
    ConfigurationError,
    InvalidInputError,
    InvalidRefError,
)
from agentref.refs import ContentRef, Digest
from agentref.storage import _arguments as arguments
from agentref.storage._alias_rows import is_sound, ref_of
from agentref.storage._lives import GRACE_SECONDS, LEASE_SECONDS, check_seconds, check_ttl, end_of_life
from agentref.storage.protocol import FOREVER, AliasRow, BlobStore, PinRow, RootStore
from agentref.storage.pruning import PrunableStore, prune
from agentref.storage.reports import PruneReport
from agentref.storage.walking import keep_alive

__all__ = ["Alias", "Lifetimes", "Pin"]

_PAGE: Final = 1000


class Alias(NamedTuple):
    """A name and what it stands for.

    `version` grows whenever a name is set. `expires_at` is in seconds since the epoch by the store's
    clock, or infinity.
    """

    name: str
    ref: ContentRef
    version: int
    expires_at: float


class Pin(NamedTuple):
    """A blob that an owner keeps alive, by its hash, until `expires_at` (as for `Alias`)."""

    owner: str
    hash: str
    expires_at: float


class Lifetimes(ABC):
    """The part of a `CAS` that is about lives. Each call that may wait has an async twin in a thread.

    A blob is needed while its own life lasts, or an alias, a pin or a needed blob leads to it.
    """

    _store: BlobStore
    _roots: PrunableStore | None = None
    backend_id: str
    default_ttl_seconds: float | None

    @property
    def keeps_roots(self) -> bool:
        """Whether the blob store keeps aliases and pins, so that it can be pruned."""
        return isinstance(self._store, RootStore)

    def touch(self, refs: Iterable[ContentRef], *, ttl: float | None = None) -> int:
        """Lengthen the lives of refs, and of all that they need, to `ttl` seconds from now at least.

        Without `ttl`, to the store's default; for ever if it has none. Returns how many blobs that is.
        Costs two looks at each blob, and a read of those that link to others. Raises `BlobNotFoundError` if
        anything of it is not here; no life ends later then than in an hour, or when it did before.
        """
        wanted = [_checked(ref) for ref in arguments.each_of("touch()", refs)]
        return self._keep(wanted, self._end_of_life(ttl))

    # Aliases

    def set_alias(
        self,
        name: str,
        ref: ContentRef,
        *,
        ttl: float | None = None,
        expect: ContentRef | Literal["absent"] | None = None,
    ) -> Alias:
        """Let `name` stand for a ref from now on; what it needs stays as long as the name does.

        `expect` is the ref that the name has to stand for now, or "absent"; refs are compared by their
        hashes, and the content of this one may be gone. Raises `AliasConflictError`,
        which tells what stands there, if it does not, and `BlobNotFoundError` if anything of the ref is
        not here; nothing is changed then. `ttl` is in seconds; without one the alias has no end. A setting
        states the life of the name anew, as it states what it stands for: it may end sooner than before.
        The content's own life is never shortened.
        """
        arguments.check_name("The name of an alias", name)
        check_ttl("ttl", ttl)
        checked = _checked(ref)
        roots = self._prunable()
        version = self._expected_version(roots, name, expect)
        self._keep([checked], self._end_of_life(LEASE_SECONDS))
        end = FOREVER if ttl is None else roots.clock() + ttl
        row = roots.set_alias(
            AliasRow(name, checked.digest, checked.codec, checked.size, 0, end), expect=version
        )
        if row is None:
            raise self._conflict(name, roots.alias(name))
        return self._alias(row)

    def resolve_alias(self, name: str) -> ContentRef:
        """What a name stands for now. Raises `AliasNotFoundError` (a `KeyError`), and `IntegrityError` if
        what the store keeps of that name is damaged."""
        return self.get_alias(name).ref

    def get_alias(self, name: str) -> Alias:
        """A name with its version and the end of its life. Raises as `resolve_alias` does."""
        arguments.check_name("The name of an alias", name)
        row = self._prunable().alias(name)
        if row is None:
            raise AliasNotFoundError(f"No alias {name!r} is in the store {self.backend_id}.")
        return self._alias(row)

    def delete_alias(self, name: str, *, expect: ContentRef | None = None) -> bool:
        """Drop a name; whether it was there. With `expect`, only if it stands for that ref now (as for
        `set_alias`): raises `AliasConflictError` if it does not."""
        arguments.check_name("The name of an alias", name)
        roots = self._prunable()
        version = None if expect is None else self._expected_version(roots, name, expect)
        if roots.delete_alias(name, expect=version):
            return True
        if version is not None:
            raise self._conflict(name, roots.alias(name))
        return False

    def iter_aliases(self, prefix: str = "") -> Iterator[Alias]:
        """The names that begin with `prefix`, in order; in pages, without a lock. Damaged ones are left
        out: `verify` tells them."""
        roots = self._prunable()
        after: str | None = None
        while page := roots.scan_aliases(prefix=prefix, after=after, limit=_PAGE):
            yield from map(self._alias, filter(is_sound, page))
            after = page[-1].name

    # Pins

    def pin(
        self, owner: str, refs: Iterable[ContentRef], *, ttl: float | None = None, look: bool = True
    ) -> None:
        """Let `owner` (a thread, a run: a text of 1 to 512 bytes) keep refs and all that they need.

        Adds to what the owner keeps already; a life only lengthens. Raises `BlobNotFoundError` if anything
        is not here. `look=False` spares the look: for refs that were stored, or pinned by another owner,
        less than half an hour ago.
        """
        arguments.check_name("The owner of a pin", owner)
        check_ttl("ttl", ttl)
        wanted = [_checked(ref) for ref in arguments.each_of("pin()", refs)]
        roots = self._prunable()
        digests = list(dict.fromkeys(ref.digest for ref in wanted))
        if look:
            self._keep(wanted, self._end_of_life(LEASE_SECONDS))
        end = FOREVER if ttl is None else roots.clock() + ttl
        roots.pin(PinRow.each(owner, digests, expires_at=end))

    def pin_each(self, pins: Mapping[str, Collection[ContentRef]]) -> None:
        """`pin(owner, refs, look=False)` for many owners, a thousand pins in one transaction."""
        roots, rows = self._prunable(), self._pin_rows(pins)
        for begin in range(0, len(rows), _PAGE):
            roots.pin(rows[begin : begin + _PAGE])

    def _pin_rows(self, pins: Mapping[str, Collection[ContentRef]]) -> list[PinRow]:
        """What `pins` say, checked, for a store that keeps pins."""
        self._prunable()
        if not isinstance(pins, Mapping):
            raise InvalidInputError(f"pins are a mapping of owners to refs, not {pins!r:.80}.")
        rows: list[PinRow] = []
        for owner, refs in pins.items():
            arguments.check_name("The owner of a pin", owner)
            each = map(_checked, arguments.each_of("pins", refs))
            rows += PinRow.each(owner, dict.fromkeys([ref.digest for ref in each]))
        return rows

    def inherit_pins(self, heir: str, refs: Iterable[ContentRef], *, parent: str) -> bool:
        """Let `heir` keep refs that `parent` keeps without an end. False if that is not all of them, or the
        transaction is the caller's: then it takes `pin`.

        Costs a fraction of what `pin` does, as nothing waits for a disk. A power cut (for Postgres, a crash
        of the server) may take it back for as long as `parent` keeps its pins; `unpin` of these makes it
        last. So whoever takes them away has to `pin` first what heirs of an earlier day still need.
        """
        digests = [_checked(ref).digest for ref in arguments.each_of("inherit_pins()", refs)]
        return self._prunable().inherit_pins(heir, digests, parent=parent)

    def unpin(self, *owners: str) -> int:
        """Take away all that these owners keep; returns how many pins there were. What nothing else needs
        goes in a later prune, after its own life and the grace time."""
        for owner in owners:
            arguments.check_name("The owner of a pin", owner)
        return self._prunable().unpin(owners)

    def iter_pins(self, prefix: str = "") -> Iterator[Pin]:
        """The pins of owners that begin with `prefix`, in order; in pages, without a lock."""
        roots = self._prunable()
        after: tuple[str, Digest] | None = None
        while page := roots.scan_pins(prefix=prefix, after=after, limit=_PAGE):
            for row in page:
                yield Pin(row.owner, row.digest.hex(), row.expires_at)
            after = page[-1].owner, page[-1].digest

    # The end

    def prune_expired(
        self,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        grace: float = GRACE_SECONDS,
        progress: Callable[[int], None] | None = None,
    ) -> PruneReport:
        """Remove what has expired and nothing needs. Safe while others read, write and prune.

        Works in two phases: what is not needed is condemned, and removed by the next call that comes
        `grace` seconds later or more, unless somebody has put, touched or named it in between. With
        `grace=0` both happen in one call: only where nobody sets pins without a look.

        Args:
            limit: how many blobs are removed at most.
            dry_run: change nothing; the report tells what would be done.
            grace: in seconds; longer than the longest put takes.
            progress: called with the number of blobs looked at so far.

        Costs a look at each blob and a read of those that link to others, if anything has expired; memory
        is bounded (about 40 MiB). Raises `IntegrityError`, and removes nothing, if a blob that is
        needed cannot be read.
        """
        if limit is not None:
            arguments.check_limit(limit)
        check_seconds("grace", grace)
        if progress is not None and not callable(progress):
            raise InvalidInputError(f"progress must be a function of one int, not {progress!r:.80}.")
        return prune(self._prunable(), limit=limit, dry_run=dry_run, grace=grace, progress=progress)

    # Async twins

    async def atouch(self, refs: Iterable[ContentRef], *, ttl: float | None = None) -> int:
        """`touch` for the event loop."""
        return await asyncio.to_thread(self.touch, list(arguments.each_of("atouch()", refs)), ttl=ttl)

    async def aset_alias(self, name: str, ref: ContentRef, **options: Any) -> Alias:
        """`set_alias` for the event loop, with its options."""
        return await asyncio.to_thread(self.set_alias, name, ref, **options)

    async def aresolve_alias(self, name: str) -> ContentRef:
        """`resolve_alias` for the event loop."""
        return await asyncio.to_thread(self.resolve_alias, name)

    async def aget_alias(self, name: str) -> Alias:
        """`get_alias` for the event loop."""
        return await asyncio.to_thread(self.get_alias, name)

    async def adelete_alias(self, name: str, *, expect: ContentRef | None = None) -> bool:
        """`delete_alias` for the event loop."""
        return await asyncio.to_thread(self.delete_alias, name, expect=expect)

    async def apin(self, owner: str, refs: Iterable[ContentRef], **options: Any) -> None:
        """`pin` for the event loop, with its options."""
        await asyncio.to_thread(self.pin, owner, list(arguments.each_of("apin()", refs)), **options)

    async def apin_each(self, pins: Mapping[str, Collection[ContentRef]]) -> None:
        """`pin_each` for the event loop."""
        await asyncio.to_thread(self.pin_each, pins)

    async def ainherit_pins(self, heir: str, refs: Iterable[ContentRef], *, parent: str) -> bool:
        """`inherit_pins` for the event loop."""
        given = list(arguments.each_of("ainherit_pins()", refs))
        return await asyncio.to_thread(self.inherit_pins, heir, given, parent=parent)

    async def aunpin(self, *owners: str) -> int:
        """`unpin` for the event loop."""
        return await asyncio.to_thread(self.unpin, *owners)

    async def aprune_expired(self, **options: Any) -> PruneReport:
        """`prune_expired` for the event loop, with its options; `progress` is called in a thread."""
        return await asyncio.to_thread(self.prune_expired, **options)

    def _end_of_life(self, ttl: float | None) -> float:
        ttl = self.default_ttl_seconds if ttl is None else ttl
        check_ttl("ttl", ttl)
        return FOREVER if ttl is None else end_of_life(self._store.clock(), ttl)

    def _keep(self, refs: Collection[ContentRef], expires_at: float) -> int:
        called = f"Ref {refs[0].hash}" if isinstance(refs, list) and len(refs) == 1 else "One of the refs"
        return keep_alive(self._store, [ref.digest for ref in refs], expires_at, called=called)

    def _prunable(self) -> PrunableStore:
        """The blob store. Raises `ConfigurationError` if it keeps no pins."""
        if self._roots is not None:  # to look again would take as long as a small pin
            return self._roots
        if not isinstance(self._store, RootStore):  # as `keeps_roots`; this form tells the type checker
            raise ConfigurationError(
                f"{type(self._store).__qualname__} keeps no aliases and no pins: it is a BlobStore, but no "
                f"agentref.storage.RootStore. Use FilesystemCAS, PostgresCAS or InMemoryCAS."
            )
        self._roots = self._store
        return self._store

    def _expected_version(
        self, roots: RootStore, name: str, expect: ContentRef | Literal["absent"] | None
    ) -> int | None:
        if expect is None:
            return None
        if expect == "absent":
            return 0
        if not isinstance(expect, ContentRef):
            raise InvalidInputError(f'expect must be a ContentRef, "absent" or None, not {expect!r:.80}.')
        row = roots.alias(name)
        if row is None or row.digest != expect.digest:
            raise self._conflict(name, row)
        return row.version

    def _conflict(self, name: str, row: AliasRow | None) -> AliasConflictError:
        current = None if row is None else self._alias(row).ref
        stands = "does not exist now" if current is None else f"stands for {current} now"
        return AliasConflictError(
            f"The alias {name!r} {stands}: somebody has moved it. Look at it, and decide again.",
            name=name,
            current=current,
        )

    def _alias(self, row: AliasRow) -> Alias:
        return Alias(row.name, ref_of(row, self.backend_id), row.version, row.expires_at)


def _checked(ref: object) -> ContentRef:
    if not isinstance(ref, ContentRef):
        raise InvalidRefError(f"A ContentRef is needed, not {type(ref).__name__}.")
    return ref
