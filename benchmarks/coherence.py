"""The coordinator and its peers, beside agent-coherence in the same run."""

import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from agentref.coherence import Coordinator, MemoryCoordinator, Peer, SqliteCoordinator, Write
from agentref.coherence.feed import Change, pack_entry
from agentref.coherence.keys import encode_key
from agentref.storage import FilesystemCAS, InMemoryCAS
from benchmarks import ccs_peer
from benchmarks.measure import Row, cost, interleaved, ratio, scratch

__all__ = ["document", "rows"]

_KEY: Final = ("proj", "plan")
_PEERS: Final = (1, 64, 1000)
_FASTER: Final = {64: 250.0, 1000: 10_000.0}  # than a put of the earlier system
_COMMITS: Final = 1000
_READS: Final = 20_000
_ROUNDS: Final = 15
_BATCH: Final = 200
_ARTIFACTS: Final = 100_000
_SWEPT: Final = 100


def document(count: int) -> dict[str, Any]:
    """A value of 10 KB as JSON, as the earlier system is given it (see `_ccs_worker.py`)."""
    draw = random.Random(0)
    return {"count": count, "rows": [{"id": row, "text": draw.randbytes(490).hex()} for row in range(10)]}


def _median_us(work: Callable[[int], object], times: int) -> float:
    took = [cost(lambda number=number: work(number)).wall for number in range(times)]  # type: ignore[misc]
    return statistics.median(took) * 1e6


def _commit_among(peers: int) -> float:
    """Microseconds of a commit of 10 KB that `peers` - 1 others have read, and read again now and then."""
    store, coordinator = InMemoryCAS(), MemoryCoordinator()
    writer = coordinator.peer("writer", backend=store)
    others = [coordinator.peer(f"reader-{number}", backend=store) for number in range(peers - 1)]
    values = [document(number) for number in range(_COMMITS)]
    view = writer.commit(_KEY, document(-1), base=None)
    took = []
    for number, value in enumerate(values):
        if number % (_COMMITS // 5) == 0:
            assert all(other.value(_KEY)["count"] == number - 1 for other in others)
        begun = time.perf_counter()
        view = writer.commit(_KEY, value, base=view)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e6


def _commits(theirs: dict[str, float]) -> Iterator[Row]:
    ours = {peers: _commit_among(peers) for peers in _PEERS}
    for peers, took in ours.items():
        yield Row(f"commit of 10 KB, in memory, {peers} peers hold it", took, "us")
        if peers in _FASTER:
            put = theirs[f"put_{peers}_us"]
            name = f"commit of 10 KB, {peers} peers hold it: times as fast as its put"
            yield Row(name, put / took, "x", at_least=_FASTER[peers], note=f"its put: {put:,.0f} us")
    yield Row("commit, 1,000 peers / 1 peer", ours[1000] / ours[1], "x", at_most=1.5)


def _hit_us(coordinator: Coordinator, store: Any) -> float:
    writer, reader = (coordinator.peer(name, backend=store) for name in ("writer", "reader"))
    writer.commit(_KEY, document(0), base=None)
    assert reader.value(_KEY) == document(0)
    begun = time.perf_counter()
    for _ in range(_READS):
        reader.read(_KEY).value  # noqa: B018  (looking at it is what is measured)
    return (time.perf_counter() - begun) / _READS * 1e6


def _hits(theirs: dict[str, float]) -> Iterator[Row]:
    get = theirs["get_hit_us"]
    with scratch() as directory, SqliteCoordinator(directory / "coherence.db") as in_sqlite:
        took = {
            "memory": statistics.median(_hit_us(MemoryCoordinator(), InMemoryCAS()) for _ in range(5)),
            "SQLite": _hit_us(in_sqlite, FilesystemCAS(directory / "blobs")),
        }
    for where, bar in (("memory", 10.0), ("SQLite", 2.0)):
        yield Row(f"read hit of a peer, {where}", took[where], "us")
        name = f"read hit of a peer, {where}: times as fast as its get"
        yield Row(name, get / took[where], "x", at_least=bar, note=f"its get: {get:.0f} us, in memory")


class _Raw:
    """The least that keeps a row and an entry of a feed: two statements in a transaction."""

    def __init__(self, path: Path, synchronous: str, page_size: int) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        for setting in (f"page_size = {page_size}", "journal_mode = WAL", f"synchronous = {synchronous}"):
            self._connection.execute(f"PRAGMA {setting}").fetchall()
        self._connection.execute("CREATE TABLE row (key BLOB PRIMARY KEY, version, digest) WITHOUT ROWID")
        self._connection.execute("CREATE TABLE entry (position INTEGER PRIMARY KEY, entry)")
        self._connection.execute("INSERT INTO row VALUES (?, 0, ?)", (encode_key(_KEY), bytes(32)))

    def commit(self, entry: bytes) -> None:
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        run(
            "UPDATE row SET version = version + 1, digest = ? WHERE key = ?", (entry[:32], encode_key(_KEY))
        )
        run("INSERT INTO entry (entry) VALUES (?)", (entry,))
        run("COMMIT")

    def close(self) -> None:
        self._connection.close()


def _sqlite(theirs: dict[str, float]) -> Iterator[Row]:
    refs = [InMemoryCAS().dump(number) for number in range(2)]
    entry = pack_entry([Change(_KEY, 1, refs[0], 0, "writer")])
    for synchronous in ("FULL", "NORMAL"):
        with scratch() as directory:
            coordinator = SqliteCoordinator(directory / "coherence.db", synchronous=synchronous)
            page_size = _page_size(directory / "coherence.db")
            raw = _Raw(directory / "raw.db", synchronous, page_size)
            view = coordinator.commit([Write(_KEY, refs[0])], agent="writer")[_KEY]

            def ours() -> None:
                nonlocal view
                for number in range(_BATCH):
                    write = Write(_KEY, refs[number % 2], view)
                    view = coordinator.commit([write], agent="writer")[_KEY]  # noqa: B023

            def bare() -> None:
                for _ in range(_BATCH):
                    raw.commit(entry)  # noqa: B023

            ours()  # so that the number of the next one's content differs from what stands there
            costs = interleaved({"ours": ours, "raw": bare}, _ROUNDS)
            raw.close()
            coordinator.close()
        took = statistics.median(one.wall for one in costs["ours"]) / _BATCH * 1e6
        bare_us = statistics.median(one.wall for one in costs["raw"]) / _BATCH * 1e6
        yield Row(f"SQLite commit, synchronous {synchronous}", took, "us", note=f"raw: {bare_us:.0f} us")
        yield Row(
            f"SQLite commit, synchronous {synchronous}: speed / a raw transaction of two rows",
            ratio(costs["raw"], costs["ours"]),
            "x",
            at_least=0.6 if synchronous == "FULL" else None,  # the other one is not durable
        )
        if synchronous == "NORMAL":
            name = "SQLite commit, synchronous NORMAL: times as fast as its commit_cas"
            yield Row(name, theirs["sqlite_commit_cas_us"] / took, "x", at_least=1.0)


def _page_size(path: Path) -> int:
    connection = sqlite3.connect(path)
    size = int(connection.execute("PRAGMA page_size").fetchone()[0])
    connection.close()
    return size


def _with_artifacts(coordinator: Coordinator, artifacts: int) -> Coordinator:
    ref = InMemoryCAS().dump(0)
    for first in range(0, artifacts, 1000):
        keys = [("artifact", str(number)) for number in range(first, min(first + 1000, artifacts))]
        coordinator.commit([Write(key, ref) for key in keys], agent="writer")
    return coordinator


def _sweep(coordinator: Coordinator) -> float:
    """Seconds to take back the one lease that has expired."""
    begun = time.perf_counter()
    swept = coordinator.sweep()
    took = time.perf_counter() - begun
    assert len(swept) == 1
    return took


def _sweeps() -> Iterator[Row]:
    """In turns: what the machine does after a sleep falls on both."""
    for where in ("memory", "SQLite"):
        with scratch() as directory:
            one, many = (
                _with_artifacts(
                    MemoryCoordinator()
                    if where == "memory"
                    else SqliteCoordinator(directory / f"{artifacts}.db"),
                    artifacts,
                )
                for artifacts in (1, _ARTIFACTS)
            )
            ratios, took = [], []
            for number in range(_SWEPT):
                one.acquire(("artifact", "0"), holder="gone", ttl=0.001)
                many.acquire(("artifact", str(number)), holder="gone", ttl=0.001)
                time.sleep(0.002)
                first, second = (one, many) if number % 2 else (many, one)
                seconds = {id(each): _sweep(each) for each in (first, second)}
                ratios.append(seconds[id(many)] / seconds[id(one)])
                took.append(seconds[id(one)] * 1e6)
            one.close()
            many.close()
        name = f"sweep of one expired lease, {where}: among {_ARTIFACTS:,} artifacts / one"
        note = f"{statistics.median(took):.0f} us among one"
        yield Row(name, statistics.median(ratios), "x", at_most=2.0, note=note)


def _wire() -> Iterator[Row]:
    """The largest of what one commit of one artifact puts into the feed, whatever was committed."""
    store, coordinator = InMemoryCAS(), MemoryCoordinator()
    peer: Peer = coordinator.peer("a-reviewer-with-a-long-name", backend=store)
    key, since = ("project-42", "workspace", "documents", "plan.md"), coordinator.head()
    view = None
    for size in (1, 1000, 1_000_000, 20_000_000):
        view = peer.commit(key, "x" * size, base=view)
    entries, _ = coordinator.table.entries(since, limit=100)
    assert len(entries) == 4
    largest = float(max(len(entry) for entry, _ in entries))
    yield Row("an invalidation on the wire, payloads of 1 byte to 20 MB", largest, "B", at_most=160)


def rows() -> Iterator[Row]:
    """What sharing costs."""
    theirs = ccs_peer.measure()
    yield from _commits(theirs)
    yield from _hits(theirs)
    yield from _sqlite(theirs)
    yield from _sweeps()
    yield from _wire()
