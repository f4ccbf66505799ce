"""Where a list that grows is cut, so that what was stored of it once is never stored again. Pure."""

from itertools import pairwise
from typing import Any, Final

__all__ = ["Segments", "like"]

_MOST_LEVELS: Final = 2
"""Of 32 items and 64 KiB at most, a segment of the second level is up to 32,768 items and 64 MiB."""


class Segments:
    """Cuts a list from its front into segments, whose bounds depend only on the items before them.

    A segment closes at `most` bytes, or at `count` items that are more than `least` bytes; what is left
    at the end stays open. As a counter carries, `count` segments in a row become one of the next level: a
    list of n items has about `count` * log(n) segments, and an item is stored three times at most.
    """

    def __init__(self, count: int, least: int, most: int) -> None:
        self._count = count
        self._least = least
        self._most = most
        self._levels: list[tuple[int, int, int]] = []
        self._begin = self._at = self._size = 0

    @property
    def closed(self) -> list[tuple[int, int]]:
        """The first item of each segment, and the first one after it; in order."""
        return [(begin, end) for _, begin, end in self._levels]

    @property
    def is_empty(self) -> bool:
        """Whether the next item begins a segment."""
        return self._begin == self._at

    def add(self, size: int, *, is_plain: bool) -> bool:
        """Go on by an item of so many bytes; whether it closes a segment. None goes across one that is not
        plain."""
        self._at += 1
        if not is_plain:
            self._begin, self._size = self._at, 0
            return False
        self._size += size
        closes = self._size > self._most or (
            self._at - self._begin >= self._count and self._size > self._least
        )
        if closes:
            self._levels.append((0, self._begin, self._at))
            self._carry()
            self._begin, self._size = self._at, 0
        return closes

    def _carry(self) -> None:
        while len(self._levels) >= self._count:
            last = self._levels[-self._count :]
            level, _, end = last[-1]
            if level == _MOST_LEVELS or any(
                one[0] != level or one[2] != other[1] for one, other in pairwise(last)
            ):
                return
            self._levels[-self._count :] = [(level + 1, last[0][1], end)]


def like(sequence: Any, items: list[Any]) -> Any:
    """A list, tuple or named tuple as this one is, with other items."""
    if isinstance(sequence, list):
        return items
    return sequence._make(items) if hasattr(sequence, "_make") else tuple(items)
