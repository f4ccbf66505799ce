"""What comes back: the types, the look-alikes, and objects that belong to their reader alone."""

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import operator
import pathlib
import re
import sys
import uuid
import zoneinfo
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Interrupt, Overwrite, Send
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentref.refs import ContentRef, Digest

CONFIG = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


@dataclasses.dataclass
class Point:
    x: int
    y: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Frozen:
    names: frozenset[str]


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(enum.StrEnum):
    YES = "yes"


class Pair(NamedTuple):
    left: Any
    right: Any


class Model(BaseModel):
    name: str
    spans: tuple[tuple[int, int], ...] = ()
    nested: "Model | None" = None


def checkpoint_of(values: dict[str, Any]) -> Any:
    versions = {channel: InMemorySaver().get_next_version(None, None) for channel in values}
    return {**empty_checkpoint(), "channel_values": values, "channel_versions": versions}


def stored(run: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values after a way through the saver as channels."""
    checkpoint = checkpoint_of(values)
    config = run.put(CONFIG, checkpoint, {"source": "loop", "step": 0}, checkpoint["channel_versions"])
    result: dict[str, Any] = run.get(config).checkpoint["channel_values"]
    return result


def held(run: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What the inner saver is given to hold for these values."""
    checkpoint = checkpoint_of(values)
    config = run.put(CONFIG, checkpoint, {"source": "loop", "step": 0}, checkpoint["channel_versions"])
    (found,) = run.face.tuples(run.inner, config)
    result: dict[str, Any] = found.checkpoint["channel_values"]
    return result


def written(run: Any, values: list[Any]) -> list[Any]:
    """The values after a way through the saver as pending writes."""
    config = run.put(CONFIG, checkpoint_of({}), {"source": "loop", "step": 0}, {})
    run.put_writes(config, [(f"channel {i:03}", value) for i, value in enumerate(values)], "task")
    return [value for _, _, value in run.get(config).pending_writes]


def typed(value: Any) -> Any:
    """A picture of the value in which 1, True, 1.0, and [1], (1,) all differ."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, [(typed(k), typed(v)) for k, v in value.items()]
    if isinstance(value, list | tuple | collections.deque):
        return kind, [typed(item) for item in value]
    if isinstance(value, set | frozenset):
        return kind, sorted(map(repr, map(typed, value)))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return kind, [(f.name, typed(getattr(value, f.name))) for f in dataclasses.fields(value)]
    return kind, repr(value)


VALUES: dict[str, Any] = {
    "tuple": (1, (2.0, ("three",)), [4]),
    "tuple in a dict": {"pair": (1, 2)},
    "set": {"b", "a", 1},
    "frozenset": frozenset({(1, 2), (3,)}),
    "datetime": dt.datetime(2026, 3, 1, 12, 30, 1, 5, tzinfo=dt.UTC),
    "naive datetime": dt.datetime(2026, 3, 1),
    "zoned datetime": dt.datetime(2026, 3, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    "date": dt.date(2026, 3, 1),
    "time": dt.time(1, 2, 3),
    "timedelta": dt.timedelta(days=1, microseconds=3),
    "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.UUID(int=7),
    "dataclass": Point(1, (2, 3)),
    "frozen dataclass": Frozen(frozenset({"a", "b"})),
    "enum": Colour.RED,
    "int enum": Level.HIGH,
    "str enum": Word.YES,
    "named tuple": Pair((1, 2), [Pair(1, 2)]),
    "pydantic": Model(name="a", spans=((1, 2),), nested=Model(name="b")),
    "message": HumanMessage("hello", id="m-1", additional_kwargs={"k": [1]}),
    "document": Document(page_content="text", metadata={"page": 1}),
    "bytes": b"\x00\xff" * 3000,
    "bytearray": bytearray(b"abc"),
    "nul": "before\x00after",
    "emoji": "\U0001f9ea" * 2000,
    "huge int": 2**200,
    "negative": -(2**63),
    "bool": True,
    "float": -0.0,
    "infinity": float("inf"),
    "empty": {"list": [], "dict": {}, "str": "", "tuple": (), "none": None},
    "odd keys": {1: "int", None: "none", (1, 2): "tuple", 1.5: "float"},
    "path": pathlib.PurePosixPath("/a/b"),
    "deque": collections.deque([1, 2]),
    "nested": [{"a": [({"b": {1, 2}},)]}],
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_with_its_types(wrap: Any, name: str) -> None:
    value = VALUES[name]
    run = wrap()
    assert typed(stored(run, {"channel": value})["channel"]) == typed(value)
    assert typed(written(run, [value])[0]) == typed(value)


STOCK_KNOWS: dict[str, Any] = {
    "pattern": re.compile("a+", re.IGNORECASE),
    "path": pathlib.Path("/a/b"),
    "address": ipaddress.ip_network("10.0.0.0/8"),
    "interrupt": [Interrupt(value={"q": [1]}, id="i-1")],
    "send": [Send("node", {"a": [1]})],
    "command": Command(update={"a": 1}, goto="x"),
    "overwrite": Overwrite([1, 2]),
    "error": ValueError("an exception is kept as its repr"),
    "errors": [ValueError("also inside")],
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("name", STOCK_KNOWS)
def test_what_the_inner_saver_accepts_is_accepted(stock: Any, wrap: Any, name: str) -> None:
    value = STOCK_KNOWS[name]
    run = wrap()
    # As it went in, or as the inner saver would have bent it; never an error.
    assert stored(run, {"channel": value})["channel"] in (
        value,
        stored(stock, {"channel": value})["channel"],
    )
    assert written(run, [value])[0] in (value, written(stock, [value])[0])


def test_what_the_inner_saver_refuses_is_a_type_error(stock: Any, wrap: Any) -> None:
    for run in (stock, wrap()):
        with pytest.raises(TypeError):
            stored(run, {"channel": {"deep": [object()]}})


def test_a_value_of_a_local_class_does_not_stop_the_run(twin: Any) -> None:
    @dataclasses.dataclass
    class Local:
        text: str

    class State(TypedDict, total=False):
        item: Any

    def scenario(run: Any) -> Any:
        builder = StateGraph(State)
        builder.add_node("make", lambda state: {"item": Local("x" * 5000)})
        builder.add_node("use", lambda state: {"item": [state["item"].text[:3]]})
        builder.add_edge(START, "make")
        builder.add_edge("make", "use")
        return run.invoke(builder.compile(checkpointer=run.saver), {"item": None})

    twin(scenario)


def look_alikes(store_ref: ContentRef) -> dict[str, Any]:
    real = store_ref.to_dict()
    return {
        "a ref to what is stored": real,
        "a ref to nothing": ContentRef(Digest(b"\1" * 32), "v1", 3, "elsewhere").to_dict(),
        "the key alone": {"__agentref__": None},
        "the key with text": {"__agentref__": "hello"},
        "the key with more": {"__agentref__": real["__agentref__"], "other": 1},
        "a later version": {"__agentref__": [2, "x", "y", 0, None]},
        "a ref in a ref": {"__agentref__": real},
        "a ref in a list": [real, {"deep": real}],
        "a ref as json": str(real),
    }


@pytest.mark.parametrize("name", look_alikes(ContentRef(Digest(bytes(32)), "v1", 0)))
def test_user_data_that_looks_like_a_ref_comes_back_as_it_was(wrap: Any, threshold: int, name: str) -> None:
    run = wrap(threshold=threshold)
    target = run.cas.dump("what a look-alike must never reveal")
    value = look_alikes(target)[name]
    original = copy.deepcopy(value)
    back = stored(run, {"channel": value, "log": _DeltaSnapshot(value), "big": [value, "x" * 9000]})
    assert back["channel"] == original
    assert back["log"] == _DeltaSnapshot(original) and type(back["log"]) is _DeltaSnapshot
    assert back["big"][0] == original
    assert written(run, [value, value, "x" * 9000]) == [original, original, "x" * 9000]
    assert value == original


def test_escaped_user_data_can_be_escaped_again(wrap: Any, threshold: int) -> None:
    run = wrap(threshold=threshold)
    value = run.cas.dump("secret").to_dict()
    for _ in range(4):
        # What the inner saver holds for a value is itself a value that somebody may store.
        assert stored(run, {"channel": value}) == {"channel": value}
        value = held(run, {"channel": value})["channel"]


def test_a_raw_thread_is_read_and_carried_on_by_the_wrapper(face: Any, stock: Any, wrap: Any) -> None:
    class State(TypedDict, total=False):
        title: str
        docs: Annotated[list[str], operator.add]

    def build(saver: Any) -> Any:
        builder = StateGraph(State)
        builder.add_node("add", lambda state: {"docs": ["y" * 9000]})
        builder.add_edge(START, "add")
        return builder.compile(checkpointer=saver)

    stock.invoke(build(stock.saver), {"title": "t" * 9000, "docs": ["x" * 9000]})
    before = stock.history(build(stock.saver))
    run = wrap(stock.saver, threshold=4096)
    graph = build(run.saver)
    assert run.history(graph) == before
    run.invoke(graph, {"docs": []})
    wanted = {"title": "t" * 9000, "docs": ["x" * 9000, "y" * 9000, "y" * 9000]}
    assert run.state(graph)["values"] == wanted
    lower = wrap(stock.saver, threshold=0)
    lower.invoke(build(lower.saver), {"docs": []})
    higher = wrap(stock.saver, threshold=10**6)
    higher.invoke(build(higher.saver), {"docs": []})
    assert run.history(graph)[-len(before) :] == before
    assert run.state(graph)["values"] == {**wanted, "docs": [*wanted["docs"], *["y" * 9000] * 2]}


def test_every_read_gives_objects_of_its_own(wrap: Any) -> None:
    run = wrap()
    same = [{"text": "equal content"}]
    checkpoint = checkpoint_of({"a": same, "b": same, "log": _DeltaSnapshot(same)})
    config = run.put(CONFIG, checkpoint, {"source": "loop", "step": 0}, checkpoint["channel_versions"])
    run.put_writes(config, [("a", same), ("b", same)], "task")
    found = [run.get(config), run.get(config), *run.tuples(CONFIG), *run.tuples(CONFIG)]
    seen: list[Any] = []
    for item in found:
        values = item.checkpoint["channel_values"]
        seen += [
            values["a"],
            values["b"],
            values["log"].value,
            *(value for *_, value in item.pending_writes),
        ]
    assert all(value == [{"text": "equal content"}] for value in seen)
    assert len({id(value) for value in seen}) == len({id(value[0]) for value in seen}) == len(seen)


def extend(left: list[str], right: list[str]) -> list[str]:
    """A reducer that changes its left side, as users write them."""
    left.extend(right)
    return left


def test_a_reducer_that_works_in_place_does_not_reach_other_snapshots(twin: Any) -> None:
    class State(TypedDict, total=False):
        notes: Annotated[list[str], extend]
        other: list[str]

    def scenario(run: Any) -> Any:
        builder = StateGraph(State)
        for name in "abc":
            builder.add_node(name, lambda state, n=name: {"notes": [n], "other": list(state["notes"])})
        for left, right in zip([START, "a", "b"], "abc", strict=True):
            builder.add_edge(left, right)
        graph = builder.compile(checkpointer=run.saver, interrupt_after=["a", "b"])
        for value in ({"notes": ["x"]}, None, None):
            # Not in the background: a reducer in place would race with any saver.
            run.invoke(graph, value, durability="sync")
        snapshots = run.snapshots(graph)
        for snapshot in snapshots:
            snapshot.values.setdefault("notes", []).append("changed by a reader")
        return run.history(graph)

    twin(scenario)


def test_nothing_that_is_handed_in_is_changed(wrap: Any, threshold: int) -> None:
    run = wrap(threshold=threshold)
    like = run.cas.dump("x").to_dict()
    checkpoint = checkpoint_of({"a": ["x" * 9000], "b": like, "log": _DeltaSnapshot(["y" * 9000])})
    writes = collections.deque([("a", ["x" * 9000]), ("b", like)])
    metadata, versions = {"source": "loop", "step": 0}, dict(checkpoint["channel_versions"])
    config = copy.deepcopy(CONFIG)
    kept = (config, checkpoint, metadata, versions, writes)
    before = copy.deepcopy(kept)
    inside = list(checkpoint["channel_values"].values())
    at = run.put(config, checkpoint, metadata, versions)
    run.put_writes(at, writes, "task", "path")
    assert kept == before
    values = checkpoint["channel_values"].values()
    assert all(now is then for now, then in zip(values, inside, strict=True))


def test_what_is_returned_may_be_changed_by_the_caller(wrap: Any, threshold: int) -> None:
    run = wrap(threshold=threshold)
    checkpoint = checkpoint_of({"a": ["x" * 9000]})
    at = run.put(CONFIG, checkpoint, {"source": "loop", "step": 0}, checkpoint["channel_versions"])
    first = run.get(at)
    first.checkpoint["channel_values"]["a"].append("more")
    first.checkpoint["channel_values"]["new"] = 1
    first.checkpoint["versions_seen"]["node"] = {}
    assert run.get(at).checkpoint == checkpoint


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take turns every few microseconds rather than milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_a_node_may_change_its_state_in_place_while_it_is_stored(wrap: Any) -> None:
    class State(TypedDict, total=False):
        table: dict[str, list[int]]
        turn: int

    def grow(state: State) -> State:
        table = state["table"]
        for i in range(300):  # in place, while the step before may still be on its way to the store
            table[f"{state['turn']}-{i}"] = [i]
        return {"table": table, "turn": state["turn"] + 1}

    run = wrap(threshold=4096)
    builder = StateGraph(State)
    builder.add_node("grow", grow)
    builder.add_edge(START, "grow")
    builder.add_conditional_edges(
        "grow", lambda s: "grow" if s["turn"] < 20 else "__end__", ["grow", "__end__"]
    )
    graph = builder.compile(checkpointer=run.saver)
    final = run.invoke(graph, {"table": {}, "turn": 0})
    assert len(final["table"]) == 20 * 300
    assert run.state(graph)["values"] == final
