"""Types of the standard library beyond plain JSON: how each becomes plainer values, and comes back.

Exact types only: a subclass could carry more than its base, and would come back as less.
"""

import datetime as dt
import zoneinfo
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final, NamedTuple
from uuid import UUID

from agentref.codecs.wire import Ext
from agentref.errors import UnsupportedTypeError

__all__ = ["BY_CODE", "BY_TYPE", "BuiltinType"]


class BuiltinType(NamedTuple):
    """`take` turns an instance into a state that the codec packs; `make` is its inverse.

    `make` may raise `TypeError`, `ValueError`, `LookupError`, `OverflowError` or `ArithmeticError`
    on a state that no `take` gave.
    """

    code: Ext
    take: Callable[[Any], object]
    make: Callable[[Any], object]


def _take_int(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)


def _make_int(data: bytes) -> int:
    return int.from_bytes(_bytes(data), "big", signed=True)


def _bytes(data: object) -> bytes:
    # bytes(n) and bytearray(n) of a number would be n zeros: memory for the asking.
    if type(data) is not bytes:
        raise TypeError(f"bytes are needed, not {type(data).__name__}")
    return data


def _make_bytearray(data: object) -> bytearray:
    return bytearray(_bytes(data))


def _take_zone(zone: dt.tzinfo | None) -> object:
    if zone is None or type(zone) is dt.timezone or type(zone) is zoneinfo.ZoneInfo:
        return zone
    raise UnsupportedTypeError(
        f"A time zone of type {type(zone).__name__} cannot be stored. "
        f"Use zoneinfo.ZoneInfo or datetime.timezone."
    )


def _take_zoneinfo(zone: zoneinfo.ZoneInfo) -> str:
    if zone.key is None:
        raise UnsupportedTypeError("A ZoneInfo without a key cannot be stored. Use ZoneInfo('Area/City').")
    return zone.key


def _take_timezone(zone: dt.timezone) -> list[object]:
    offset = zone.utcoffset(None)
    # The name that was given, if one was: the default one is derived from the offset.
    name = zone.tzname(None)
    return [_take_timedelta(offset), None if dt.timezone(offset).tzname(None) == name else name]


def _make_timezone(state: list[Any]) -> dt.timezone:
    offset, name = _make_timedelta(state[0]), state[1]
    if name is None:
        return dt.UTC if not offset else dt.timezone(offset)
    return dt.timezone(offset, name)


def _take_datetime(moment: dt.datetime) -> list[object]:
    naive = moment.replace(tzinfo=None, fold=0)
    return [naive.isoformat(), moment.fold, _take_zone(moment.tzinfo)]


def _make_datetime(state: list[Any]) -> dt.datetime:
    text, fold, zone = state
    return dt.datetime.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _take_time(time: dt.time) -> list[object]:
    return [time.replace(tzinfo=None, fold=0).isoformat(), time.fold, _take_zone(time.tzinfo)]


def _make_time(state: list[Any]) -> dt.time:
    text, fold, zone = state
    return dt.time.fromisoformat(text).replace(fold=fold, tzinfo=zone)


def _take_timedelta(delta: dt.timedelta) -> list[int]:
    return [delta.days, delta.seconds, delta.microseconds]


def _make_timedelta(state: list[int]) -> dt.timedelta:
    days, seconds, microseconds = state
    return dt.timedelta(days, seconds, microseconds)


_PATHS: Final[dict[type, str]] = {
    PurePosixPath: "pure-posix",
    PureWindowsPath: "pure-windows",
    PosixPath: "path",
    WindowsPath: "path",
}
_PATH_TYPES: Final[dict[str, type]] = {
    "pure-posix": PurePosixPath,
    "pure-windows": PureWindowsPath,
    "path": Path,
}

_FACTORIES: Final[dict[str, type]] = {
    t.__name__: t for t in (list, dict, set, int, float, str, tuple, bool)
}


def _take_defaultdict(mapping: "defaultdict[Any, Any]") -> list[object]:
    factory = mapping.default_factory
    if factory is None:
        return [None, dict(mapping)]
    name = getattr(factory, "__name__", "?")
    if _FACTORIES.get(name) is not factory:
        raise UnsupportedTypeError(
            f"A defaultdict whose default_factory is {name} cannot be stored. "
            f"Use dict(...) of it, or one of the factories {', '.join(sorted(_FACTORIES))}."
        )
    return [name, dict(mapping)]


def _make_defaultdict(state: list[Any]) -> "defaultdict[Any, Any]":
    name, items = state
    return defaultdict(None if name is None else _FACTORIES[name], items)


def _make_uuid(data: bytes) -> UUID:
    return UUID(bytes=_bytes(data))


BY_TYPE: Final[dict[type, BuiltinType]] = {
    tuple: BuiltinType(Ext.TUPLE, list, tuple),
    bytearray: BuiltinType(Ext.BYTEARRAY, bytes, _make_bytearray),
    int: BuiltinType(Ext.INT, _take_int, _make_int),
    complex: BuiltinType(Ext.COMPLEX, lambda c: [c.real, c.imag], lambda s: complex(*s)),
    dt.datetime: BuiltinType(Ext.DATETIME, _take_datetime, _make_datetime),
    dt.date: BuiltinType(Ext.DATE, dt.date.isoformat, dt.date.fromisoformat),
    dt.time: BuiltinType(Ext.TIME, _take_time, _make_time),
    dt.timedelta: BuiltinType(Ext.TIMEDELTA, _take_timedelta, _make_timedelta),
    dt.timezone: BuiltinType(Ext.TIMEZONE, _take_timezone, _make_timezone),
    zoneinfo.ZoneInfo: BuiltinType(Ext.ZONEINFO, _take_zoneinfo, zoneinfo.ZoneInfo),
    Decimal: BuiltinType(Ext.DECIMAL, str, Decimal),
    UUID: BuiltinType(Ext.UUID, lambda u: u.bytes, _make_uuid),
    deque: BuiltinType(Ext.DEQUE, lambda d: [d.maxlen, list(d)], lambda s: deque(s[1], s[0])),
    OrderedDict: BuiltinType(Ext.ORDERED_DICT, dict, OrderedDict),
    defaultdict: BuiltinType(Ext.DEFAULT_DICT, _take_defaultdict, _make_defaultdict),
    **{
        path: BuiltinType(Ext.PATH, lambda p: [_PATHS[type(p)], str(p)], lambda s: _PATH_TYPES[s[0]](s[1]))
        for path in _PATHS
    },
}
"""By exact type. `int` stands for those outside of 64 bits; sets are packed by the encoder itself."""

BY_CODE: Final[dict[int, BuiltinType]] = {entry.code: entry for entry in BY_TYPE.values()}
