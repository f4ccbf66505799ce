"""Codes of the wire format. They are append-only: a code never changes its meaning."""

from enum import IntEnum
from typing import Any, Final

__all__ = ["CODEC_ID", "MAX_NESTING", "Ext", "surely_fits"]

CODEC_ID: Final = "agr1"
"""MessagePack with the extension types below, over blobs of version 1."""

MAX_NESTING: Final = 64
"""How deep values of extension types may lie within one another."""


class Ext(IntEnum):
    """MessagePack extension codes. Trees take their links from the blob's table, in order."""

    TEXT_TREE = 1
    BYTES_TREE = 2
    LIST_TREE = 3
    DICT_TREE = 4
    TUPLE = 10
    SET = 11
    FROZENSET = 12
    BYTEARRAY = 13
    INT = 14
    COMPLEX = 15
    DATETIME = 16
    DATE = 17
    TIME = 18
    TIMEDELTA = 19
    TIMEZONE = 20
    ZONEINFO = 21
    DECIMAL = 22
    UUID = 23
    PATH = 24
    DEQUE = 25
    ORDERED_DICT = 26
    DEFAULT_DICT = 27
    ENUM = 30
    DATACLASS = 31
    PYDANTIC = 32
    NAMEDTUPLE = 33
    NDARRAY = 40
    NUMPY_SCALAR = 41
    EXTENSION = 50
    FOREIGN = 51


_HEADS: Final = 32  # bytes: more than a number of at most 64 bits takes, or a text beside its characters
_BEYOND: Final = 2**64


def surely_fits(value: object, limit: int) -> bool:
    """Whether `value`, encoded, is at most `limit` bytes, as far as a look at it can tell: False may mean
    either. For most of what a checkpoint carries this spares the encoding."""
    kind = type(value)
    if kind is str:
        return len(value) * 4 + _HEADS <= limit  # type: ignore[arg-type]  # UTF-8: four bytes at most
    if kind is int:
        return limit >= _HEADS and -_BEYOND < value < _BEYOND  # type: ignore[operator]
    if kind is list:
        return _flat_list_fits(value, limit)  # type: ignore[arg-type]
    return limit >= _HEADS and (kind is bool or kind is float or value is None)


def _flat_list_fits(items: list[Any], limit: int) -> bool:
    """The same for a list of texts, or of numbers of one kind."""
    room = limit - _HEADS * (len(items) + 1)
    kinds = set(map(type, items)) if room >= 0 else {list}
    if kinds <= {str}:
        return sum(map(len, items)) * 4 <= room
    return kinds == {float} or (kinds == {int} and max(map(int.bit_length, items)) <= 64)
