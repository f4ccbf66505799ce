"""What a context hands out is a copy, and what it takes has the declared type."""

import threading
from typing import Any

import pytest

from agentref.adapters.llamaindex import ContextStore

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
def test_a_live_handle_in_the_context_is_handed_out_itself(store: Any) -> None:
    async def scenario() -> None:
        handle = threading.Lock()
        await store.set("counts", {"lock": handle})
        assert (await store.get("counts.lock")) is handle
        assert (await store.get_state()).counts["lock"] is handle

    run(scenario())
