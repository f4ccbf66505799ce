"""How much time has passed on this machine, the time in which it was suspended included."""

import time
from typing import Final

__all__ = ["elapsed"]

_BOOT: Final = getattr(time, "CLOCK_BOOTTIME", None)


def elapsed() -> float:
    """Seconds since some moment. Never goes back."""
    return time.monotonic() if _BOOT is None else time.clock_gettime(_BOOT)
