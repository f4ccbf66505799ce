"""Suites that any blob store or coordinator can be held against, and ones that break one promise each.

Needs pytest, and raises `MissingExtraError` without it. Nothing in agentref imports this package.
"""

from agentref.errors import MissingExtraError

try:
    import pytest
except ImportError as error:
    raise MissingExtraError(
        f"agentref.testing needs pytest, which cannot be imported: {error}. pip install pytest"
    ) from error

# Before the import: a suite explains a failure as well as a test of one's own does.
pytest.register_assert_rewrite(
    "agentref.testing._coherence",
    "agentref.testing._common",
    "agentref.testing.blobstore",
    "agentref.testing.commits",
    "agentref.testing.coordinators",
    "agentref.testing.feeds",
    "agentref.testing.holding",
    "agentref.testing.lifetimes",
    "agentref.testing.pins",
    "agentref.testing.rootstore",
    "agentref.testing.waiting",
)

from agentref.testing.blobstore import BlobStoreContract, PersistentBlobStoreContract  # noqa: E402
from agentref.testing.coordinators import (  # noqa: E402
    CoordinatorContract,
    PersistentCoordinatorContract,
)
from agentref.testing.rootstore import PersistentRootStoreContract, RootStoreContract  # noqa: E402

__all__ = [
    "BlobStoreContract",
    "CoordinatorContract",
    "PersistentBlobStoreContract",
    "PersistentCoordinatorContract",
    "PersistentRootStoreContract",
    "RootStoreContract",
]
