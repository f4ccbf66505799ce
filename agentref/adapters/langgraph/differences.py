"""What a comparison of checkpoints with pins tells."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["GcReport", "Kind", "PinDifference"]

Kind = Literal["unpinned", "missing", "damaged", "foreign", "stale", "surplus"]


class PinDifference(NamedTuple):
    """One thing in which checkpoints and pins differ.

    Attributes:
        kind: one of
            `unpinned`: a checkpoint carries the ref, and has no pin for it;
            `missing`: what the ref needs is not in the store, or not all of it;
            `damaged`: it is without a pin, and what it needs cannot be read;
            `foreign`: the ref names a store that was not given;
            `stale`: a pin whose checkpoint is not there;
            `surplus`: a pin whose checkpoint is there, and does not carry that ref. It goes with it.
        owner: of the pin; a long one is a hash.
        hash: of the ref.
        store: the `backend_id` of the store, or what a foreign ref calls it.
        thread_id, checkpoint_ns, checkpoint_id: the checkpoint; None where only the pin is known.
    """

    kind: Kind
    owner: str
    hash: str
    store: str
    thread_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_id: str | None = None


@dataclass(frozen=True, slots=True)
class GcReport:
    """What `collect_pins` found, and what it did about it.

    Attributes:
        dry_run: whether nothing was changed.
        checkpoints: how many there are.
        pins: how many owners of checkpoints had, in all stores.
        unpinned: refs in checkpoints without a pin.
        pinned: how many of these have one now.
        stale: pins whose checkpoint is gone.
        removed: how many of these were taken away.
        surplus: pins to what their checkpoint does not carry.
        missing: refs in checkpoints whose payload is not in the store, or not all of it.
        damaged: refs without a pin whose payload cannot be read.
        foreign: refs into stores that were not given.
    """

    dry_run: bool
    checkpoints: int
    pins: int
    unpinned: int
    pinned: int
    stale: int
    removed: int
    surplus: int
    missing: int
    damaged: int
    foreign: int

    @property
    def ok(self) -> bool:
        """Whether all that checkpoints carry is there and pinned now, and no pin is stale any more. Surplus
        pins and foreign refs are no fault."""
        return not (
            self.missing or self.damaged or self.unpinned > self.pinned or self.stale > self.removed
        )
