"""What is remembered between one encoding and the next, so that what did not change costs little."""

from collections.abc import Hashable
from typing import Any, Final, Protocol

__all__ = ["IdentityMemo", "Memo", "Recent"]

_LISTS: Final = 8


class _Generations:
    """A bounded dictionary: what was neither added nor asked for lately is forgotten.

    Keeps about `limit_bytes` at most. Safe among threads: a race costs repeated work, never a wrong
    answer.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._half = limit_bytes // 2
        self._young: dict[Hashable, tuple[Any, int]] = {}
        self._old: dict[Hashable, tuple[Any, int]] = {}
        self._young_bytes = 0

    def find(self, key: Hashable) -> Any:
        """What was kept under the key, or None."""
        entry = self._young.get(key)
        if entry is None:
            entry = self._old.get(key)
            if entry is None:
                return None
            self._put(key, entry)
        return entry[0]

    def keep(self, key: Hashable, known: object, size: int) -> None:
        """Remember `known`, which keeps `size` bytes alive."""
        self._put(key, (known, size))

    def _put(self, key: Hashable, entry: tuple[Any, int]) -> None:
        if not self._half:
            return
        if self._young_bytes > self._half:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[key] = entry
        self._young_bytes += entry[1]


class IdentityMemo(_Generations):
    """Remembers what was found out about objects, by their identity.

    A state is encoded again and again, and most of its texts are the very objects of the last time.
    What is remembered must hold on to every object that its truth depends on, so that no other gets
    its id, and whoever asks must check that those are the objects before him.
    """

    def get(self, key: object) -> Any:
        """What was remembered under the id of this object, or None."""
        entry = self._young.get(id(key))
        return entry[0] if entry is not None else self.find(id(key))

    def add(self, key: object, known: object, size: int) -> None:
        """Remember `known`, which keeps `size` bytes alive."""
        self.keep(id(key), known, size)


class Sized(Protocol):
    """Keeps `size` bytes alive."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...


class Recent:
    """The few things used last, latest first, of about `limit_bytes` in all. Safe among threads, as
    `IdentityMemo` is."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.entries: tuple[Any, ...] = ()

    def put(self, entry: Sized, instead: object = None) -> None:
        """Put an entry first, which may have been there before. `instead` is forgotten."""
        room = self._limit - entry.size
        if room < 0:
            return
        entries: list[Sized] = [entry]
        for other in self.entries:
            if other is entry or other is instead:
                continue
            room -= other.size
            if room < 0 or len(entries) == _LISTS:
                break
            entries.append(other)
        self.entries = tuple(entries)


class Memo:
    """All that a store remembers of the values that it encoded. Safe among threads.

    What is encoded never depends on it: only how fast. `limit_bytes` bounds each of its parts; they
    share most of what they keep alive.
    """

    def __init__(self, limit_bytes: int = 32 * 1024 * 1024) -> None:
        self.objects = IdentityMemo(limit_bytes)
        self.leaves = _Generations(limit_bytes)
        self.nodes = _Generations(limit_bytes // 8)
        self.lists = Recent(limit_bytes)
