"""Memory while 200 MB go into a store and come out again, in a process of its own."""

import base64
import hashlib
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from agentref.storage import FilesystemCAS
from benchmarks.measure import Row, child, scratch
from examples._demo.process import peak_memory

__all__ = ["rows"]

_BLOCKS = 200
_BLOCK = 750_000


class _Source(io.RawIOBase):
    """200 MB that are nowhere in memory at once: base64 of random bytes, which shrink by a quarter."""

    def __init__(self) -> None:
        super().__init__()
        self._random = random.Random("stream")
        self._left = _BLOCKS
        self._rest = b""
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]
        if not self._rest and self._left:
            self._left -= 1
            self._rest = base64.b64encode(self._random.randbytes(_BLOCK))
            self.sha256.update(self._rest)
        part = self._rest[: len(buffer)]
        self._rest = self._rest[len(part) :]
        memoryview(buffer)[: len(part)] = part
        return len(part)


def _stream(root: Path) -> dict[str, int]:
    with FilesystemCAS(root) as store:
        source = _Source()
        source.read(1)
        idle = peak_memory()
        source = _Source()
        ref = store.put_stream(io.BufferedReader(source))
        after_in = peak_memory()
        digest = hashlib.sha256()
        with store.open(ref) as file:
            while block := file.read(1_000_000):
                digest.update(block)
        after_out = peak_memory()
    if digest.digest() != source.sha256.digest():
        sys.exit("The stream came out different.")
    return {"size": ref.size, "in": after_in - idle, "out": after_out - idle}


def rows() -> Iterator[Row]:
    """Peaks over what the process held before it began."""
    with scratch() as directory:
        peaks = child("benchmarks.streams", str(directory / "store"))
    size = f"{peaks['size'] / 1e6:.0f} MB stream"
    yield Row(f"{size} in: peak above idle", peaks["in"] / 2**20, "MiB", at_most=64)
    yield Row(f"{size} in and out: peak above idle", peaks["out"] / 2**20, "MiB", at_most=64)


if __name__ == "__main__":
    print(json.dumps(_stream(Path(sys.argv[1]))))
