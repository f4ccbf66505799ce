"""Refusals in words: what happened, and what to do about it."""

from typing import Final

from agentref.coherence.keys import Key
from agentref.coherence.rows import Row, Versioned, versioned
from agentref.coherence.rules import Refusal
from agentref.errors import Conflict, Reason

__all__ = ["conflict"]

_WORDS: Final = {
    Reason.VERSION_MISMATCH: "is at version {now.version}, written by {now.writer!r}, and the view is of "
    "version {seen}. Read it again, and decide on what stands there now",
    Reason.DELETED: "was deleted by {now.writer!r}. Read it again, or create it: base=None",
    Reason.EXISTS: "is there already, at version {now.version}, written by {now.writer!r}. Read it, and "
    "give what was read as base",
    Reason.CONTENT_MISMATCH: "has another content at version {now.version} than the view: the view is of "
    "another history. Read it again",
    Reason.HELD_BY_OTHER: "is held by {holder!r} at the moment. Wait for the lease to end, or ask for one "
    "with wait=",
    Reason.LEASE_LOST: "is no longer held under that lease: it was released, has expired, or was taken "
    "away. Acquire a new one, and read again",
    Reason.STALE_EPOCH: "was under an exclusive lease that has ended since the view was read (the view is "
    "of epoch {epoch}, it is at {now.epoch}). Read it again",
}


def conflict(origin: str, refusal: Refusal, key: Key, base: Versioned | None, row: Row) -> Conflict:
    """The error for a refusal."""
    now = versioned(origin, key, row)
    words = _WORDS[refusal.reason].format(
        now=now,
        seen=base.version if base else 0,
        epoch=base.epoch if base else 0,
        holder=refusal.holder or "somebody",
    )
    return Conflict(
        f"{'/'.join(key)!r:.120} {words}.",
        reason=refusal.reason,
        key=key,
        base=base,
        current=now,
        holder=refusal.holder,
        until=refusal.until,
    )
