"""A store that is full, read-only or newer, under a graph: typed errors, and all checkpoints intact."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.errors import (
    StoreFullError,
    StoreVersionError,
)
from agentref.storage import CAS, FilesystemCAS

AT: Any = {"configurable": {"thread_id": "the-thread"}}
STEPS = 40


class Growing(TypedDict, total=False):
    docs: list[bytes]
    until: int


def doc(number: int) -> bytes:
    return random.Random(number).randbytes(100_000)


def grow(state: Growing) -> Growing:
    return {"docs": [*state["docs"], doc(len(state["docs"]))]}


def growing(saver: Any) -> Any:
    builder = StateGraph(Growing).add_node("grow", grow).add_edge(START, "grow")
    builder.add_conditional_edges(
        "grow",
        lambda state: "grow" if len(state["docs"]) < state["until"] else "__end__",
        ["grow", "__end__"],
    )
    return builder.compile(checkpointer=saver)


@contextmanager
def opened(database: Path, store: Path) -> Iterator[tuple[Any, CAS]]:
    """A wrapped saver over files, and its store."""
    with (
        closing(sqlite3.connect(database, check_same_thread=False)) as connection,
        FilesystemCAS(store) as cas,
    ):
        yield externalize(SqliteSaver(connection), backend=cas), cas


def values_of(graph: Any) -> dict[str, Any]:
    """What each checkpoint of the thread holds."""
    return {
        each.config["configurable"]["checkpoint_id"]: each.values for each in graph.get_state_history(AT)
    }


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 10 MB, of which 7 are taken."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=10m", "none", disk]
    if mount is None or subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    (disk / "ballast").write_bytes(bytes(7_000_000))
    yield disk
    subprocess.run([shutil.which("umount"), disk], check=True)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_a_run_that_fills_the_disk_fails_typed_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path, durability: Any
) -> None:
    given: Any = {"docs": [], "until": STEPS}
    with opened(tmp_path / "db.sqlite", small_disk / "store") as (saver, cas):
        graph = growing(saver)
        graph.invoke({"docs": [b"first"], "until": 3}, AT)
        before = values_of(graph)
        with pytest.raises(StoreFullError, match=r"disk/store.*free space"):
            graph.invoke(given, {**AT, "recursion_limit": 99}, durability=durability)
        # Every checkpoint that is there loads, whole; those of before are what they were.
        after = values_of(graph)
        assert {name: after[name] for name in before} == before
        for values in after.values():
            docs = values.get("docs", [])
            assert docs in ([doc(n) for n in range(len(docs))], [b"first", doc(1), doc(2)][: len(docs)])
        (small_disk / "ballast").unlink()
        assert cas.verify().ok
        packed = sum(path.stat().st_size for path in (small_disk / "store" / "packs").glob("*"))
        pinned = sum(len(pin.owner.encode()) + 42 for pin in cas.iter_pins())
        assert packed <= cas.stats().stored_bytes + 72 * cas.stats().blobs + pinned
        going_on = None if durability != "exit" else given
        final = graph.invoke(going_on, {**AT, "recursion_limit": 99}, durability=durability)
        assert final["docs"] == [doc(n) for n in range(STEPS)]
        assert graph.get_state(AT).values == final
    with opened(tmp_path / "db.sqlite", small_disk / "store") as (saver, cas):
        assert growing(saver).get_state(AT).values == final
        assert cas.verify().ok


LIMITED = """
import resource, sqlite3, sys
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict
from agentref.adapters.langgraph import externalize
from agentref.errors import StoreFullError
from agentref.storage import FilesystemCAS

class State(TypedDict, total=False):
    page: bytes

import random
pages = [random.Random(n).randbytes(200_000) for n in range(2)]
at = {"configurable": {"thread_id": "t"}}
inner = SqliteSaver(sqlite3.connect(sys.argv[1] + "/db.sqlite", check_same_thread=False))
saver = externalize(inner, backend=FilesystemCAS(sys.argv[1] + "/store"))

def graph(page):
    return StateGraph(State).add_node("n", lambda _: {"page": page}).add_edge(START, "n").compile(saver)

graph(pages[0]).invoke({}, at)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
for durability in ("sync", "async", "exit"):
    try:
        graph(pages[1]).invoke({}, at, durability=durability)
    except StoreFullError as error:
        print(durability, error)
    assert graph(pages[1]).get_state(at).values == {"page": pages[0]}
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert graph(pages[1]).invoke(None, at) == graph(pages[1]).get_state(at).values == {"page": pages[1]}
"""


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    said = python(LIMITED, tmp_path)
    assert [line.split()[0] for line in said] == ["sync", "async", "exit"]
    assert all("free space or raise the quota" in line for line in said)


def python(script: str, *arguments: object) -> list[str]:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# --- a directory that may not be written

UNPRIVILEGED = """
import os, pathlib, sqlite3, sys
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict
from agentref.adapters.langgraph import externalize
from agentref.errors import StorageError
from agentref.storage import FilesystemCAS

class State(TypedDict, total=False):
    page: str

place = pathlib.Path(sys.argv[1])
at = {"configurable": {"thread_id": "t"}}
if os.getuid() == 0:
    os.chown(place, 65534, 65534)
    os.setgid(65534)
    os.setuid(65534)
connection = sqlite3.connect(place / "db.sqlite", check_same_thread=False)

def run(page):
    with FilesystemCAS(place / "store") as cas:
        node = lambda _: {"page": page}
        saver = externalize(SqliteSaver(connection), backend=cas)
        graph = StateGraph(State).add_node("n", node).add_edge(START, "n").compile(saver)
        return graph.invoke({}, at) if page else graph.get_state(at).values

def rows():
    return connection.execute("SELECT checkpoint_id, checkpoint FROM checkpoints").fetchall()

def allow(mode):
    for path in [place / "store", *(place / "store").rglob("*")]:
        path.chmod(mode | (0o111 if path.is_dir() else 0))

one, two = "1" * 9000, "2" * 9000
assert run(one) == {"page": one}
before = rows()
allow(0o444)
try:
    run(two)
except StorageError as error:
    print(type(error).__name__, error)
assert rows() == before
allow(0o644)
assert run(None) == {"page": one}
assert run(two) == run(None) == {"page": two}
"""


def test_a_read_only_store_is_a_typed_error_and_the_thread_is_intact() -> None:
    # Not under tmp_path, whose parents other users may not enter.
    place = Path("/tmp") / f"agentref-read-only-graph-{os.getpid()}"
    place.mkdir()
    try:
        (said,) = python(UNPRIVILEGED, place)
    finally:
        shutil.rmtree(place)
    assert said.startswith("StoreUnavailableError")
    assert str(place / "store") in said
    assert "check owner and mode" in said


# --- a store of a newer format


def test_a_store_of_a_newer_format_is_refused_and_the_thread_is_intact(tmp_path: Path) -> None:
    database, store = tmp_path / "db.sqlite", tmp_path / "store"
    with opened(database, store) as (saver, _):
        final = growing(saver).invoke({"docs": [], "until": 3}, AT)

    def set_format(number: int) -> None:
        with closing(sqlite3.connect(store / "index.sqlite3")) as index:
            index.execute(f"PRAGMA user_version = {number}")

    set_format(2)
    before = database.read_bytes()
    with (
        pytest.raises(StoreVersionError, match=r"format 2, this agentref reads format 1"),
        opened(database, store),
    ):
        pass
    assert database.read_bytes() == before
    set_format(1)
    with opened(database, store) as (saver, _):
        assert growing(saver).get_state(AT).values == final
        assert len(growing(saver).invoke({"until": 4}, AT)["docs"]) == 4
