"""`kill -9` at any moment of a running graph: every checkpoint that was acknowledged loads, whole.

Run as a program, this file is a fork server: it has imported everything, forks processes that run the
graph, kills them, and looks at what they leave. Only the fork server is a child of the test's process,
whose threads a fork would not take along.
"""

import hashlib
import json
import operator
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.storage import FilesystemCAS

KILLS = 200
KILLS_BETWEEN_CHECKS = 20
STORES = 5
LANES = 2  # processes at once: they share the store, and each has a database and threads of its own
TURNS = 10


class Work(TypedDict, total=False):
    docs: list[dict[str, Any]]
    pictures: list[bytes]
    turn: int
    log: Annotated[list[str], operator.add]


# --- the graph, a function of nothing but its state


def text(turn: int) -> str:
    return random.Random(turn).randbytes(1500).hex()


def append(state: Work) -> Work:
    fresh = [{"n": [state["turn"], n], "text": text(3 * state["turn"] + n), "score": 0.0} for n in range(3)]
    return {"docs": [*state["docs"], *fresh], "turn": state["turn"] + 1, "log": [text(state["turn"])]}


def rewrite(state: Work) -> Work:
    chance = random.Random(state["turn"])
    scored = [{**doc, "score": chance.random()} for doc in state["docs"]]
    return {"docs": sorted(scored, key=lambda doc: doc["score"])}


def scrape(state: Work) -> Work:
    # Each picture is a file of its own in the store.
    return {"pictures": [random.Random(str([state["turn"], n])).randbytes(200_000) for n in range(3)]}


def graph_over(saver: Any) -> Any:
    builder = StateGraph(Work).add_sequence([append, rewrite, scrape]).add_edge(START, "append")
    builder.add_conditional_edges(
        "scrape", lambda state: "append" if state["turn"] < TURNS else "__end__", ["append", "__end__"]
    )
    return builder.compile(checkpointer=saver)


@contextmanager
def opened(place: str, lane: int) -> Iterator[Any]:
    """A wrapped saver over the files of a place."""
    with (
        closing(sqlite3.connect(f"{place}/lane-{lane}.sqlite", check_same_thread=False)) as connection,
        FilesystemCAS(f"{place}/store") as cas,
    ):
        yield externalize(SqliteSaver(connection), backend=cas, inline_threshold_bytes=512)


# --- the process that is killed


def picture(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def picture_of_channels(checkpoint: Any) -> str:
    return picture(sorted(checkpoint["channel_values"].items()))


def pictures_of_writes(writes: Any) -> list[list[str]]:
    return [[task, channel, picture(value)] for task, channel, value in writes]


def at(thread: str, **more: str) -> Any:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", **more}}


def acknowledging(saver: Any, say: Callable[..., None]) -> Any:
    """The saver, which says what it has put after it was put."""
    put, put_writes = saver.put, saver.put_writes

    def saying_put(config: Any, checkpoint: Any, *rest: Any) -> Any:
        seen = picture_of_channels(checkpoint)
        result = put(config, checkpoint, *rest)
        say("checkpoint", checkpoint["id"], seen)
        return result

    def saying_put_writes(config: Any, writes: Any, task: str, *rest: Any) -> None:
        seen = pictures_of_writes((task, channel, value) for channel, value in writes)
        put_writes(config, writes, task, *rest)
        say("writes", config["configurable"]["checkpoint_id"], seen)

    saver.put, saver.put_writes = saying_put, saying_put_writes
    return saver


def work(place: str, lane: int, thread: str, pipe: int) -> None:
    """Run the graph for ever: first to the end of what was begun, then again."""

    def say(*words: Any) -> None:
        os.write(pipe, json.dumps(words).encode() + b"\n")  # at once or not at all: it is short

    with opened(place, lane) as saver:
        found = saver.get_tuple(at(thread))
        if found is not None:
            say("resumed", found.checkpoint["id"], picture_of_channels(found.checkpoint))
        graph = graph_over(acknowledging(saver, say))
        while True:
            going_on = found is not None and graph.get_state(at(thread)).next
            found = graph.invoke(
                None if going_on else {"docs": [], "turn": 0},
                {**at(thread), "recursion_limit": 4 * TURNS},
                durability="sync",
            )


# --- the fork server


def forked(child: Callable[[int], None]) -> tuple[int, int]:
    """The id of a process that runs `child`, and the end of a pipe from it."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        os.close(reading)
        child(writing)
    except BaseException:  # noqa: BLE001  (nothing may get past the end of the child)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def killed(*runs: tuple[str, int, str, float]) -> list[list[Any]]:
    """Start the runs together, kill each when its time is over, and return what each one said."""
    pids, said, deadline = {}, {}, {}
    for place, lane, thread, life in runs:
        process, pipe = forked(lambda end, args=(place, lane, thread): work(*args, end))
        pids[pipe], said[pipe], deadline[pipe] = process, b"", time.monotonic() + life
    alive, reading = set(pids), set(pids)
    while reading:
        for pipe in [pipe for pipe in alive if time.monotonic() >= deadline[pipe]]:
            os.kill(pids[pipe], signal.SIGKILL)
            alive.remove(pipe)
        wait = max(0.0, min((deadline[pipe] for pipe in alive), default=deadline[pipe]) - time.monotonic())
        for pipe in select.select(list(reading), [], [], wait if alive else None)[0]:
            part = os.read(pipe, 65536)
            said[pipe] += part
            if not part:
                reading.remove(pipe)
                os.close(pipe)
    for pid in pids.values():
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, "it failed of itself"
    return [[json.loads(line) for line in lines.split(b"\n")[:-1]] for lines in said.values()]


def checked(place: str, lanes: list[dict[str, list[Any]]]) -> int:
    """Look at everything, in a new process: how many checkpoints are what was acknowledged."""
    process, pipe = forked(lambda end: check(Path(place), lanes, end))
    with os.fdopen(pipe, encoding="utf-8") as reader:
        answer = reader.read()
    assert os.waitpid(process, 0)[1] == 0, "the check failed"
    return int(answer)


def check(place: Path, lanes: list[dict[str, list[Any]]], pipe: int) -> None:
    compared = 0
    for lane, threads in enumerate(lanes):
        with opened(str(place), lane) as saver:
            for thread, said in threads.items():
                found = {each.checkpoint["id"]: each for each in saver.list(at(thread))}
                for kind, checkpoint, seen in said:
                    if kind == "checkpoint":
                        assert picture_of_channels(found[checkpoint].checkpoint) == seen
                        compared += 1
                    elif checkpoint in found:  # LangGraph may put the first writes before their checkpoint
                        kept = found[checkpoint].pending_writes
                        assert all(write in pictures_of_writes(kept) for write in seen)
                newest = saver.get_tuple(at(thread))
                assert newest is None or newest.checkpoint["id"] == max(found)
            assert saver.runtime.backend.verify().ok
            mine = {"packs", "marks", "index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"}
            assert {path.name for path in (place / "store").iterdir()} <= mine
        assert not list((place / "store").glob("*-wal"))
    for database in place.rglob("*.sqlite*"):
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], database
    os.write(pipe, str(compared).encode())


def serve() -> None:
    for line in sys.stdin:
        verb, arguments = json.loads(line)
        print(json.dumps({"killed": killed, "checked": checked}[verb](*arguments)), flush=True)


# --- the test


class Server:
    """The fork server, from the test's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def ask(self, verb: str, *arguments: Any) -> Any:
        self._process.stdin.write(json.dumps([verb, arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server failed; its standard error says why"
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            process.stdin.close()


class Lane:
    """What one process after the other said about the threads of one database."""

    def __init__(self) -> None:
        self.threads: dict[str, list[Any]] = {}
        self.resumed = 0

    def thread(self, chance: random.Random) -> str:
        """Mostly the one that was killed last."""
        names = list(self.threads)
        if not names or chance.random() < 0.15:
            names.append(f"thread {len(names)}")
            self.threads[names[-1]] = []
        return names[-1] if chance.random() < 0.8 else chance.choice(names)

    def heard(self, thread: str, said: list[Any]) -> None:
        """Take note. The checkpoint that a process found must be the last one acknowledged, or newer."""
        known = {name: seen for kind, name, seen in self.threads[thread] if kind == "checkpoint"}
        for kind, checkpoint, seen in said:
            if kind == "resumed":
                self.resumed += 1
                assert checkpoint >= max(known, default="")
                assert known.get(checkpoint, seen) == seen
        self.threads[thread] += [words for words in said if words[0] != "resumed"]


def slowness_of_this_machine(server: Server, place: Path) -> float:
    """How much longer the processes have to live here for as many checkpoints: 1 where one takes 15 ms."""
    place.mkdir()
    [said, _] = server.ask("killed", *[(str(place), lane, "thread", 1.0) for lane in range(LANES)])
    return max(1.0, 67 / max(1, sum(kind == "checkpoint" for kind, *_ in said)))


def test_every_acknowledged_checkpoint_survives_two_hundred_kills(tmp_path: Path) -> None:
    chance = random.Random(20_260_301)
    kept: dict[Path, list[Lane]] = {}
    kills = 0
    with Server() as server:
        slowness = slowness_of_this_machine(server, tmp_path / "calibration")
        for number in range(STORES):
            place = tmp_path / str(number)
            place.mkdir()
            lanes = kept[place] = [Lane() for _ in range(LANES)]
            for count in range(LANES, KILLS // STORES + 1, LANES):
                lives = [slowness * chance.choice([0.03, 0.1, 0.3]) * chance.random() for _ in lanes]
                threads = [lane.thread(chance) for lane in lanes]
                runs = [(str(place), n, threads[n], lives[n]) for n in range(LANES)]
                for lane, thread, said in zip(lanes, threads, server.ask("killed", *runs), strict=True):
                    lane.heard(thread, said)
                    kills += 1
                if count % KILLS_BETWEEN_CHECKS == 0:
                    server.ask("checked", str(place), [lane.threads for lane in lanes])
    assert kills == KILLS
    with Server() as server:  # one that has seen nothing
        compared = sum(
            server.ask("checked", str(place), [lane.threads for lane in lanes])
            for place, lanes in kept.items()
        )
    resumed = sum(lane.resumed for lanes in kept.values() for lane in lanes)
    assert compared > KILLS
    assert resumed > KILLS // 4


if __name__ == "__main__":
    serve()
