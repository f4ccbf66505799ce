"""Where an encoder puts what it moves out of the packed bytes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Sink"]


_Result = TypeVar("_Result")


class Sink(Protocol):
    """Takes parts of a value, and answers with links (digest, size) to them."""

    @property
    def memo(self) -> Any:
        """What is remembered of other values: of `objects`, by identity, and of `lists`."""
        ...

    def raw(self, data: bytes | str, /) -> Sequence[Any]:
        """Links that together are `data`."""
        ...

    def texts(self, texts: Iterable[bytes | str], /) -> list[Sequence[Any]]:
        """The same for many."""
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

    def apart(self, work: Callable[[], _Result], /) -> tuple[_Result, Any]:
        """What `work` returns, and the blobs and heights of all that it put in."""
        ...

    def opaque(self, links: Sequence[Any], /) -> Any:
        """The blobs of links to long texts; None if one of the links is to something else."""
        ...

    def again(self, blobs: Any, heights: Any, /) -> None:
        """Take what was put in before, into this sink or another one."""
        ...
