"""copy_thread, prune and delete_for_runs over savers that lack them, with real graphs."""

import asyncio
import operator
import threading
import time
import uuid
from contextlib import ExitStack
from typing import Annotated

import pytest
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.errors import InvalidInputError
from agentref.storage import InMemoryCAS

SHORT = 0.02


class OlderPostgresSaver(PostgresSaver):
    """As it was before 3.2: without `prune`."""

    prune = BaseCheckpointSaver.prune
    aprune = BaseCheckpointSaver.aprune


class OlderAsyncPostgresSaver(AsyncPostgresSaver):
    prune = BaseCheckpointSaver.prune
    aprune = BaseCheckpointSaver.aprune


class Loop:
    """An event loop in a thread of its own, where async savers live."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def __call__(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def enter(self, stack, manager):
        stack.callback(lambda: self(manager.__aexit__(None, None, None)))
        return self(manager.__aenter__())

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def open_saver(kind, stack, loop, tmp_path, request):
    if kind == "memory":
        return InMemorySaver()
    if kind == "sqlite":
        return stack.enter_context(SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")))
    if kind == "async sqlite":
        return loop.enter(stack, AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")))
    dsn = request.getfixturevalue("databases").dsn()
    with PostgresSaver.from_conn_string(dsn) as saver:
        saver.setup()
    if kind == "async postgres":
        return loop.enter(stack, OlderAsyncPostgresSaver.from_conn_string(dsn))
    pipeline = kind == "postgres in a pipeline"
    return stack.enter_context(OlderPostgresSaver.from_conn_string(dsn, pipeline=pipeline))


@pytest.fixture(
    params=[
        ("memory", "sync"),
        ("memory", "async"),
        ("sqlite", "sync"),
        ("async sqlite", "sync"),
        ("async sqlite", "async"),
        ("postgres", "sync"),
        ("postgres in a pipeline", "sync"),
        ("async postgres", "sync"),
        ("async postgres", "async"),
    ],
    ids=" ".join,
)
def offered(request, tmp_path, monkeypatch):
    """A wrapped saver, its store, and how to call a verb of it."""
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", SHORT)
    kind, colour = request.param
    loop = Loop()
    with ExitStack() as stack:
        stack.callback(loop.close)
        saver = externalize(
            open_saver(kind, stack, loop, tmp_path, request),
            backend=InMemoryCAS(),
            inline_threshold_bytes=500,
        )

        def call(verb, *args, **options):
            if colour == "sync":
                return getattr(saver, verb)(*args, **options)
            return loop(getattr(saver, f"a{verb}")(*args, **options))

        yield saver, saver.runtime.backend, call


def config(thread, **more):
    return {"configurable": {"thread_id": thread}, **more}


def sweep(cas):
    time.sleep(2 * SHORT)
    report = cas.prune_expired(grace=0)
    assert cas.verify().ok
    return report


def history(graph, thread):
    return [
        (state.values, state.next, state.metadata, [task.interrupts for task in state.tasks])
        for state in graph.get_state_history(config(thread))
    ]


def raw(saver, thread):
    """All that the inner saver keeps of a thread, but for the thread's name."""
    return [
        (
            item.config["configurable"]["checkpoint_ns"],
            item.checkpoint,
            item.metadata,
            item.parent_config and item.parent_config["configurable"]["checkpoint_id"],
            item.pending_writes,
        )
        for item in sorted(
            saver.inner.list(config(thread)),
            key=lambda item: (item.config["configurable"]["checkpoint_ns"], item.checkpoint["id"]),
        )
    ]


class Work(TypedDict, total=False):
    document: str
    pages: Annotated[list, operator.add]
    answers: Annotated[list, operator.add]


def working(saver):
    builder = StateGraph(Work)
    builder.add_node("grow", lambda state: {"pages": ["page " * 200]})
    builder.add_node("rewrite", lambda state: {"document": state["document"] + " again" * 200})
    builder.add_edge(START, "grow")
    builder.add_edge("grow", "rewrite")
    return builder.compile(checkpointer=saver)


def work(saver, thread, text="text", **more):
    return working(saver).invoke({"document": f"{text} " * 500}, config(thread, **more))


def asking(saver):
    """A graph that asks twice: within a subgraph, and after it."""
    inner = StateGraph(Work)
    inner.add_node("read", lambda state: {"pages": ["read in the subgraph " * 100]})
    inner.add_node("ask", lambda state: {"answers": [interrupt({"first": "question " * 200})]})
    inner.add_edge(START, "read")
    inner.add_edge("read", "ask")
    builder = StateGraph(Work)
    builder.add_node("subgraph", inner.compile())
    builder.add_node("ask", lambda state: {"answers": [interrupt("second")]})
    builder.add_edge(START, "subgraph")
    builder.add_edge("subgraph", "ask")
    return builder.compile(checkpointer=saver)


def test_a_copy_is_all_of_the_thread_and_lives_on_its_own(offered):
    saver, cas, call = offered
    work(saver, "one")
    work(saver, "one", "more")
    work(saver, "other", "another")
    before, kept = history(working(saver), "one"), raw(saver, "one")
    others = raw(saver, "other")
    call("copy_thread", "one", "copy")
    assert raw(saver, "copy") == kept == raw(saver, "one")
    call("delete_thread", "one")
    sweep(cas)
    assert history(working(saver), "copy") == before
    assert raw(saver, "other") == others
    work(saver, "copy", "onwards")
    call("delete_thread", "copy")
    call("delete_thread", "other")
    sweep(cas)
    assert cas.stats().blobs == 0
    assert list(cas.iter_pins()) == []


def test_a_copy_is_made_while_it_waits_for_an_answer_and_goes_on_by_itself(offered):
    saver, cas, call = offered
    graph = asking(saver)
    graph.invoke({"document": "text " * 500}, config("one"))
    call("copy_thread", "one", "copy")
    graph.invoke(Command(resume="for one"), config("one"))
    call("delete_thread", "one")
    sweep(cas)
    waiting = graph.get_state(config("copy"), subgraphs=True)
    assert waiting.tasks[0].interrupts[0].value == {"first": "question " * 200}
    assert waiting.tasks[0].state.values["pages"] == ["read in the subgraph " * 100]
    assert graph.invoke(Command(resume="a"), config("copy"))["__interrupt__"][0].value == "second"
    call("copy_thread", "copy", "again")
    for thread, answer in (("copy", "b"), ("again", "c")):
        assert graph.invoke(Command(resume=answer), config(thread))["answers"] == ["a", answer]
    # Back to where the copy was waiting first, and another way from there.
    back = [state for state in graph.get_state_history(config("copy")) if state.next == ("subgraph",)][-1]
    graph.invoke(None, back.config)
    assert graph.invoke(Command(resume="x"), config("copy"))["__interrupt__"][0].value == "second"
    assert graph.invoke(Command(resume="y"), config("copy"))["answers"] == ["x", "y"]
    assert graph.get_state(config("again")).values["answers"] == ["a", "c"]


def test_a_thread_is_not_copied_into_another_one(offered):
    saver, cas, call = offered
    work(saver, "one")
    work(saver, "two", "other")
    before, pins = raw(saver, "two"), list(cas.iter_pins())
    with pytest.raises(InvalidInputError, match="target_thread_id: there are checkpoints in thread 'two'"):
        call("copy_thread", "one", "two")
    with pytest.raises(InvalidInputError, match="target_thread_id must be another thread"):
        call("copy_thread", "one", "one")
    call("copy_thread", "never seen", "three")
    assert raw(saver, "two") == before and raw(saver, "three") == []
    assert list(cas.iter_pins()) == pins
    call("copy_thread", "one", "three")
    call("delete_thread", "three")
    call("copy_thread", "one", "three")  # the name is free again
    call("delete_thread", "one")
    sweep(cas)
    assert len(history(working(saver), "three")) == 4


def test_pruning_keeps_the_latest_and_frees_the_rest(offered):
    saver, cas, call = offered
    for turn in range(3):
        work(saver, "t", f"{turn}")
        work(saver, "other", f"{turn}")
    latest, others = history(working(saver), "t")[0], raw(saver, "other")
    needed = sweep(cas).needed
    call("prune", ["t"])
    assert history(working(saver), "t") == [latest]
    assert raw(saver, "t")[0][3] is None  # the parent is gone
    assert raw(saver, "other") == others
    call("prune", ["other", "t", "never seen"], strategy="keep_latest")
    assert 0 < sweep(cas).removed < needed
    assert history(working(saver), "t") == [latest]
    assert len(work(saver, "t")["pages"]) == 4  # it goes on
    call("prune", ["t", "other"], strategy="delete")
    sweep(cas)
    assert cas.stats().blobs == 0


def test_pruning_drops_the_calls_of_subgraphs_that_are_over_and_no_other(offered):
    saver, cas, call = offered
    graph = asking(saver)
    graph.invoke({"document": "text"}, config("t"))
    call("prune", ["t"])
    sweep(cas)
    assert {place for place, *_ in raw(saver, "t")} != {""}
    assert graph.invoke(Command(resume="a"), config("t"))["__interrupt__"][0].value == "second"
    call("prune", ["t"])
    sweep(cas)
    assert [place for place, *_ in raw(saver, "t")] == [""]
    assert graph.invoke(Command(resume="b"), config("t"))["answers"] == ["a", "b"]


def test_the_checkpoints_of_a_run_go_in_all_threads_and_namespaces(offered):
    saver, cas, call = offered
    graph = asking(saver)
    for thread in ("one", "two"):
        graph.invoke({"document": "text"}, config(thread, metadata={"run_id": "first"}))
        graph.invoke(Command(resume="a"), config(thread, metadata={"run_id": "second"}))
    work(saver, "three", metadata={"run_id": "second"})
    before = {thread: graph.get_state(config(thread)).values for thread in ("one", "two", "three")}
    call("delete_for_runs", ["first", "never seen"])
    assert sweep(cas).removed > 0
    assert {thread: graph.get_state(config(thread)).values for thread in before} == before
    for thread in before:
        assert {metadata["run_id"] for _, _, metadata, _, _ in raw(saver, thread)} == {"second"}
        ids = {checkpoint["id"] for _, checkpoint, *_ in raw(saver, thread)}
        assert {parent for *_, parent, _ in raw(saver, thread)} <= {None, *ids}
    call("delete_for_runs", ["second"])
    sweep(cas)
    assert cas.stats().blobs == 0


def added(state, writes):
    return [*(state or []), *(item for write in writes for item in write)]


class Log(TypedDict, total=False):
    log: Annotated[list, DeltaChannel(added, snapshot_frequency=4)]


def logging(saver):
    """Three nodes at once, whose order is told by their paths, and one after them."""
    builder = StateGraph(Log)
    for name in ("c", "a", "b"):
        builder.add_node(name, lambda state, name=name: {"log": [name * 1000]})
        builder.add_edge(START, name)
    builder.add_node("end", lambda state: {"log": ["end " * 500]})
    builder.add_edge(["a", "b", "c"], "end")
    return builder.compile(checkpointer=saver)


def test_a_delta_channel_is_copied_with_all_that_it_is_rebuilt_from(offered):
    saver, cas, call = offered
    graph = logging(saver)
    for turn in range(3):
        graph.invoke({"log": [f"{turn}" * 1000]}, config("t"))
    before = history(graph, "t")
    call("copy_thread", "t", "copy")
    call("delete_thread", "t")
    sweep(cas)
    assert history(graph, "copy") == before


def test_pruning_leaves_what_a_delta_channel_is_rebuilt_from(offered):
    saver, cas, call = offered
    graph = logging(saver)
    lengths = []
    for turn in range(8):
        graph.invoke({"log": [f"{turn}" * 1000]}, config("t"))
        latest = graph.get_state(config("t")).values
        call("prune", ["t"])
        lengths.append(len(raw(saver, "t")))
        sweep(cas)
        assert graph.get_state(config("t")).values == latest
    assert max(lengths) > 1  # some were needed
    assert max(lengths) < 12  # and went later


def test_a_run_that_a_delta_channel_is_rebuilt_from_is_not_deleted(offered):
    saver, cas, call = offered
    graph = logging(saver)
    graph.invoke({"log": ["x"]}, config("t", metadata={"run_id": "first"}))
    latest = graph.invoke({"log": ["y"]}, config("t", metadata={"run_id": "second"}))
    work(saver, "other", metadata={"run_id": "first"})
    before = raw(saver, "t"), raw(saver, "other")
    with pytest.raises(InvalidInputError, match="thread 't' are rebuilt from what 'first' wrote"):
        call("delete_for_runs", ["first"])
    assert (raw(saver, "t"), raw(saver, "other")) == before
    call("delete_for_runs", ["second"])
    assert graph.get_state(config("t")).values["log"][0] == "x" != latest["log"][-1]
    call("delete_for_runs", ["first"])
    assert raw(saver, "t") == raw(saver, "other") == []
    sweep(cas)
    assert cas.stats().blobs == 0


@pytest.mark.parametrize(
    ("verb", "args", "options", "message"),
    [
        ("prune", ["t"], {}, "thread_ids must be a list of ids"),
        ("prune", [["t"]], {"strategy": "keep_some"}, "strategy must be 'keep_latest' or 'delete'"),
        ("delete_for_runs", ["run"], {}, "run_ids must be a list of ids"),
    ],
)
def test_what_cannot_be_meant_is_refused(offered, verb, args, options, message):
    saver, _, call = offered
    work(saver, "t", metadata={"run_id": "run"})
    before = raw(saver, "t")
    with pytest.raises(InvalidInputError, match=message):
        call(verb, *args, **options)
    assert raw(saver, "t") == before


def test_a_thread_of_another_language_is_not_pruned(offered):
    saver, _, call = offered
    work(saver, "t", metadata={"delta_writes_versioned": True, "run_id": "run"})
    before = raw(saver, "t")
    for verb, wanted in (("prune", "t"), ("delete_for_runs", "run")):
        with pytest.raises(InvalidInputError, match="that LangGraph"):
            call(verb, [wanted])
    assert raw(saver, "t") == before


def test_a_copy_that_comes_while_its_name_is_deleted_keeps_its_pins(offered):
    """Stopped between the deletion of checkpoints and that of their pins: there, the same ids return."""
    saver, cas, call = offered
    work(saver, "one")
    before = history(working(saver), "one")
    call("copy_thread", "one", "copy")
    unpin = saver.runtime.unpin

    def late(owners):
        saver.runtime.unpin = unpin
        saver.copy_thread("one", "copy")
        unpin(owners)

    saver.runtime.unpin = late
    call("delete_thread", "copy")
    call("delete_thread", "one")
    sweep(cas)
    assert history(working(saver), "copy") == before


def test_what_somebody_else_takes_away_meanwhile_is_not_pinned_again(offered):
    """Stopped between the look at what is left of a thread and the pins for that."""
    saver, cas, call = offered
    runs = [str(uuid.uuid4()) for _ in range(3)]
    for run_id in runs:
        work(saver, "one", run_id, metadata={"run_id": run_id})
    pin_each = saver.runtime.pin_each

    def late(pins):
        saver.runtime.pin_each = pin_each
        saver.delete_thread("one")
        pin_each(pins)

    saver.runtime.pin_each = late
    call("delete_for_runs", runs[:1])
    assert raw(saver, "one") == []
    assert list(cas.iter_pins()) == []


def test_a_name_that_is_taken_meanwhile_is_refused_and_leaves_no_pin(offered):
    """Stopped between the look at the target and the writing of it."""
    saver, cas, call = offered
    work(saver, "one")
    work(saver, "two", "other")
    pin_each = saver.runtime.pin_each

    def late(pins):
        saver.runtime.pin_each = pin_each
        saver.copy_thread("two", "copy")
        pin_each(pins)

    saver.runtime.pin_each = late
    with pytest.raises(InvalidInputError, match="there are checkpoints in thread 'copy'"):
        call("copy_thread", "one", "copy")
    assert raw(saver, "copy") == raw(saver, "two")
    for thread in ("two", "copy", "one"):
        call("delete_thread", thread)
    assert list(cas.iter_pins()) == []


def test_only_what_is_known_is_offered():
    class Elsewhere(InMemorySaver):
        def delete_thread(self, thread_id):
            super().delete_thread(thread_id)

    class Own(InMemorySaver):
        def prune(self, thread_ids, *, strategy="keep_latest"):
            raise OSError("its own")

    elsewhere = externalize(Elsewhere(), backend=InMemoryCAS())
    assert type(elsewhere).copy_thread is BaseCheckpointSaver.copy_thread
    with pytest.raises(NotImplementedError):
        elsewhere.copy_thread("a", "b")
    own = externalize(Own(), backend=InMemoryCAS())
    with pytest.raises(OSError, match="its own"):
        own.prune(["t"])
    work(own, "t")
    own.copy_thread("t", "copy")
    assert history(working(own), "copy")


def test_the_sync_verbs_refuse_to_hold_up_the_loop_of_their_saver(tmp_path):
    async def hold_up():
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as inner:
            saver = externalize(inner, backend=InMemoryCAS())
            await working(saver).ainvoke({"document": "text"}, config("t"))
            with pytest.raises(asyncio.InvalidStateError, match="acopy_thread"):
                saver.copy_thread("t", "copy")
            await saver.acopy_thread("t", "copy")
            assert await saver.aget_tuple(config("copy"))

    asyncio.run(hold_up())
