"""Small durable puts, against one raw SQLite commit each."""

import sqlite3
import statistics
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from agentref.storage import FilesystemCAS
from benchmarks.measure import Cost, Row, corpus, interleaved, scratch

__all__ = ["rows"]

_PUTS = 10_000
_SLICE = 500
_BATCH = 100


def _rate(costs: list[Cost], baseline: list[Cost]) -> float:
    return statistics.median(base.wall / ours.wall for ours, base in zip(costs, baseline, strict=True))


def rows() -> Iterator[Row]:
    """10,000 puts of 1 KB each way, in turns of 500 on one disk; medians over the turns."""
    text = "\n".join(corpus().text(f"puts {index}", 1_000_000) for index in range(21)).encode("ascii")
    pieces = [text[at : at + 1_000] for at in range(0, 2 * _PUTS * 1_000, 1_000)]
    rounds = _PUTS // _SLICE
    alone, batched, raw = iter(pieces[:_PUTS]), iter(pieces[_PUTS:]), iter(pieces[:_PUTS])
    with (
        scratch() as directory,
        FilesystemCAS(directory / "alone") as one,
        FilesystemCAS(directory / "batched") as many,
        closing(sqlite3.connect(directory / "raw.sqlite", isolation_level=None)) as connection,
    ):
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE piece(id INTEGER PRIMARY KEY, data BLOB NOT NULL)")

        def commit_each() -> None:
            for piece in islice(raw, _SLICE):
                connection.execute("INSERT INTO piece(data) VALUES (?)", (piece,))

        def put_each() -> None:
            for piece in islice(alone, _SLICE):
                one.put(piece)

        def put_batches() -> None:
            for _ in range(_SLICE // _BATCH):
                many.put_many(islice(batched, _BATCH))

        costs = interleaved({"raw": commit_each, "one": put_each, "many": put_batches}, rounds)
    total = sum(cost.wall for cost in costs["raw"])
    yield Row("10,000 raw SQLite commits of 1 KB, WAL and synchronous FULL", _PUTS / total, "/s")
    yield Row(
        "put of 1 KB, each durable / raw SQLite commit",
        _rate(costs["one"], costs["raw"]),
        "x",
        at_least=0.7,
    )
    yield Row(
        "put_many of 100 x 1 KB / raw SQLite commit", _rate(costs["many"], costs["raw"]), "x", at_least=8.0
    )
