"""How long things live: from seconds that a caller names to a time by the store's own clock."""

import math
from typing import Final

from agentref.errors import InvalidInputError
from agentref.storage.protocol import FOREVER

__all__ = ["GRACE_SECONDS", "LEASE_SECONDS", "check_seconds", "check_ttl", "end_of_life"]

LEASE_SECONDS: Final = 3600.0
"""For how long what was stored for a pin, or looked at for one, lives without it: the time to set it."""

GRACE_SECONDS: Final = 3600.0
"""How long a prune waits between finding that a blob is not needed and removing it."""

_MIN_TTL: Final = 0.001
_MAX_TTL: Final = 100 * 365 * 24 * 3600


def check_ttl(name: str, ttl: object) -> None:
    """Raise `InvalidInputError` unless `ttl` is a life in seconds, or None."""
    if ttl is not None and (
        isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not _MIN_TTL <= ttl <= _MAX_TTL
    ):
        raise InvalidInputError(
            f"{name} must be a number of seconds from {_MIN_TTL} to {_MAX_TTL:,}, or None for no end; "
            f"not {ttl!r:.40}."
        )


def check_seconds(name: str, seconds: object) -> None:
    """Raise `InvalidInputError` unless `seconds` is a span of time, 0 or more."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= _MAX_TTL:
        raise InvalidInputError(
            f"{name} must be a number of seconds from 0 to {_MAX_TTL:,}, not {seconds!r:.40}."
        )


def end_of_life(now: float, ttl: float | None) -> float:
    """When a life of `ttl` seconds ends, to the next eighth of it: what is put again and again need not be
    written each time."""
    if ttl is None:
        return FOREVER
    step = ttl / 8
    return math.ceil((now + ttl) / step) * step
