"""Blobs that are files: `blobs/<2 hex>/<62 hex>`, written under `tmp/` and moved when they are durable.

Which of them belong to the store only the index knows. Whoever moves or unlinks a file below `blobs/`
holds the index's write lock, so that a file and its row agree whenever that lock is free.
"""

import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agentref.refs import Digest
from agentref.storage._posix import make_directory, sync_directory, try_lock

__all__ = ["BlobFiles", "Staging"]

_OPEN_AT_ONCE: Final = 64
_SHARD: Final = re.compile(r"[0-9a-f]{2}", re.ASCII)
_REST: Final = re.compile(r"[0-9a-f]{62}", re.ASCII)


class BlobFiles:
    """The files below one root. Only a `Digest` ever becomes a path."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._temporary = root / "tmp"

    def path(self, digest: Digest) -> Path:
        """Where the blob's bytes are, if they are a file."""
        name = digest.hex()
        return self._blobs / name[:2] / name[2:]

    def size(self, digest: Digest) -> int | None:
        """Bytes in the file, or None if there is none."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: Digest) -> bytes | None:
        """The file's bytes, whatever they are, or None if there is none."""
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            return None

    def unlink(self, digests: Iterable[Digest]) -> int:
        """Remove files; says how many there were."""
        removed = 0
        for digest in digests:
            with suppress(FileNotFoundError):
                self.path(digest).unlink()
                removed += 1
        return removed

    def listing(self) -> Iterator[list[Digest]]:
        """The digests of all files, a directory at a time. Names that are not ours are passed over."""
        for shard in _names(self._blobs, _SHARD):
            yield [Digest(bytes.fromhex(shard + rest)) for rest in _names(self._blobs / shard, _REST)]

    def stage(self) -> "Staging":
        """A place for files that are not yet the store's."""
        return Staging(self, self._temporary)

    def sweep_temporary(self) -> None:
        """Remove what writers that died have left under `tmp/`; what a live one writes is locked."""
        directories = list(self._temporary.iterdir()) if self._temporary.is_dir() else []
        for directory in directories:
            with suppress(OSError):
                descriptor = try_lock(directory)
                if descriptor is not None:
                    _remove_directory(directory)
                    os.close(descriptor)


class Staging:
    """One batch of files on their way into the store; leaving the block removes what was not published."""

    def __init__(self, files: BlobFiles, parent: Path) -> None:
        self._files = files
        self._parent = parent
        self._directory: Path | None = None
        self._lock: int | None = None
        self._staged: set[Digest] = set()
        self.published: list[Digest] = []

    def add(self, blobs: Mapping[Digest, bytes]) -> None:
        """Write each blob to a file of its own, durable on return."""
        if not blobs:
            return
        directory = self._open()
        # Written first and synced after, so that the disk can work on many at once.
        items = list(blobs.items())
        for start in range(0, len(items), _OPEN_AT_ONCE):
            _write_files(directory, items[start : start + _OPEN_AT_ONCE])
        self._staged.update(blobs)

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that have not been added."""
        return [digest for digest in digests if digest not in self._staged]

    def publish(self, digests: Collection[Digest]) -> None:
        """Move staged files to their final names, durable on return; what is there is overwritten."""
        if not digests:
            return
        directory = self._open()
        shards: set[Path] = set()
        for digest in digests:
            target = self._files.path(digest)
            make_directory(target.parent)
            (directory / digest.hex()).replace(target)
            self.published.append(digest)
            shards.add(target.parent)
        for shard in shards:
            sync_directory(shard)

    def _open(self) -> Path:
        while self._directory is None:
            make_directory(self._parent)
            directory = Path(tempfile.mkdtemp(dir=self._parent))
            self._lock = try_lock(directory)
            if self._lock is not None:  # else a sweep was faster than we
                self._directory = directory
        return self._directory

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None and self._directory is not None:
            try:
                _remove_directory(self._directory)
            finally:
                os.close(self._lock)


def _names(directory: Path, pattern: re.Pattern[str]) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir() if pattern.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write_files(directory: Path, items: list[tuple[Digest, bytes]]) -> None:
    descriptors: list[int] = []
    try:
        for digest, data in items:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            descriptors.append(os.open(directory / digest.hex(), flags, 0o666))
            _write_all(descriptors[-1], data)
        for descriptor in descriptors:
            os.fsync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _remove_directory(directory: Path) -> None:
    with suppress(OSError):
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
