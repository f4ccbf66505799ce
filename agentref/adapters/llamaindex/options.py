"""The settings that whatever walks trees takes by name, and the one way from them to an externalizer."""

from collections.abc import Iterable, Sequence
from typing import TypedDict

from agentref.errors import ConfigurationError, InvalidInputError
from agentref.storage import CAS
from agentref.trees import Externalizer

__all__ = ["TreeOptions", "externalizer_of"]


class TreeOptions(TypedDict, total=False):
    """Settings of an `Externalizer`, which documents them."""

    also: Iterable[CAS]
    threshold_bytes: int
    segment: int
    keys: bytes | Sequence[bytes]
    tenant: str
    max_bytes: int


def externalizer_of(owner: str, backend: CAS | Externalizer | None, options: TreeOptions) -> Externalizer:
    """The externalizer that was given, or one over the store that was given. `owner` is who asks."""
    if isinstance(backend, Externalizer):
        if options:
            raise InvalidInputError(
                f"{owner} got an Externalizer and {', '.join(options)}, which that has already. "
                f"Pass a store with these settings, or the externalizer alone."
            )
        return backend
    if backend is None:
        raise ConfigurationError(
            f"{owner} needs a store for what is large: backend=FilesystemCAS('./state_blobs')."
        )
    return Externalizer(backend, **options)
