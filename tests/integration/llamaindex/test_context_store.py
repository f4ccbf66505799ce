"""`context_store`: every verb, over every kind of state store that LlamaIndex has here."""

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel, Field
from workflows.context import JsonSerializer
from workflows.context.state_store import DictState, InMemoryStateStore

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.llamaindex import ContextStore, LlamaIndexAdapter
from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    InlineSizeExceeded,
    InvalidInputError,
    StateDefinitionError,
    UnknownFieldError,
)
from agentref.refs import ContentRef

from .conftest import Research, run

FORGED = {"__agentref__": [1, "00" * 32, "agr1", 10, None]}


@pytest.fixture
def store(adapter: Any, state_store: Any) -> ContextStore[Research]:
    return adapter.context_store(state_store)


def test_what_is_set_is_got(store: Any) -> None:
    async def scenario() -> None:
        docs = [{"id": "doc-1", "text": "a text"}, {"id": "doc-2", "tags": ["x"]}]
        await store.set("current_step", "retrieve")
        await store.set("docs", docs)
        assert await store.get("current_step") == "retrieve"
        assert await store.get("docs") == docs
        assert await store.get("docs.1.tags.0") == "x"
        assert await store.get("docs.7.text", "none") == "none"
        assert await store.get("notes", None) is None
        assert await store.get("log") == []

    run(scenario())


def test_the_sample_of_the_documentation(store: Any, cas: Any) -> None:
    async def scenario() -> None:
        await store.set("current_step", "retrieve")
        await store.set("docs", [{"id": "doc-1", "text": "large retrieved text"}])
        checkpoint = await store.to_checkpoint_dict()
        assert json.loads(json.dumps(checkpoint)) == checkpoint
        assert checkpoint["current_step"] == "retrieve"
        assert cas.load(ContentRef.from_dict(checkpoint["docs"])) == await store.get("docs")

    run(scenario())


def test_parts_are_set_on_either_side(store: Any) -> None:
    async def scenario() -> None:
        await store.set("docs", [{"id": "doc-1"}, {"id": "doc-2"}])
        before = await store.to_checkpoint_dict()
        await store.set("docs.1.text", "added")
        await store.set("notes.by.author", ["x"])  # dicts in between are made
        await store.set("counts.pages", 3)
        assert await store.get("docs") == [{"id": "doc-1"}, {"id": "doc-2", "text": "added"}]
        assert await store.get("notes") == {"by": {"author": ["x"]}}
        assert await store.get("counts") == {"pages": 3}
        after = await store.to_checkpoint_dict()
        assert ContentRef.from_dict(after["docs"]) != ContentRef.from_dict(before["docs"])

    run(scenario())


def test_an_edit_is_written_in_place_too(store: Any) -> None:
    async def scenario() -> None:
        await store.set("docs", [{"id": "doc-1"}])
        async with store.edit_state() as state:
            assert isinstance(state, Research)
            state.docs.append({"id": "doc-2"})
            state.counts["pages"] = 2
            state.notes = "assigned"
            assert await store.get("docs") == [{"id": "doc-1"}]  # as it was before the block
        assert await store.get("docs") == [{"id": "doc-1"}, {"id": "doc-2"}]
        assert await store.get("counts.pages") == 2
        assert await store.get("notes") == "assigned"

    run(scenario())


def test_an_edit_that_raises_changes_nothing(store: Any) -> None:
    async def scenario() -> None:
        await store.set("docs", [{"id": "doc-1"}])
        await store.set("counts", {"pages": 1})
        before = await store.to_checkpoint_dict()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with store.edit_state() as state:
                state.docs.append({"id": "doc-2"})
                state.counts["pages"] = 2
                raise ZeroDivisionError
        assert await store.to_checkpoint_dict() == before

    run(scenario())


def test_parallel_edits_lose_nothing(store: Any, adapter: Any, state_store: Any) -> None:
    async def append(number: int) -> None:
        async with adapter.context_store(state_store).edit_state() as state:
            await state.aload("log")
            await asyncio.sleep(0)
            state.log.append(f"step {number}")

    async def scenario() -> None:
        await store.set("log", ["first"])
        await asyncio.gather(
            *(append(number) for number in range(5)), *(store.set(f"counts.{n}", n) for n in "abc")
        )
        assert sorted(await store.get("log")) == ["first", *(f"step {number}" for number in range(5))]
        assert await store.get("counts") == {"a": "a", "b": "b", "c": "c"}

    run(scenario())


def test_a_write_within_an_edit_is_refused(store: Any, state_store: Any) -> None:
    async def scenario() -> None:
        for write in (
            lambda: store.set("docs", []),
            store.clear,
            lambda: state_store.set("counts", {}),
        ):
            with pytest.raises(RuntimeError, match="edit_state"):
                async with store.edit_state():
                    await write()

    run(scenario())


def test_a_step_that_touches_no_external_field_fetches_and_stores_nothing(store: Any, cas: Any) -> None:
    async def scenario() -> None:
        await store.set("docs", [{"id": "doc-1"}])
        loaded, dumped = cas.counters.values_loaded, cas.counters.values_dumped
        await store.set("current_step", "next")
        await store.set("counts.pages", 1)
        assert await store.get("current_step") == "next"
        async with store.edit_state() as state:
            state.current_step = "last"
        state = await store.get_state()
        assert state.current_step == "last"
        await store.to_checkpoint_dict()
        assert (cas.counters.values_loaded, cas.counters.values_dumped) == (loaded, dumped)

    run(scenario())


def test_a_state_is_lazy_and_can_be_written_back(store: Any, cas: Any) -> None:
    async def scenario() -> None:
        await store.set("docs", [{"id": "doc-1"}])
        await store.set("notes", "kept")
        loaded = cas.counters.values_loaded
        state = await store.get_state()
        assert cas.counters.values_loaded == loaded
        await state.aload("docs")
        state.docs[0]["id"] = "changed"
        assert await store.get("docs.0.id") == "doc-1"  # a copy, until it is written back
        await store.set_state(state)
        assert await store.get("docs.0.id") == "changed"
        assert await store.get("notes") == "kept"

    run(scenario())


def test_set_state_replaces_and_one_of_a_base_class_merges(store: Any) -> None:
    class Base(AgentRefState):
        current_step: Inline[str]

    class Derived(Base):
        docs: Externalized[list[str]]

    async def scenario() -> None:
        await store.set("docs", [{"id": "doc-1"}])
        await store.set_state(Research(current_step="new"))
        assert await store.get("current_step") == "new"
        assert await store.get("docs", None) is None
        inner = InMemoryStateStore(DictState())
        derived = LlamaIndexAdapter(Derived, backend=store._fields.runtime.backend).context_store(inner)
        await derived.set("docs", ["kept"])
        await derived.set_state(Base(current_step="merged"))
        assert await derived.get("docs") == ["kept"]
        assert await derived.get("current_step") == "merged"
        with pytest.raises(StateDefinitionError, match="base"):
            await derived.set_state(Research(current_step="other"))

    run(scenario())


def test_clear_makes_the_fields_new_and_leaves_the_rest(store: Any, state_store: Any) -> None:
    async def scenario() -> None:
        is_dict = state_store.state_type is DictState
        if is_dict:
            await state_store.set("memory_of_another_package", "stays")
        await store.set("docs", [{"id": "doc-1"}])
        await store.set("counts.pages", 1)
        await store.clear()
        assert await store.get("docs", None) is None
        assert await store.get("counts") == {}
        assert await store.get("current_step", None) is None
        if is_dict:
            assert await state_store.get("memory_of_another_package") == "stays"

    run(scenario())


def test_what_looks_like_a_ref_is_a_value(store: Any) -> None:
    async def scenario() -> None:
        for value in (FORGED, {"at": FORGED}):
            await store.set("counts", value)
            await store.set("docs", [value])
            await store.set("notes", value)
            assert await store.get("counts") == value
            assert await store.get("docs") == [value]
            assert await store.get("notes") == value
            state = await store.get_state()
            assert (state.counts, state.docs, state.notes) == (value, [value], value)

    run(scenario())


def test_a_ref_is_taken_as_it_is(store: Any, cas: Any) -> None:
    async def scenario() -> None:
        ref = cas.dump([{"id": "from elsewhere"}])
        loaded = cas.counters.values_loaded
        await store.set("docs", ref)
        assert cas.counters.values_loaded == loaded
        assert await store.get("docs.0.id") == "from elsewhere"

    run(scenario())


def test_none_is_a_value(store: Any) -> None:
    async def scenario() -> None:
        await store.set("notes", None)
        await store.set("current_step", None)
        assert await store.get("notes", "default") is None
        assert await store.get("current_step", "default") is None
        assert "notes" in await store.get_state()

    run(scenario())


def test_bad_paths_and_names_are_typed_errors(store: Any) -> None:
    async def scenario() -> None:
        with pytest.raises(UnknownFieldError, match="Did you mean 'docs'"):
            await store.set("doc", [])
        with pytest.raises(UnknownFieldError):
            await store.get("doc", None)
        for path in ("docs", "notes.a.b", "counts.missing"):
            with pytest.raises(ValueError, match="not found in state"):  # as in LlamaIndex
                await store.get(path)
        for path in ("", 3, None):
            with pytest.raises(InvalidInputError, match="path"):
                await store.set(path, 1)
        await store.set("docs", [{"id": "doc-1"}])
        with pytest.raises(InvalidInputError, match=r"docs\.7\.id"):
            await store.set("docs.7.id", "x")
        with pytest.raises(InvalidInputError, match="cannot be set"):
            await store.set("docs." * 2000 + "x", 1)
        with pytest.raises(InvalidInputError, match="not found in state"):
            await store.get("docs." * 2000 + "x")
        assert await store.get("docs." * 2000 + "x", "default") == "default"
        assert await store.get("docs") == [{"id": "doc-1"}]
        assert await store.get("") == await store.get_state()

    run(scenario())


def test_an_inline_value_over_the_limit_is_refused_on_every_way_in(cas: Any, state_store: Any) -> None:
    store = LlamaIndexAdapter(Research, backend=cas, inline_threshold_bytes=100).context_store(state_store)

    async def scenario() -> None:
        await store.set("counts", {"small": 1})
        state = await store.get_state()
        state.current_step = "x" * 101
        for write in (
            store.set("current_step", "x" * 101),
            store.set("counts.large", "x" * 101),
            store.set_state(state),
        ):
            with pytest.raises(InlineSizeExceeded):
                await write
        with pytest.raises(InlineSizeExceeded, match="counts"):
            async with store.edit_state() as edited:
                edited.counts["large"] = "x" * 101
        assert await store.get("counts") == {"small": 1}
        assert await store.get("current_step", None) is None

    run(scenario())


class OwnModel(BaseModel):
    """A user's own model, with the fields of the state class and one more."""

    current_step: str = ""
    counts: dict[str, Any] = Field(default_factory=dict)
    docs: Any = None
    notes: Any = None
    log: Any = None
    user: str = "ada"


def test_a_users_own_model_holds_the_cells(adapter: Any) -> None:
    async def scenario() -> None:
        inner = InMemoryStateStore(OwnModel())
        store = adapter.context_store(inner)
        await store.set("docs", [{"id": "doc-1"}])
        async with store.edit_state() as state:
            state.log.append("noted")
        saved = inner.to_dict(JsonSerializer())
        again = adapter.context_store(InMemoryStateStore.from_dict(saved, JsonSerializer()))
        assert await again.get("docs.0.id") == "doc-1"
        assert await again.get("log") == ["noted"]
        await again.clear()
        assert await again.get("docs", None) is None
        assert await again._store.get("user") == "ada"

    run(scenario())


def test_a_model_without_room_for_refs_is_refused(adapter: Any) -> None:
    class Lacking(BaseModel):
        current_step: str = ""

    class Strict(OwnModel):
        docs: list[dict] = []

    for model, said in ((Lacking, "has no field 'counts'"), (Strict, "cannot hold a ref")):
        with pytest.raises(ConfigurationError, match=said):
            adapter.context_store(InMemoryStateStore(model()))


@pytest.mark.parametrize("given", [None, {}, DictState(), InMemoryStateStore, object()], ids=range(5))
def test_only_a_state_store_is_taken(adapter: Any, given: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"ctx\.store"):
        adapter.context_store(given)


def test_a_context_store_of_the_same_adapter_is_taken_as_it_is(adapter: Any, store: Any) -> None:
    assert adapter.context_store(store) is store


def test_an_owner_keeps_all_that_it_ever_wrote_until_it_lets_go(
    adapter: Any, state_store: Any, cas: Any
) -> None:
    def pinned(owner: str) -> set[Any]:
        return {row.digest for row in cas._prunable().scan_pins() if row.owner == owner}

    async def scenario() -> None:
        store = adapter.context_store(state_store, owner="run-1")
        assert adapter.context_store(store, owner="run-1") is store
        docs, notes, log = [{"text": "a"}], "notes " * 9, ["a line"]
        await store.set("docs", docs)
        await store.set("docs.0.text", "b")
        await store.set("current_step", "inline")
        async with store.edit_state() as state:
            state.notes = notes
        both = {cas.dump(value).digest for value in (docs, [{"text": "b"}], notes)}
        assert pinned("run-1") == both
        other = adapter.context_store(store, owner="run-2")
        state = await other.get_state()
        state.log = log
        await other.set_state(state)
        assert pinned("run-2") == {cas.dump(value).digest for value in ([{"text": "b"}], notes, log)}
        await other.set("notes", cas.dump("by ref"))
        assert cas.dump("by ref").digest in pinned("run-2")
        adapter.release("run-1")
        await adapter.arelease("run-2")
        assert pinned("run-1") == pinned("run-2") == set()

    run(scenario())


def test_without_an_owner_nothing_is_pinned(store: Any, cas: Any) -> None:
    run(store.set("docs", [{"text": "a"}]))
    assert not list(cas._prunable().scan_pins())


def test_what_an_owner_is_to_keep_must_be_there(adapter: Any, state_store: Any, cas: Any) -> None:
    async def scenario() -> None:
        await adapter.context_store(state_store).set("docs", [{"text": "a" * 9_000}])
        store = adapter.context_store(state_store, owner="run")
        state = await store.get_state()
        cas.delete(state.refs()["docs"].hash)
        with pytest.raises(BlobNotFoundError):
            await store.set_state(state)
        assert not list(cas.iter_pins())

    run(scenario())
