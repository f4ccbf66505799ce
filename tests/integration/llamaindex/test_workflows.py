"""Real workflows over the adapter: what their contexts carry, parallel steps, cancellation, a store that is
down.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from workflows import Context, Workflow, step
from workflows.context import JsonSerializer, PickleSerializer
from workflows.errors import WorkflowCancelledByUser
from workflows.events import StartEvent, StopEvent

from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.errors import (
    AgentRefError,
    BlobNotFoundError,
    ConfigurationError,
    InvalidRefError,
    StoreUnavailableError,
    UntrustedRefError,
)
from agentref.refs import ContentRef, Digest

from .conftest import Research, run, workflow_of

ROOT = Path(__file__).parents[3]

both = pytest.mark.parametrize("typed", [False, True], ids=["dict", "typed"])


@both
@pytest.mark.parametrize("serializer", [JsonSerializer, PickleSerializer])
def test_a_context_carries_no_payload_and_at_most_1500_bytes(  # noqa: PLR0917
    adapter: Any, text: str, typed: bool, serializer: Any, tmp_path: Path, in_files: Any
) -> None:
    async def scenario() -> None:
        workflow = workflow_of(adapter, text, typed=typed)
        handler = workflow.run()
        assert await handler == [1_000_000, 5]
        saved = json.dumps(handler.ctx.to_dict(serializer=serializer()))
        (tmp_path / "context.json").write_text(saved)
        assert in_files(text) == []
        assert len(saved) <= 1536
        ctx = Context.from_dict(workflow, json.loads(saved), serializer=serializer())
        store = adapter.context_store(ctx.store)
        assert await store.get("docs") == [{"id": "doc-1", "text": text}]
        assert sorted(await store.get("log")) == [f"note {number}" for number in range(5)]
        assert await store.get("counts.notes") == 5

    run(scenario())


def test_without_the_adapter_the_same_context_is_a_megabyte(text: str) -> None:
    class Stock(Workflow):
        @step
        async def retrieve(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await ctx.store.set("docs", [{"id": "doc-1", "text": text}])
            return StopEvent()

    async def scenario() -> None:
        handler = Stock().run()
        await handler
        assert len(json.dumps(handler.ctx.to_dict())) > 1_000_000

    run(scenario())


RESUME = """
import asyncio, json, sys
from workflows import Context, Workflow, step
from workflows.events import StartEvent, StopEvent
from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.storage import FilesystemCAS

class State(AgentRefState):
    runs: Inline[int] = 0
    docs: Externalized[list[dict]]

adapter = LlamaIndexAdapter(State, backend=FilesystemCAS("state_blobs"))
StateModel = adapter.schema()

class Resumable(Workflow):
    @step
    async def work(self, ctx: Context[StateModel], ev: StartEvent) -> StopEvent:
        async with adapter.context_store(ctx.store).edit_state() as state:
            state.runs += 1
            await state.aload()
            state.docs = [*state.get("docs", []), {"run": state.runs, "text": "the payload " * 50_000}]
        return StopEvent(result=[state.runs, [doc["run"] for doc in state.docs]])

async def main():
    workflow, ctx = Resumable(), None
    if sys.argv[1] != "new":
        with open("context.json") as file:
            ctx = Context.from_dict(workflow, json.load(file))
    handler = workflow.run(ctx=ctx)
    print(json.dumps(await handler))
    with open("context.json", "w") as file:
        json.dump(handler.ctx.to_dict(), file)

asyncio.run(main())
"""


def test_a_new_process_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(RESUME)
    said = [
        subprocess.run(
            [sys.executable, "app.py", how],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for how in ("new", "again", "again")
    ]
    assert [json.loads(line) for line in said] == [[1, [1]], [2, [1, 2]], [3, [1, 2, 3]]]
    saved = (tmp_path / "context.json").read_text()
    assert "the payload" not in saved
    assert len(saved) < 1536


def test_an_older_context_reads_its_own_version(adapter: Any) -> None:
    async def scenario() -> None:
        workflow = workflow_of(adapter, "first", typed=True)
        handler = workflow.run()
        await handler
        older = handler.ctx.to_dict()
        await adapter.context_store(handler.ctx.store).set("docs.0.text", "second")
        newer = handler.ctx.to_dict()
        for saved, expected in ((older, "first"), (newer, "second")):
            ctx = Context.from_dict(workflow, saved)
            assert await adapter.context_store(ctx.store).get("docs.0.text") == expected

    run(scenario())


def test_a_model_that_nobody_made_is_named(adapter: Any) -> None:
    saved = json.dumps(
        {
            "__is_pydantic": True,
            "value": {},
            "qualified_name": "agentref.adapters.llamaindex.models.app__Missing",
        }
    )
    with pytest.raises(AttributeError, match="imported first"):
        JsonSerializer().deserialize(saved)


def test_a_context_that_was_edited_is_a_typed_error_that_names_the_field(adapter: Any, cas: Any) -> None:
    async def edited(change: Any) -> Any:
        workflow = workflow_of(adapter, "text", typed=False)
        handler = workflow.run()
        await handler
        saved = handler.ctx.to_dict()
        cells = saved["state"]["state_data"]["_data"]
        cells["docs"] = change(cells["docs"])
        return adapter.context_store(Context.from_dict(workflow, saved).store)

    async def scenario() -> None:
        for change, error in (
            (lambda cell: cell.replace('"agr1"', '"zz99"'), InvalidRefError),
            (lambda cell: '{"__agentref__": 5}', InvalidRefError),
            (lambda cell: cell.replace("[1,", "[2,"), InvalidRefError),
            (
                lambda cell: json.dumps(ContentRef(Digest(bytes(32)), "agr1", 9).to_dict()),
                BlobNotFoundError,
            ),
        ):
            store = await edited(change)
            for reads in (store.get("docs"), store.set("docs.0.id", "x"), loaded(store)):
                with pytest.raises(error, match=r"\bdocs\b"):
                    await reads
            assert await store.get("current_step") == "retrieve"
            await store.set("docs", [])  # and so it is mended
            assert await store.get("docs") == []

    async def loaded(store: Any) -> None:
        await (await store.get_state()).aload("docs")

    run(scenario())


@both
def test_with_keys_a_ref_of_another_tenant_is_refused_and_nothing_loaded(
    cas: Any, text: str, typed: bool
) -> None:
    key = b"k" * 32

    def of(**how: Any) -> Any:
        return LlamaIndexAdapter(Research, backend=cas, **how)

    async def scenario() -> None:
        ada = of(keys=key, tenant="ada")
        handler = workflow_of(ada, text, typed=typed).run()
        await handler
        saved = json.loads(json.dumps(handler.ctx.to_dict()))
        for other, error in (
            (of(keys=key, tenant="eve"), UntrustedRefError),
            (of(keys=b"o" * 32, tenant="ada"), UntrustedRefError),
            (of(), ConfigurationError),
        ):
            store = other.context_store(
                Context.from_dict(workflow_of(other, text, typed=typed), saved).store
            )
            before = cas.counters.values_loaded
            for reads in (store.get("docs"), store.get_state(), store.set("docs.0.id", "x")):
                with pytest.raises(error, match=r"Research|In field"):
                    await reads
            assert cas.counters.values_loaded == before
        rotated = of(keys=[b"o" * 32, key], tenant="ada")
        store = rotated.context_store(
            Context.from_dict(workflow_of(rotated, text, typed=typed), saved).store
        )
        docs = await store.get("docs")
        await store.set_state(await store.get_state())
        assert await of(keys=b"o" * 32, tenant="ada").context_store(store._store).get("docs") == docs

    run(scenario())


def test_without_a_seal_no_ref_counts_where_there_are_keys(adapter: Any, cas: Any, text: str) -> None:
    async def scenario() -> None:
        handler = workflow_of(adapter, text, typed=False).run()
        await handler
        sealed = LlamaIndexAdapter(Research, backend=cas, keys=b"k" * 32)
        store = sealed.context_store(handler.ctx.store)
        with pytest.raises(UntrustedRefError, match="no seal"):
            await store.get("docs")

    run(scenario())


def test_the_loop_is_free_while_the_store_waits(
    adapter: Any, state_store: Any, cas: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store answers only once the loop has run: were it called on the loop, neither would go on."""

    async def freely(awaitable: Any) -> Any:
        released.clear()
        task = asyncio.ensure_future(awaitable)
        await asyncio.sleep(0.01)
        released.set()
        return await task

    released = threading.Event()
    for name in ("store", "fetch"):
        verb = getattr(cas._store, name)
        monkeypatch.setattr(
            cas._store, name, lambda *a, _verb=verb, **k: (released.wait(30), _verb(*a, **k))[1]
        )

    async def edit(store: Any) -> None:
        async with store.edit_state() as state:
            await state.aload("docs")
            state.docs.append({"id": "doc-2"})

    async def scenario() -> None:
        store = adapter.context_store(state_store)
        await freely(store.set("docs", [{"id": "doc-1"}]))
        await freely(store.set("docs.0.text", "x"))
        await freely(edit(store))
        state = await store.get_state()
        await freely(state.aload())
        await freely(store.set_state(state))
        assert await freely(store.get("docs")) == [{"id": "doc-1", "text": "x"}, {"id": "doc-2"}]

    run(scenario())


@both
def test_a_step_that_is_cancelled_in_an_edit_changes_nothing(adapter: Any, typed: bool) -> None:
    state: Any = Context[adapter.schema()] if typed else Context
    inside = asyncio.Event()

    class Slow(Workflow):
        @step
        async def work(self, ctx: state, ev: StartEvent) -> StopEvent:
            store = adapter.context_store(ctx.store)
            await store.set("docs", [{"id": "before"}])
            async with store.edit_state() as edited:
                await edited.aload("docs")
                edited.docs.append({"id": "never"})
                edited.current_step = "never"
                inside.set()
                await asyncio.sleep(3600)
            return StopEvent()

    async def scenario() -> None:
        handler = Slow(timeout=None).run()
        await inside.wait()
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        store = adapter.context_store(handler.ctx.store)
        assert await store.get("docs") == [{"id": "before"}]
        assert await store.get("current_step", "unset") == "unset"
        await store.set("docs", [{"id": "after"}])  # and nobody holds the lock

    run(scenario())


def test_a_store_that_is_down_is_a_typed_error_and_leaves_the_state_as_it_was(
    adapter: Any, state_store: Any, offline: Any
) -> None:
    async def scenario() -> None:
        store = adapter.context_store(state_store)
        await store.set("docs", [{"id": "doc-1", "text": "kept"}])
        await store.set("current_step", "before")
        before = await store.to_checkpoint_dict()
        state = await store.get_state()
        offline.begin()
        for fails in (
            store.get("docs"),
            store.set("docs", ["new"]),
            store.set("docs.0.id", "new"),
            store.set_state(Research(docs=[{"id": "new"}])),
            state.aload(),
        ):
            with pytest.raises(StoreUnavailableError):
                await fails
        with pytest.raises(StoreUnavailableError):  # noqa: PT012
            async with store.edit_state() as edited:
                edited.current_step = "after"
                edited.notes = "new"
        assert await store.to_checkpoint_dict() == before
        await store.set("current_step", "meanwhile")  # what is inline needs no store
        offline.end()
        assert await store.get("docs.0.text") == "kept"
        assert await store.get("current_step") == "meanwhile"

    run(scenario())


def test_a_step_fails_with_the_error_of_the_store(cas: Any, adapter: Any, offline: Any) -> None:
    async def scenario() -> None:
        offline.begin()
        with pytest.raises(StoreUnavailableError):
            await workflow_of(adapter, "text", typed=True).run()

    run(scenario())


def test_further_stores_are_read(cas: Any, tmp_path: Path) -> None:
    from agentref.storage import FilesystemCAS

    async def scenario() -> None:
        old = LlamaIndexAdapter(Research, backend=cas)
        handler = workflow_of(old, "from the old store", typed=True).run()
        await handler
        with FilesystemCAS(tmp_path / "new") as backend:
            new = LlamaIndexAdapter(Research, backend=backend, also=[cas])
            store = new.context_store(handler.ctx.store)
            assert await store.get("docs.0.text") == "from the old store"
            await store.set("docs.0.text", "moved")
            alone = LlamaIndexAdapter(Research, backend=backend).context_store(handler.ctx.store)
            assert await alone.get("docs.0.text") == "moved"
            with pytest.raises(AgentRefError, match="not configured here"):
                await alone.get("log")

    run(scenario())


@pytest.mark.parametrize("state_store", ["sqlite-dict", "sqlite-typed"], indirect=True)
def test_no_file_of_a_durable_store_holds_a_payload(
    adapter: Any, state_store: Any, text: str, in_files: Any, tmp_path: Path
) -> None:
    async def scenario() -> None:
        store = adapter.context_store(state_store)
        await store.set("docs", [{"id": "doc-1", "text": text}])
        await store.set("docs.0.more", text[::-1])
        async with store.edit_state() as state:
            state.notes = text[1000:]
        assert (tmp_path / "workflows.db").stat().st_size > 0
        assert in_files(text) == in_files(text[::-1]) == []
        await state_store.set("current_step", text)  # past the adapter: the search does find it
        assert in_files(text) != []

    run(scenario())
