"""Lists of flat records, and which of their records are those of a list encoded before.

A record is flat if it is a dictionary of few keys, and all keys and values are numbers, texts or None
of exactly those types. Such objects never change, so that two records of the very same objects are
the same. Identity decides, never equality: 1 equals True, and 0.0 equals -0.0.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, compress, count
from operator import is_, is_not, ne
from typing import Any, Final, NamedTuple, Self

from agentref.codecs.packing import Elements

__all__ = ["LEAVES", "RECORD", "Encoded", "KnownList", "Records", "closest"]

LEAVES: Final = frozenset({int, float, bool, type(None), str, bytes})
"""The types of flat values."""

RECORD: Final = 32
"""A dictionary with no more keys, and no larger container in it, is packed in one go if it can be."""

_SLOT_BYTES: Final = 64
"""What remembering a value of a record keeps alive beside its text."""


class Encoded(NamedTuple):
    """A list that was encoded: its elements and all their links, what it packed to, the links that this
    needs, and how many spilled bytes it weighs."""

    elements: Elements
    links: list[Any]
    data: bytes
    top: list[Any]
    weight: int


class Records(NamedTuple):
    """A private copy of a list of records: what another thread does to them is not seen.

    Holds all keys and all values, in order, so that no other object gets the id of one.
    """

    records: list[dict[Any, Any]]
    lengths: list[int]
    keys: list[Any]
    values: list[Any]

    @classmethod
    def of(cls, items: Sequence[dict[Any, Any]]) -> Self | None:
        """None if the first of the records is not flat: mostly, all are alike."""
        if len(items[0]) > RECORD or not LEAVES.issuperset(map(type, items[0].values())):
            return None
        records = list(map(dict.copy, items))
        keys = list(chain.from_iterable(records))
        values = list(chain.from_iterable(map(dict.values, records)))
        return cls(records, list(map(len, records)), keys, values)

    def ends(self) -> tuple[str | bytes | None, str | bytes | None]:
        """The longest text of the first and of the last record, which lists that share much share."""
        return _longest_text(self.records[0]), _longest_text(self.records[-1])

    def are_flat(self, head: int, tail: int) -> bool:
        """Whether all records are flat but for the first and the last ones, of which that is known."""
        begin = sum(self.lengths[:head])
        end = len(self.values) - sum(self.lengths[len(self.lengths) - tail :])
        return (
            max(self.lengths) <= RECORD
            and LEAVES.issuperset(map(type, self.values[begin:end]))
            and LEAVES.issuperset(map(type, self.keys[begin:end]))
        )

    def shared(self, other: "Records") -> tuple[int, int]:
        """How many records from the first one on, and how many of the others up to the last one, are
        of the very same objects."""
        rest = min(len(self.lengths), len(other.lengths))
        head = _alike(self, other, iter)
        if head == rest:
            return head, 0
        return head, min(_alike(self, other, reversed), rest - head)


def _longest_text(record: dict[Any, Any]) -> str | bytes | None:
    texts = [part for part in record.values() if type(part) is str or type(part) is bytes]
    return max(texts, key=len, default=None)


def _alike(a: Records, b: Records, way: Callable[[Any], Iterable[Any]]) -> int:
    """How many records are the same, going one way through both lists."""
    value = _first_other(a.values, b.values, way)
    if value == 0:
        return 0
    key = _first_other(a.keys, b.keys, way)
    length = next(compress(count(), map(ne, way(a.lengths), way(b.lengths))), None)
    least = min(len(a.lengths), len(b.lengths)) if length is None else length
    return min(least, bisect_right(list(accumulate(way(a.lengths))), min(key, value)))


def _first_other(a: list[Any], b: list[Any], way: Callable[[Any], Iterable[Any]]) -> int:
    """Where two sequences begin to hold different objects."""
    if all(map(is_, way(a), way(b))):  # three times as fast as finding out where
        return min(len(a), len(b))
    return next(compress(count(), map(is_not, way(a), way(b))))


class KnownList:
    """A list that was encoded: of what its records were, and what all of it became."""

    __slots__ = (
        "data", "elements", "ends", "firsts", "kept", "links", "records", "size", "texts", "top", "weight",
    )  # fmt: skip

    def __init__(self, records: Records, encoded: Encoded, kept: Any, texts: list[Any]) -> None:
        self.records = records
        self.ends = records.ends()
        self.elements, self.links, self.data, self.top, self.weight = encoded
        self.firsts = list(accumulate(self.elements.counts, initial=0))
        self.kept = kept
        self.texts = texts
        # Short texts are in their records and in what they packed to.
        short = 2 * sum(map(len, self.elements.packed)) + _SLOT_BYTES * len(records.values)
        self.size = short + sum(self.elements.spilled)


def closest(known: Iterable[KnownList], records: Records) -> tuple[KnownList | None, int, int]:
    """The known list that shares the most with a new one, and what `shared` says of both."""
    best: tuple[KnownList | None, int, int] = (None, 0, 0)
    first, last = records.ends()
    for one in known:
        # To compare all of them takes longer than to pack a few short records.
        if first is not None and last is not None and not any(map(is_, (first, last), one.ends)):
            continue
        head, tail = records.shared(one.records)
        if head + tail > best[1] + best[2]:
            best = one, head, tail
            if 2 * (head + tail) >= len(records.lengths):
                break
    return best
