"""Collecting, pruning and running graphs, each in a process of its own: nothing that is needed is lost."""

import subprocess
import sys
import time

import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver

from agentref.adapters.langgraph import collect_pins, externalize
from agentref.adapters.langgraph.pins import owner_in
from agentref.storage import FilesystemCAS, PostgresCAS

# Leases are as good as none: only pins keep anything. Saves are slow, so that there are always pins whose
# checkpoint is still to come, and the grace of the collection is longer than they take.
SHORT, SLOW, GRACE = 0.02, 0.3, 2.0
SECONDS = 10

SHARED = """
import operator, random, sys, time
from typing import Annotated, Any, TypedDict
import agentref.runtime
agentref.runtime.LEASE_SECONDS = {short}
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from agentref.adapters.langgraph import externalize
from agentref.storage import FilesystemCAS, PostgresCAS
store = FilesystemCAS("store") if sys.argv[1] == "files" else PostgresCAS(sys.argv[1])
"""

WRITER = (
    SHARED
    + """
from langgraph.graph import START, StateGraph

class Work(TypedDict, total=False):
    document: Any
    log: Annotated[list, operator.add]

kind = SqliteSaver if sys.argv[1] == "files" else PostgresSaver

class Slow(kind):
    def put(self, *args):
        time.sleep(draw.random() * {slow})
        return super().put(*args)

    def put_writes(self, *args):
        time.sleep(draw.random() * {slow})
        return super().put_writes(*args)

draw = random.Random(sys.argv[3])
builder = StateGraph(Work)
builder.add_node("grow", lambda state: {{"log": [f"{{draw.random()}} " * 300]}})
builder.add_node("rewrite", lambda state: {{"document": f"{{draw.random()}} " * 300}})
builder.add_edge(START, "grow")
builder.add_edge("grow", "rewrite")
with Slow.from_conn_string(sys.argv[2]) as inner:
    saver = externalize(inner, backend=store)
    graph = builder.compile(checkpointer=saver)
    for turn in range(10_000):
        thread = f"{{sys.argv[3]}}-{{turn % 3}}"
        given = {{"document": f"{{turn}} " * 900, "log": []}}
        graph.invoke(given, {{"configurable": {{"thread_id": thread}}}}, durability="sync")
        print("turn", flush=True)
        if turn % 4 == 3:
            gone = f"{{sys.argv[3]}}-{{(turn + 1) % 3}}"
            if turn % 8 == 3:
                saver.delete_thread(gone)
            else:
                inner.delete_thread(gone)
"""
).format(short=SHORT, slow=SLOW)

PRUNER = (
    SHARED
    + """
while True:
    print(store.prune_expired(grace=1).removed, flush=True)
    time.sleep(0.05)
"""
).format(short=SHORT)


@pytest.fixture(params=["files", "postgres"])
def names(request, tmp_path):
    """The store, and the database of checkpoints."""
    if request.param == "files":
        return "files", str(tmp_path / "checkpoints.db")
    databases = request.getfixturevalue("databases")
    return databases.dsn("store"), databases.dsn("checkpoints")


@pytest.fixture
def start(tmp_path):
    """Begins a process that says when it is ready, and ends with the test at the latest."""
    begun = []

    def start(script, *arguments):
        begun.append(
            subprocess.Popen(
                [sys.executable, "-c", script, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def ended(process):
    """The lines that it has said until it was killed: in the middle of a save, most likely."""
    process.kill()
    process.wait()
    return process.stdout.read().split("\n")[:-1]


def test_what_running_graphs_need_survives_collections_and_prunes(names, start, tmp_path, monkeypatch):
    monkeypatch.setattr("agentref.adapters.langgraph.collect.LEASE_SECONDS", SHORT)
    store_name, database = names
    kind = SqliteSaver if store_name == "files" else PostgresSaver
    with (
        FilesystemCAS(tmp_path / "store") if store_name == "files" else PostgresCAS(store_name) as store,
        kind.from_conn_string(database) as saver,
    ):
        saver.setup()
        writers = [start(WRITER, *names, str(number)) for number in range(2)]
        pruner = start(PRUNER, store_name)
        for process in (*writers, pruner):
            assert process.stdout.readline()
        until = time.monotonic() + SECONDS
        told = []
        while time.monotonic() < until:
            collect_pins(saver, store, remove_stale=True, grace=GRACE, on_difference=told.append)
        robbed = {one.owner for one in told if one.kind == "stale"}
        turns = [len(ended(writer)) for writer in writers]
        time.sleep(1.5)
        pruned = sum(map(int, ended(pruner)))
        assert min(turns) > 3 and robbed and pruned > 0
        report = collect_pins(saver, store, remove_stale=True, grace=0)
        assert report.ok and report.missing == report.unpinned == 0
        time.sleep(2 * SHORT)
        store.prune_expired(grace=0)
        whole = list(externalize(saver, backend=store).list(None))
        assert len(whole) == report.checkpoints > 10
        assert robbed.isdisjoint(owner_in(item.config, item.checkpoint["id"]) for item in whole)
        assert store.verify().ok
        assert collect_pins(saver, store, grace=0).ok
