"""What a peer shows: a version of an artifact, whose value is fetched when it is asked for."""

import asyncio
from typing import Any, Final

from agentref.coherence.contents import Contents
from agentref.coherence.keys import Key
from agentref.coherence.rows import Versioned
from agentref.errors import BlobNotFoundError
from agentref.refs import ContentRef

__all__ = ["UNKNOWN", "View"]

UNKNOWN: Final = object()
_IMMUTABLE: Final = (str, bytes, int, float, bool, complex, type(None))


class _Decoded:
    """The one object for a content that all views of it through a peer show."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = UNKNOWN


class View:
    """One version of one artifact, as a peer saw it. Never changes; safe for threads.

    Attributes:
        versioned: what the coordinator said: a `Versioned`, without the value.
        key, ref, version, epoch, writer, at, exists: as there.
    """

    __slots__ = ("_contents", "_decoded", "versioned")

    def __init__(self, versioned: Versioned, contents: Contents) -> None:
        self.versioned = versioned
        self._contents = contents
        self._decoded = _Decoded()

    @property
    def key(self) -> Key:
        """The artifact."""
        return self.versioned.key

    @property
    def ref(self) -> ContentRef | None:
        """Its content; None if there is none."""
        return self.versioned.ref

    @property
    def version(self) -> int:
        """The number of this version; 0 if there was never one."""
        return self.versioned.version

    @property
    def epoch(self) -> int:
        """How many exclusive leases had ended when this was read."""
        return self.versioned.epoch

    @property
    def writer(self) -> str:
        """The agent that wrote it."""
        return self.versioned.writer

    @property
    def at(self) -> float:
        """When it was written, in seconds since the epoch, by the coordinator's clock."""
        return self.versioned.at

    @property
    def exists(self) -> bool:
        """Whether there is a value."""
        return self.versioned.ref is not None

    @property
    def value(self) -> Any:
        """The value: fetched, verified and decoded once, and then the same object for whoever reads this
        version through this peer. Do not change it; `copy()` returns one of your own.

        Raises `BlobNotFoundError` if the artifact has no content, or it is no longer in the store, and
        `IntegrityError` if it is damaged there.
        """
        value = self._decoded.value
        return self._load() if value is UNKNOWN else value

    async def avalue(self) -> Any:
        """`value` for the event loop."""
        value = self._decoded.value
        return await asyncio.to_thread(self._load) if value is UNKNOWN else value

    def copy(self) -> Any:
        """The value as an object of the caller's own."""
        value = self._decoded.value
        return value if isinstance(value, _IMMUTABLE) else self._fetch()

    async def acopy(self) -> Any:
        """`copy` for the event loop."""
        return await asyncio.to_thread(self.copy)

    @property
    def is_loaded(self) -> bool:
        """Whether `value` costs nothing any more."""
        return self._decoded.value is not UNKNOWN

    def __repr__(self) -> str:
        what = str(self.ref) if self.exists else "no content"
        return f"View({'/'.join(self.key)!r}, version {self.version}, epoch {self.epoch}, {what})"

    def of(self, versioned: Versioned) -> "View":
        """The view of what has the same content, with the value if it was loaded."""
        view = View(versioned, self._contents)
        if versioned.ref is not None and versioned.ref == self.versioned.ref:
            view._decoded = self._decoded
        return view

    def know(self, value: object) -> None:
        """Take note of the value, where its object can be shared with who committed it."""
        if type(value) in _IMMUTABLE and self._decoded.value is UNKNOWN:
            self._decoded.value = value

    def forget(self) -> None:
        """Let the value be decoded anew: somebody may have changed the object."""
        if not isinstance(self._decoded.value, _IMMUTABLE):
            self._decoded.value = UNKNOWN

    def _load(self) -> Any:
        # Two threads may both fetch it; which of the two objects stays is the same for all.
        value = self._fetch()
        decoded = self._decoded
        if (known := decoded.value) is not UNKNOWN:
            return known
        decoded.value = value
        return value

    def _fetch(self) -> Any:
        if self.versioned.ref is None:
            raise BlobNotFoundError(
                f"{'/'.join(self.key)!r} has no content: it was "
                f"{'deleted by ' + repr(self.writer) if self.version else 'never written'}. "
                f"See view.exists, or create it: commit(key, value, base=None)."
            )
        return self._contents.load(self.versioned.ref)
