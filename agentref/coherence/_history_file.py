"""Events as lines of JSON in a file: appended by one who notes them, read by anybody who trusts nothing."""

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from agentref.coherence.events import Event, EventKind
from agentref.coherence.keys import encode_key
from agentref.errors import (
    InvalidKeyError,
    MalformedBlobError,
    StorageError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)

__all__ = ["HistoryFile", "read_history"]

MAX_LINE: Final = 64 * 1024
_FORMAT: Final = 1
_HEAD: Final = "agentref_history"
_FIELDS: Final = Event._fields
_DEFAULTS: Final = tuple(Event._field_defaults.get(name) for name in _FIELDS)
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class HistoryFile:
    """A file that lines are appended to. Not safe for threads: its owner lets in one at a time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._descriptor: int | None = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise _unusable(self.path, error) from error
        self._headed: str | None = None  # whose head stands, with nothing torn after it

    def append(self, events: Sequence[Event]) -> None:
        """Write the lines of these events at once. Raises `StorageError` if not all of them are there."""
        if self._descriptor is None:
            raise StoreUnavailableError(f"The history {self.path} is closed.")
        lines = b"".join([_line(event) for event in events])
        instance = events[0].instance
        if self._headed != instance:
            # In a line of its own, so that whatever was torn before it is told from what is damaged.
            lines = b"\n%b\n%b" % (json.dumps({_HEAD: _FORMAT, "instance": instance}).encode(), lines)
        self._headed = None
        try:
            written = os.write(self._descriptor, lines)
        except OSError as error:
            raise _unusable(self.path, error) from error
        if written < len(lines):
            raise StoreFullError(f"The history {self.path} has no room left; an event is missing in it.")
        self._headed = instance

    def close(self) -> None:
        """Close the file. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def read_history(path: str | os.PathLike[str]) -> Iterator[Event]:
    """The events of a file, in the order in which they were noted.

    Where a process died while it wrote a line, an event of the kind `torn` stands in its place. Nothing
    that is read is trusted; one line at a time is in memory, of 64 KiB at most.

    Raises `StoreUnavailableError` if the file cannot be read, `StoreVersionError` if a newer agentref wrote
    it, and `MalformedBlobError` for a line that is no event.
    """
    try:
        with Path(path).open("rb") as file:
            yield from _events(file, str(path))
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise _unusable(path, error) from error


def _events(file: BinaryIO, name: str) -> Iterator[Event]:
    headed = whole = False
    doubtful: MalformedBlobError | None = None
    for item, ended in _items(file, name):
        whole = ended
        if isinstance(item, Event):
            if doubtful is not None or not headed:
                raise doubtful or MalformedBlobError(f"{name} is no history: it has no head.")
            yield item
        elif isinstance(item, MalformedBlobError):
            if doubtful is not None or not headed:
                raise doubtful or item
            doubtful = item
        else:  # who comes after one that died begins with a head
            if doubtful is not None:
                yield Event(0, "", EventKind.TORN)
            headed, doubtful = True, None
    if doubtful is not None:
        if whole:
            raise doubtful
        yield Event(0, "", EventKind.TORN)


def _items(file: BinaryIO, name: str) -> Iterator[tuple[Event | MalformedBlobError | None, bool]]:
    """What each line is, None for a head; and whether it was written to its end."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
        if line == b"\n":
            continue
        whole = line.endswith(b"\n") or len(line) > MAX_LINE
        try:
            document = _document(line)
            if _HEAD in document:
                _check_format(document[_HEAD], name)
                yield None, whole
            else:
                yield _event(document), whole
        except (ValueError, TypeError, RecursionError) as error:
            yield MalformedBlobError(f"Line {number} of {name} is no event of a history: {error}."), whole


def _line(event: Event) -> bytes:
    said = {
        name: value
        for name, value, default in zip(_FIELDS, event, _DEFAULTS, strict=True)
        if value != default
    }
    return json.dumps(said, separators=(",", ":"), check_circular=False).encode() + b"\n"


def _document(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise ValueError(f"it is longer than {MAX_LINE:,} bytes")
    if not line.endswith(b"\n"):
        raise ValueError("it has no end")
    document = json.loads(line, parse_constant=_refuse)
    if not isinstance(document, dict):
        raise TypeError("it is no JSON object")
    return document


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _check_format(number: object, name: str) -> None:
    if type(number) is not int or number < 1:
        raise ValueError("its head names no format")
    if number > _FORMAT:
        raise StoreVersionError(
            f"The history {name} has format {number}, this agentref reads up to {_FORMAT}. Upgrade it."
        )


def _event(document: dict[str, Any]) -> Event:
    said = {name: _CHECKS[name](name, value) for name, value in document.items() if name in _CHECKS}
    if len(said) != len(document) or not {"sequence", "instance", "kind"} <= said.keys():
        raise ValueError("it lacks a field, or has one that is unknown")
    event = Event(**said)
    if event.sequence < 1 or event.kind is EventKind.TORN:
        raise ValueError("it is no event that can be noted")
    return event


def _number(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} is no number from 0 to 2**63-1")
    return value


def _seconds(name: str, value: Any) -> float:
    if type(value) not in {int, float} or not math.isfinite(value):
        raise ValueError(f"{name} is no time")
    return float(value)


def _text(name: str, value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{name} is no text")
    value.encode()  # a lone surrogate could not be printed
    return value


def _kind(_: str, value: Any) -> EventKind:
    return EventKind(value)


def _key(_: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("key is no list")
    try:
        encode_key(tuple(value))
    except InvalidKeyError as error:
        raise ValueError(str(error)) from None
    return tuple(value)


def _base(_: str, value: Any) -> tuple[int, int, str | None]:
    if not isinstance(value, list) or len(value) != 3:
        raise TypeError("base is no list of three")
    version, epoch, content = value
    return (
        _number("base", version),
        _number("base", epoch),
        None if content is None else _text("base", content),
    )


_BY_TYPE: Final[dict[object, Callable[[str, Any], Any]]] = {int: _number, float: _seconds, str: _text}
_CHECKS: Final = {name: _BY_TYPE.get(Event.__annotations__[name], _text) for name in _FIELDS} | {
    "kind": _kind,
    "key": _key,
    "base": _base,
}


def _unusable(path: str | os.PathLike[str], error: OSError) -> StorageError:
    if error.errno in _NO_ROOM:
        return StoreFullError(f"The history {path} has no room left: {error.strerror}.")
    return StoreUnavailableError(f"The history {path} cannot be used: {error.strerror}.")
