"""What a saver shows is what was saved, and is kept: whatever versions, stores and thresholds say."""

import random
import time
from contextlib import nullcontext
from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from psycopg.rows import dict_row

from agentref.adapters.langgraph import collect_pins, externalize
from agentref.storage import InMemoryCAS, migrate_cas

SHORT = 0.02
CONFIG: Any = {"configurable": {"thread_id": "1"}}
OTHER: Any = {"configurable": {"thread_id": "2"}}


class Work(TypedDict, total=False):
    kept: list
    text: str
    step: int


@pytest.fixture(autouse=True)
def short_lease(monkeypatch):
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", SHORT)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def inner(request):
    if request.param == "postgres":
        with PostgresSaver.from_conn_string(request.getfixturevalue("databases").dsn()) as saver:
            saver.setup()
            yield saver
        return
    memory = nullcontext(InMemorySaver())
    with memory if request.param == "memory" else SqliteSaver.from_conn_string(":memory:") as saver:
        yield saver


def graph(saver, node):
    builder = StateGraph(Work)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(checkpointer=saver)


def step(state):
    return {"step": state.get("step", 0) + 1}


def answers():
    count = iter(range(100))
    return lambda state: {"text": f"answer {next(count)} " * 500}


def prune(*stores):
    time.sleep(2 * SHORT)
    for store in stores:
        store.prune_expired(grace=0)


def test_runs_of_one_seed_are_saved_as_they_are(inner):
    """LangGraph's versions are drawn from `random`."""
    saver = externalize(inner, backend=InMemoryCAS())
    app = graph(saver, answers())
    for turn in range(3):
        saver.delete_thread("1")
        random.seed(0)
        app.invoke({"kept": [f"question {turn} " * 500]}, CONFIG)
        assert app.get_state(CONFIG).values["text"].startswith(f"answer {turn} ")
        assert app.get_state(CONFIG).values["kept"][0].startswith(f"question {turn} ")


@pytest.mark.parametrize("inner", ["sqlite"], indirect=True)
def test_forks_of_one_seed_are_saved_as_they_are(inner):
    """Savers that keep one value for each version confuse them without our help."""
    app = graph(externalize(inner, backend=InMemoryCAS()), answers())
    app.invoke({"kept": ["question " * 500]}, CONFIG)
    before = next(state for state in app.get_state_history(CONFIG) if state.next == ("node",))
    for turn in range(1, 4):
        random.seed(1)
        app.invoke(None, before.config)
        assert app.get_state(CONFIG).values["text"].startswith(f"answer {turn} ")
    for text in ("third " * 500, "fourth " * 500):
        random.seed(2)
        fork = app.update_state(before.config, {"text": text})
        assert app.get_state(fork).values["text"] == text


def test_what_stays_in_an_older_store_is_kept_there(inner):
    old, new = InMemoryCAS(), InMemoryCAS()
    graph(externalize(inner, backend=old), step).invoke(
        {"kept": ["kept " * 2000], "text": "t" * 9000}, CONFIG
    )
    saver = externalize(inner, backend=new, also=[old])
    app = graph(saver, step)
    app.invoke({"step": 5}, CONFIG)
    values = app.get_state(CONFIG).values
    report = collect_pins(saver, new, also=[old], grace=0, dry_run=True)
    assert report.missing == report.damaged == report.stale == 0
    saver.prune(["1"])
    prune(old, new)
    assert app.get_state(CONFIG).values == values
    saver.delete_thread("1")
    prune(old, new)
    prune(old, new)
    assert (old.stats().blobs, new.stats().blobs) == (0, 0)


@pytest.mark.parametrize("change", ["a higher threshold", "in place"])
def test_what_is_encoded_anew_and_differs_takes_nothing_away(inner, change):
    """Something was removed from the store meanwhile, so that nothing is taken for known."""
    store = InMemoryCAS()
    other = store.put(b"other", ttl=0.001)

    def node(state):
        prune(store)
        store.delete(other)
        if change == "in place":
            state["kept"].append("changed, and not returned")
        return step(state)

    saver = externalize(inner, backend=store)
    graph(saver, step).invoke({"kept": ["kept " * 800], "text": "t" * 3000}, CONFIG)
    threshold = 100_000 if change == "a higher threshold" else 2048
    saver = externalize(inner, backend=store, inline_threshold_bytes=threshold)
    app = graph(saver, node)
    app.invoke({"step": 5}, CONFIG)
    values = app.get_state(CONFIG).values
    assert values["step"] == 6
    saver.prune(["1"])
    prune(store)
    assert app.get_state(CONFIG).values == values


def test_a_copy_made_between_two_migrations_outlives_its_source(inner, monkeypatch):
    monkeypatch.setattr("agentref.storage._transfer.LEASE_SECONDS", 0.5)
    old = InMemoryCAS()
    graph(externalize(inner, backend=old), step).invoke({"kept": ["kept " * 2000]}, CONFIG)
    new = InMemoryCAS(backend_aliases=[old.backend_id])
    migrate_cas(old, new)
    saver = externalize(inner, backend=new, also=[old])
    migrate_cas(old, new)
    saver.copy_thread("1", "2")
    saver = externalize(inner, backend=new)
    saver.delete_thread("1")
    time.sleep(0.5)
    prune(new)
    assert graph(saver, step).get_state(OTHER).values == {"kept": ["kept " * 2000], "step": 1}


def test_a_deletion_that_is_rolled_back_takes_no_pins_away(databases):
    store = InMemoryCAS()
    dsn = databases.dsn()
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        PostgresSaver(connection).setup()
        saver = externalize(PostgresSaver(connection), backend=store)
        app = graph(saver, step)
        app.invoke({"kept": ["kept " * 2000]}, CONFIG)
        values = app.get_state(CONFIG).values
        with connection.transaction(force_rollback=True):
            saver.delete_thread("1")
        prune(store)
        assert app.get_state(CONFIG).values == values
        with connection.transaction():
            saver.delete_thread("1")
        report = collect_pins([saver, InMemorySaver()], store, grace=0)
        assert (report.stale, report.missing) == (report.pins, 0)
        saver.delete_thread("1")


def test_a_thread_may_be_named_by_a_number(inner):
    store = InMemoryCAS()
    saver = externalize(inner, backend=store)
    app = graph(saver, step)
    app.invoke({"kept": ["kept " * 2000]}, {"configurable": {"thread_id": 7}})
    saver.copy_thread(7, 8)
    saver.prune([8])
    assert len(list(app.get_state_history({"configurable": {"thread_id": 8}}))) == 1
    saver.prune([7, 8], strategy="delete")
    assert not list(store.iter_pins())
