"""What a context hands out is a copy, and what it takes has the declared type."""

import asyncio
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from llama_agents.server import SqliteWorkflowStore
from pydantic import BaseModel, ConfigDict, Field
from workflows.context.state_store import DictState, InMemoryStateStore

from agentref import AgentRefState, Externalized, Inline, field
from agentref.adapters.llamaindex import ContextStore, LlamaIndexAdapter
from agentref.errors import ConfigurationError, InlineSizeExceeded, InvalidInputError

from .conftest import Research, run


@pytest.fixture
def store(adapter: Any, state_store: Any) -> ContextStore[Research]:
    return adapter.context_store(state_store)


def test_what_is_read_of_the_context_itself_is_a_copy(store: Any, state_store: Any) -> None:
    async def scenario() -> None:
        await store.set("counts", {"notes": {"read": 1}})
        await state_store.set("notes", ["written without agentref", {"deep": []}])
        (await store.get("counts"))["more"] = 2
        (await store.get("counts.notes"))["read"] = 3
        (await store.get("notes")).append("not written")
        (await store.get("notes.1.deep")).append("not written")
        state = await store.get_state()
        state.counts["more"] = 2
        state.notes[1]["deep"].append("not written")
        (await store.to_checkpoint_dict())["counts"]["more"] = 2
        assert await store.get("counts") == {"notes": {"read": 1}}
        assert await store.get("notes") == ["written without agentref", {"deep": []}]

    run(scenario())


@pytest.mark.parametrize("state_store", ["dict", "typed"], indirect=True)
def test_a_live_handle_in_the_context_is_handed_out_itself(store: Any, state_store: Any) -> None:
    async def scenario() -> None:
        handle = threading.Lock()
        endless: list[Any] = []
        endless.append(endless)
        await store.set("counts", {"lock": handle, "plain": [1, (2, [3])]})
        await state_store.set("notes", endless)
        (await store.get("counts"))["plain"].append("not written")
        (await store.get("counts"))["plain"][1][1].append("not written")
        assert await store.get("counts.plain") == [1, (2, [3])]
        found = await store.get("notes")
        assert found is not endless
        assert found[0] is found
        assert (await store.get("counts.lock")) is handle
        assert (await store.get_state()).counts["lock"] is handle

    run(scenario())


@dataclass(frozen=True)
class Held:
    event: asyncio.Event
    seen: list[int]


class HeldModel(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    event: asyncio.Event
    seen: list[int]


@pytest.mark.parametrize("kind", [Held, HeldModel])
def test_what_steps_share_is_shared_wherever_it_is_held(cas: Any, kind: Any) -> None:
    async def scenario() -> None:
        store = LlamaIndexAdapter(Typed, backend=cas).context_store(InMemoryStateStore(DictState()))
        event = asyncio.Event()
        await store.set("anything", {"event": event, "held": (kind(event=event, seen=[1]),)})
        (await store.get("anything"))["held"][0].seen.append(2)
        found = await store.get("anything")
        assert found["event"] is event
        assert found["held"][0].event is event
        assert found["held"][0].seen == [1]

    run(scenario())


class Color(Enum):
    RED = "red"


class Person(BaseModel):
    name: str


class Typed(AgentRefState):
    """A state of the types that JSON and pydantic have something to say about."""

    step: Inline[str]
    when: Inline[datetime]
    tags: Inline[list[str]] = field(default_factory=list)
    number: Inline[float] = 0.0
    color: Inline[Color]
    person: Inline[Person]
    pair: Inline[tuple[int, ...]]
    pairs: Inline[dict[tuple[int, int], str]]
    scores: Inline[list[float]]
    counts: Inline[dict[str, Any]]
    rows: Inline[list[dict[str, Any]]]
    stream: Inline[Iterable[str]]
    anything: Inline[Any]
    lock: Inline[ContextStore]
    docs: Externalized[Any]


NOW = datetime(2026, 1, 1, tzinfo=UTC)
RIGHT = [
    ("step", "a"),
    ("step", None),
    ("when", NOW),
    ("tags", []),
    ("tags", ["a", "b"]),
    ("number", 1),
    ("number", 1.5),
    ("color", Color.RED),
    ("person", Person(name="ada")),
    ("pair", (1, 2)),
    ("anything", {"a": [1, None]}),
    ("scores", [0.5, math.inf]),
    ("counts", {"a": [1, None]}),
    ("rows", [{"a": 1}, {}]),
    ("docs", {1, 2}),
]
WRONG = [
    ("step", 5),
    ("when", "yesterday"),
    ("tags", "abc"),
    ("tags", [1, 2]),
    ("pairs", {(1, 2): "a"}),
    ("rows", [{"a": 1}, 5]),
    ("counts", [1]),
    ("number", "one"),
    ("color", "blue"),
    ("person", {"name": 5}),
    ("lock", 5),
]
CONVERTED = [
    ("step", b"abc", "abc"),
    ("when", NOW.isoformat(), NOW),
    ("tags", ("a",), ["a"]),
    ("tags", {"a"}, ["a"]),
    ("number", "1", 1.0),
    ("person", {"name": "ada"}, Person(name="ada")),
    ("pair", [1, 2], (1, 2)),
    ("counts", {1: "a"}, {"1": "a"}),
]


@pytest.fixture(params=["in memory", "durable"])
def typed(request: pytest.FixtureRequest, cas: Any, tmp_path: Path) -> ContextStore[Typed]:
    adapter = LlamaIndexAdapter(Typed, backend=cas)
    if request.param == "in memory":
        return adapter.context_store(InMemoryStateStore(adapter.schema()()))
    server = SqliteWorkflowStore(str(tmp_path / "typed.db"))
    return adapter.context_store(server.create_state_store("run-1", adapter.schema()))


@pytest.mark.parametrize(("name", "value"), RIGHT, ids=str)
def test_a_value_of_the_declared_type_comes_back(typed: Any, name: str, value: Any) -> None:
    async def scenario() -> None:
        await typed.set(name, value)
        assert await typed.get(name) == value
        async with typed.edit_state() as state:
            setattr(state, name, value)

    run(scenario())


@pytest.mark.parametrize(("name", "value"), WRONG, ids=str)
def test_a_value_of_another_type_is_refused_on_every_way_in(typed: Any, name: str, value: Any) -> None:
    async def scenario() -> None:
        await typed.set("docs", "the rest stays readable")
        with pytest.raises(InvalidInputError, match=rf"Typed\.{name} is declared as"):
            await typed.set(name, value)
        with pytest.raises(InvalidInputError, match=rf"Typed\.{name}"):
            async with typed.edit_state() as state:
                setattr(state, name, value)
        state = await typed.get_state()
        setattr(state, name, value)
        with pytest.raises(InvalidInputError, match=rf"Typed\.{name}"):
            await typed.set_state(state)
        assert await typed.get(name, "unset") in ("unset", [], 0.0)
        assert await typed.get("docs") == "the rest stays readable"

    run(scenario())


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize(("name", "value", "read"), CONVERTED, ids=str)
def test_what_comes_back_as_another_value_is_up_to_pydantic(
    cas: Any, tmp_path: Path, name: str, value: Any, read: Any
) -> None:
    async def scenario() -> None:
        adapter = LlamaIndexAdapter(Typed, backend=cas)
        server = SqliteWorkflowStore(str(tmp_path / "typed.db"))
        store = adapter.context_store(server.create_state_store("run-1", adapter.schema()))
        await store.set(name, value)
        assert await store.get(name) == read

    run(scenario())


def test_what_can_be_read_but_once_is_left_alone(cas: Any) -> None:
    async def scenario() -> None:
        adapter = LlamaIndexAdapter(Typed, backend=cas)
        store = adapter.context_store(InMemoryStateStore(adapter.schema()()))
        await store.set("stream", iter(["a", "b"]))
        assert list(await store.get("stream")) == ["a", "b"]
        await store.set("stream", ["a"])
        assert await store.get("stream") == ["a"]

    run(scenario())


class Defaulted(AgentRefState):
    tags: Inline[list[str]] = field(default_factory=tuple)
    number: Inline[int]
    docs: Externalized[Any]


def test_what_nobody_touched_is_not_looked_at(cas: Any) -> None:
    async def scenario() -> None:
        adapter = LlamaIndexAdapter(Defaulted, backend=cas, inline_threshold_bytes=64)
        state_store = InMemoryStateStore(adapter.schema()())
        store = adapter.context_store(state_store)
        await state_store.set("number", "five")  # LlamaIndex's own verb, which looks at nothing
        await state_store.set("tags", ["long" * 100])
        async with store.edit_state() as state:
            state.docs = "new"
        await store.set_state(await store.get_state())
        assert (await store.get("number"), await store.get("docs")) == ("five", "new")
        with pytest.raises(InvalidInputError, match="number"):
            async with store.edit_state() as state:
                state.number = "six"
        with pytest.raises(InlineSizeExceeded, match="tags"):
            async with store.edit_state() as state:
                state.tags.append("in place")
        assert await store.get("tags") == ["long" * 100]
        await store.clear()
        async with store.edit_state() as state:
            state.number = 1
        assert await store.get("tags") == ()

    run(scenario())


class Own(BaseModel):
    tags: list[str] = []
    number: int = 0
    docs: Any = None


def test_a_users_own_model_is_the_users(cas: Any) -> None:
    async def scenario() -> None:
        store = LlamaIndexAdapter(Defaulted, backend=cas).context_store(InMemoryStateStore(Own()))
        await store.set("number", "five")
        assert await store.get("number") == "five"

    run(scenario())


def test_a_part_of_another_type_is_refused(typed: Any) -> None:
    async def scenario() -> None:
        await typed.set("tags", ["a"])
        with pytest.raises(
            InvalidInputError, match=r"declared as list\[str\].*valid string \(Typed.tags.0\)"
        ):
            await typed.set("tags.0", 5)
        assert await typed.get("tags") == ["a"]

    run(scenario())


def test_a_context_that_declares_nothing_takes_any_type(cas: Any) -> None:
    async def scenario() -> None:
        store = LlamaIndexAdapter(Typed, backend=cas).context_store(InMemoryStateStore(DictState()))
        for name, value in WRONG:
            await store.set(name, value)
            assert await store.get(name) == value

    run(scenario())


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    current_step: str = ""
    counts: dict[str, Any] = {}
    docs: Any = None
    notes: Any = None
    log: Any = None


class Excluding(BaseModel):
    current_step: str = ""
    counts: dict[str, Any] = {}
    docs: Any = Field(default=None, exclude=True)
    notes: Any = None
    log: Any = None


def test_a_model_that_could_not_keep_the_cells_is_refused(adapter: Any) -> None:
    for model, said in ((Frozen, "is frozen"), (Excluding, "exclude=True")):
        with pytest.raises(ConfigurationError, match=said):
            adapter.context_store(InMemoryStateStore(model()))
