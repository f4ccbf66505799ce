"""Checkpoints that were written over one store are read, and gone on with, over another one."""

import operator
import shutil
import time
from contextlib import ExitStack
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.storage import FilesystemCAS, PostgresCAS, migrate_cas

CONFIG = {"configurable": {"thread_id": "moved"}}


class Work(TypedDict, total=False):
    documents: Any
    log: Annotated[list, operator.add]


def graph(saver):
    builder = StateGraph(Work)
    builder.add_node("read", lambda state: {"log": ["read " * 400]})
    builder.add_node("edit", lambda state: {"documents": [*state["documents"][1:], "edited " * 400]})
    builder.add_edge(START, "read")
    builder.add_edge("read", "edit")
    return builder.compile(checkpointer=saver)


@pytest.fixture
def saver(tmp_path):
    with SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as saver:
        yield saver


@pytest.fixture(params=["postgres", "filesystem"])
def open_new(request, tmp_path):
    """Opens the new store, again and again."""
    with ExitStack() as stack:
        databases = request.getfixturevalue("databases") if request.param == "postgres" else None

        def open_new(**options):
            if databases is not None:
                return stack.enter_context(PostgresCAS(databases.dsn(), **options))
            return stack.enter_context(FilesystemCAS(tmp_path / "new", **options))

        yield open_new


def history(saver, backend, **options):
    compiled = graph(externalize(saver, backend=backend, **options))
    return [state.values for state in compiled.get_state_history(CONFIG)]


def test_old_checkpoints_load_from_the_new_store_with_the_old_one_gone(
    tmp_path, saver, open_new, monkeypatch
):
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", 0.02)
    value = {"documents": [f"document {n} " * 300 for n in range(20)], "log": []}
    with FilesystemCAS(tmp_path / "old") as old:
        graph(externalize(saver, backend=old)).invoke(value, CONFIG)
        time.sleep(0.1)  # from now on only pins keep it
        before = history(saver, old)
        report = migrate_cas(old, open_new())
        assert report.ok
        assert report.copied == old.stats().blobs
        name = old.backend_id
    shutil.rmtree(tmp_path / "old")
    new = open_new(backend_aliases=[name])
    new.prune_expired(grace=0)
    assert new.verify().ok
    assert history(saver, new) == before
    compiled = graph(externalize(saver, backend=new))
    assert len(compiled.invoke({"log": ["again " * 400]}, CONFIG)["log"]) == 3
    externalize(saver, backend=new).delete_thread("moved")
    assert list(new.iter_pins()) == []


def test_without_stopping_writers_move_first_and_the_old_store_is_left_out_last(
    tmp_path, saver, open_new, monkeypatch
):
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", 0.02)
    value = {"documents": [f"document {n} " * 300 for n in range(20)], "log": []}
    with FilesystemCAS(tmp_path / "old") as old:
        compiled = graph(externalize(saver, backend=old))
        compiled.invoke(value, CONFIG)
        new = open_new(backend_aliases=[old.backend_id])
        assert migrate_cas(old, new).ok
        compiled.invoke({"log": ["a straggler " * 400]}, CONFIG)  # of a process that knows of no move
        graph(externalize(saver, backend=new, also=[old])).invoke({"log": ["moved " * 400]}, CONFIG)
        before = history(saver, new, also=[old])
        time.sleep(0.1)
        assert migrate_cas(old, new).ok
    shutil.rmtree(tmp_path / "old")
    new.prune_expired(grace=0)
    assert new.verify().ok
    assert history(saver, new) == before
