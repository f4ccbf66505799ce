"""Stores that break one promise about pins that come with blobs."""

from collections.abc import Collection, Mapping

from agentref.refs import Digest
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.protocol import FOREVER, PinRow

__all__ = ["BlobsOnly", "LeftWithoutBlobs", "OfItsBlobs", "PinsFirst"]


class BlobsOnly(MemoryBlobStore):
    """Puts off the pins, and forgets them."""

    def store_pinned(
        self, blobs: Mapping[Digest, bytes], pins: Collection[PinRow], /, *, expires_at: float = FOREVER
    ) -> None:
        """Unless there is nothing else to do."""
        super().store_pinned(blobs, () if blobs else pins, expires_at=expires_at)


class OfItsBlobs(MemoryBlobStore):
    """Takes what comes with blobs for theirs."""

    def store_pinned(
        self, blobs: Mapping[Digest, bytes], pins: Collection[PinRow], /, *, expires_at: float = FOREVER
    ) -> None:
        """And drops the rest."""
        own = [pin for pin in pins if not blobs or pin.digest in blobs]
        super().store_pinned(blobs, own, expires_at=expires_at)


class LeftWithoutBlobs(MemoryBlobStore):
    """Has nothing to do without blobs."""

    def store_pinned(
        self, blobs: Mapping[Digest, bytes], pins: Collection[PinRow], /, *, expires_at: float = FOREVER
    ) -> None:
        """Or so it thinks."""
        if blobs:
            super().store_pinned(blobs, pins, expires_at=expires_at)


class PinsFirst(MemoryBlobStore):
    """Looks at what it is given as it goes."""

    def store_pinned(
        self, blobs: Mapping[Digest, bytes], pins: Collection[PinRow], /, *, expires_at: float = FOREVER
    ) -> None:
        """Too late."""
        self.pin(pins)
        self.store(blobs, expires_at=expires_at)
