"""The stores of one machine, ready to use."""

import os
from collections.abc import Sequence

from agentref.codecs import ValueCodec
from agentref.storage._arguments import check_root
from agentref.storage.cas import CAS
from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.memory import MemoryBlobStore

__all__ = ["FilesystemCAS", "InMemoryCAS"]


class InMemoryCAS(CAS):
    """A content-addressed store in the memory of this process: for tests and short runs.

    Takes the options of `CAS`. Thread-safe; lost with the process; a forked child has a copy.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        backend_id: str | None = None,
        codec: ValueCodec | None = None,
        compression_level: int | None = None,
        max_value_bytes: int = 1024**3,
        backend_aliases: Sequence[str] = (),
        default_ttl_seconds: float | None = None,
        refresh_on_read: bool = False,
    ) -> None:
        super().__init__(
            MemoryBlobStore(),
            backend_id=backend_id,
            codec=codec,
            compression_level=compression_level,
            max_value_bytes=max_value_bytes,
            backend_aliases=backend_aliases,
            default_ttl_seconds=default_ttl_seconds,
            refresh_on_read=refresh_on_read,
        )


class FilesystemCAS(CAS):
    """A content-addressed store in a directory: one SQLite database, and pack files.

    Takes the options of `CAS`. Safe for many threads and processes of one machine, and across a
    fork; survives `kill -9` at any point. Not for network file systems, whose locks SQLite cannot
    trust.

    Args:
        root: the directory; made if it is not there.

    Raises `StoreUnavailableError` or `StoreVersionError` if it cannot be used, `InvalidInputError` for
    what is no path.
    """

    def __init__(  # noqa: PLR0913
        self,
        root: str | os.PathLike[str],
        *,
        backend_id: str | None = None,
        codec: ValueCodec | None = None,
        compression_level: int | None = None,
        max_value_bytes: int = 1024**3,
        backend_aliases: Sequence[str] = (),
        default_ttl_seconds: float | None = None,
        refresh_on_read: bool = False,
    ) -> None:
        root = check_root(root)
        self.root = os.path.abspath(root)  # noqa: PTH100  (a str: the store outlives a change of directory)
        super().__init__(
            FilesystemBlobStore(root),
            backend_id=backend_id,
            codec=codec,
            compression_level=compression_level,
            max_value_bytes=max_value_bytes,
            backend_aliases=backend_aliases,
            default_ttl_seconds=default_ttl_seconds,
            refresh_on_read=refresh_on_read,
        )
