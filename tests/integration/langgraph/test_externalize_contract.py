"""The wrapper as a checkpointer: what it costs, what it forwards, how it fails."""

import asyncio
import copy
import inspect
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.conformance.capabilities import EXTENDED_CAPABILITIES, DetectedCapabilities
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.errors import BlobNotFoundError, StoreUnavailableError, UnknownBackendError
from agentref.storage import FilesystemCAS, InMemoryCAS


@dataclass
class Watched:
    """Counts how often anybody reads its text, as an encoder must."""

    text: str
    reads: ClassVar[int] = 0

    def __getattribute__(self, name: str) -> Any:
        if name in ("text", "__dict__"):
            Watched.reads += 1
        return super().__getattribute__(name)


class Work(TypedDict, total=False):
    document: Any
    turn: Annotated[int, operator.add]


def turning(saver: Any) -> Any:
    builder = StateGraph(Work)
    builder.add_node("turn", lambda state: {"turn": 1})
    builder.add_edge(START, "turn")
    builder.add_conditional_edges(
        "turn", lambda state: "turn" if state["turn"] % 10 else "__end__", ["turn", "__end__"]
    )
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("kept_open", [True, False], ids=["one saver", "a new saver"])
def test_an_unchanged_channel_is_not_encoded_again_at_every_step(
    face: Any, wrap: Any, threshold: int, kept_open: bool
) -> None:
    run = wrap(threshold=threshold)
    run.invoke(turning(run.saver), {"document": Watched("x" * 9000)})  # ten steps
    if not kept_open:
        again = face.databases and face.open(face.databases[id(run.inner)])
        run = wrap(again or run.inner, threshold=threshold)
    Watched.reads, dumped = 0, run.cas.stats().counters.values_dumped
    run.invoke(turning(run.saver), {"turn": 0})
    assert len(run.history(turning(run.saver))) > 20
    # Once, if at all: after a restart the first checkpoint may have to look at it.
    per_read = reads_of_one_encoding(run)
    assert Watched.reads <= per_read
    if threshold:
        assert run.cas.stats().counters.values_dumped - dumped <= 1


def reads_of_one_encoding(run: Any) -> int:
    before, Watched.reads = Watched.reads, 0
    run.cas.dump(Watched("another text"))
    seen, Watched.reads = Watched.reads, before
    assert seen > 0
    return seen


def test_equal_content_is_stored_once_whoever_writes_it(wrap: Any, payload: Any) -> None:
    run, text = wrap(threshold=4096), payload()
    graph = turning(run.saver)
    for thread in ("a", "b", "c"):
        run.invoke(graph, {"document": text}, thread)
    texts = {ref.hash for channel, ref in run.face.refs_in(run.inner) if channel == "document"}
    assert len(texts) == 1


def test_a_missing_blob_is_an_error_that_names_the_field_and_the_ref(wrap: Any, payload: Any) -> None:
    run = wrap(threshold=4096)
    graph = turning(run.saver)
    run.invoke(graph, {"document": payload()})
    (ref,) = {ref for channel, ref in run.face.refs_in(run.inner) if channel == "document"}
    assert run.cas.delete(ref.hash)
    for read in (run.state, run.history, lambda g: run.invoke(g, {"turn": 0})):
        with pytest.raises(BlobNotFoundError) as caught:
            read(graph)
        assert "document" in str(caught.value) and ref.hash in str(caught.value)


def test_a_ref_into_another_store_is_an_error_that_names_it(
    face: Any, wrap: Any, payload: Any, tmp_path: Path
) -> None:
    here = FilesystemCAS(tmp_path / "here", backend_id="here")
    there = FilesystemCAS(tmp_path / "there", backend_id="there")
    run = wrap(threshold=4096, store=here)
    run.invoke(turning(run.saver), {"document": payload()})
    other = wrap(run.inner, threshold=4096, store=there)
    with pytest.raises(UnknownBackendError, match="here"):
        other.state(turning(other.saver))
    here.close()
    there.close()


def test_a_store_on_disk_serves_a_saver_that_is_opened_later(
    face: Any, wrap: Any, payload: Any, tmp_path: Path
) -> None:
    text = payload()
    with FilesystemCAS(tmp_path / "blobs") as store:
        run = wrap(threshold=4096, store=store)
        run.invoke(turning(run.saver), {"document": {"text": text}})
    with FilesystemCAS(tmp_path / "blobs") as store:
        later = wrap(run.inner, threshold=4096, store=store)
        assert later.state(turning(later.saver))["values"]["document"] == {"text": text}


def test_a_failing_store_fails_the_run_and_leaves_no_dangling_ref(wrap: Any, payload: Any) -> None:
    store = InMemoryCAS()
    run = wrap(threshold=4096, store=store)
    graph = turning(run.saver)
    run.invoke(graph, {"document": "small"})
    store.close()
    with pytest.raises(StoreUnavailableError):
        run.invoke(graph, {"document": payload()})
    with pytest.raises(StoreUnavailableError):
        run.put_writes(run.tuples()[0].config, [("document", payload())], "task")
    assert run.face.refs_in(run.inner) == []


def test_the_wrapper_is_a_checkpointer_that_can_do_all_that_the_saver_can_and_more(
    face: Any, wrap: Any
) -> None:
    run = wrap()
    assert isinstance(run.saver, BaseCheckpointSaver)
    assert run.saver.inner is run.inner
    # The suite looks at async verbs only.
    before = DetectedCapabilities.from_instance(run.inner).detected
    offered = EXTENDED_CAPABILITIES if type(run.inner) is not SqliteSaver else frozenset()
    assert DetectedCapabilities.from_instance(run.saver).detected == before | offered
    for name in ("put_writes", "aput_writes"):
        assert "task_path" in inspect.signature(getattr(run.saver, name)).parameters
    first = run.saver.get_next_version(None, None)
    assert isinstance(first, str) and run.saver.get_next_version(first, None) > first
    assert run.saver.config_specs == run.inner.config_specs
    assert run.saver.serde is run.inner.serde
    attribute = "storage" if face.kind.startswith("memory") else "conn"
    assert getattr(run.saver, attribute) is getattr(run.inner, attribute)
    assert not hasattr(run.saver, "no_such_attribute")
    assert bool(run.saver) and run.saver not in (None, True, False)


def test_a_copy_of_the_wrapper_works(wrap: Any, payload: Any) -> None:
    run, text = wrap(), payload()
    run.invoke(turning(run.saver), {"document": text})
    clone = copy.copy(run.saver)
    assert type(clone) is type(run.saver) and clone.inner is run.inner
    run.saver = clone
    assert run.state(turning(clone))["values"]["document"] == text


def test_both_context_managers_give_the_wrapper(payload: Any) -> None:
    cas = InMemoryCAS()
    with externalize(InMemorySaver(), backend=cas) as saver:
        assert saver.inner and turning(saver).invoke(
            {"document": payload()}, {"configurable": {"thread_id": "t"}}
        )

    async def enter() -> None:
        async with externalize(InMemorySaver(), backend=cas) as saver:
            assert saver.inner

    asyncio.run(enter())


def test_a_listing_left_early_lets_go_of_the_database(wrap: Any) -> None:
    run = wrap()
    graph = turning(run.saver)
    run.invoke(graph, {"document": "x"})
    config = run.at("t")
    if run.face.loop is None:
        first = next(iter(run.saver.list(config)))
        assert first == run.tuples(config)[0]
    else:

        async def leave() -> Any:
            async for item in run.saver.alist(config):
                return item
            return None

        assert run.face.wait(leave()) == run.tuples(config)[0]
    run.invoke(graph, {"document": "y"})
    assert run.state(graph)["values"]["document"] == "y"


def test_listing_filters_as_the_inner_saver_does(wrap: Any) -> None:
    run = wrap()
    graph = turning(run.saver)
    for thread in ("a", "b"):
        run.invoke(graph, {"document": thread * 5000}, thread)
    config = run.at("a")
    everywhere, here = run.tuples(None), run.tuples(config)
    assert len(everywhere) == 2 * len(here) > 20
    assert run.tuples(config, limit=3) == here[:3]
    assert run.tuples(config, limit=0) == []
    assert run.tuples(config, before=here[4].config) == here[5:]
    assert [t.metadata["step"] for t in run.tuples(config, filter={"source": "input"})] == [-1]
    assert [run.get(t.config) for t in here] == here


def test_pending_writes_come_in_the_order_of_their_paths(stock: Any, wrap: Any) -> None:
    found = []
    for run in (stock, wrap()):
        config = run.put(run.at("t", checkpoint_ns=""), empty_checkpoint(), {"step": 0}, {})
        for task, path in (("a", "~2"), ("b", "~1"), ("c", "")):
            run.put_writes(config, [("x", f"{task} first"), ("x", f"{task} second")], task, path)
        run.put_writes(config, [("x", "a again")], "a", "~2")  # what a task wrote once stays
        found.append(run.get(config).pending_writes)
    assert found[0] == found[1]
    assert [task for task, _, _ in found[1]] == ["c", "c", "b", "b", "a", "a"]


def test_the_history_of_a_delta_channel_comes_without_refs(wrap: Any) -> None:
    run = wrap()
    versions = {"log": run.saver.get_next_version(None, None)}
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    for step, values in enumerate([{"log": ["seed" * 2000]}, {}, {}]):
        checkpoint: Any = {
            **empty_checkpoint(),
            "id": f"0000000{step}-0000-0000-0000-000000000000",
            "channel_values": values,
            "channel_versions": {"log": f"{versions['log']}{step}"},
        }
        config = run.put(config, checkpoint, {"step": step}, checkpoint["channel_versions"])
        run.put_writes(config, [("log", f"write {step}" * 2000), ("other", "x")], f"task {step}")
    call = run.saver.aget_delta_channel_history if run.face.loop else run.saver.get_delta_channel_history
    found = run.face.wait(call(config=config, channels=["log", "absent"]))
    assert found["log"]["seed"] == ["seed" * 2000]
    assert [value for _, _, value in found["log"]["writes"]] == ["write 0" * 2000, "write 1" * 2000]
    assert found["absent"] == {"writes": []}
    assert run.face.wait(call(config=config, channels=[])) == {}
