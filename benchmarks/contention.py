"""Many processes that change shared artifacts: one hot key, and keys of their own.

`python -m benchmarks.contention` is one of these processes.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import psycopg

from agentref.coherence import (
    Conflict,
    Coordinator,
    PostgresCoordinator,
    SqliteCoordinator,
    Versioned,
    Write,
)
from agentref.coherence.keys import encode_key
from agentref.errors import RetriesExhaustedError
from agentref.refs import ContentRef
from agentref.storage import FilesystemCAS, InMemoryCAS
from benchmarks import ccs_peer
from benchmarks.measure import Row, scratch
from benchmarks.server import connected, fresh_database

__all__ = ["rows"]

_SECONDS: Final = 5.0
_HEAD_START: Final = 2.5  # so that all know when to begin before they do
_COUNTS: Final = (1, 2, 4, 8)
_ROUNDS: Final = 3
_HOT: Final = ("shared", "counter")


def _until(begin: float) -> float:
    time.sleep(max(begin - time.time(), 0.0))
    return time.monotonic() + _SECONDS


def _increment(directory: str, begin: float, number: int) -> dict[str, Any]:
    """Increment one value, through peers over files: contents, pins, versions and all."""
    done = exhausted = 0
    worst = 0.0
    with (
        SqliteCoordinator(Path(directory) / "coherence.db") as coordinator,
        coordinator.peer(f"agent-{number}", backend=FilesystemCAS(Path(directory) / "blobs")) as peer,
    ):
        end = _until(begin)
        while (begun := time.monotonic()) < end:
            try:
                peer.update(_HOT, lambda value: value + 1)
                done += 1
            except RetriesExhaustedError:
                exhausted += 1
            worst = max(worst, time.monotonic() - begun)
    return {"done": done, "exhausted": exhausted, "worst": worst}


def _versions(coordinator: Coordinator, begin: float, number: int, key: tuple[str, ...]) -> dict[str, Any]:
    """Move the version of one key on, by commits of refs; the least that a commit is."""
    store = InMemoryCAS()
    refs = [store.dump((number, parity)) for parity in range(2)]
    view = coordinator.read([key])[key]
    done = conflicts = 0
    code = encode_key(key)
    end = _until(begin)
    while time.monotonic() < end:
        leave = coordinator.table.turn(code, timeout=5.0)
        try:
            view = coordinator.commit([Write(key, _other(refs, view), view)], agent=f"agent-{number}")[key]
            done += 1
        except Conflict as error:
            view = cast("Versioned", error.current)
            conflicts += 1
        finally:
            if leave is not None:
                leave()
    return {"done": done, "conflicts": conflicts}


def _other(refs: list[ContentRef], view: Versioned) -> ContentRef:
    return refs[1] if view.ref == refs[0] else refs[0]


def _bare(dsn: str, begin: float, key: bytes) -> dict[str, Any]:
    """Move the version of a row on, by the least that compares it: UPDATE ... WHERE version = $1."""
    done = 0
    digest = bytes(32)
    with psycopg.connect(dsn, autocommit=True) as connection:  # which prepares it, as ours is
        version = _bare_version(connection, key)
        end = _until(begin)
        while time.monotonic() < end:
            moved = connection.execute(
                "UPDATE bare SET version = version + 1, digest = %b WHERE key = %b AND version = %b",
                [digest, key, version],
                binary=True,
            ).rowcount
            done += moved
            version = version + 1 if moved else _bare_version(connection, key)
    return {"done": done}


def _bare_version(connection: "psycopg.Connection[Any]", key: bytes) -> int:
    row = connection.execute("SELECT version FROM bare WHERE key = %b", [key], binary=True).fetchone()
    assert row is not None
    return int(row[0])


def _work(what: str, where: str, begin: float, number: int) -> dict[str, Any]:
    own = ("own", str(number))
    if what == "increment":
        return _increment(where, begin, number)
    if what.startswith("bare"):
        return _bare(where, begin, b"hot" if what == "bare-hot" else b"own-%d" % number)
    if what == "sqlite":
        with SqliteCoordinator(Path(where) / "coherence.db") as coordinator:
            return _versions(coordinator, begin, number, _HOT)
    with PostgresCoordinator(where) as coordinator:
        return _versions(coordinator, begin, number, _HOT if what == "postgres-hot" else own)


def _together(what: str, where: str, processes: int) -> list[dict[str, Any]]:
    begin = time.time() + _HEAD_START
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contention", what, where, repr(begin), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"{processes} processes: {what} failed")
    return [json.loads(one.splitlines()[-1]) for one in said]


def _hot_sqlite() -> Iterator[Row]:
    theirs = ccs_peer.measure()
    rates: dict[int, float] = {}
    lost = exhausted = 0
    for processes in _COUNTS:
        with (
            scratch() as directory,
            SqliteCoordinator(directory / "coherence.db") as coordinator,
            coordinator.peer("first", backend=FilesystemCAS(directory / "blobs")) as peer,
        ):
            peer.commit(_HOT, 0, base=None)
            said = _together("increment", str(directory), processes)
            done = sum(one["done"] for one in said)
            lost += done - peer.value(_HOT)
            exhausted += sum(one["exhausted"] for one in said)
        rates[processes] = done / _SECONDS
        name = f"hot key, SQLite and files, {processes} processes: update() by all"
        worst = max(one["worst"] for one in said)
        slowest = min(one["done"] for one in said) / (done / processes)
        note = f"the slowest did {slowest:.2f} of its share; worst wait {worst:.2f} s"
        yield Row(name, rates[processes], "/s", note=note)
    yield Row(
        "hot key, SQLite and files: rate of 8 processes / of 1", rates[8] / rates[1], "x", at_least=0.8
    )
    yield Row("hot key, SQLite and files: increments lost", float(lost), "", at_most=0)
    yield Row("hot key, SQLite and files: retries exhausted", float(exhausted), "", at_most=0)
    its = theirs["hot_8_wins_per_s"]
    name = "hot key, 8 processes: rate / that of its write_cas"
    yield Row(name, rates[8] / its, "x", at_least=10.0, note=f"its: {its:.0f}/s")


def _versions_sqlite() -> Iterator[Row]:
    rates: dict[int, float] = {}
    for processes in (1, 8):
        with scratch() as directory, SqliteCoordinator(directory / "coherence.db") as coordinator:
            before = coordinator.read([_HOT])[_HOT].version
            done = sum(one["done"] for one in _together("sqlite", str(directory), processes))
            assert coordinator.read([_HOT])[_HOT].version - before == done
        rates[processes] = done / _SECONDS
        yield Row(f"hot key, SQLite, {processes} processes: commits by all", rates[processes], "/s")
    yield Row("hot key, SQLite: rate of commits of 8 processes / of 1", rates[8] / rates[1], "x")


def _postgres() -> Iterator[Row]:
    for kind in ("hot", "spread"):
        ratios: list[float] = []
        ours = bare = 0.0
        lost = 0
        for _ in range(_ROUNDS):
            dsn = fresh_database()
            _prepare(dsn)
            bare = sum(one["done"] for one in _together(f"bare-{kind}", dsn, 8)) / _SECONDS
            said = _together(f"postgres-{kind}", dsn, 8)
            done = sum(one["done"] for one in said)
            with PostgresCoordinator(dsn) as coordinator:
                lost += done - sum(version for _, version in coordinator.versions())
            ours = done / _SECONDS
            ratios.append(ours / bare)
        name = f"Postgres, 8 processes, {'one hot key' if kind == 'hot' else 'keys of their own'}"
        yield Row(f"{name}: commits lost", float(lost), "", at_most=0)
        note = f"ours {ours:,.0f}/s, bare {bare:,.0f}/s in the last of {_ROUNDS} rounds"
        yield Row(
            f"{name}: rate / a bare UPDATE loop", statistics.median(ratios), "x", at_least=0.6, note=note
        )


def _prepare(dsn: str) -> None:
    with connected(dsn) as connection:
        connection.execute("CREATE TABLE bare (key bytea PRIMARY KEY, version bigint, digest bytea)")
        for key in [b"hot", *(b"own-%d" % number for number in range(8))]:
            connection.execute("INSERT INTO bare VALUES (%b, 0, %b)", [key, bytes(32)], binary=True)
    with PostgresCoordinator(dsn) as coordinator:
        coordinator.head()


_PARTS: Final[tuple[Callable[[], Iterator[Row]], ...]] = (_hot_sqlite, _versions_sqlite, _postgres)


def rows() -> Iterator[Row]:
    """What happens where many write."""
    for part in _PARTS:
        yield from part()


if __name__ == "__main__":
    print(json.dumps(_work(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))))
