"""The checks that a coordinator makes of its arguments, before anything is touched."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from agentref.coherence.keys import Key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.rows import LeaseMode, Versioned
from agentref.errors import ForeignViewError, InvalidInputError
from agentref.refs import ContentRef

__all__ = [
    "check_agent",
    "check_limit",
    "check_mode",
    "check_ref",
    "check_seconds",
    "own_lease",
    "own_view",
]

_MAX_AGENT_BYTES: Final = 256


def each_of(what: str, items: object, kind: str) -> list[Any]:
    """The items, if they are several. Raises `InvalidInputError` for a single one."""
    single = (str, bytes, Mapping, Versioned, Lease)
    if isinstance(items, Iterable) and not isinstance(items, single):
        return list(items)
    raise InvalidInputError(
        f"{what} must be a list of {kind}, or another iterable of them; not {type(items).__name__}."
    )


def check_agent(what: str, agent: object) -> str:
    """Raise `InvalidInputError` unless it can name an agent."""
    if isinstance(agent, str) and agent:
        try:
            if len(agent.encode()) <= _MAX_AGENT_BYTES and "\0" not in agent:
                return agent
        except UnicodeEncodeError:
            pass
    raise InvalidInputError(
        f"{what} must be the name of an agent, a text of 1 to {_MAX_AGENT_BYTES} bytes in UTF-8 without a "
        f"NUL; not {agent!r:.80}."
    )


def check_seconds(what: str, seconds: object, *, zero: bool = False) -> float:
    """Raise `InvalidInputError` unless it is a finite time to come."""
    try:
        if isinstance(seconds, (int, float)) and not isinstance(seconds, bool):
            number = float(seconds)
            if (number >= 0 if zero else number > 0) and number < math.inf:
                return number
    except OverflowError:
        pass
    least = "0 or more" if zero else "more than 0"
    raise InvalidInputError(f"{what} must be a number of seconds, {least} and finite, not {seconds!r:.40}.")


def check_limit(limit: object) -> int:
    """Raise `InvalidInputError` unless it is a positive int."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit < 2**31:
        raise InvalidInputError(f"limit must be a positive int, not {limit!r:.40}.")
    return limit


def check_mode(mode: object) -> LeaseMode:
    """Raise `InvalidInputError` unless it is a mode of leases."""
    try:
        return LeaseMode(mode)  # type: ignore[arg-type]
    except ValueError:
        raise InvalidInputError(f"mode must be 'exclusive' or 'shared', not {mode!r:.40}.") from None


def check_ref(ref: object) -> ContentRef | None:
    """Raise `InvalidInputError` unless it is a ref, or None."""
    if ref is not None and not isinstance(ref, ContentRef):
        raise InvalidInputError(
            f"ref must be a ContentRef, as CAS.dump() returns it, or None to delete; not "
            f"{type(ref).__name__}. A peer takes values: coordinator.peer('me', backend=cas).commit(...)."
        )
    return ref


def own_view(view: object, origin: str, key: Key | None = None) -> Versioned:
    """The view, if this coordinator showed it, of that key. Raises `ForeignViewError`."""
    if not isinstance(view, Versioned):
        raise InvalidInputError(
            f"base must be what a read or a commit of this coordinator returned, or None if the artifact "
            f"is to be created; not {type(view).__name__}."
        )
    if view.origin != origin:
        raise ForeignViewError(
            f"The view of {view.key!r:.80} is from the coordinator {view.origin}, not from {origin}."
        )
    if key is not None and view.key != key:
        raise ForeignViewError(f"The view is of {view.key!r:.80}, not of {key!r:.80}.")
    return view


def own_lease(lease: object, origin: str, key: Key | None = None) -> bytes:
    """The encoded key of a lease that this coordinator granted. Raises as `own_view` does."""
    if not isinstance(lease, Lease):
        raise InvalidInputError(f"lease must be what acquire() returned, not {type(lease).__name__}.")
    if lease.origin != origin:
        raise ForeignViewError(
            f"The lease on {lease.key!r:.80} is from the coordinator {lease.origin}, not from {origin}."
        )
    if key is not None and lease.key != key:
        raise ForeignViewError(f"The lease is on {lease.key!r:.80}, not on {key!r:.80}.")
    return encode_key(lease.key)
