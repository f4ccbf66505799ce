"""Why a worker may not save, in words."""

from agentref.coherence import Conflict, Lease, Reason, Versioned

__all__ = ["held_by_other", "lost", "stale"]


def held_by_other(error: Conflict, worker: str) -> Conflict:
    """Another worker writes the thread."""
    who = repr(error.holder)
    if error.holder == worker:
        who = f"{worker!r}, another run or process of that name (if dead: coordinator.recover(name))"
    return Conflict(
        f"Thread {error.key[1]!r:.200} is being written by {who}. Nothing was saved. Wait until that is "
        f"over, and then begin from what it left: with saver.writing(thread_id, wait=60): ...",
        reason=Reason.HELD_BY_OTHER,
        key=error.key,
        current=error.current,
        holder=error.holder,
        until=error.until,
    )


def lost(current: object, lease: Lease, error: Conflict | None = None) -> Conflict:
    """The thread was taken over."""
    return Conflict(
        f"Thread {lease.key[1]!r:.200} is no longer held by this worker ({lease.holder!r}): its lease of "
        f"{lease.ttl:g} seconds ended, and others may have written since. Nothing is saved from here on. "
        f"Resume the thread: that reads it afresh. Where steps may take longer, save within a block, which "
        f"renews the lease: with saver.writing(thread_id).",
        reason=Reason.LEASE_LOST,
        key=lease.key,
        current=current,
        holder=error.holder if error else None,
        until=error.until if error else None,
    )


def stale(current: Versioned) -> Conflict:
    """Another worker wrote the thread between a run's reading of it and its saving."""
    return Conflict(
        f"Thread {current.key[1]!r:.200} was held by another writer since this run read it, or could not "
        f"be looked up then. Nothing was saved. Resume the thread: that reads it afresh.",
        reason=Reason.STALE_EPOCH,
        key=current.key,
        current=current,
    )
