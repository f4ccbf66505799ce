"""Where an encoder puts what it moves out of the packed bytes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

__all__ = ["Sink"]


class Sink(Protocol):
    """Takes parts of a value, and answers with links (digest, size) to them."""

    @property
    def memo(self) -> Any:
        """What is remembered of other values: of `objects`, by identity, and of `lists`."""
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

    def leaves(
        self,
        header: Callable[[int], bytes],
        items: Sequence[bytes],
        weights: Sequence[int],
        counts: Sequence[int],
        links: Sequence[Any],
        /,
    ) -> list[Any]:
        """Links to the leaves that packed elements fall into, each with so many of `links`; none if
        they all fall into one."""
        ...

    def kept(self, links: Sequence[Any], /) -> list[Any] | None:
        """What `again` takes to put what these links lead to into another sink, if it can."""
        ...

    def again(self, kept: Iterable[Any], /) -> None:
        """Take what another sink kept."""
        ...
