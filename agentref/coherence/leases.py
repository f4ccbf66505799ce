"""A lease as its holder has it."""

from typing import NamedTuple

from agentref.coherence.keys import Key
from agentref.coherence.rows import LeaseMode

__all__ = ["Lease"]


class Lease(NamedTuple):
    """The right to write an artifact (exclusive), or to keep others from it (shared), for a while.

    Attributes:
        origin: the coordinator that granted it; another one refuses it.
        key, holder: what is held, and by whom.
        mode: exclusive or shared.
        fence: greater than that of every lease on this key before. Give it to services outside, which can
            then refuse whoever comes with a smaller one.
        until: when it ends unless it is renewed, in seconds since the epoch, by the coordinator's clock.
        ttl: its length in seconds.
    """

    origin: str
    key: Key
    holder: str
    mode: LeaseMode
    fence: int
    until: float
    ttl: float
