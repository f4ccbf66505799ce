"""Pack files: `packs/<16 hex>`, records of many blobs one behind the other, only ever appended to.

A record is the blob's digest, the size of its bytes (4 bytes, big endian), and its bytes. How far a pack
reaches only the index knows: what lies behind is what a crash has left, and is cut off by whoever appends
next. A pack has one writer at a time, who holds its lock (`flock`); whoever moves blobs out of a pack and
deletes it holds that lock too, so that nothing is appended to a deleted file.
"""

import errno
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from agentref.refs import DIGEST_SIZE, Digest
from agentref.storage._fork import watch_forks
from agentref.storage._posix import is_at, lock_descriptor, make_directory, sync_directory

__all__ = ["RECORD_HEAD", "Appending", "Pack", "Packs", "Span"]

_NAME: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_FULL: Final = 32 * 1024 * 1024
_VECTORS: Final = 512  # buffers a call of writev; POSIX allows 16 at least, Linux and macOS 1024
_GAP: Final = 16 * 1024
_RUN: Final = 4 * 1024 * 1024
RECORD_HEAD: Final = DIGEST_SIZE + 4
"""Bytes of a record in front of those of its blob."""

_NOT_OURS: Final = frozenset({errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM})
"""Why a file that is there, or was, is none that we may append to: others can be."""

_sync: Final = getattr(os, "fdatasync", os.fsync)  # a file's size counts as its data


class Span(NamedTuple):
    """Where in a pack the bytes of a blob lie."""

    offset: int
    size: int


class Pack:
    """An open pack that is this process's alone; `end` is how far it reaches."""

    def __init__(self, name: str, descriptor: int, end: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.end = end

    def append(self, blobs: Mapping[Digest, bytes]) -> dict[Digest, Span]:
        """Where the bytes of each begin; durable on return. Nothing is kept when it raises."""
        spans: dict[Digest, Span] = {}
        parts: list[bytes] = []
        end = self.end
        for digest, data in blobs.items():
            size = len(data)
            spans[digest] = Span(end + RECORD_HEAD, size)
            parts += (digest + size.to_bytes(4, "big"), data)
            end += RECORD_HEAD + size
        try:
            _write_all(self.descriptor, parts, self.end)
            _sync(self.descriptor)
        except BaseException:
            self.cut(self.end)
            raise
        self.end = end
        return spans

    def cut(self, end: int) -> None:
        """Forget what was appended behind `end`, as far as the disk lets us."""
        self.end = end
        with suppress(OSError):
            os.ftruncate(self.descriptor, end)

    def records(self) -> Iterator[tuple[Digest, Span]]:
        """What was ever appended, in order; less where the file is damaged."""
        at = 0
        while at + RECORD_HEAD <= self.end:
            window = _read_all(self.descriptor, at, min(_RUN, self.end - at))
            used = 0
            while used + RECORD_HEAD <= len(window):
                digest, size = (
                    Digest(window[used : used + DIGEST_SIZE]),
                    window[used + DIGEST_SIZE : used + RECORD_HEAD],
                )
                span = Span(at + used + RECORD_HEAD, int.from_bytes(size, "big"))
                if span.offset + span.size > self.end:
                    return
                yield digest, span
                used += RECORD_HEAD + span.size
            if not used:
                return
            at += used


class Packs:
    """The packs below one root. Safe for threads and across forks; only names of ours become paths."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "packs"
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[Pack] = []
        watch_forks(self)

    def path(self, name: str) -> Path:
        """The file of that pack."""
        if _NAME.fullmatch(name) is None:
            raise FileNotFoundError(f"{name!r:.60} is no pack's name")
        return self._directory / name

    def size(self, name: str) -> int:
        """Bytes in the file; 0 if there is none."""
        try:
            return os.stat(self.path(name)).st_size  # noqa: PTH116  (half of what Path.stat takes)
        except FileNotFoundError:
            return 0

    def read(self, name: str, spans: Collection[Span]) -> dict[Span, bytes] | None:
        """The bytes of each span, fewer where the file ends early; None if there is no such file.

        Spans that lie together are read together.
        """
        try:
            descriptor = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            found: dict[Span, bytes] = {}
            for run in _runs(sorted(spans)):
                first = run[0].offset
                data = _read_all(descriptor, first, run[-1].offset + run[-1].size - first)
                for span in run:
                    found[span] = data[span.offset - first : span.offset - first + span.size]
            return found
        finally:
            os.close(descriptor)

    def names(self) -> list[str]:
        """Of all files here that could be packs."""
        try:
            return sorted(name for name in os.listdir(self._directory) if _NAME.fullmatch(name))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []

    def append(self, blobs: Mapping[Digest, bytes], known: Callable[[], Mapping[str, int]]) -> "Appending":
        """Append to a pack of our own, durably; `known` tells how far each pack reaches that the index has.

        The pack stays ours until the block ends. When it raises, what was appended is cut off.
        """
        return Appending(self, self._claim(known), blobs, known)

    def take(self, name: str, end: int) -> Pack | None:
        """That pack, which reaches to `end`, for this process alone, until it is put away or deleted.

        None if another has it, or if there is no such file.
        """
        with self._lock:
            for pack in self._idle:
                if pack.name == name:
                    self._idle.remove(pack)
                    return pack
        return self._open(name, end)

    def give_back(self, pack: Pack) -> None:
        """Let the next writer have it."""
        with self._lock:
            if pack.end < _FULL and not self._closed:
                self._idle.append(pack)
                return
        os.close(pack.descriptor)

    def put_away(self, pack: Pack) -> None:
        """Let anyone have a pack that was taken. It may reach further than we know: we claim it anew."""
        os.close(pack.descriptor)

    def delete(self, pack: Pack) -> None:
        """Delete the file of a pack that was taken."""
        try:
            self.path(pack.name).unlink(missing_ok=True)
        finally:
            os.close(pack.descriptor)

    def close(self) -> None:
        """Let go of all packs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for pack in idle:
            os.close(pack.descriptor)

    def _claim(self, known: Callable[[], Mapping[str, int]]) -> Pack:
        while True:
            with self._lock:
                if not self._idle:
                    break
                idle = self._idle.pop()
            whole = os.fstat(idle.descriptor).st_size >= idle.end
            if whole and is_at(idle.descriptor, self.path(idle.name)):
                return idle
            os.close(
                idle.descriptor
            )  # somebody deleted the file, or cut it short: no hole may look like blobs
        make_directory(self._directory)
        for name, end in known().items():
            if end >= _FULL or (pack := self._open(name, end)) is None:
                continue
            # Until it became ours, others could append to it, or delete it.
            pack.end = known().get(name, -1)
            if 0 <= pack.end <= os.fstat(pack.descriptor).st_size:
                pack.cut(pack.end)
                return pack
            os.close(pack.descriptor)
        while True:
            created = self._open(os.urandom(8).hex(), 0, os.O_CREAT | os.O_EXCL)
            if created is not None:  # else a sweep was faster than we
                sync_directory(self._directory)
                return created

    def _open(self, name: str, end: int, flags: int = 0) -> Pack | None:
        try:
            path = self.path(name)
            descriptor = os.open(path, flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if not flags and error.errno in _NOT_OURS:
                return None
            raise
        return Pack(name, descriptor, end) if lock_descriptor(descriptor, path) else None

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


class Appending:
    """Blobs on their way into a pack; leaving the block with an error cuts them off again."""

    def __init__(
        self,
        packs: Packs,
        pack: Pack,
        blobs: Mapping[Digest, bytes],
        known: Callable[[], Mapping[str, int]],
    ) -> None:
        self._packs = packs
        self._known = known
        self._pack = pack
        self._begin = pack.end
        try:
            self.spans = pack.append(blobs)
        except BaseException:
            packs.give_back(pack)
            raise

    @property
    def name(self) -> str:
        """Of the pack."""
        return self._pack.name

    @property
    def end(self) -> int:
        """How far the pack reaches now."""
        return self._pack.end

    def undo(self) -> None:
        """Cut off all that was appended: none of it is needed."""
        self._pack.cut(self._begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # The error may have come when all was committed, as Ctrl-C does: then others rely on it.
            if error is not None and self._known().get(self.name, 0) <= self._begin:
                self.undo()
        finally:
            self._packs.give_back(self._pack)


def _runs(spans: Sequence[Span]) -> Iterable[list[Span]]:
    """Neighbours that are cheaper to read at once than one by one."""
    run: list[Span] = []
    for span in spans:
        if run:
            gap = span.offset - run[-1].offset - run[-1].size
            if gap > _GAP or span.offset + span.size - run[0].offset > _RUN:
                yield run
                run = []
        run.append(span)
    if run:
        yield run


def _read_all(descriptor: int, offset: int, size: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
        data += more
    return data


def _write_all(descriptor: int, datas: Sequence[bytes], offset: int) -> None:
    os.lseek(descriptor, offset, os.SEEK_SET)  # the descriptor is ours alone; macOS has no pwritev
    for at in range(0, len(datas), _VECTORS):
        rest: list[bytes | memoryview] = list(datas[at : at + _VECTORS])
        while rest:
            written = os.writev(descriptor, rest)
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if written:
                rest[0] = memoryview(rest[0])[written:]
