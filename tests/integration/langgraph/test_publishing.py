"""Checkpoints feed a coordinator: peers of a run see which content moved, and read it."""

import logging
import operator
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Annotated, Any

import pytest
from langgraph.channels import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.types import Overwrite
from typing_extensions import TypedDict

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter, channel_key, current_agent, externalize
from agentref.coherence import Coordinator, Key, MemoryCoordinator, Write
from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    InvalidInputError,
    UntrustedTypeError,
)

THRESHOLD = 4096
WORKER = "worker 1"
DOCS = channel_key("t", "docs")
NOTES = channel_key("t", "notes")


class State(TypedDict, total=False):
    docs: str
    notes: Annotated[list[str], operator.add]


@pytest.fixture
def run(face: Any, cas: Any, wrap: Callable[..., Any], coordinator: Coordinator) -> Any:
    made = wrap()
    made.saver = externalize(
        made.inner, backend=cas, inline_threshold_bytes=THRESHOLD, coordinator=coordinator, worker=WORKER
    )
    return made


def graph_of(run: Any, *nodes: Callable[..., Any], **how: Any) -> Any:
    builder = StateGraph(State).add_sequence(list(nodes)).add_edge(START, nodes[0].__name__)
    return builder.compile(checkpointer=run.saver, **how)


def feed(coordinator: Coordinator, since: str) -> list[list[tuple[Any, int, bool]]]:
    """What each commit changed: (channel, version, whether there is content)."""
    commits: dict[str, list[tuple[Any, int, bool]]] = {}
    for change in coordinator.changes(since=since).changes:
        assert change.writer == WORKER
        commits.setdefault(change.cursor, []).append(
            (change.key[3], change.version, change.ref is not None)
        )
    return list(commits.values())


def published(coordinator: Coordinator, prefix: Key = ()) -> list[Key]:
    views = coordinator.keys(prefix)
    return [view.key for view in views]


def test_each_save_is_one_entry_of_what_it_moved(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    first, second = payload(), payload()

    def fetch(state: State) -> State:
        return {"docs": first, "notes": [second]}

    def same(state: State) -> State:
        return {"docs": first}

    def shorten(state: State) -> State:
        return {"docs": "short"}

    since = coordinator.head()
    run.invoke(graph_of(run, fetch, same, shorten), {"notes": []})
    assert feed(coordinator, since) == [
        [("docs", 1, True), ("notes", 1, True)],
        [("docs", 2, False)],
    ]


def test_a_peer_reads_what_a_checkpoint_holds(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    text = payload()
    run.invoke(graph_of(run, lambda_node(docs=text)), {"notes": []})
    peer = coordinator.peer("reader", backend=run.cas)
    view = peer.read(DOCS)
    assert (view.value, view.version, view.writer) == (text, 1, WORKER)
    assert view.ref in [ref for channel, ref in run.face.refs_in(run.inner) if channel == "docs"]
    assert run.saver.peer("another").value(DOCS) == text
    assert not peer.read(NOTES).exists


def test_a_peer_of_the_saver_reads_what_only_the_saver_s_serializer_knows(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    address = ip_address("192.0.2.1")
    run.invoke(graph_of(run, lambda_node(docs=[payload(), address])), {"notes": []})
    with pytest.raises(UntrustedTypeError):
        coordinator.peer("reader", backend=run.cas).value(DOCS)
    assert run.saver.peer("reader").value(DOCS)[1] == address


def lambda_node(**update: Any) -> Callable[[State], Any]:
    def node(state: State) -> Any:
        return update

    return node


def test_nothing_of_a_payload_reaches_the_coordinator(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    text = payload()
    run.invoke(graph_of(run, lambda_node(docs=text, notes=[text])), {"docs": text})
    entries, _ = coordinator.table.entries(f"{coordinator.coordinator_id}/0", limit=1000)
    kept = b"".join(entry for entry, _ in entries)
    kept += repr(coordinator.table.scan(b"", b"\xff" * 2000, limit=1000)).encode()
    assert b"docs" in kept
    assert text[:16].encode() not in kept


def test_updates_and_replays_of_old_checkpoints_publish_what_they_save(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    first, second, third = payload(), payload(), payload()
    graph = graph_of(run, lambda_node(notes=[second]))
    run.invoke(graph, {"docs": first, "notes": []})
    assert coordinator.read([NOTES])[NOTES].exists
    run.update(graph, {"docs": third})
    assert run.saver.peer("p").value(DOCS) == third

    oldest = run.snapshots(graph)[-2]  # before the node: no notes yet
    run.update(graph, {"docs": second}, oldest.config)
    assert run.saver.peer("p").value(DOCS) == second
    assert not coordinator.read([NOTES])[NOTES].exists


def test_a_subgraph_publishes_under_its_own_namespace(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    text = payload()
    inner = StateGraph(State).add_node("deep", lambda_node(docs=text)).add_edge(START, "deep").compile()
    outer = StateGraph(State).add_node("child", inner).add_edge(START, "child")
    run.invoke(outer.compile(checkpointer=run.saver), {"notes": []})
    keys = published(coordinator, ("langgraph", "t"))
    assert channel_key("t", "docs") in keys
    [namespace] = {key[2] for key in keys} - {""}
    assert namespace.startswith("child:")
    assert run.saver.peer("p").value(channel_key("t", "docs", namespace)) == text


def test_a_deleted_thread_is_published_as_gone_and_its_versions_go_on(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    graph = graph_of(run, lambda_node(docs=payload()))
    for thread in ("t", "u"):
        run.invoke(graph, {"notes": []}, thread)
    run.delete("t")
    assert [key[1] for key in published(coordinator)] == ["u"]
    run.invoke(graph, {"notes": []})
    assert coordinator.read([DOCS])[DOCS].version == 3


def test_what_is_left_or_copied_by_other_verbs_is_published(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    saver, wait = run.saver, run.face.wait
    is_async = run.face.loop is not None
    text = payload()
    graph = graph_of(run, lambda_node(docs=text))
    run.invoke(graph, {"notes": []}, run.at("t") | {"metadata": {"run_id": "1"}})

    wait(saver.acopy_thread("t", "copy") if is_async else saver.copy_thread("t", "copy"))
    assert saver.peer("p").value(channel_key("copy", "docs")) == text

    version = coordinator.read([DOCS])[DOCS].version
    wait(saver.aprune(["t"]) if is_async else saver.prune(["t"]))
    assert coordinator.read([DOCS])[DOCS].version == version

    wait(saver.adelete_for_runs(["1"]) if is_async else saver.delete_for_runs(["1"]))
    assert not published(coordinator, ("langgraph", "t"))


def test_a_lost_publication_is_made_up_for_by_the_next_save(
    run: Any,
    table: Any,
    coordinator: Coordinator,
    payload: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = payload(), payload()
    graph = graph_of(run, lambda_node(docs=first))
    table.reachable = False
    with caplog.at_level(logging.WARNING, "agentref.adapters.langgraph"):
        run.invoke(graph, {"notes": [second]})
    assert run.state(graph)["values"]["docs"] == first
    assert run.saver.missed_publications == len(caplog.records) > 0
    assert "could not be published" in caplog.text

    table.reachable = True
    assert not published(coordinator)
    run.update(graph, {"notes": ["a small one"]})
    assert run.saver.peer("p").value(DOCS) == first
    assert run.saver.peer("p").value(NOTES) == [second, "a small one"]


def test_a_thread_from_before_there_was_a_coordinator_can_be_published(
    run: Any, wrap: Callable[..., Any], coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    text = payload()
    before = wrap(run.inner, threshold=THRESHOLD)
    run.invoke(graph_of(before, lambda_node(docs=text)), {"notes": []})
    assert not published(coordinator)
    if run.face.loop is None:
        run.saver.publish_thread("t")
    else:
        run.face.wait(run.saver.apublish_thread("t"))
    assert run.saver.peer("p").value(DOCS) == text
    with pytest.raises(ConfigurationError, match="coordinator="):
        before.saver.publish_thread("t")


def test_what_a_save_publishes_meanwhile_is_not_overwritten_with_what_was_listed(
    run: Any, coordinator: Coordinator, payload: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = payload(), payload()
    graph = graph_of(run, lambda_node(docs=old))
    run.invoke(graph, {"notes": []})
    publisher = run.saver.coherence.publisher
    commit, listings = publisher._commit, []

    def after_a_save(writes: Any, *args: Any) -> None:
        listings.append(writes)
        if len(listings) == 1:  # what is to be committed was listed before that
            view = coordinator.read([DOCS])[DOCS]
            coordinator.commit([Write(DOCS, run.saver.runtime.backend.dump(new), view)], agent="another")
            writes = [Write(DOCS, None, view)]
        commit(writes, *args)

    monkeypatch.setattr(publisher, "_commit", after_a_save)
    if run.face.loop is None:
        run.saver.publish_thread("t")
    else:
        run.face.wait(run.saver.apublish_thread("t"))
    assert len(listings) == 2  # it was listed again, and that is what stands there
    assert run.saver.peer("p").value(DOCS) == old
    assert run.saver.missed_publications == 0


def test_a_save_waits_for_readers_who_keep_writers_out(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    first, second = payload(), payload()
    graph = graph_of(run, lambda_node())
    run.invoke(graph, {"docs": first})
    coordinator.acquire(DOCS, holder="reader", ttl=0.3, mode="shared")
    run.update(graph, {"docs": second})
    assert run.saver.peer("p").value(DOCS) == second
    assert run.saver.missed_publications == 0


def test_what_a_peer_commits_is_followed_by_the_next_save_and_no_pin_is_lost(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    first, second, own = payload(), payload(), payload()
    graph = graph_of(run, lambda_node())
    run.invoke(graph, {"docs": first})
    peer = run.saver.peer("meddler")
    pins = set(run.cas.iter_pins("langgraph:"))
    peer.commit(DOCS, own, base=peer.read(DOCS))
    peer.close()
    assert set(run.cas.iter_pins("langgraph:")) == pins
    run.update(graph, {"docs": second})
    view = run.saver.peer("p").read(DOCS)
    assert (view.value, view.version, view.writer) == (second, 3, WORKER)
    assert run.state(graph)["values"]["docs"] == second


def test_contents_live_by_the_pins_of_checkpoints(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    text = payload()
    run.invoke(graph_of(run, lambda_node(docs=text)), {"notes": []})
    view = run.saver.peer("p").read(DOCS)
    assert not list(run.cas.iter_pins("agentref.coherence"))
    run.delete("t")
    run.cas.delete(view.ref.hash)
    with pytest.raises(BlobNotFoundError):
        _ = view.value
    assert not run.saver.peer("p").read(DOCS).exists


def test_typed_state_publishes_the_refs_of_its_fields(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    class Typed(AgentRefState):
        docs: Externalized[list[str]]
        note: Inline[str]

    text = payload()
    adapter = LangGraphAdapter(Typed, backend=run.cas)
    saver = adapter.checkpointer(run.inner, coordinator=coordinator, worker=WORKER)

    @adapter.node
    def fetch(state: Any) -> Any:
        return {"docs": [text], "note": "small"}

    app = StateGraph(adapter.schema()).add_node("fetch", fetch).add_edge(START, "fetch")
    shown = run.invoke(app.compile(checkpointer=saver), {"note": ""})
    view = saver.peer("p").read(DOCS)
    assert view.ref == shown["docs"]
    assert view.value == [text]
    assert published(coordinator) == [DOCS]


def test_a_snapshot_of_a_delta_channel_is_not_taken_for_its_value(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    def extend(state: Any, writes: Any) -> list[str]:
        return [*(state or []), *(item for write in writes for item in write)]

    class Delta(TypedDict):
        docs: Annotated[list[str], DeltaChannel(extend)]

    builder = StateGraph(Delta).add_node("node", lambda_node(docs=Overwrite([payload()])))
    run.invoke(builder.add_edge(START, "node").compile(checkpointer=run.saver), {"docs": [payload()]})
    assert run.face.refs_in(run.inner)
    assert not published(coordinator)


def test_a_key_that_no_coordinator_takes_is_passed_over(
    run: Any, coordinator: Coordinator, payload: Callable[[], str]
) -> None:
    long = "channel" * 200
    states = TypedDict("states", {"docs": str, long: str})  # type: ignore[misc]
    builder = StateGraph(states).add_node("node", lambda_node(docs=payload(), **{long: payload()}))
    run.invoke(builder.add_edge(START, "node").compile(checkpointer=run.saver), {"docs": ""})
    assert published(coordinator) == [DOCS]
    assert run.saver.missed_publications > 0


def test_a_node_knows_which_agent_it_is(run: Any, coordinator: Coordinator) -> None:
    seen = []

    def deep(state: State) -> State:
        seen.append(current_agent())
        return {"notes": []}

    async def adeep(state: State) -> State:
        return deep(state)

    def plan(state: State) -> State:
        seen.append(run.saver.peer().name)
        run.saver.peer().commit(("plan",), "first", base=None)
        return {"notes": []}

    inner = StateGraph(State).add_node("deep", adeep if run.face.loop else deep).add_edge(START, "deep")
    outer = StateGraph(State).add_node("plan", plan).add_node("child", inner.compile())
    graph = outer.add_edge(START, "plan").add_edge("plan", "child").compile(checkpointer=run.saver)
    run.invoke(graph, {"notes": []})
    assert seen == ["plan", "deep"]
    assert coordinator.read([("plan",)])[("plan",)].writer == "plan"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"coordinator": object()}, "SqliteCoordinator"),
        ({"coordinator": MemoryCoordinator}, "SqliteCoordinator"),
        ({"worker": "w"}, "coordinator="),
        ({"writer_lease": 60.0}, "coordinator="),
        ({"coordinator": MemoryCoordinator(), "worker": ""}, "worker"),
        ({"coordinator": MemoryCoordinator(), "writer_lease": 0}, "writer_lease"),
        ({"coordinator": MemoryCoordinator(), "writer_lease": "60"}, "writer_lease"),
    ],
)
def test_wrong_arguments_are_named(wrap: Callable[..., Any], wrong: dict[str, Any], message: str) -> None:
    made = wrap()
    with pytest.raises(InvalidInputError, match=message):
        externalize(made.inner, backend=made.cas, **wrong)


def test_a_saver_is_not_kept_waiting_for_ever_by_somebody_who_holds_a_channel(
    run: Any, coordinator: Coordinator, payload: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentref.adapters.langgraph.publishing._PATIENCE", 0.1)
    first, second = payload(), payload()
    graph = graph_of(run, lambda_node())
    run.invoke(graph, {"docs": first})
    lease = coordinator.acquire(DOCS, holder="somebody", ttl=60)
    run.update(graph, {"docs": second})
    assert run.state(graph)["values"]["docs"] == second
    assert run.saver.missed_publications == 1
    coordinator.release(lease)
    run.update(graph, {"notes": ["next"]})
    assert run.saver.peer("p").value(DOCS) == second
    assert time.time() < lease.until
