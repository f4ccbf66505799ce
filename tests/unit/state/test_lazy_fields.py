"""From state to checkpoint and back: what is stored, what is loaded, when, and in how many batches."""

import asyncio
import copy
import threading

import pytest

from agentref.errors import (
    BlobNotFoundError,
    ConfigurationError,
    InlineSizeExceeded,
    InvalidInputError,
    InvalidRefError,
    UnknownFieldError,
    UnsupportedTypeError,
)
from agentref.refs import REF_KEY, ContentRef
from agentref.state import AgentRefState, AsyncValueStore, Externalized, Inline, ValueStore, field

DOCS = ["text " * 300, "more " * 300]


class RAGState(AgentRefState):
    question: Inline[str]
    docs: Externalized[list[str]]
    html: Externalized[str]
    notes: Inline[object] = None


class Defaults(AgentRefState):
    docs: Externalized[list[str]] = field(default_factory=list)
    step: Inline[int] = 1


class SyncOnly:
    """The sync half of a store."""

    def __init__(self, store):
        self.dump, self.dump_many = store.dump, store.dump_many
        self.load, self.load_many = store.load, store.load_many
        self.size_of = store.size_of


class AsyncOnly:
    """The async half of a store."""

    def __init__(self, store):
        self.adump_many, self.aload_many = store.adump_many, store.aload_many
        self.size_of = store.size_of


@pytest.fixture
def checkpoint(store):
    data = RAGState(question="q", docs=DOCS, html="<p>").to_checkpoint_dict(store)
    store.calls.clear()
    return data


def test_a_checkpoint_carries_inline_values_and_refs(store):
    state = RAGState(question="q", docs=DOCS, html="<p>")
    data = state.to_checkpoint_dict(store)
    assert list(data) == ["question", "docs", "html", "notes"]
    assert (data["question"], data["notes"]) == ("q", None)
    assert store.load(ContentRef.from_dict(data["docs"])) == DOCS
    assert "text" not in repr(data)


def test_all_external_values_are_stored_in_one_batch(store):
    RAGState(question="q", docs=DOCS, html="<p>").to_checkpoint_dict(store)
    assert store.calls == [("dump", 2)]


def test_unset_fields_are_absent_from_a_checkpoint(store):
    assert RAGState(question="q").to_checkpoint_dict(store) == {"question": "q", "notes": None}
    assert store.calls == []


def test_a_restored_state_reads_nothing_until_a_field_is_read(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    assert list(state) == ["question", "docs", "html", "notes"]
    assert len(state) == 4
    assert state.question == "q"
    assert "docs" in state
    assert set(state.refs()) == {"docs", "html"}
    assert store.calls == []
    assert state.docs == DOCS
    assert store.calls == [("load", 1)]
    assert state.docs is state["docs"]
    assert store.calls == [("load", 1)]


def test_the_repr_never_loads(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    size = ContentRef.from_dict(checkpoint["docs"]).size
    assert f"docs=<external {size:,} bytes>" in repr(state)
    assert store.calls == []


def test_a_state_that_nobody_touched_is_checkpointed_without_io(store, checkpoint):
    assert RAGState.from_checkpoint_dict(checkpoint, store).to_checkpoint_dict(store) == checkpoint
    assert store.calls == []


def test_a_change_in_place_is_never_lost(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    state.docs.append("third")
    again = RAGState.from_checkpoint_dict(state.to_checkpoint_dict(store), store)
    assert again.docs == [*DOCS, "third"]
    assert store.calls == [("load", 1), ("dump", 1), ("load", 1)]


def test_a_value_that_was_read_and_not_changed_keeps_its_ref(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    assert state.docs == DOCS
    assert state.to_checkpoint_dict(store) == checkpoint


def test_an_assigned_value_replaces_a_ref_that_was_not_loaded(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    state.docs = ["new"]
    assert state.refs().keys() == {"html"}
    again = RAGState.from_checkpoint_dict(state.to_checkpoint_dict(store), store)
    assert again.docs == ["new"]
    assert ("load", 1) in store.calls  # of `again` only
    assert store.calls[0] == ("dump", 1)


def test_touched_are_the_external_fields_that_were_read_loaded_or_assigned(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    assert state.question == "q"
    assert state.touched() == frozenset()
    _ = state.docs
    assert state.touched() == {"docs"}
    state.html = "<b>"
    assert state.touched() == {"docs", "html"}
    assert RAGState(docs=["a"]).touched() == {"docs"}


def test_a_default_is_touched_when_it_is_read():
    state = Defaults()
    assert state.touched() == frozenset()
    state.docs.append("a")
    assert state.touched() == {"docs"}


def test_several_fields_are_loaded_in_one_batch(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    state.load("docs", "html", "question")
    assert store.calls == [("load", 2)]
    state.load()
    assert store.calls == [("load", 2)]
    assert state.refs() == {}


def test_load_without_names_loads_everything_and_values_does_too(store, checkpoint):
    RAGState.from_checkpoint_dict(checkpoint, store).load()
    assert store.calls == [("load", 2)]
    assert RAGState.from_checkpoint_dict(checkpoint, store).values() == ["q", DOCS, "<p>", None]
    assert store.calls == [("load", 2), ("load", 2)]


def test_loading_a_field_that_is_unset_does_nothing(store):
    state = RAGState.from_checkpoint_dict({"question": "q"}, store)
    state.load("docs")
    assert "docs" not in state
    assert store.calls == []


def test_an_absent_field_gets_its_default(store):
    state = Defaults.from_checkpoint_dict({}, store)
    assert (state.docs, state.step) == ([], 1)
    assert Defaults.from_checkpoint_dict({"step": 5}, store).step == 5


def test_a_checkpoint_from_before_adoption_is_taken_and_then_externalized(store):
    state = RAGState.from_checkpoint_dict({"question": "q", "docs": DOCS, "html": "<p>"}, store)
    assert state.docs == DOCS
    assert store.calls == []
    assert ContentRef.from_dict(state.to_checkpoint_dict(store)["html"]) == store.dump("<p>")


def test_a_ref_object_is_taken_as_a_ref(store):
    state = RAGState.from_checkpoint_dict({"docs": store.dump(DOCS)}, store)
    assert state.touched() == frozenset()
    assert state.docs == DOCS


def test_an_inline_value_that_looks_like_a_ref_is_user_data(store, checkpoint):
    for likeness in (checkpoint["docs"], {REF_KEY: "anything"}):
        state = RAGState.from_checkpoint_dict({"notes": likeness}, store)
        assert state.notes == likeness
        assert state.to_checkpoint_dict(store)["notes"] == likeness
    assert store.calls == []


@pytest.mark.parametrize("body", [None, [], [1, "zz", "c", 3, None], [9, "00" * 32, "c", 3, None]])
def test_a_malformed_ref_in_an_external_field_is_refused(store, body):
    with pytest.raises((InvalidRefError, InvalidInputError)) as caught:
        RAGState.from_checkpoint_dict({"docs": {REF_KEY: body}}, store)
    assert "docs" in caught.value.__notes__[0]


def test_a_checkpoint_with_a_key_that_is_not_declared_is_refused(store):
    with pytest.raises(UnknownFieldError, match="dcos"):
        RAGState.from_checkpoint_dict({"question": "q", "dcos": []}, store)


@pytest.mark.parametrize("data", [None, [("question", "q")], "question"])
def test_a_checkpoint_that_is_no_mapping_is_refused(store, data):
    with pytest.raises(InvalidInputError, match="is a mapping"):
        RAGState.from_checkpoint_dict(data, store)


def test_an_inline_value_over_the_limit_is_refused_before_anything_is_stored(store):
    state = RAGState(question="q" * 70_000, docs=DOCS)
    with pytest.raises(InlineSizeExceeded) as caught:
        state.to_checkpoint_dict(store)
    assert (caught.value.field, caught.value.limit) == ("question", 64 * 1024)
    assert caught.value.size > 70_000
    assert store.calls == []
    assert state.to_checkpoint_dict(store, inline_threshold_bytes=80_000)["question"] == "q" * 70_000


def test_an_inline_value_of_exactly_the_limit_is_carried(store):
    state = RAGState(question="q" * 100)
    size = store.size_of(state.question)
    assert state.to_checkpoint_dict(store, inline_threshold_bytes=size)
    with pytest.raises(InlineSizeExceeded):
        state.to_checkpoint_dict(store, inline_threshold_bytes=size - 1)


def test_an_inline_value_that_grew_in_place_is_measured_again(store):
    state = RAGState(notes=["a"])
    state.to_checkpoint_dict(store, inline_threshold_bytes=50)
    state.notes.append("b" * 50)
    with pytest.raises(InlineSizeExceeded):
        state.to_checkpoint_dict(store, inline_threshold_bytes=50)


@pytest.mark.parametrize("limit", [-1, True, 3.5, "64", None])
def test_a_limit_that_is_no_size_is_refused(store, limit):
    with pytest.raises(InvalidInputError, match="inline_threshold_bytes"):
        RAGState().to_checkpoint_dict(store, inline_threshold_bytes=limit)


@pytest.mark.parametrize("name", ["docs", "notes"])
def test_a_value_that_cannot_be_encoded_is_an_error_that_names_the_field(store, name):
    with pytest.raises(UnsupportedTypeError) as caught:
        RAGState(**{name: object()}).to_checkpoint_dict(store)
    assert str(caught.value).startswith(f"In RAGState.{name}: A value of type builtins.object")


def test_a_value_that_is_gone_is_an_error_that_names_the_field_and_harms_no_other(store, checkpoint):
    store.delete(ContentRef.from_dict(checkpoint["docs"]).hash)
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    with pytest.raises(BlobNotFoundError) as caught:
        state.get("docs")
    assert "docs" in caught.value.__notes__[0]
    assert state.html == "<p>"
    assert "docs" in state.refs()


def test_equal_refs_are_equal_values_and_are_not_loaded(store, checkpoint):
    one, other = (RAGState.from_checkpoint_dict(checkpoint, store) for _ in range(2))
    assert one == other
    assert store.calls == []


def test_different_inline_values_are_unequal_before_anything_is_loaded(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    assert state != RAGState(question="other", docs=DOCS, html="<p>")
    assert store.calls == []


def test_a_loaded_and_an_unloaded_state_are_compared_by_values(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    assert state == RAGState(question="q", docs=list(DOCS), html="<p>")
    assert RAGState(question="q", docs=DOCS, html="<b>") != RAGState.from_checkpoint_dict(checkpoint, store)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_shares_what_is_not_loaded_and_the_store(store, checkpoint, duplicate):
    state = RAGState.from_checkpoint_dict(checkpoint, store)
    twin = duplicate(state)
    assert store.calls == []
    assert twin.docs == DOCS
    assert (twin.touched(), state.touched()) == ({"docs"}, frozenset())
    assert duplicate(twin).touched() == {"docs"}


def test_threads_that_read_a_lazy_field_together_get_the_same_value(store, checkpoint):
    workers = 8
    for _ in range(20):
        state = RAGState.from_checkpoint_dict(checkpoint, store)
        start = threading.Barrier(workers)
        seen = []

        def read(state=state, start=start, seen=seen):
            start.wait()
            state.docs.append(threading.get_ident())
            seen.append(id(state.docs))

        threads = [threading.Thread(target=read) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(seen)) == 1
        assert len(state.docs) == len(DOCS) + workers
        assert state.refs().keys() == {"html"}


def test_a_value_assigned_while_it_is_loading_wins(store, checkpoint):
    state = RAGState.from_checkpoint_dict(checkpoint, store)

    class Slow(SyncOnly):
        def __init__(self, store):
            super().__init__(store)
            self.load_many = lambda refs: (setattr(state, "docs", ["assigned"]), store.load_many(refs))[1]

    state._agentref_cells._store = Slow(store)
    state.load("docs")
    assert state.docs == ["assigned"]


def test_the_async_twins_do_the_same_in_as_many_batches(store):
    async def run():
        data = await RAGState(question="q", docs=DOCS, html="<p>").ato_checkpoint_dict(store)
        state = RAGState.from_checkpoint_dict(data, store)
        await state.aload("docs", "html")
        assert (state.docs, state.html) == (DOCS, "<p>")
        await state.aload()
        assert await RAGState(question="q").ato_checkpoint_dict(store) == {"question": "q", "notes": None}
        return data, await RAGState.from_checkpoint_dict(data, store).ato_checkpoint_dict(store)

    first, second = asyncio.run(run())
    assert first == second
    assert [call for call in store.calls if call[0].startswith("a")] == [("adump", 2), ("aload", 2)]


def test_the_async_twins_refuse_what_the_sync_ones_refuse(store):
    async def run():
        with pytest.raises(InlineSizeExceeded):
            await RAGState(question="q" * 70_000).ato_checkpoint_dict(store)
        with pytest.raises(UnsupportedTypeError) as caught:
            await RAGState(html="h", docs=["a", object()]).ato_checkpoint_dict(store)
        assert str(caught.value).startswith("In RAGState.docs[1]: ")
        with pytest.raises(UnknownFieldError):
            await RAGState().aload("dcos")

    asyncio.run(run())


def test_a_store_of_one_colour_says_what_to_call_instead(store, checkpoint):
    assert isinstance(store, ValueStore)
    assert isinstance(store, AsyncValueStore)
    with pytest.raises(ConfigurationError, match=r"await state\.aload\(\)"):
        _ = RAGState.from_checkpoint_dict(checkpoint, AsyncOnly(store)).docs
    with pytest.raises(ConfigurationError, match=r"state\.load\(\)"):
        asyncio.run(RAGState.from_checkpoint_dict(checkpoint, SyncOnly(store)).aload())

    async def run():
        state = RAGState.from_checkpoint_dict(checkpoint, AsyncOnly(store))
        await state.aload()
        return state.docs

    assert asyncio.run(run()) == DOCS
