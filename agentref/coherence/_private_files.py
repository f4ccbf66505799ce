"""Files that the processes of one user share on one machine, and nobody else can touch."""

import os
import stat
import tempfile
from pathlib import Path

__all__ = ["private_file"]


def private_file(name: str) -> Path | None:
    """Where such a file lies; None if there is no place for it."""
    user = getattr(os, "geteuid", lambda: None)()
    if user is None:
        return None
    folder = Path(tempfile.gettempdir()) / f"agentref-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()  # somebody else may have made it, or a link in its place
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077
    return folder / name if mine else None
