"""The settings that whatever walks trees takes by name, and the one way from them to an externalizer."""

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from agentref.errors import AgentRefError, ConfigurationError, InvalidInputError, StorageError
from agentref.storage import CAS
from agentref.trees import Externalizer

__all__ = ["TreeOptions", "externalizer_of", "name_fault"]


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


def name_fault(error: AgentRefError, externalizer: Externalizer, trees: Iterable[tuple[str, Any]]) -> None:
    """Add to the error of a batch which tree it came from, by its name. Loads them one by one until one
    fails; that a store is down is the fault of none."""
    if isinstance(error, StorageError):
        return
    for name, tree in trees:
        try:
            externalizer.rehydrate(tree)
        except StorageError:
            return
        except AgentRefError:
            error.add_note(f"It is {name} that cannot be read. Restore its content, or delete it.")
            return
