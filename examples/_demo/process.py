"""What a process, or a directory, has used."""

import os
import resource
import sys
from pathlib import Path

__all__ = ["directory_bytes", "peak_memory"]


def peak_memory() -> int:
    """The most memory that this process ever held, in bytes.

    Linux counts it in /proc since the program began. `getrusage`, the fallback, also remembers what
    the parent held when it started us, but knows a child by no other way.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def directory_bytes(directory: Path) -> int:
    """The sizes of all files below a directory, together."""
    return sum(
        (Path(parent) / name).stat().st_size for parent, _, names in os.walk(directory) for name in names
    )
