"""Lists of flat records, and which of their records are those of a list encoded before.

A record is flat if it is a dictionary of few keys, and all keys and values are numbers, texts or None
of exactly those types. Such objects never change, so that two records of the very same objects are
the same. Identity decides, never equality: 1 equals True, and 0.0 equals -0.0.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, compress, count
from operator import is_not, ne
from typing import Any, Final, NamedTuple, Self

__all__ = ["LEAVES", "RECORD", "Elements", "KnownList", "Records", "closest"]

LEAVES: Final = frozenset({int, float, bool, type(None), str, bytes})
"""The types of flat values."""

RECORD: Final = 32
"""A dictionary with no more keys, and no larger container in it, is packed in one go if it can be."""

_SLOT_BYTES: Final = 64
"""What remembering a value of a record keeps alive beside its text."""


class Elements(NamedTuple):
    """Packed elements of a container; how many links each has, and how many bytes lie behind them."""

    packed: list[bytes]
    counts: list[int]
    spilled: list[int]


class Records(NamedTuple):
    """A private copy of a list of flat records: what another thread does to them is not seen.

    Holds all keys and all values, in order, so that no other object gets the id of one.
    """

    records: list[dict[Any, Any]]
    lengths: list[int]
    keys: list[Any]
    values: list[Any]

    @classmethod
    def of(cls, items: Sequence[dict[Any, Any]]) -> Self | None:
        """None if one of the records is not flat."""
        if not LEAVES.issuperset(map(type, items[0].values())):
            return None  # mostly all are alike
        records = list(map(dict.copy, items))
        lengths = list(map(len, records))
        if max(lengths) > RECORD:
            return None
        keys = list(chain.from_iterable(records))
        values = list(chain.from_iterable(map(dict.values, records)))
        if not LEAVES.issuperset(map(type, values)) or not LEAVES.issuperset(map(type, keys)):
            return None
        return cls(records, lengths, keys, values)

    def shared(self, other: "Records") -> tuple[int, int]:
        """How many records from the first one on, and how many of the others up to the last one, are
        of the very same objects."""
        head = _alike(self, other, iter)
        if head == len(self.records) == len(other.records):
            return head, 0
        rest = min(len(self.records), len(other.records)) - head
        return head, min(_alike(self, other, reversed), rest)


def _alike(a: Records, b: Records, way: Callable[[Any], Iterable[Any]]) -> int:
    """How many records are the same, going one way through both lists."""
    value = _first(map(is_not, way(a.values), way(b.values)), len(a.values), len(b.values))
    if value == 0:
        return 0
    key = _first(map(is_not, way(a.keys), way(b.keys)), len(a.keys), len(b.keys))
    same = _first(map(ne, way(a.lengths), way(b.lengths)), len(a.lengths), len(b.lengths))
    return min(same, bisect_right(list(accumulate(way(a.lengths))), min(key, value)))


def _first(differ: Iterable[bool], *lengths: int) -> int:
    """Where two sequences begin to differ."""
    return next(compress(count(), differ), min(lengths))


class KnownList:
    """A list that was encoded: its records, what each packed to, and the blobs of its long texts."""

    __slots__ = ("blobs", "elements", "firsts", "links", "records", "size")

    def __init__(self, records: Records, elements: Elements, links: list[Any], blobs: list[Any]) -> None:
        self.records = records
        self.elements = elements
        self.links = links
        self.blobs = blobs
        self.firsts = list(accumulate(elements.counts, initial=0))
        # Short texts are in their records and in what they packed to.
        short = 2 * sum(map(len, elements.packed)) + _SLOT_BYTES * len(records.values)
        self.size = short + sum(elements.spilled)


def closest(known: Iterable[KnownList], records: Records) -> tuple[KnownList | None, int, int]:
    """The known list that shares the most with a new one, and what `shared` says of both."""
    best: tuple[KnownList | None, int, int] = (None, 0, 0)
    for one in known:
        head, tail = records.shared(one.records)
        if head + tail > best[1] + best[2]:
            best = one, head, tail
            if 2 * (head + tail) >= len(records.records):
                break
    return best
