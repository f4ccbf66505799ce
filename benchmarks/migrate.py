"""1 GB from files to Postgres: the rate against that of a put there, or into files, and the memory."""

import base64
import json
import random
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from agentref.storage import CAS, FilesystemCAS, PostgresCAS, migrate_cas
from benchmarks.measure import MB, Row, child, cost, scratch
from benchmarks.server import fresh_database
from examples._demo.process import peak_memory

__all__ = ["rows"]

_PARTS = 8
_AT_ONCE = 8
_MIB = 1024 * 1024


def _texts(seed: str, count: int) -> list[bytes]:
    """Texts of 1 MB each, which shrink by a quarter."""
    draw = random.Random(seed)
    return [base64.b64encode(draw.randbytes(MB * 3 // 4)) for _ in range(count)]


def _put(store: CAS, part: int, megabytes: int, *, pinned: bool = False) -> float:
    """Put that much, in batches: MB/s."""
    seconds = 0.0
    ttl = 0.01 if pinned else None
    for begin in range(0, megabytes, _AT_ONCE):
        texts = _texts(f"{part} {begin}", min(_AT_ONCE, megabytes - begin))
        seconds += cost(lambda texts=texts: store.dump_many(texts, ttl=ttl)).wall
        if pinned:
            store.pin(f"{part} {begin}", store.dump_many(texts, ttl=ttl), look=False)
    return megabytes / seconds


def _migrate(root: Path, dsn: str) -> dict[str, float]:
    """What two runs in this process cost; the second one finds nothing to do."""
    with FilesystemCAS(root, backend_id="old") as source, PostgresCAS(dsn) as target:
        idle = peak_memory()
        took = [cost(lambda: migrate_cas(source, target)).wall for _ in range(2)]
        peak = peak_memory()
        if source.stats().stored_bytes != target.stats().stored_bytes:
            sys.exit("Not all of it came.")
    return {"seconds": took[0], "again": took[1], "memory": float(peak - idle)}


def rows(megabytes: int = 1000) -> Iterator[Row]:
    """The bars of a migration. Half of the puts come before it, and half after it."""
    with scratch() as root, PostgresCAS(fresh_database()) as peer:
        part = megabytes // _PARTS
        with FilesystemCAS(root / "living") as files, FilesystemCAS(root / "pinned") as pinned:
            rates: dict[str, list[float]] = {"files": [], "Postgres": []}
            for turn in range(_PARTS):
                rates["files"].append(_put(files, turn, part))
                if turn % 2:
                    rates["Postgres"].append(_put(peer, turn, part))
                _put(pinned, turn, part, pinned=True)
        ours = {
            name: child("benchmarks.migrate", str(root / name), fresh_database())
            for name in ("living", "pinned")
        }
        for turn in range(0, _PARTS, 2):
            rates["Postgres"].append(_put(peer, turn, part))
    slower = min(map(statistics.median, rates.values()))
    for name, several in rates.items():
        yield Row(f"put into {name}", statistics.median(several), "MB/s")
    for name, text in (
        ("living", "migrate, files to Postgres"),
        ("pinned", "the same, kept by pins alone"),
    ):
        rate = part * _PARTS / ours[name]["seconds"]
        yield Row(text, rate, "MB/s", note=f"a second run takes {ours[name]['again']:.1f} s")
        yield Row(f"{text} / the slower put", rate / slower, "x", at_least=0.5)
        yield Row(f"{text}: memory above idle", ours[name]["memory"] / _MIB, "MiB", at_most=128)


if __name__ == "__main__":
    print(json.dumps(_migrate(Path(sys.argv[1]), sys.argv[2])))
