"""`LlamaIndexAdapter`: what it refuses, and the model that it makes of a state class."""

import asyncio
import gc
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel, ValidationError
from workflows.context import JsonSerializer
from workflows.context.state_store import InMemoryStateStore, create_cleared_state

from agentref import AgentRefState, Externalized, Inline, field
from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.errors import ConfigurationError, InvalidInputError, StateDefinitionError
from agentref.storage import FilesystemCAS, InMemoryCAS


class Opaque:
    """A class that pydantic knows nothing of."""


class Pair(TypedDict):
    """A type that older versions of Python cannot show to pydantic."""

    left: int


class State(AgentRefState):
    name: Inline[str]
    when: Inline[datetime | None] = None
    tags: Inline[tuple[str, ...]] = field(default_factory=tuple)
    pair: Inline[Pair]
    opaque: Inline[Opaque]
    docs: Externalized[list[dict[str, Any]]]


class Empty(AgentRefState):
    pass


def adapter(state_class: Any = State, **how: Any) -> LlamaIndexAdapter[Any]:
    return LlamaIndexAdapter(state_class, **{"backend": InMemoryCAS(), **how})


@pytest.mark.parametrize("given", [None, dict, BaseModel, "State", State(name="x")], ids=repr)
def test_what_is_no_state_class_is_refused(given: Any) -> None:
    with pytest.raises(StateDefinitionError, match="no subclass of AgentRefState"):
        adapter(given)


def test_bad_arguments() -> None:
    with pytest.raises(StateDefinitionError, match="declares no field"):
        adapter(Empty)
    with pytest.raises(ConfigurationError, match="needs a store"):
        adapter(backend=None)
    for limit in (0, -1, True, "64", 1.5):
        with pytest.raises(InvalidInputError, match="inline_threshold_bytes"):
            adapter(inline_threshold_bytes=limit)
    with pytest.raises(InvalidInputError, match="backend must be a content-addressed store"):
        adapter(backend="./state_blobs")
    with pytest.raises(InvalidInputError, match="also must be a list"):
        adapter(also=InMemoryCAS())


def test_a_field_that_a_model_cannot_have_is_refused() -> None:
    class Clashing(AgentRefState):
        model_dump: Inline[str]

    with pytest.raises(StateDefinitionError, match=r"model_dump.*Rename the field"):
        adapter(Clashing)


def test_the_model_is_the_same_at_each_call_and_for_each_adapter() -> None:
    assert adapter().schema() is adapter().schema()

    def made() -> LlamaIndexAdapter[Any]:
        class State(AgentRefState):
            name: Inline[str]

        return adapter(State)

    first, second = made(), made()  # as when a cell of a notebook is run again
    models = [first.schema(), second.schema()]
    assert models[0] is not models[1]
    assert models == [first.schema(), second.schema()]
    text = JsonSerializer().serialize(models[0](name="ada"))
    assert type(JsonSerializer().deserialize(text)) is models[1]


def test_a_model_goes_with_its_state_class() -> None:
    def made(name: str) -> LlamaIndexAdapter[Any]:
        return adapter(type("Local", (AgentRefState,), {"__annotations__": {name: Inline[str]}}))

    first = made("a")
    text = JsonSerializer().serialize(first.schema()(a="ada"))
    second = made("b")
    found = JsonSerializer().deserialize(text)
    assert type(found) is second.schema()
    with pytest.raises(ConfigurationError, match="two of that name"):
        first.context_store(InMemoryStateStore(found))
    gone = weakref.ref(second.state_class)
    del second, found
    gc.collect()
    assert gone() is None
    assert type(JsonSerializer().deserialize(text)) is first.schema()
    del first
    gc.collect()
    with pytest.raises(AttributeError, match="imported first"):
        JsonSerializer().deserialize(text)


def test_a_state_class_stays_while_its_model_is_used() -> None:
    def made() -> type[Any]:
        class Kept(AgentRefState):
            number: Inline[int]

        return adapter(Kept).schema()

    model = made()
    gc.collect()
    text = JsonSerializer().serialize(model(number=5))
    assert type(JsonSerializer().deserialize(text)) is model
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_subclass_has_a_model_of_its_own() -> None:
    class Base(AgentRefState):
        a: Inline[str]

    class Derived(Base):
        b: Inline[str]

    models = [adapter(Base).schema(), adapter(Derived).schema()]
    assert [list(model.model_fields) for model in models] == [["a"], ["a", "b"]]


def test_the_model_has_typed_inline_fields_and_untyped_cells() -> None:
    model = adapter().schema()
    state = model(name="ada", when="2026-01-01T00:00:00Z", docs={"any": "cell"})
    assert state.when == datetime(2026, 1, 1, tzinfo=UTC)
    assert state.tags == ()
    assert state.docs == {"any": "cell"}
    with pytest.raises(ValidationError):
        model(name=["no", "text"])
    assert model(pair={"left": 1}).pair == {"left": 1}
    assert model(opaque=Opaque()).name is None


def test_only_what_is_set_is_dumped_and_types_come_back() -> None:
    model = adapter().schema()
    assert model().model_dump() == {}
    assert create_cleared_state(model).model_dump(mode="json") == {}
    state = model(name="ada", tags=("x", "y"), when=datetime(2026, 1, 1, tzinfo=UTC))
    found = JsonSerializer().deserialize(JsonSerializer().serialize(state))
    assert type(found) is model
    assert found == state
    assert found.model_fields_set == {"name", "tags", "when"}
    assert JsonSerializer(allowed_types=[model]).deserialize(JsonSerializer().serialize(state)) == state


def test_an_owner_is_of_its_tenant(tmp_path: Path) -> None:
    with FilesystemCAS(tmp_path) as cas:
        ada, eve = (adapter(backend=cas, keys=bytes(32), tenant=tenant) for tenant in ("ada", "eve"))

        def pinned() -> int:
            return len(list(cas._prunable().scan_pins()))

        for each in (ada, eve):
            store = each.context_store(InMemoryStateStore(each.schema()()), owner="run-1")
            asyncio.run(store.set("docs", [{"text": each.schema().__name__}]))
        assert pinned() == 2
        eve.release("run-1")
        assert pinned() == 1
        asyncio.run(eve.arelease("run-1"))
        assert pinned() == 1
        ada.release("run-1")
        assert pinned() == 0
