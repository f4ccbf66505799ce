"""Codes of the wire format. They are append-only: a code never changes its meaning."""

from enum import IntEnum
from typing import Final

__all__ = ["CODEC_ID", "MAX_NESTING", "Ext"]

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
