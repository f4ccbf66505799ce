"""Results of runs that cannot be had, and what the others say then."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from llama_agents.server import HandlerQuery, PersistentHandler, SqliteWorkflowStore
from workflows.context import JsonSerializer
from workflows.events import StopEvent

from agentref.adapters.llamaindex import AgentRefWorkflowStore
from agentref.errors import StoreUnavailableError

from .conftest import run


class Finished(StopEvent):
    """A result of a class of its own."""

    payload: str


@pytest.fixture
def inner(tmp_path: Path) -> SqliteWorkflowStore:
    return SqliteWorkflowStore(str(tmp_path / "workflows.db"))


@pytest.fixture
def store(inner: Any, cas: Any) -> AgentRefWorkflowStore:
    return AgentRefWorkflowStore(inner, backend=cas)


def test_a_result_of_a_class_that_is_gone_is_unreadable_as_in_llamaindex(store: Any, text: str) -> None:
    async def scenario() -> None:
        handler = PersistentHandler(
            handler_id="h",
            workflow_name="w",
            status="completed",
            run_id="run",
            result=Finished(payload=text),
        )
        await store.update(handler)
        store.result_decoder = lambda name: JsonSerializer(allowed_types=[])
        (found,) = await store.query(HandlerQuery())
        assert found.result is None
        assert found.result_unreadable
        store.result_decoder = {}.__getitem__  # the workflow is not registered
        (found,) = await store.query(HandlerQuery())
        assert found.result_unreadable
        await store.update(handler.model_copy(update={"handler_id": "running", "result": None}))
        assert len(await store.query(HandlerQuery(handler_id_in=["running"]))) == 1
        store.result_decoder = lambda name: JsonSerializer(allowed_types=[Finished])
        (found,) = await store.query(HandlerQuery(handler_id_in=["h"]))
        assert found.result == Finished(payload=text)
        assert await store.delete(HandlerQuery(handler_id_in=["h", "running"])) == 2
        assert await store.query(HandlerQuery()) == []

    run(scenario())


@pytest.mark.parametrize("fault", ["its content is gone", "another tenant", "newer", "edited"])
def test_a_result_that_cannot_be_had_takes_no_other_with_it(
    inner: Any, cas: Any, text: str, tmp_path: Path, fault: str
) -> None:
    async def scenario() -> None:
        keys = bytes(32)
        store = AgentRefWorkflowStore(inner, backend=cas, keys=keys, tenant="ada")
        eve = AgentRefWorkflowStore(inner, backend=cas, keys=keys, tenant="eve")
        kept = [
            PersistentHandler(
                handler_id=name,
                workflow_name="w",
                status="completed",
                run_id=name,
                result=StopEvent(result=text + name),
            )
            for name in ("h-1", "h-2", "h-3")
        ]
        first, lost, last = kept
        await store.update(first)
        before = set(cas.iter_hashes())
        await (eve if fault == "another tenant" else store).update(lost)
        if fault == "its content is gone":
            for digest in set(cas.iter_hashes()) - before:
                cas.delete(digest)
        await store.update(last)
        edits = {"newer": ('"agentref": 1', '"agentref": 2'), "edited": ('"tree"', '"bush"')}
        with sqlite3.connect(tmp_path / "workflows.db") as connection:
            connection.execute(
                "UPDATE handlers SET result = replace(result, ?, ?) WHERE handler_id = 'h-2'",
                edits.get(fault, ("", "")),
            )
        found = {handler.handler_id: handler for handler in await store.query(HandlerQuery())}
        assert found["h-1"] == first
        assert found["h-3"] == last
        assert found["h-2"].result is None
        assert found["h-2"].result_unreadable

    run(scenario())


def test_a_store_that_is_down_makes_no_result_unreadable(store: Any, offline: Any, text: str) -> None:
    async def scenario() -> None:
        handler = PersistentHandler(
            handler_id="h", workflow_name="w", status="completed", run_id="r", result=StopEvent(result=text)
        )
        await store.update(handler)
        offline.begin()
        with pytest.raises(StoreUnavailableError):
            await store.query(HandlerQuery())

    run(scenario())


def failed(error: str, handler_id: str = "h") -> PersistentHandler:
    return PersistentHandler(
        handler_id=handler_id, workflow_name="w", status="failed", run_id="run", error=error
    )


@pytest.mark.parametrize(
    "error", ["", "short", '{"agentref": 1}', '{"agentref": 1, "tree": 5}', '{"a": 1}']
)
def test_what_a_run_raised_comes_back_as_it_was(store: Any, error: str) -> None:
    async def scenario() -> None:
        for text in (error, error + "x" * 10_000):
            await store.update(failed(text))
            (found,) = await store.query(HandlerQuery())
            assert found == failed(text)

    run(scenario())


def test_a_long_error_is_in_the_content_store(store: Any, inner: Any, cas: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        error = "cannot parse " + "payload " * 10_000
        await store.update(failed(error))
        await store.update_handler_status("run", idle_since=None)
        (kept,) = await inner.query(HandlerQuery())
        assert len(kept.error) < 1_000
        assert "payload " * 3 not in (tmp_path / "workflows.db").read_bytes().decode(errors="replace")
        (found,) = await store.query(HandlerQuery())
        assert found.error == error
        await inner.update(kept.model_copy(update={"handler_id": "edited", "error": kept.error[:-9]}))
        errors = {each.handler_id: each.error for each in await store.query(HandlerQuery())}
        assert errors["h"] == error
        assert "cannot be read" in errors["edited"]
        cas.close()
        with pytest.raises(StoreUnavailableError):
            await store.query(HandlerQuery(handler_id_in=["h"]))
        await store.update(failed("late " * 10_000, "late"))
        (late,) = await inner.query(HandlerQuery(handler_id_in=["late"]))
        assert late.error == "late " * 10_000

    run(scenario())
