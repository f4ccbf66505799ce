"""Pack files: `packs/<16 hex>`, batches of blobs one behind the other, only ever appended to.

A pack has one writer at a time, who holds its lock (`flock`); whoever moves blobs out of a pack and
deletes it holds that lock too, so that nothing is appended to a deleted file.
"""

import errno
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentref.forks import watch_forks
from agentref.refs import Digest
from agentref.storage._batches import Batch, batch_parts, intact_end, read_all, read_batches
from agentref.storage._posix import lock_descriptor, make_directory, sync_directory
from agentref.storage.protocol import PinRow

__all__ = ["FULL", "Pack", "Packs"]

FULL: Final = 32 * 1024 * 1024
"""Nothing is appended to a pack that reaches so far."""

_NAME: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_VECTORS: Final = 512  # buffers a call of writev; POSIX allows 16 at least, Linux and macOS 1024
_GAP: Final = 16 * 1024
_RUN: Final = 4 * 1024 * 1024

_NOT_OURS: Final = frozenset({errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM})
"""Why a file that is there, or was, is none that we may append to: others can be."""

# What is no file must not block us: a pipe would.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

_sync: Final = getattr(os, "fdatasync", os.fsync)  # a file's size counts as its data


class Pack:
    """An open pack that is this process's alone; `end` is how far it reaches, `id` the index's."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.identity: tuple[int, int] | None = None
        self.id = 0
        self.end = 0

    @property
    def file_size(self) -> int:
        """Bytes in the file; more than `end` where a crash has left some."""
        return os.fstat(self.descriptor).st_size

    def append(
        self,
        blobs: Mapping[Digest, bytes],
        *,
        stored_at: float,
        expires_at: float,
        pins: Iterable[PinRow] = (),
    ) -> Batch:
        """Write a batch; durable on return. Nothing is kept when it raises."""
        begin = self.end
        batch, parts = batch_parts(
            blobs, self.name, begin, stored_at=stored_at, expires_at=expires_at, pins=pins
        )
        try:
            _write_all(self.descriptor, parts, begin)
            _sync(self.descriptor)
        except BaseException:
            self.cut(begin)
            raise
        self.end = batch.end
        return batch

    def cut(self, end: int) -> None:
        """Forget what lies behind `end`, durably, as far as the disk lets us."""
        self.end = end
        with suppress(OSError):
            os.ftruncate(self.descriptor, end)
            _sync(self.descriptor)

    def recover(self, begin: int, *, at_least: int = 0) -> bool:
        """Let the pack end where its last whole batch from `begin` on does, which is durable then.

        Not if that is before `at_least`: then it is damaged, and stays as it is.
        """
        size = self.file_size
        end = intact_end(self.descriptor, self.name, begin, size)
        if end < at_least:
            return False
        if end > begin:
            _sync(self.descriptor)
        self.end = end
        if size != end:
            self.cut(end)
        return True

    def batches(self, begin: int = 0) -> Iterator[Batch]:
        """All that was ever appended from there on, in order; less where the file is damaged."""
        return read_batches(self.descriptor, self.name, begin, self.end)

    def close(self) -> None:
        """Let anyone have the pack. Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()  # Ctrl-C came while somebody had it


class Packs:
    """The packs below one root. Safe for threads and across forks; only names of ours become paths."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "packs"
        self._prefix = f"{self._directory}{os.sep}"
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[Pack] = []
        watch_forks(self)

    def path(self, name: str) -> str:
        """The file of that pack. (A `Path` takes more time than to look at the file.)"""
        if _NAME.fullmatch(str(name)) is None:  # the index may have been tampered with
            raise FileNotFoundError(errno.ENOENT, "There is no pack of that name", f"{name!r:.60}")
        return self._prefix + name

    def size(self, name: str) -> int:
        """Bytes in the file; 0 if there is none."""
        try:
            return os.stat(self.path(name)).st_size  # noqa: PTH116
        except FileNotFoundError:
            return 0

    def read(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes] | None:
        """The bytes of each span, which is a place and a size, in order of their places; less where the
        file ends early. None if there is no such file.

        Spans that lie together are read together.
        """
        try:
            descriptor = os.open(self.path(name), _READ)
        except FileNotFoundError:
            return None
        try:
            found: list[bytes] = []
            at = 0
            while at < len(spans):
                first, size = spans[at]
                end, upto = first + size, at + 1
                while upto < len(spans):
                    place, size = spans[upto]
                    if place - end > _GAP or place + size - first > _RUN:
                        break
                    end, upto = max(end, place + size), upto + 1
                if end - first > _RUN:  # one alone: nobody has us make room for what is not there
                    end = max(first, min(end, os.fstat(descriptor).st_size))
                data = read_all(descriptor, first, end - first)
                if upto - at > 1:
                    found += [data[place - first : place - first + size] for place, size in spans[at:upto]]
                else:
                    found.append(data)
                at = upto
            return found
        finally:
            os.close(descriptor)

    def batches(self, name: str, begin: int, end: int) -> list[Batch]:
        """The batches from `begin` to `end`: none where there is no such file, or none of ours there."""
        try:
            descriptor = os.open(self.path(name), _READ)
        except FileNotFoundError:
            return []
        try:
            return list(read_batches(descriptor, name, begin, min(end, os.fstat(descriptor).st_size)))
        finally:
            os.close(descriptor)

    def names(self) -> list[str]:
        """Of all files here that could be packs."""
        try:
            return sorted(name for name in os.listdir(self._directory) if _NAME.fullmatch(name))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def idle(self) -> Pack | None:
        """A pack of ours that nobody writes to at the moment, and that is as we left it."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                pack = self._idle.pop()
            # Somebody may have deleted the file, or cut it short: no hole may look like blobs.
            with suppress(FileNotFoundError):
                status = os.stat(self.path(pack.name))  # noqa: PTH116
                if pack.identity == (status.st_dev, status.st_ino) and status.st_size >= pack.end:
                    return pack
            pack.close()

    def take(self, name: str) -> Pack | None:
        """That pack for this process alone, idle or not opened yet; None if another has it, or if there
        is no such file. How far one reaches that was not idle is for the caller to find out."""
        with self._lock:
            for pack in self._idle:
                if pack.name == name:
                    self._idle.remove(pack)
                    return pack
        return self._open(name)

    def create(self) -> Pack:
        """A new one, empty and durable."""
        make_directory(self._directory)
        while True:
            created = self._open(os.urandom(8).hex(), os.O_CREAT | os.O_EXCL)
            if created is not None:  # else a sweep was faster than we
                sync_directory(self._directory)
                return created

    def give_back(self, pack: Pack) -> None:
        """Let the next writer of this process have it, unless it is full."""
        with self._lock:
            if pack.end < FULL and not self._closed:
                self._idle.append(pack)
                return
        pack.close()

    def unlink(self, names: Iterable[str]) -> None:
        """Delete files of packs, if they are there, durably."""
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(self.path(name))  # noqa: PTH108
        if self._directory.exists():
            sync_directory(self._directory)

    def close(self) -> None:
        """Let go of all packs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for pack in idle:
            pack.close()

    def _open(self, name: str, flags: int = 0) -> Pack | None:
        try:
            path = self.path(name)
            descriptor = os.open(
                path, flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666
            )
        except OSError as error:
            if not flags and error.errno in _NOT_OURS:
                return None
            raise
        if not lock_descriptor(descriptor, path):
            return None
        pack = Pack(name, descriptor)
        status = os.fstat(descriptor)
        pack.identity = status.st_dev, status.st_ino
        return pack

    def before_fork(self) -> None:
        """Nothing: verbs that run are waited for by the database."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """The packs are the parent's."""
        self._lock = threading.Lock()
        closed = self._closed
        self.close()
        self._closed = closed


def _write_all(descriptor: int, datas: Sequence[bytes], offset: int) -> None:
    if len(datas) == 1 and os.pwrite(descriptor, datas[0], offset) == len(datas[0]):
        return
    os.lseek(descriptor, offset, os.SEEK_SET)  # the descriptor is ours alone; macOS has no pwritev
    for at in range(0, len(datas), _VECTORS):
        rest: list[bytes | memoryview] = list(datas[at : at + _VECTORS])
        while rest:
            written = os.writev(descriptor, rest)
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if written:
                rest[0] = memoryview(rest[0])[written:]
