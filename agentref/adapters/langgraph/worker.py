"""The process that runs threads, as others see it."""

import os
import secrets
import socket
from typing import Final

from agentref.coherence._arguments import check_agent

__all__ = ["Worker"]

_LONGEST_HOST: Final = 200


class Worker:
    """The name of this process: the one that was given, or host, process and a bit of chance, which a
    forked child has anew. Thread-safe."""

    def __init__(self, given: str | None) -> None:
        self._given = None if given is None else check_agent("worker", given)
        self._made: dict[int, str] = {}

    @property
    def name(self) -> str:
        """1 to 256 bytes."""
        if self._given is not None:
            return self._given
        pid = os.getpid()
        made = self._made.get(pid)
        if made is None:
            host = socket.gethostname().encode("ascii", "replace").decode()[:_LONGEST_HOST]
            made = self._made.setdefault(pid, f"{host}:{pid}:{secrets.token_hex(4)}")
        return made
