"""Contents as a peer stores them: kept for as long as they are current, and a while beyond."""

import threading
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, Protocol, runtime_checkable

from blake3 import blake3

from agentref.codecs import CODEC_ID
from agentref.errors import BlobNotFoundError, InvalidInputError, StorageError
from agentref.refs import ContentRef, Digest

__all__ = ["ContentStore", "Contents", "Version"]

_PREFIX: Final = "agentref.coherence"
_RELEASED_AT_ONCE: Final = 32
_LIFE: Final = 1.25  # of a content, in times of what it is to be retained
_YOUNG: Final = 0.2  # so old may a content be to have as much left of that as it needs

Version = tuple[bytes, int, ContentRef]
"""An artifact's key, one of its versions, and the content of that."""


@runtime_checkable
class ContentStore(Protocol):
    """What a peer asks of a content store; `InMemoryCAS`, `FilesystemCAS` and `PostgresCAS` have it."""

    def encode(self, values: Iterable[object]) -> Any:
        """Values on their way into the store, with their `refs`. CPU only."""
        ...

    def store(
        self,
        encoded: Any,
        *,
        ttl: float | None = None,
        pins: Mapping[str, Collection[ContentRef]] | None = None,
    ) -> None:
        """Keep what `encode` returned, and let owners keep refs of it."""
        ...

    def load(self, ref: ContentRef) -> object:
        """The value of a ref; a new one each time."""
        ...

    def pin(
        self, owner: str, refs: Iterable[ContentRef], *, ttl: float | None = None, look: bool = True
    ) -> None:
        """Let an owner keep refs alive; look whether they are there first."""
        ...

    def unpin(self, *owners: str) -> int:
        """Let owners keep nothing any more."""
        ...

    def iter_pins(self, prefix: str = "") -> Iterable[Any]:
        """All pins of owners whose names begin so."""
        ...


class Contents:
    """The contents of one coordinator's artifacts in one store.

    A content is stored with a life of `retain` seconds and some more and pinned by (artifact, version),
    then committed; the pin of the version before is taken away some time after, once one that ends by
    itself stands in for it if it is so old that its own life would be too short. So what is current is
    always pinned, a crash in between leaves a pin too many, and who still has an older view can load it
    for `retain` seconds after another one followed it.
    """

    def __init__(
        self, store: ContentStore, coordinator_id: str, *, retain: float, may_be_undone: bool = False
    ) -> None:
        if isinstance(store, type) or not _is_store(store):
            raise InvalidInputError(
                f"backend must be a content store such as FilesystemCAS('./state_blobs'), not "
                f"{store!r:.80}."
            )
        self.store = store
        self._prefix = f"{_PREFIX}/{coordinator_id}/"
        self.retain = retain
        self._may_be_undone = may_be_undone
        self._superseded: dict[str, ContentRef | None] = {}
        self._lock = threading.Lock()

    def load(self, ref: ContentRef) -> object:
        """The value of a ref. Raises `BlobNotFoundError` if it is not there any more."""
        return self.store.load(ref)

    def encode(self, values: Sequence[object]) -> Any:
        """Values that are about to be committed, on their way into the store, with their `refs`."""
        return self.store.encode(values)

    def put(self, encoded: Any, versions: Iterable[Version]) -> None:
        """Store what was encoded, and pin it as what is about to become these versions."""
        pins = {self._owner(code, version): [ref] for code, version, ref in versions}
        self.store.store(encoded, ttl=self.retain * _LIFE, pins=pins)

    def keep(self, versions: Iterable[Version]) -> None:
        """Pin what others stored and is about to become these versions. Raises `BlobNotFoundError` if it is
        not there."""
        for code, version, ref in versions:
            self.store.pin(self._owner(code, version), [ref])
            self._retire([ref], self.retain * _LIFE)  # they stored it for as long as they liked

    def supersede(
        self, code: bytes, version: int, ref: ContentRef | None = None, *, age: float = 0.0
    ) -> None:
        """Take note that a version is no longer current: its content, if it was committed, `age` seconds
        ago. Its pin goes with some others."""
        with self._lock:
            old = age > self.retain * _YOUNG
            self._superseded[self._owner(code, version)] = ref if old else None
            due = len(self._superseded) >= _RELEASED_AT_ONCE
        if due:
            self.flush()

    def forget_parent(self) -> None:
        """In a forked child: what the parent superseded, the parent takes away."""
        self._lock = threading.Lock()
        self._superseded = {}

    def flush(self) -> None:
        """Take away the pins of what is no longer current; those that a failing store keeps, later. What
        was committed stands: it must not seem to have failed."""
        with self._lock:
            superseded, self._superseded = self._superseded, {}
        if self._may_be_undone:
            return  # what followed may never have been: tidy() takes the pins away that are over
        try:
            self._outlive([ref for ref in superseded.values() if ref is not None])
            if superseded:
                self.store.unpin(*superseded)
        except StorageError:
            with self._lock:
                self._superseded = superseded | self._superseded

    def tidy(self, versions: Iterable[tuple[bytes, int]]) -> int:
        """Take away the pins of versions that others followed, given what is current. A version to come may
        be pinned already: it stays."""
        current = {_hash(code): version for code, version in versions}
        stale: dict[str, list[str]] = {}
        for pin in self.store.iter_pins(self._prefix):
            name, _, version = pin.owner.removeprefix(self._prefix).partition("/")
            if version.isdecimal() and int(version) < current.get(name, 0):
                stale.setdefault(pin.owner, []).append(pin.hash)
        if not stale:
            return 0
        # Who let them be superseded, and when, is not known: it may have been a moment ago.
        hashes = chain.from_iterable(stale.values())
        self._retire([ContentRef(Digest(bytes.fromhex(h)), CODEC_ID, 0) for h in hashes], self.retain)
        return self.store.unpin(*sorted(stale))

    def hold(self, owner: str, refs: Collection[ContentRef], *, ttl: float) -> None:
        """Pin what a snapshot shows, for `ttl` seconds from now."""
        self.store.pin(self._prefix + owner, refs, ttl=ttl)

    def let_go(self, owner: str) -> None:
        """Take away the pins of a snapshot."""
        self.store.unpin(self._prefix + owner)

    def _outlive(self, refs: Sequence[ContentRef]) -> None:
        if refs:
            try:
                self._retire(refs, self.retain, look=True)
            except BlobNotFoundError:  # another peer has tidied up, long ago
                for ref in refs:
                    with suppress(BlobNotFoundError):
                        self._retire([ref], self.retain, look=True)

    def _retire(self, refs: Collection[ContentRef], ttl: float, *, look: bool = False) -> None:
        self.store.pin(f"{self._prefix}retired/{uuid.uuid4().hex}", refs, ttl=ttl, look=look)

    def _owner(self, code: bytes, version: int) -> str:
        # By its hash: an artifact's name may be longer than that of an owner, and hold what those may not.
        return f"{self._prefix}{_hash(code)}/{version}"


def _is_store(store: object) -> bool:
    return isinstance(store, ContentStore)


def _hash(code: bytes) -> str:
    return blake3(code).hexdigest(length=16)
