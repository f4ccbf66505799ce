"""Directories that survive a power cut, and locks that the kernel drops when their holder dies."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentref.errors import StoreBusyError, StoreUnavailableError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "directory_lock",
    "lock_descriptor",
    "make_directory",
    "require_locks",
    "sync_directory",
    "try_lock",
]

_POLL_SECONDS = 0.005


def require_locks() -> None:
    """Raise `StoreUnavailableError` where there is no `flock`."""
    if fcntl is None:
        raise StoreUnavailableError("The filesystem store needs POSIX file locks, which Windows has not.")


def make_directory(path: Path) -> None:
    """Like `mkdir -p`, and durable."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make what was created or renamed in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(directory: Path) -> int | None:
    """A descriptor that holds the directory's lock until it is closed; None if another holds it.

    A directory that is gone once the lock is held counts as one that another holds.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return descriptor if lock_descriptor(descriptor, directory) else None


def is_at(descriptor: int, path: str | Path) -> bool:
    """Whether what is open is still what is at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116  (half of Path.stat)
    except FileNotFoundError:
        return False


def lock_descriptor(descriptor: int, path: str | Path) -> bool:
    """Whether the descriptor now holds the lock of what is at `path`, until it is closed.

    If not, because another holds it or something else is there by now, it was closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(descriptor, path):
            return True
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return False


@contextmanager
def directory_lock(path: Path, *, patience: float) -> Iterator[None]:
    """Exclude other processes and threads; raises `StoreBusyError` after `patience` seconds."""
    deadline = time.monotonic() + patience
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() >= deadline:
            raise StoreBusyError(f"{path} was locked by another process for longer than {patience} s.")
        time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)
