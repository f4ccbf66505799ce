"""Where an encoder puts what it moves out of the packed bytes."""

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Sink"]


class Sink(Protocol):
    """Takes parts of a value, and answers with links (digest, size) to them."""

    @property
    def memo(self) -> Any:
        """Remembers (`get`, `add`) what was found out about objects that never change."""
        ...

    def raw(self, data: bytes | str, /) -> Sequence[Any]:
        """Links that together are `data`."""
        ...

    def rows(self, data: memoryview, row_bytes: int, /) -> Sequence[Any]:
        """The same, cut between rows."""
        ...

    def value(self, parts: Sequence[bytes], links: Sequence[Any], /) -> Any:
        """A link to a blob of one packed value, given in parts."""
        ...

    def top(self, links: list[Any], /) -> Sequence[Any]:
        """Few links that stand for many."""
        ...

    def cut(self, items: Sequence[bytes], weights: Sequence[int], /) -> Sequence[int]:
        """Ends of the leaves that packed elements fall into."""
        ...
