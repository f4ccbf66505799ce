"""How far each open pack reaches: a page of memory that all processes of a store share.

A writer that has synced a batch tells the others so here, which costs no system call, and neither does
looking. Nothing here needs to survive a crash: a mark is at most too low then, and whoever takes the pack
next finds how far it reaches by reading it.
"""

import mmap
import os
import struct
from pathlib import Path
from typing import Final

from agentref.errors import StoreUnavailableError
from agentref.storage._posix import directory_lock

__all__ = ["Marks"]

_SLOT: Final = struct.Struct("<QQQ8x")  # a pack's id, how far it is durable, how far the index knows it
_SLOTS: Final = 512
_SIZE: Final = _SLOTS * _SLOT.size
_NUMBER: Final = struct.Struct("<Q")  # written at once: no reader sees half of it


class Marks:
    """The marks of one store. Safe for threads, processes and across forks.

    There are `PLACES` places. Two packs share one if their ids differ by a multiple of that: whoever makes
    a pack sees to it that no other open one has its place.
    """

    PLACES: Final = _SLOTS - 1

    def __init__(self, path: Path, *, patience: float) -> None:
        """Map the file, which is made if it is not there; waits `patience` seconds for others who do."""
        if not path.exists():
            with directory_lock(path.parent, patience=patience):
                if not path.exists():
                    _make(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            status = os.fstat(descriptor)
            self._path, self._identity = str(path), (status.st_dev, status.st_ino)
            # To touch a page that is beyond the end of its file ends the process.
            if status.st_size != _SIZE:
                raise StoreUnavailableError(
                    f"{path} is damaged. Close the store everywhere and delete this file: it is made anew."
                )
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    @property
    def listing(self) -> int:
        """Another number than before, if there may be packs that were not there before."""
        return int(_NUMBER.unpack_from(self._map, 0)[0])

    def list_anew(self) -> None:
        """Have all processes look which packs there are. Drawn by chance, so that no two callers agree."""
        _NUMBER.pack_into(self._map, 0, int.from_bytes(os.urandom(8), "big"))

    @property
    def epoch(self) -> int:
        """Moves whenever something is removed; odd while it may be under way."""
        return int(_NUMBER.unpack_from(self._map, 8)[0])

    @epoch.setter
    def epoch(self, number: int) -> None:
        _NUMBER.pack_into(self._map, 8, number)

    def of(self, pack_id: int) -> tuple[int, int]:
        """How far a pack is durable, and how far of that the index knows it; at most too low."""
        owner, durable, settled = _SLOT.unpack_from(self._map, _offset(pack_id))
        return (durable, settled) if owner == pack_id else (0, 0)

    def take(self, pack_id: int, durable: int, settled: int) -> None:
        """Begin the marks of a pack that is now ours to write."""
        _SLOT.pack_into(self._map, _offset(pack_id), pack_id, durable, settled)

    def set_durable(self, pack_id: int, end: int) -> None:
        """What lies before `end` was synced. For the pack's writer."""
        _NUMBER.pack_into(self._map, _offset(pack_id) + 8, end)

    def set_settled(self, pack_id: int, end: int) -> None:
        """The index has committed what lies before `end`."""
        offset = _offset(pack_id)
        if _NUMBER.unpack_from(self._map, offset)[0] == pack_id:
            _NUMBER.pack_into(self._map, offset + 16, end)

    def unsettled(self) -> list[tuple[int, int]]:
        """The packs of which the index may not know all, and how far they are durable."""
        slots = list(_SLOT.iter_unpack(self._map))[1:]
        return [(pack_id, durable) for pack_id, durable, settled in slots if durable > settled]

    def check_file(self) -> None:
        """Raise `StoreUnavailableError` if others no longer see what we do."""
        try:
            status = os.stat(self._path)  # noqa: PTH116
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._identity:
            raise StoreUnavailableError(
                f"{self._path} was deleted, moved or replaced while in use. Open it again."
            )

    def close(self) -> None:
        """Let go of the page."""
        self._map.close()


def _offset(pack_id: int) -> int:
    return (1 + pack_id % Marks.PLACES) * _SLOT.size


def _make(path: Path) -> None:
    """Make the file: full of zeros, and with room on the disk.

    A page without room could not be written to on a full disk: that, too, ends the process.
    """
    unfinished = path.with_name(f"{path.name}.new")
    with unfinished.open("wb") as file:
        file.write(bytes(_SIZE))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
