"""One writer a thread: two workers that resume one cannot fork it without being told."""

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from agentref.adapters.langgraph import channel_key, externalize
from agentref.coherence import Conflict, Coordinator, HeldLease, Reason
from agentref.errors import ConfigurationError, InvalidInputError, StoreUnavailableError

THREAD = ("langgraph", "t")
LONG = 60.0
SHORT = 0.3


class State(TypedDict, total=False):
    docs: str


@pytest.fixture
def worker(face: Any, cas: Any, wrap: Callable[..., Any], coordinator: Coordinator) -> Callable[..., Any]:
    """Workers over one database of checkpoints."""
    inner = face.open()

    def make(name: str | None = None, lease: float = LONG) -> Any:
        made = wrap(inner)
        made.saver = externalize(
            inner,
            backend=cas,
            inline_threshold_bytes=0,
            coordinator=coordinator,
            worker=name,
            writer_lease=lease,
        )
        return made

    return make


def graph_of(run: Any, *nodes: Callable[..., Any]) -> Any:
    builder = StateGraph(State).add_sequence(list(nodes)).add_edge(START, nodes[0].__name__)
    return builder.compile(checkpointer=run.saver)


def write(state: State) -> State:
    return {"docs": "written"}


def release(run: Any) -> None:
    if run.face.loop is None:
        run.saver.release_thread("t")
    else:
        run.face.wait(run.saver.arelease_thread("t"))


class Block:
    """`writing`, in the colour of the saver."""

    def __init__(self, run: Any, **how: Any) -> None:
        self.wait = run.face.wait
        self.is_async = run.face.loop is not None
        self.held: HeldLease = run.saver.writing("t", **how)

    def __enter__(self) -> HeldLease:
        return self.wait(self.held.__aenter__()) if self.is_async else self.held.__enter__()

    def __exit__(self, *details: object) -> None:
        if self.is_async:
            self.wait(self.held.__aexit__(*details))
        else:
            self.held.__exit__(*details)


def refused(reason: Reason, call: Callable[..., Any], *args: Any) -> Conflict:
    with pytest.raises(Conflict) as caught:
        call(*args)
    assert caught.value.reason is reason
    assert caught.value.key == THREAD
    return caught.value


def test_who_resumes_a_thread_that_another_worker_writes_is_told_who_and_until_when(
    worker: Callable[..., Any],
) -> None:
    first, second = worker("first"), worker("second")
    first.invoke(graph_of(first, write), {"docs": "a"})
    before = first.tuples()
    began = time.time()
    error = refused(Reason.HELD_BY_OTHER, second.invoke, graph_of(second, write), {"docs": "b"})
    assert error.holder == "first"
    assert error.until is not None
    assert began < error.until <= time.time() + LONG
    assert "'first'" in str(error)
    assert first.tuples() == before
    assert second.state(graph_of(second, write))["values"] == {"docs": "written"}  # reading needs no lease


def test_names_of_workers_are_made_if_none_are_given(worker: Callable[..., Any]) -> None:
    first, second = worker(), worker()
    first.invoke(graph_of(first, write), {"docs": "a"})
    error = refused(Reason.HELD_BY_OTHER, second.invoke, graph_of(second, write), {"docs": "b"})
    assert f":{os.getpid()}:" in str(error.holder)


def test_a_released_thread_is_free_at_once(worker: Callable[..., Any]) -> None:
    first, second = worker("first"), worker("second")
    first.invoke(graph_of(first, write), {"docs": "a"})
    release(first)
    second.invoke(graph_of(second, write), {"docs": "b"})
    refused(Reason.HELD_BY_OTHER, first.invoke, graph_of(first, write), {"docs": "c"})
    release(second)
    count = len(first.tuples())
    assert first.invoke(graph_of(first, write), {"docs": "c"}) == {"docs": "written"}
    assert len(first.tuples()) > count


def test_threads_are_held_one_by_one(worker: Callable[..., Any], coordinator: Coordinator) -> None:
    first, second = worker("first"), worker("second")
    first.invoke(graph_of(first, write), {"docs": "a"})
    second.invoke(graph_of(second, write), {"docs": "b"}, "u")
    holders = [coordinator.leases(("langgraph", thread))[0].holder for thread in ("t", "u")]
    assert holders == ["first", "second"]


@pytest.mark.parametrize("over", [False, True], ids=["held", "released"])
def test_a_worker_that_was_taken_over_in_a_step_saves_nothing_more(
    worker: Callable[..., Any],
    over: bool,
) -> None:
    first, second = worker("first", SHORT), worker("second")

    def stall(state: State) -> State:
        time.sleep(2 * SHORT)
        other = threading.Thread(target=put_one, args=(second, "taken over"))
        other.start()
        other.join()
        if over:
            release(second)
        return {"docs": "late"}

    async def astall(state: State) -> State:
        await asyncio.sleep(2 * SHORT)
        put = graph_of(second, write).aupdate_state(second.at("t"), {"docs": "taken over"})
        await asyncio.get_running_loop().create_task(put, context=contextvars.Context())
        if over:
            await second.saver.arelease_thread("t")
        return {"docs": "late"}

    graph = graph_of(first, astall if first.face.loop else stall)
    error = refused(Reason.LEASE_LOST, first.invoke, graph, {"docs": "a"})
    assert error.holder == (None if over else "second")
    assert first.state(graph)["values"] == {"docs": "taken over"}
    if not over:
        refused(Reason.HELD_BY_OTHER, put_one, first, "again")
        release(second)
    put_one(first, "again")  # it reads what is there now


def put_one(run: Any, text: str, config: Any = None) -> Any:
    """What `update_state` does, without a graph: read, and save one more checkpoint."""
    graph = graph_of(run, write)
    return run.update(graph, {"docs": text}, config or "t")


def test_a_run_that_read_before_another_worker_wrote_is_refused(worker: Callable[..., Any]) -> None:
    first, second = worker("first"), worker("second")
    put_one(first, "a")
    release(first)

    read = second.get(second.at("t", checkpoint_ns=""))  # as a run does that begins
    put_one(first, "b")
    release(first)

    config = {"configurable": {**read.config["configurable"]}}
    after = {**read.checkpoint, "id": read.checkpoint["id"][:-1] + "x"}
    count = len(first.tuples())
    refused(Reason.STALE_EPOCH, second.put, config, after, read.metadata, {})
    refused(Reason.STALE_EPOCH, second.put_writes, config, [("docs", "late")], "task")
    assert len(first.tuples()) == count
    put_one(second, "c")


def test_a_run_that_read_while_another_worker_wrote_is_refused(worker: Callable[..., Any]) -> None:
    first, second = worker("first"), worker("second")
    put_one(first, "a")
    read = second.get(second.at("t", checkpoint_ns=""))
    put_one(first, "b")
    release(first)
    refused(Reason.STALE_EPOCH, second.put_writes, read.config, [("docs", "late")], "task")


def test_a_step_that_outlasts_the_lease_goes_on_if_nobody_came(worker: Callable[..., Any]) -> None:
    run = worker("first", 0.05)

    def slow(state: State) -> State:
        time.sleep(0.2)
        return {"docs": "slow"}

    def slower(state: State) -> State:
        time.sleep(0.2)
        return {"docs": "slower"}

    inner = StateGraph(State).add_sequence([slow, slower]).add_edge(START, "slow").compile()
    builder = StateGraph(State).add_node("child", inner).add_node("slow", slow)
    graph = builder.add_edge(START, "child").add_edge("child", "slow").compile(checkpointer=run.saver)
    assert run.invoke(graph, {"docs": "a"}) == {"docs": "slow"}
    assert run.saver.missed_publications == 0


def test_a_block_holds_the_thread_however_long_it_takes(
    worker: Callable[..., Any], coordinator: Coordinator
) -> None:
    first, second = worker("first", SHORT), worker("second", SHORT)
    with Block(first) as held:
        first.invoke(graph_of(first, write), {"docs": "a"})
        time.sleep(3 * SHORT)
        refused(Reason.HELD_BY_OTHER, put_one, second, "b")
        refused(Reason.HELD_BY_OTHER, Block(second).__enter__)
        refused(Reason.HELD_BY_OTHER, Block(first).__enter__)  # two runs of one worker are two
        put_one(first, "c")
        assert not held.lost
    assert not coordinator.leases(THREAD)
    put_one(second, "d")


def test_a_block_takes_over_from_the_worker_s_own_saves(
    worker: Callable[..., Any], coordinator: Coordinator
) -> None:
    run = worker("first")
    put_one(run, "a")
    (before,) = coordinator.leases(THREAD)
    with Block(run):
        put_one(run, "b")
        (within,) = coordinator.leases(THREAD)
    assert within.fence > before.fence
    assert coordinator.leases(THREAD) == []
    with Block(run):
        put_one(run, "c")
    assert len(run.tuples()) == 3


def test_a_block_waits_for_others_if_asked(worker: Callable[..., Any]) -> None:
    first, second = worker("first", SHORT), worker("second")
    put_one(first, "a")
    with Block(second, wait=10):
        assert second.state(graph_of(second, write))["values"] == {"docs": "a"}
        put_one(second, "b")


def test_a_block_whose_lease_was_taken_away_saves_nothing_more(
    worker: Callable[..., Any], coordinator: Coordinator
) -> None:
    run = worker("first")
    with Block(run):
        put_one(run, "a")
        coordinator.recover("first")
        count = len(run.tuples())
        refused(Reason.LEASE_LOST, put_one, run, "b")
        assert len(run.tuples()) == count
    put_one(run, "c")


def test_what_was_in_flight_when_a_worker_was_declared_dead_is_refused(
    worker: Callable[..., Any], coordinator: Coordinator
) -> None:
    run = worker("first")
    saved = put_one(run, "a")
    coordinator.recover("first")
    refused(Reason.LEASE_LOST, run.put_writes, saved, [("docs", "late")], "task")
    assert not run.get(saved).pending_writes
    put_one(run, "b")


def test_a_worker_that_starts_again_need_not_wait(
    worker: Callable[..., Any], coordinator: Coordinator
) -> None:
    dead, restarted = worker("first"), worker("first")
    saved = put_one(dead, "a")
    error = refused(Reason.HELD_BY_OTHER, put_one, restarted, "b")
    assert "coordinator.recover" in str(error)
    coordinator.recover("first")
    put_one(restarted, "b")
    refused(Reason.LEASE_LOST, dead.put_writes, saved, [("docs", "late")], "task")


def test_a_thread_that_is_lost_while_it_is_saved_is_told_after_it(
    worker: Callable[..., Any], coordinator: Coordinator
) -> None:
    """Between the check and the save is another database: what cannot be prevented is not silent."""
    run = worker("first")
    put_one(run, "a")
    inner = run.inner
    name = "put" if run.face.loop is None else "aput"
    real = getattr(inner, name)

    def slow(*args: Any) -> Any:
        coordinator.recover("first")
        return real(*args)

    setattr(inner, name, slow)
    error = refused(Reason.LEASE_LOST, put_one, run, "b")
    delattr(inner, name)
    assert any("had been saved before" in note for note in error.__notes__)
    assert run.saver.peer("p").value(channel_key("t", "docs")) == "a"  # not published


def test_old_checkpoints_may_be_replayed_and_forked_on_purpose(worker: Callable[..., Any]) -> None:
    first, second = worker("first"), worker("second")
    oldest = put_one(first, "a")
    put_one(first, "b")
    put_one(first, "fork", oldest)
    release(first)
    put_one(second, "another", oldest)


def test_a_run_can_be_interrupted_and_resumed_by_another_worker(worker: Callable[..., Any]) -> None:
    first, second = worker("first"), worker("second")

    def ask(state: State) -> State:
        return {"docs": interrupt("?")}

    first.invoke(graph_of(first, ask), {"docs": "a"})
    refused(Reason.HELD_BY_OTHER, second.invoke, graph_of(second, ask), Command(resume="b"))
    release(first)
    assert second.invoke(graph_of(second, ask), Command(resume="b"))["docs"] == "b"


def test_a_deleted_thread_is_held_by_nobody(worker: Callable[..., Any], coordinator: Coordinator) -> None:
    first, second = worker("first"), worker("second")
    put_one(first, "a")
    first.delete("t")
    assert coordinator.leases(THREAD) == []
    put_one(second, "b")


def test_a_block_in_which_its_thread_is_deleted_goes_on(
    worker: Callable[..., Any], coordinator: Coordinator
) -> None:
    first, second = worker("first"), worker("second")
    with Block(first) as held:
        put_one(first, "a")
        first.delete("t")
        refused(Reason.HELD_BY_OTHER, put_one, second, "b")
        put_one(first, "c")
        assert not held.lost
    assert coordinator.leases(THREAD) == []


def test_without_a_coordinator_in_reach_reading_goes_on_and_saving_does_not(
    worker: Callable[..., Any], table: Any
) -> None:
    run = worker("first")
    put_one(run, "a")
    count = len(run.tuples())
    table.reachable = False
    read = run.get(run.at("t", checkpoint_ns=""))
    assert read.checkpoint["channel_values"]["docs"] == "a"
    with pytest.raises(StoreUnavailableError):
        run.put_writes(read.config, [("docs", "b")], "task")
    table.reachable = True
    assert len(run.tuples()) == count
    refused(Reason.STALE_EPOCH, run.put_writes, read.config, [("docs", "b")], "task")
    put_one(run, "b")


def test_closing_a_saver_lets_go_of_its_threads(
    worker: Callable[..., Any], coordinator: Coordinator
) -> None:
    first, second = worker("first"), worker("second")
    if not first.face.kind.startswith("memory"):
        pytest.skip("LangGraph's savers for SQLite are closed with their connection")
    put_one(first, "a")
    if first.face.loop is None:
        first.saver.__exit__(None, None, None)
    else:
        first.face.wait(first.saver.__aexit__(None, None, None))
    assert coordinator.leases(THREAD) == []
    put_one(second, "b")


def test_a_clone_for_another_graph_is_the_same_worker(worker: Callable[..., Any]) -> None:
    run = worker("first")
    put_one(run, "a")
    clone = run.saver.with_allowlist([("decimal", "Decimal")])
    assert clone is run.saver or clone.coherence is run.saver.coherence


def test_leases_are_asked_for_where_there_are_some(
    wrap: Callable[..., Any], cas: Any, coordinator: Coordinator, worker: Callable[..., Any]
) -> None:
    bare = wrap()
    with pytest.raises(ConfigurationError, match="coordinator="):
        bare.saver.writing("t")
    unfenced = externalize(bare.inner, backend=cas, coordinator=coordinator)
    with pytest.raises(ConfigurationError, match="writer_lease="):
        unfenced.writing("t")
    with pytest.raises(InvalidInputError, match="wait"):
        worker().saver.writing("t", wait=-1)
