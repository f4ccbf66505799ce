"""The store in PostgreSQL against what the same server can do: COPY, blind upserts, LangGraph's saver."""

import os
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from blake3 import blake3
from langgraph.checkpoint.postgres import PostgresSaver

from agentref.adapters.langgraph import externalize
from agentref.refs import Digest
from agentref.storage import PostgresCAS
from agentref.storage.postgres import PostgresBlobStore
from benchmarks.checkpoints import _Added, _Kept, _loop, _talk  # the same graphs
from benchmarks.measure import MB, Row, corpus, interleaved, ratio
from benchmarks.server import connected, fresh_database

__all__ = ["rows"]

_ROUNDS = 15
_BATCH = 8 * MB
_COLUMNS = "digest, data, stored_size, head, touched_at, expires_at"


def _fresh(size: int) -> dict[Digest, bytes]:
    datas = [os.urandom(size) for _ in range(min(_BATCH // size, 2000))]
    return {Digest(blake3(data).digest()): data for data in datas}


def _copy(connection: "psycopg.Connection[Any]", blobs: dict[Digest, bytes]) -> None:
    now = time.time()
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY peer ({_COLUMNS}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types(["bytea", "bytea", "int4", "int2", "float8", "float8"])
        for digest, data in blobs.items():
            copy.write_row((digest, data, len(data), data[0], now, float("inf")))


def _upsert(connection: "psycopg.Connection[Any]", blobs: dict[Digest, bytes]) -> None:
    connection.execute(
        """
        INSERT INTO agentref_blob AS b (digest, data, stored_size, head, touched_at)
        SELECT digest, data, octet_length(data), 0, 0.0
        FROM unnest(%b::bytea[], %b::bytea[]) AS new(digest, data)
        ON CONFLICT (digest) DO UPDATE SET touched_at = EXCLUDED.touched_at, data = EXCLUDED.data
        """,
        (list(blobs), list(blobs.values())),
    )


def _puts() -> Iterator[Row]:
    dsn = fresh_database()
    with connected(dsn) as connection:
        store = PostgresBlobStore(dsn)
        store.store({})
        store.epoch()
        connection.execute("CREATE TABLE peer (LIKE agentref_blob INCLUDING ALL)")
        for size, bar in ((1024, 0.6), (4096, 0.75), (16 * 1024, 0.75), (64 * 1024, 0.75)):
            ready = {name: [_fresh(size) for _ in range(_ROUNDS + 1)] for name in ("ours", "copy")}
            works = {
                "ours": lambda ready=ready: store.store(ready["ours"].pop()),
                "copy": lambda ready=ready: _copy(connection, ready["copy"].pop()),
            }
            for work in works.values():
                work()
            costs = interleaved(works, _ROUNDS)
            bytes_each = min(_BATCH // size, 2000) * size
            rate = sorted(cost.wall for cost in costs["ours"])[_ROUNDS // 2]
            yield Row(
                f"first put of {size // 1024} KB objects, batches: MB/s", bytes_each / rate / MB, "MB/s"
            )
            yield Row(
                f"first put of {size // 1024} KB objects, batches / COPY BINARY",
                ratio(costs["copy"], costs["ours"]),
                "x",
                at_least=bar,
            )
            connection.execute("TRUNCATE peer, agentref_blob")
        yield from _again(store, connection)
        store.close()


def _again(store: PostgresBlobStore, connection: "psycopg.Connection[Any]") -> Iterator[Row]:
    blobs = _fresh(64 * 1024)
    store.store(blobs)
    names = list(blobs)
    _upsert(connection, blobs)
    # The first look after a change settles hints in the rows, which is logged where pages have checksums.
    store.touch(names, expires_at=time.time() + 60)
    connection.execute("CHECKPOINT")
    lsn = "SELECT pg_current_wal_insert_lsn() - '0/0'"
    before = connection.execute(lsn).fetchone()
    store.touch(names, expires_at=time.time() + 60)
    after = connection.execute(lsn).fetchone()
    yield Row("asking again for fresh content: log written", float(after[0] - before[0]), "B", at_most=0)
    costs = interleaved(
        {
            "ours": lambda: store.touch(names, expires_at=time.time() + 60),
            "blind": lambda: _upsert(connection, blobs),
        },
        _ROUNDS,
    )
    yield Row(
        "asking again for fresh content (64 KB objects) / blind upsert",
        ratio(costs["ours"], costs["blind"]),
        "x",
        at_most=1 / 15,
    )


def _run(graph: Any, given: dict[str, Any], dsn: str, *, agentref: bool) -> None:
    with PostgresSaver.from_conn_string(dsn) as saver:
        config = {"configurable": {"thread_id": "bench"}, "recursion_limit": 1000}
        if agentref:
            with PostgresCAS(dsn) as store:
                graph.compile(checkpointer=externalize(saver, backend=store)).invoke(given, config)
        else:
            graph.compile(checkpointer=saver).invoke(given, config)


def _size(dsn: str) -> int:
    with connected(dsn) as connection:
        found = connection.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchone()
    return int(found[0]) if found else 0


def _prepared(*, agentref: bool) -> str:
    dsn = fresh_database()
    with PostgresSaver.from_conn_string(dsn) as saver:
        saver.setup()
    if agentref:
        PostgresCAS(dsn).close()
    return dsn


def _savers() -> Iterator[Row]:
    docs = [
        {"id": index, "title": f"Document {index}", "text": corpus().text(f"document {index}", 10_000)}
        for index in range(500)
    ]
    text = "\n\n".join(str(doc["text"]) for doc in docs)
    texts = [corpus().text(f"message {index}", 20_000) for index in range(100)]

    def touch(state: dict[str, Any]) -> dict[str, Any]:
        return {"step": state["step"] + 1}

    def rewrite(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "step": state["step"] + 1}

    cases: list[tuple[str, Any, dict[str, Any], float, float]] = [
        ("100 steps, one 20 KB message each", _talk(_Added, texts), {"messages": []}, 2.2, 0.5),
        ("30 steps, a 5 MB list, unchanged", _loop(_Kept, touch, 30), {"docs": docs}, 3.0, 1.0),
        ("30 steps, a 5 MB str, unchanged", _loop(_Kept, touch, 30), {"docs": text}, 2.2, 0.5),
        ("30 steps, nodes return {**state}", _loop(_Kept, rewrite, 30), {"docs": docs}, 6.0, 0.5),
    ]
    for name, graph, given, most, slowest in cases:
        sizes: dict[str, int] = {}
        costs: dict[str, list[float]] = {"stock": [], "agentref": []}
        for turn in range(3):
            for who in ("stock", "agentref") if turn % 2 == 0 else ("agentref", "stock"):
                dsn = _prepared(agentref=who == "agentref")
                begun = time.perf_counter()
                _run(graph, {**given, "step": 0}, dsn, agentref=who == "agentref")
                costs[who].append(time.perf_counter() - begun)
                sizes[who] = _size(dsn)
        yield Row(f"PostgresSaver, {name}: stock", sizes["stock"] / MB, "MB")
        yield Row(f"PostgresSaver, {name}: agentref", sizes["agentref"] / MB, "MB", at_most=most)
        times = sorted(
            ours / theirs for ours, theirs in zip(costs["agentref"], costs["stock"], strict=True)
        )
        yield Row(f"PostgresSaver, {name}: time / stock", times[1], "x", at_most=slowest)


def rows() -> Iterator[Row]:
    """All of the bars of PostgreSQL."""
    yield from _puts()
    yield from _savers()
