"""Two processes resume a thread: one is killed, or stopped for too long, and the thread has one end.

Run as a program, this file is the first of them.
"""

import os
import secrets
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import channel_key, externalize
from agentref.coherence import Conflict, Reason
from agentref.coherence.sqlite import SqliteCoordinator
from agentref.storage import FilesystemCAS

LEASE = 3.0
CONFIG: Any = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    docs: str
    by: str


def graph_over(saver: Any, second: Callable[[State], State]) -> Any:
    def first(state: State) -> State:
        return {"docs": state["docs"] + " and so on"}

    builder = StateGraph(State).add_node("first", first).add_node("second", second)
    return builder.add_edge(START, "first").add_edge("first", "second").compile(checkpointer=saver)


@contextmanager
def opened(place: Path, worker: str | None) -> Iterator[Any]:
    """A saver of a worker over the files of a place."""
    with (
        closing(sqlite3.connect(place / "checkpoints.sqlite", check_same_thread=False)) as connection,
        FilesystemCAS(place / "store") as cas,
        SqliteCoordinator(place / "coherence.db") as coordinator,
    ):
        yield externalize(
            SqliteSaver(connection),
            backend=cas,
            inline_threshold_bytes=64,
            coordinator=coordinator,
            worker=worker,
            writer_lease=LEASE,
        )


def run_first(place: str, form: str, text: str) -> None:
    """Begin a run, say so in its second step, and go on when told to."""

    def stall(state: State) -> State:
        print("in the step", flush=True)
        sys.stdin.readline()
        return {"by": "first", "docs": "late " * 100}

    with opened(Path(place), "first") as saver:
        block = saver.writing("t") if form == "block" else nullcontext()
        try:
            with block:
                graph_over(saver, stall).invoke({"docs": text}, CONFIG, durability="sync")
        except Conflict as error:
            print(error.reason, flush=True)
        else:
            print("done", flush=True)


def by_second(state: State) -> State:
    return {"by": "second"}


@pytest.fixture(params=["saves", "block"])
def first(request: pytest.FixtureRequest, tmp_path: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """A worker that is in its second step."""
    with subprocess.Popen(
        [sys.executable, __file__, str(tmp_path), request.param, text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as process:
        assert said(process) == "in the step"
        yield process
        process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def text() -> str:
    return secrets.token_hex(500)


def check_one_end(saver: Any, text: str) -> None:
    saved = list(saver.inner.list(CONFIG))
    parents = [item.parent_config["configurable"]["checkpoint_id"] for item in saved if item.parent_config]
    assert len(parents) == len(set(parents)) == len(saved) - 1
    assert saver.get_tuple(CONFIG).checkpoint["channel_values"]["by"] == "second"
    assert saver.peer("reader").value(channel_key("t", "docs")) == text + " and so on"


def test_a_killed_worker_holds_the_thread_until_its_lease_ends(
    first: subprocess.Popen[str], tmp_path: Path, text: str
) -> None:
    with opened(tmp_path, "second") as saver:
        graph = graph_over(saver, by_second)
        with pytest.raises(Conflict) as caught:
            graph.invoke(None, CONFIG)
        assert (caught.value.reason, caught.value.holder) == (Reason.HELD_BY_OTHER, "first")

        first.send_signal(signal.SIGKILL)
        first.wait()
        with saver.writing("t", wait=60):
            graph.invoke(None, CONFIG)
        check_one_end(saver, text)
    assert text[:16].encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("coherence.db*"))


def test_a_worker_that_was_stopped_for_too_long_saves_nothing_more(
    first: subprocess.Popen[str], tmp_path: Path, text: str
) -> None:
    first.send_signal(signal.SIGSTOP)
    with opened(tmp_path, "second") as saver:
        with saver.writing("t", wait=60):
            graph_over(saver, by_second).invoke(None, CONFIG)
        check_one_end(saver, text)

        assert first.stdin is not None
        print("go on", file=first.stdin, flush=True)
        first.send_signal(signal.SIGCONT)
        assert said(first) == Reason.LEASE_LOST
        first.wait()
        check_one_end(saver, text)


def test_a_worker_that_nobody_took_over_from_goes_on(
    first: subprocess.Popen[str], tmp_path: Path, text: str
) -> None:
    assert first.stdin is not None
    print("go on", file=first.stdin, flush=True)
    assert said(first) == "done"
    first.wait()
    with opened(tmp_path, "second") as saver:
        assert saver.get_tuple(CONFIG).checkpoint["channel_values"]["by"] == "first"


def test_a_forked_child_is_another_worker_and_holds_nothing(tmp_path: Path) -> None:
    """In a process of its own: the threads of this one would not be in the child."""
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_fencing_processes as tests
from pathlib import Path
with tests.opened(Path({str(tmp_path)!r}), None) as saver:
    graph = tests.graph_over(saver, tests.by_second)
    graph.invoke({{"docs": "a"}}, tests.CONFIG)
    if os.fork() == 0:
        code = 1
        try:
            graph.update_state(tests.CONFIG, {{"docs": "b"}})
        except tests.Conflict as error:
            code = 42 if error.reason == tests.Reason.HELD_BY_OTHER else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 42
    graph.update_state(tests.CONFIG, {{"docs": "c"}})
"""
    subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )


if __name__ == "__main__":
    run_first(*sys.argv[1:])
