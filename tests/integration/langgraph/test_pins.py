"""A thread's checkpoints keep what they name; whoever deletes them frees what nothing else needs."""

import asyncio
import operator
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.errors import BlobNotFoundError
from agentref.storage import FilesystemCAS, InMemoryCAS

SHORT = 0.02


class Work(TypedDict, total=False):
    document: Any
    log: Annotated[list, operator.add]


@pytest.fixture(autouse=True)
def short_lease(monkeypatch):
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", SHORT)


@pytest.fixture
def cas(cas_of_each_kind):
    return cas_of_each_kind


@pytest.fixture
def inner(memory_or_sqlite):
    return memory_or_sqlite


def graph(saver):
    builder = StateGraph(Work)
    builder.add_node("grow", lambda state: {"log": ["entry " * 200]})
    builder.add_node("rewrite", lambda state: {"document": state["document"] + " again " * 500})
    builder.add_edge(START, "grow")
    builder.add_edge("grow", "rewrite")
    return builder.compile(checkpointer=saver)


def config(thread, **more):
    return {"configurable": {"thread_id": thread}, **more}


def run(saver, thread, text="text ", **more):
    return graph(saver).invoke({"document": text * 1000, "log": []}, config(thread, **more))


def history(saver, thread):
    return [state.values for state in graph(saver).get_state_history(config(thread))]


def prune(cas):
    time.sleep(2 * SHORT)
    return cas.prune_expired(grace=0)


def test_what_checkpoints_name_stays_when_the_lease_is_over(cas, inner):
    saver = externalize(inner, backend=cas)
    run(saver, "t")
    before = history(saver, "t")
    prune(cas)
    assert prune(cas).removed == 0
    assert history(saver, "t") == before
    run(saver, "t")  # what did not move is not encoded again: it is pinned again
    prune(cas)
    assert len(history(saver, "t")) > len(before)
    assert cas.verify().ok


def test_deleting_a_thread_frees_all_of_it(cas, inner):
    saver = externalize(inner, backend=cas)
    run(saver, "t")
    assert list(cas.iter_pins())
    saver.delete_thread("t")
    assert list(cas.iter_pins()) == []
    assert prune(cas).removed > 0
    assert cas.stats().blobs == 0


def test_deleting_a_thread_frees_nothing_that_another_needs(cas, inner):
    saver = externalize(inner, backend=cas)
    run(saver, "one")
    kept = run(saver, "two")
    saver.delete_thread("one")
    assert prune(cas).needed > 0
    assert graph(saver).get_state(config("two")).values == kept
    assert len(history(saver, "two")) == 4


def test_threads_of_one_name_in_two_databases_are_two(cas):
    one, two = externalize(InMemorySaver(), backend=cas), externalize(InMemorySaver(), backend=cas)
    run(one, "1", "first ")
    run(two, "1", "second ")
    before = history(two, "1")
    one.delete_thread("1")
    prune(cas)
    assert history(two, "1") == before


def test_no_two_threads_share_an_owner(cas):
    saver = externalize(InMemorySaver(), backend=cas)
    names = ["a", "a:b", "a b", "\0", "\ud800", "x" * 1000, "x" * 1001, "\xe4", "%", ""]
    for name in names:
        run(saver, name)
    before = {name: history(saver, name) for name in names[:-1]}
    saver.delete_thread("")
    prune(cas)
    assert {name: history(saver, name) for name in names[:-1]} == before
    for name in names:
        saver.delete_thread(name)
    assert list(cas.iter_pins()) == []


def test_the_event_loop_pins_and_frees_as_well(cas, tmp_path):
    async def work():
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as inner:
            saver = externalize(inner, backend=cas)
            done = await graph(saver).ainvoke({"document": "text " * 1000, "log": []}, config("t"))
            prune(cas)
            assert (await graph(saver).aget_state(config("t"))).values == done
            await saver.adelete_thread("t")
            prune(cas)
            assert cas.stats().blobs == 0

    asyncio.run(work())


def test_a_store_with_a_default_life_keeps_what_is_pinned():
    cas = InMemoryCAS(default_ttl_seconds=SHORT)
    saver = externalize(InMemorySaver(), backend=cas)
    run(saver, "t")
    before = history(saver, "t")
    prune(cas)
    assert history(saver, "t") == before


def test_what_a_store_lost_is_not_taken_for_kept(cas):
    """Another removes a value behind the saver's back: the next checkpoint stores it anew."""
    saver = externalize(InMemorySaver(), backend=cas)
    run(saver, "t")
    cas._store.remove([info.digest for info in cas._store.scan()])
    with pytest.raises(BlobNotFoundError):
        graph(saver).get_state(config("t"))


class Managing(InMemorySaver):
    """An InMemorySaver with the verbs that it lacks, as a saver of one's own may have them."""

    def delete_for_runs(self, run_ids):
        for item in [item for run in run_ids for item in self.list(None, filter={"run_id": run})]:
            self._drop(item)

    def prune(self, thread_ids, *, strategy="keep_latest"):
        for thread_id in thread_ids:
            items = list(self.list(config(thread_id)))
            for item in items[1 if strategy == "keep_latest" else 0 :]:
                self._drop(item)

    def copy_thread(self, source_thread_id, target_thread_id):
        for item in reversed(list(self.list(config(source_thread_id)))):
            place = {**item.config["configurable"], "thread_id": target_thread_id}
            parent = item.parent_config["configurable"] if item.parent_config else {}
            before = {"configurable": {**place, "checkpoint_id": parent.get("checkpoint_id")}}
            self.put(before, item.checkpoint, item.metadata, item.checkpoint["channel_versions"])
            for task, channel, value in item.pending_writes:
                self.put_writes({"configurable": place}, [(channel, value)], task)

    async def adelete_for_runs(self, run_ids):
        self.delete_for_runs(run_ids)

    async def aprune(self, thread_ids, *, strategy="keep_latest"):
        self.prune(thread_ids, strategy=strategy)

    async def acopy_thread(self, source_thread_id, target_thread_id):
        self.copy_thread(source_thread_id, target_thread_id)

    def _drop(self, item):
        place = item.config["configurable"]
        del self.storage[place["thread_id"]][place["checkpoint_ns"]][place["checkpoint_id"]]
        self.writes.pop((place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"]), None)


@pytest.fixture(params=["sync", "async"])
def managed(request, cas):
    saver = externalize(Managing(), backend=cas)

    def call(verb, *args, **options):
        if request.param == "sync":
            getattr(saver, verb)(*args, **options)
        else:
            asyncio.run(getattr(saver, f"a{verb}")(*args, **options))

    return saver, call


def test_pruning_a_thread_frees_what_only_older_checkpoints_need(cas, managed):
    saver, call = managed
    latest = run(saver, "t")
    before = prune(cas).needed
    call("prune", ["t"])
    assert 0 < prune(cas).removed < before
    assert history(saver, "t") == [latest]
    call("prune", ["t"], strategy="delete")
    prune(cas)
    assert cas.stats().blobs == 0


def test_deleting_the_checkpoints_of_a_run_frees_theirs(cas, managed):
    saver, call = managed
    run(saver, "t", metadata={"run_id": "first"})
    kept = run(saver, "t", "other ", metadata={"run_id": "second"})
    call("delete_for_runs", ["first"])
    assert prune(cas).removed > 0
    assert graph(saver).get_state(config("t")).values == kept
    call("delete_for_runs", ["second"])
    prune(cas)
    assert cas.stats().blobs == 0


def test_a_copy_of_a_thread_keeps_what_it_needs_when_the_first_goes(cas, managed):
    saver, call = managed
    run(saver, "t")
    before = history(saver, "t")
    call("copy_thread", "t", "copy")
    saver.delete_thread("t")
    prune(cas)
    assert history(saver, "copy") == before
    saver.delete_thread("copy")
    prune(cas)
    assert cas.stats().blobs == 0


def test_pins_come_after_the_blobs_and_before_the_checkpoint(cas):
    class Failing(InMemorySaver):
        def put(self, *args):
            names = {pin.hash for pin in cas.iter_pins()}
            wanted = str(args[1]["channel_values"])
            assert any(name in wanted for name in names)
            raise OSError("gone")

    saver = externalize(Failing(), backend=cas)
    with pytest.raises(OSError, match="gone"):
        run(saver, "t")
    assert list(cas.iter_pins())
    assert cas.verify().ok


CRASHING = """
import os, sys, threading, time
sys.path[:0] = {path!r}
import sqlite3
from langgraph.checkpoint.sqlite import SqliteSaver
from agentref.adapters.langgraph import externalize
from agentref.storage import FilesystemCAS
import agentref.runtime
agentref.runtime.LEASE_SECONDS = 0.02
from test_pins import graph, config
connection = sqlite3.connect("checkpoints.db", check_same_thread=False)
cas = FilesystemCAS("store")
saver = externalize(SqliteSaver(connection), backend=cas)
print("ready", flush=True)
for turn in range(1000):
    thread = f"t{{turn % 3}}"
    graph(saver).invoke({{"document": f"{{turn}} " * 1000, "log": []}}, config(thread))
    if turn % 5 == 4:
        saver.delete_thread(f"t{{(turn + 1) % 3}}")
"""


def test_whoever_is_killed_leaves_no_checkpoint_without_its_blobs(tmp_path):
    here = __file__.rsplit("/", 1)[0]
    script = CRASHING.format(path=[here])
    for delay in (0.1, 0.25, 0.4, 0.6):
        process = subprocess.Popen(
            [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        with FilesystemCAS(tmp_path / "store") as cas:
            end = time.monotonic() + delay
            while time.monotonic() < end:
                cas.prune_expired(grace=1)
        process.kill()
        process.wait()
        process.stdout.close()
        with (
            FilesystemCAS(tmp_path / "store") as cas,
            closing(sqlite3.connect(tmp_path / "checkpoints.db", check_same_thread=False)) as connection,
        ):
            prune(cas)
            saver = externalize(SqliteSaver(connection), backend=cas)
            assert all(item.checkpoint for item in saver.list(None))
            assert cas.verify().ok
