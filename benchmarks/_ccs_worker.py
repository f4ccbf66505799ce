"""What agent-coherence costs, by its own public interfaces: `python -I _ccs_worker.py DIRECTORY`.

It runs in an environment that holds agent-coherence and nothing of ours, so it imports no other file of
this project. Each measured number is a line, `{"name": ..., "value": ...}`. `ccs_peer.py` starts it.
"""

import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

_PUTS: Final = {1: 500, 64: 15, 1000: 3}  # of each, by agents
_PUTS_SECONDS: Final = 25.0  # no other put is begun after that
_GETS: Final = 800  # a holder is no longer one after 900 operations
_COMMITS: Final = 3000
_WARM: Final = 20
_PROCESSES: Final = (1, 8)
_SECONDS: Final = 5
_HEAD_START: Final = 0.3  # so that all writers know when to begin before they do
_HOT: Final = "hot.json"
_KEY: Final = "plan"
_FAILURES: Final = ("CasRetriesExhausted", "ViewWedged")  # the usual ones: told even if there were none


def _document(count: int) -> dict[str, Any]:
    """A value of 10 KB as JSON, which differs from any other in its count. Ten texts: quick to parse."""
    draw = random.Random(0)
    return {"count": count, "rows": [{"id": row, "text": draw.randbytes(490).hex()} for row in range(10)]}


def _say(name: str, value: float) -> None:
    print(json.dumps({"name": name, "value": value}), flush=True)


def _took(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _median_us(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e6


def _check(holds: bool, what: str) -> None:
    """A number of something else than it is named for would be worse than none."""
    if not holds:
        raise SystemExit(f"agent-coherence did not do what is measured here: {what}")


def _namespace(agent: int) -> tuple[str, str]:
    return (f"agent-{agent}", "shared")


def _gets() -> None:
    from ccs.adapters import CCSStore

    hits: list[bool] = []
    store = CCSStore(strategy="lazy")
    watched = CCSStore(strategy="lazy", on_metric=lambda event: hits.append(event.cache_hit))
    for one in (store, watched):
        one.put(_namespace(0), _KEY, _document(1))
        one.get(_namespace(0), _KEY)
    _check(hits[-1:] == [True], "the writer's own get is a hit")
    took = [_took(lambda: store.get(_namespace(0), _KEY)) for _ in range(_GETS)]
    _say("get_hit_us", _median_us(took[_WARM:]))


def _puts(agents: int) -> None:
    """One of them puts what all the others hold; then they get it again, which is not timed."""
    from ccs.adapters import CCSStore

    store = CCSStore(strategy="lazy")
    peers = [_namespace(agent) for agent in range(1, agents)]
    took: list[float] = []
    begun = time.monotonic()
    for count in range(_PUTS[agents] + 1):
        if took and time.monotonic() - begun > _PUTS_SECONDS:
            break
        value = _document(count)
        spent = _took(lambda value=value: store.put(_namespace(0), _KEY, value))
        if count:  # the first makes it, and nobody holds it
            took.append(spent)
        counts = {store.get(peer, _KEY).value["count"] for peer in peers}
        _check(counts <= {count}, "every peer is told, and fetches the new one")
    _say(f"put_{agents}_us", _median_us(took))
    _say(f"put_{agents}_samples", len(took))


def _commits(directory: Path) -> None:
    """Content stays outside, as with CoherentVolume: what is committed is a version and a hash."""
    from ccs.coordinator.service import CoordinatorService
    from ccs.coordinator.sqlite_registry import SqliteArtifactRegistry

    registry = SqliteArtifactRegistry(directory / "state.db")
    service = CoordinatorService(registry)
    agent = uuid4()
    artifact = service.register_artifact(name=_KEY, content="")
    hashes = [f"{number:064x}" for number in range(_COMMITS)]
    took: list[float] = []
    for expected, content_hash in enumerate(hashes, start=artifact.version):
        begun = time.perf_counter()
        done = service.commit_cas(
            agent_id=agent, artifact_id=artifact.id, expected_version=expected, content_hash=content_hash
        )
        took.append(time.perf_counter() - begun)
        _check(isinstance(done, tuple) and done[0].version == expected + 1, "the commit wins")
    _say("sqlite_commit_cas_us", _median_us(took[_WARM:]))
    _say("sqlite_commit_cas_mean_us", statistics.fmean(took[_WARM:]) * 1e6)
    # Both are settings of a connection, so they are asked of its own.
    asked = registry._conn.execute  # noqa: SLF001
    _say("sqlite_journal_is_wal", float(asked("PRAGMA journal_mode").fetchone()[0] == "wal"))
    _say("sqlite_synchronous", float(asked("PRAGMA synchronous").fetchone()[0]))
    registry.close()


def _volume(root: Path) -> Any:
    from ccs.adapters.coherent_volume import CoherentVolume

    return CoherentVolume(root, managed=(_HOT,))


def _ready() -> str:
    """Tell the parent so, and wait for what it says; nothing at all if it is gone."""
    print("ready", flush=True)
    return sys.stdin.readline()


def _serve(root: Path) -> None:
    """The coordinator, in a process of its own; until its standard input ends."""
    from ccs.adapters.claude_code.lifecycle import stop_coordinator

    volume = _volume(root)
    volume.read(_HOT)  # the coordinator takes what it sees first for version one
    _ready()
    print(json.loads(volume.reacquire(_HOT))["count"], flush=True)
    stop_coordinator(root)


def _write(root: Path) -> None:
    """Add one to the count, again and again, between the two moments that the parent names."""
    from ccs.core.exceptions import CoherenceError

    volume = _volume(root)
    wins: list[float] = []
    failures: Counter[str] = Counter()
    attempts = 0

    def incremented(content: bytes) -> bytes:
        nonlocal attempts
        attempts += 1
        document = json.loads(content)
        document["count"] += 1
        return json.dumps(document).encode()

    begin = json.loads(_ready())
    time.sleep(max(0.0, begin - time.monotonic()))
    while time.monotonic() < begin + _SECONDS:
        try:
            volume.write_cas(_HOT, incremented)
        except CoherenceError as failure:
            failures[type(failure).__name__] += 1
        else:
            wins.append(time.monotonic() - begin)
    print(json.dumps({"wins": wins, "failures": failures, "attempts": attempts}), flush=True)


def _child(role: str, root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-I", __file__, str(root), role],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout
    said = process.stdout.readline()
    _check(bool(said), "a process of the hot key answers")
    return said


def _tell(process: "subprocess.Popen[str]", what: float) -> None:
    assert process.stdin
    print(json.dumps(what), file=process.stdin, flush=True)


def _hot(root: Path, processes: int) -> None:
    """The rate is the median over the whole seconds; a win after the last one counts for the rest."""
    root.mkdir()
    (root / _HOT).write_text(json.dumps(_document(0)))
    server = _child("serve", root)
    children = [server]
    try:
        _line(server)
        writers = [_child("write", root) for _ in range(processes)]
        children += writers
        for writer in writers:
            _line(writer)
        begin = time.monotonic() + _HEAD_START
        for writer in writers:
            _tell(writer, begin)
        results = [json.loads(_line(writer)) for writer in writers]
        _tell(server, 0)
        final = int(_line(server))
        for one in children:
            one.wait(timeout=20)
    finally:
        for one in children:
            one.kill()
    for name, value in _summary(results, final):
        _say(f"hot_{processes}_{name}", value)


def _summary(results: list[dict[str, Any]], final: int) -> Iterator[tuple[str, float]]:
    wins = [win for one in results for win in one["wins"]]
    by_second = Counter(math.floor(win) for win in wins)
    failures: Counter[str] = sum((Counter(one["failures"]) for one in results), Counter())
    yield "wins_per_s", statistics.median(by_second[second] for second in range(_SECONDS))
    yield "wins", len(wins)
    yield "failures", failures.total()
    for kind in sorted({*_FAILURES, *failures}):
        yield f"failures_{kind}", failures[kind]
    yield "attempts_per_win", sum(one["attempts"] for one in results) / max(1, len(wins))
    # Below zero: a write that was said to have failed has landed.
    yield "lost", len(wins) - final


def _measure(directory: Path) -> None:
    _gets()
    for agents in _PUTS:
        _puts(agents)
    _commits(directory)
    for processes in _PROCESSES:
        _hot(directory / f"hot-{processes}", processes)


if __name__ == "__main__":
    directory, *role = sys.argv[1:]
    {"": _measure, "serve": _serve, "write": _write}["".join(role)](Path(directory))
