"""What a coordinator knows of one artifact. Pure values; what they mean is said by the rules."""

from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgpack

from agentref.coherence.keys import Key
from agentref.errors import AgentRefError, MalformedBlobError
from agentref.refs import ContentRef, Digest

__all__ = [
    "ABSENT",
    "Held",
    "LeaseMode",
    "Row",
    "Versioned",
    "columns_of",
    "pack_leases",
    "ref_of",
    "row_of",
    "unpack_leases",
    "versioned",
]

MAX_LEASES: Final = 1000
_PROMISED: Final = 2  # where others have whether they wait


class LeaseMode(StrEnum):
    """What a lease keeps others from.

    `EXCLUSIVE`: from committing and from any lease. `SHARED`: from committing and from an exclusive one.
    """

    EXCLUSIVE = "exclusive"
    SHARED = "shared"


class Held(NamedTuple):
    """One lease, as it stands in a row: `until` is in seconds since the epoch, by the coordinator's clock.

    `waits` is true for a place in the queue: who waits holds nothing, but nobody gets a lease before him.
    `promised` is true for one under which its holder reads without asking: nobody takes it away.
    """

    holder: str
    mode: LeaseMode
    fence: int
    until: float
    ttl: float
    waits: bool = False
    promised: bool = False


class Row(NamedTuple):
    """An artifact. `version` counts the changes of its content, `epoch` the exclusive leases that ended,
    `fence` the leases that were granted: none ever goes back. `revision` names this row among all that the
    key ever had; it is drawn by chance, so that what was rolled back is never taken for what came instead.
    """

    revision: int = 0
    version: int = 0
    epoch: int = 0
    fence: int = 0
    ref: ContentRef | None = None  # None: never written, or deleted
    writer: str = ""
    at: float = 0.0
    leases: tuple[Held, ...] = ()

    @property
    def until(self) -> float | None:
        """When the first of the leases ends, if there are any."""
        return min(held.until for held in self.leases) if self.leases else None


ABSENT: Final = Row()


class Versioned(NamedTuple):
    """What a key stands for at one moment: a few numbers and a ref, never a payload.

    Attributes:
        origin: the coordinator that it is from; another one refuses it.
        key: the artifact.
        ref: its content; None if it was never written (version 0) or is deleted.
        version: 1 for the first content, one more with each that follows, deletions among them.
        epoch: how many exclusive leases on it have ended; a commit from a view of before is refused.
        writer: the agent that wrote this version.
        at: when, in seconds since the epoch, by the coordinator's clock.
    """

    origin: str
    key: Key
    ref: ContentRef | None
    version: int
    epoch: int
    writer: str = ""
    at: float = 0.0

    @property
    def exists(self) -> bool:
        """Whether there is content."""
        return self.ref is not None


def versioned(origin: str, key: Key, row: Row) -> Versioned:
    """What others may know of a row."""
    return Versioned(origin, key, row.ref, row.version, row.epoch, row.writer, row.at)


def pack_leases(leases: tuple[Held, ...]) -> bytes | None:
    """The stored form of a row's leases; None if there are none."""
    if not leases:
        return None
    packed: bytes = msgpack.packb(
        [[h.holder, str(h.mode), *h[2:5], _PROMISED if h.promised else h.waits] for h in leases]
    )
    return packed


def unpack_leases(packed: bytes | None) -> tuple[Held, ...]:
    """The leases that were packed. Raises `MalformedBlobError` for anything else."""
    if packed is None:
        return ()
    try:
        items: Any = msgpack.unpackb(packed, max_array_len=MAX_LEASES + 1)
        return tuple(
            Held(
                str(holder),
                LeaseMode(mode),
                int(fence),
                float(until),
                float(ttl),
                bool(kind) and kind != _PROMISED,
                kind == _PROMISED,
            )
            for holder, mode, fence, until, ttl, kind in items
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise MalformedBlobError(
            f"The leases of an artifact are damaged in its database: {error}"
        ) from error


def columns_of(row: Row) -> tuple[Any, ...]:
    """The row as both databases keep it: revision, version, epoch, fence, digest, codec, size, backend_id,
    writer, at, until, leases."""
    revision, version, epoch, fence, ref, writer, at, leases = row
    content = (None, None, None, None) if ref is None else (ref.digest, ref.codec, ref.size, ref.backend_id)
    until = row.until if leases else None
    return (revision, version, epoch, fence, *content, writer, float(at), until, pack_leases(leases))


def row_of(columns: tuple[Any, ...]) -> Row:
    """The row that was kept as (key, ...) and those columns, without `until`. They may be damaged: raises
    `MalformedBlobError` for what is none."""
    key, revision, version, epoch, fence, digest, codec, size, backend_id, writer, at, leases = columns
    if not (
        type(revision) is type(version) is type(epoch) is type(fence) is int
        and revision > 0
        and version >= 0
        and epoch >= 0
        and fence >= 0
        and type(writer) is str
        and type(at) is float
    ):
        raise MalformedBlobError(
            f"The row of {key!r:.80} is damaged in its database: restore it from a backup."
        )
    ref = None if digest is None else ref_of(digest, codec, size, backend_id)
    return Row(
        revision, version, epoch, fence, ref, writer, at, () if leases is None else unpack_leases(leases)
    )


def ref_of(digest: bytes | None, codec: str, size: int, backend_id: str | None) -> ContentRef | None:
    """The ref that these columns stand for. Raises `MalformedBlobError` if they stand for none."""
    if digest is None:
        return None
    try:
        return ContentRef(Digest(digest), codec, size, backend_id)
    except AgentRefError as error:
        raise MalformedBlobError(f"The ref of an artifact is damaged in its database: {error}") from error
