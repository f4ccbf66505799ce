"""The states of a cache protocol, as far as a coordinator and a cache can tell them. Pure.

Nothing stores them: they follow from the row of an artifact, its leases and what an agent has in its cache.
"""

from enum import StrEnum

from agentref.coherence import rules
from agentref.coherence.rows import LeaseMode, Row, Versioned

__all__ = ["State", "state_of"]


class State(StrEnum):
    """What an agent may do with its copy of an artifact, right away."""

    MODIFIED = "modified"
    """Read it and commit; nobody else may commit, and the version that stands there is its own."""
    EXCLUSIVE = "exclusive"
    """Read it and commit; nobody else may commit, and the version that stands there is another's."""
    SHARED = "shared"
    """Read it. Others may have it as well, and may commit if no lease keeps them from it."""
    INVALID = "invalid"
    """Nothing: it has no copy, or one that the coordinator would refuse as a base."""


def state_of(agent: str, row: Row, cached: Versioned | None, now: float) -> State:
    """The state of an artifact for an agent, at one moment.

    `row` is what the coordinator has, `cached` the view in the agent's cache, or None, and `now` is in
    seconds since the epoch, by the coordinator's clock. With leases whose time is over taken back:

    - `INVALID` if there is no view, or the row has another version, content or epoch than the view. A lease
      alone is a right, not a copy.
    - otherwise `MODIFIED` if the agent has an exclusive lease and wrote the version that stands there,
      whether before or under the lease: commits go through to the coordinator, so none waits to be written
      back,
    - `EXCLUSIVE` if it has an exclusive lease, and another wrote that version, or it was never written,
    - `SHARED` if it has none, be there a lease of others or a shared one of its own.

    So no two agents are `MODIFIED` or `EXCLUSIVE` at once. Others stay `SHARED` meanwhile until the first
    commit: what they have is still what stands there. To wait for a lease is not to have one. A deleted
    artifact is like any other. Raises `FutureVersionError` for a view that this row cannot have shown yet.
    """
    row = rules.settle(row, now)
    if cached is None or rules.current(row, rules.Base(cached.version, cached.ref, cached.epoch), now):
        return State.INVALID
    exclusive = any(
        held.holder == agent and held.mode is LeaseMode.EXCLUSIVE and not held.waits for held in row.leases
    )
    if not exclusive:
        return State.SHARED
    return State.MODIFIED if row.version and row.writer == agent else State.EXCLUSIVE
