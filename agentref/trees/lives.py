"""How long the content of a tree lives that was there already, as far as an externalizer knows."""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final

from agentref.refs import ContentRef, Digest
from agentref.runtime import Runtime
from agentref.storage import LEASE_SECONDS

__all__ = ["Lives"]

_REMEMBERED: Final = 65_536
_FOR_EVER: Final = float("inf")


class Lives:
    """Sees to it that what a tree refers to lives on when that is saved again, and is there at all.

    Asks the store once for each ref, and again when a quarter of its life, or half of a lease, has passed.
    Thread-safe.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._until: dict[Digest, float] = {}

    def due(self, refs: Sequence[ContentRef], *, leased: bool) -> list[ContentRef]:
        """Those that may not live long enough: for ever or as the store's default says; or, if `leased`,
        until they are pinned. What is in no store that is written here is passed over."""
        ttl = LEASE_SECONDS if leased else self._runtime.backend.default_ttl_seconds
        needed = _FOR_EVER if ttl is None else time.time() + ttl * (0.5 if leased else 0.75)
        return [ref for ref in refs if self._until.get(ref.digest, 0.0) < needed and self._is_ours(ref)]

    def renew(self, refs: Sequence[ContentRef], *, leased: bool) -> None:
        """Lengthen the lives of those that are due. Raises `BlobNotFoundError` for what is gone."""
        due = self.due(refs, leased=leased)
        if due:
            self._runtime.backend.touch(due, ttl=LEASE_SECONDS if leased else None)
            self.note(due, leased=leased)

    def note(self, refs: Iterable[ContentRef], *, leased: bool) -> None:
        """These were stored, or touched, just now."""
        ttl = LEASE_SECONDS if leased else self._runtime.backend.default_ttl_seconds
        until = _FOR_EVER if ttl is None else time.time() + ttl
        with self._lock:
            for ref in refs:
                self._until[ref.digest] = max(until, self._until.pop(ref.digest, 0.0))
            while len(self._until) > _REMEMBERED:
                del self._until[next(iter(self._until))]

    def _is_ours(self, ref: ContentRef) -> bool:
        return self._runtime.store_for(ref) is self._runtime.backend
