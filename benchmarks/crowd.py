"""Many processes over one store in PostgreSQL: writers among themselves, and writers beside a prune.

`python -m benchmarks.crowd` is one of these processes.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from agentref.chunks import Kind
from agentref.storage import PostgresCAS
from agentref.storage.frames import pack_frame
from benchmarks.measure import MB, Row
from benchmarks.server import connected, fresh_database
from examples._demo.process import peak_memory

__all__ = ["rows"]

_SECONDS: Final = 60.0
_WRITERS: Final = 16
_POOL: Final = 4000  # what they all draw from; so that their batches overlap
_BATCH: Final = 40
_OBJECTS: Final = 1_000_000
_PACED_WRITERS: Final = 2
_PACED_SECONDS: Final = 30.0
_PAUSE: Final = 0.01
_AT_WORK: Final = 2.0  # by then the writers are


def _text(number: int) -> str:
    return random.Random(number).randbytes(1500).hex()


def _write(dsn: str, seconds: float, seed: int, *, fresh: bool) -> dict[str, Any]:
    """Put batch after batch; then see whether all of it is there."""
    draw = random.Random(seed)
    took: list[tuple[float, float]] = []  # when each ended, and how long it took
    refs: dict[int, Any] = {}
    with PostgresCAS(dsn) as store:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            numbers = [draw.randrange(1 << 60) if fresh else draw.randrange(_POOL) for _ in range(_BATCH)]
            texts = list(map(_text, numbers))
            begun = time.perf_counter()
            put = store.dump_many(texts, ttl=3600)
            took.append((time.time(), time.perf_counter() - begun))
            if not fresh:
                refs.update(zip(numbers, put, strict=True))
            else:
                time.sleep(_PAUSE)
        lost = sum(
            value != _text(number)
            for number, value in zip(refs, store.load_many(list(refs.values())), strict=True)
        )
    return {"took": took, "lost": lost, "objects": len(refs)}


def _prune(dsn: str) -> dict[str, Any]:
    """What is expired goes; bytes of memory at the peak, above what the process held before."""
    with PostgresCAS(dsn) as store:
        store.exists("0" * 64)
        idle = peak_memory()
        begun = time.perf_counter()
        report = store.prune_expired(grace=0)
        took = time.perf_counter() - begun
        peak = peak_memory()
    return {"took": took, "ended": time.time(), "removed": report.removed, "memory": peak - idle}


def _start(what: str, dsn: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.crowd", what, dsn, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def _said(process: "subprocess.Popen[str]") -> dict[str, Any]:
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r:.300} failed")
    result: dict[str, Any] = json.loads(said.splitlines()[-1])
    return result


def _sixteen() -> Iterator[Row]:
    dsn = fresh_database()
    PostgresCAS(dsn).close()
    results = [_said(one) for one in [_start("write", dsn, _SECONDS, seed) for seed in range(_WRITERS)]]
    with connected(dsn) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        found = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    name = f"{_WRITERS} writers, overlapping batches, {_SECONDS:.0f} s"
    puts = sum(len(one["took"]) for one in results)
    yield Row(f"{name}: objects put", float(puts * _BATCH), "")
    yield Row(f"{name}: deadlocks", float(found[0]) if found else -1.0, "", at_most=0)
    yield Row(f"{name}: objects lost", float(sum(one["lost"] for one in results)), "", at_most=0)


def _break_in() -> None:
    """Let the server have as much log to write over as one that has been at work for a while: a new one
    makes a file for each 16 MB, and until it is full of zeros nobody commits (`wal_init_zero`; 50 ms here).
    """
    with connected(fresh_database()) as connection:
        connection.execute(
            "SELECT count(pg_logical_emit_message(false, 'agentref', repeat('x', 1000000))) "
            "FROM generate_series(1, 1500)"
        )
        connection.execute("CHECKPOINT")


def _fill(count: int) -> str:
    """A database with so many leaves of 100 bytes under random names, every second one expired."""
    dsn = fresh_database()
    PostgresCAS(dsn).close()
    frame = pack_frame(Kind.RAW, os.urandom(100), 1)
    with connected(dsn) as connection:
        connection.execute(
            """
            INSERT INTO agentref_blob (digest, data, stored_size, head, touched_at, expires_at)
            SELECT sha256(number::text::bytea), %b, %b, %b, 1.0,
                CASE mod(number, 2) WHEN 0 THEN 2.0 ELSE 1e12 END
            FROM generate_series(1, %b) AS number
            """,
            [frame, len(frame), frame[0], count],
        )
        connection.execute("VACUUM ANALYZE agentref_blob")
        connection.execute("CHECKPOINT")
    return dsn


def _p99(
    processes: "list[subprocess.Popen[str]]", between: tuple[float, float] = (0, float("inf"))
) -> float:
    """Of the puts that ended between these times."""
    puts = [one for process in processes for one in _said(process)["took"]]
    took = [seconds for ended, seconds in puts if between[0] <= ended <= between[1]]
    return float(statistics.quantiles(took, n=100)[98])


def _pruning() -> Iterator[Row]:
    _break_in()
    name = f"prune of {_OBJECTS:,} objects, half of them expired"
    quarter, whole = (_said(_start("prune", _fill(count))) for count in (_OBJECTS // 4, _OBJECTS))
    yield Row(f"{name}: time", whole["took"], "s", note=f"{whole['removed']:,} removed")
    yield Row(f"{name}: time / of a quarter of them", whole["took"] / quarter["took"], "x", at_most=5.0)
    yield Row(f"{name}: memory above idle", whole["memory"] / MB, "MB", at_most=64)
    dsn = _fill(_OBJECTS)
    alone = _p99([_start("pace", dsn, _PACED_SECONDS, seed) for seed in range(_PACED_WRITERS)])
    dsn = _fill(_OBJECTS)  # anew: after a checkpoint, each page is logged whole when it is first changed
    writers = [_start("pace", dsn, _PACED_SECONDS, 100 + seed) for seed in range(_PACED_WRITERS)]
    time.sleep(_AT_WORK)
    pruned = _said(_start("prune", dsn))
    beside = _p99(writers, (pruned["ended"] - pruned["took"], pruned["ended"]))
    yield Row(
        f"{name}: {_PACED_WRITERS} writers' p99 / without it",
        beside / alone,
        "x",
        at_most=2.0,
        note=f"{alone * 1000:.1f} ms without; of what they put in the {pruned['took']:.0f} s of the prune",
    )


def rows() -> Iterator[Row]:
    """What happens among many."""
    yield from _sixteen()
    yield from _pruning()


if __name__ == "__main__":
    what, dsn, *rest = sys.argv[1:]
    if what == "prune":
        print(json.dumps(_prune(dsn)))
    else:
        print(json.dumps(_write(dsn, float(rest[0]), int(rest[1]), fresh=what == "pace")))
