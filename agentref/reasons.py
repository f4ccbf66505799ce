"""The words for why something was refused."""

from enum import StrEnum

__all__ = ["Reason"]


class Reason(StrEnum):
    """Why a commit, a lease or an effect was refused. Members are only ever added."""

    VERSION_MISMATCH = "version_mismatch"
    """Somebody wrote since the view was read."""
    DELETED = "deleted"
    """Somebody deleted it since the view was read."""
    EXISTS = "exists"
    """It was to be created, but is there."""
    CONTENT_MISMATCH = "content_mismatch"
    """The view has the version that stands there, but not its content: it is of another history."""
    HELD_BY_OTHER = "held_by_other"
    """Somebody else has a lease on it, or waits for one."""
    LEASE_LOST = "lease_lost"
    """The lease has ended: released, expired, or taken away by `recover`."""
    STALE_EPOCH = "stale_epoch"
    """An exclusive lease has ended since the view was read: whoever held it may not write any more."""
