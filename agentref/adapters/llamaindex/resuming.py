"""Whether the runs that a server is about to resume can be read, before it fails those that cannot."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

from llama_agents.server import AbstractWorkflowStore, HandlerQuery

from agentref.adapters.llamaindex.stored import Stored
from agentref.errors import AgentRefError, StorageError, UnknownBackendError
from agentref.storage import CAS

__all__ = ["TICK", "check_content"]

TICK: Final = "serialized_tick"  # the one key of a tick that a serializer has made a text of
_NO_BLOB: Final = "00" * 32


async def check_content(inner: AbstractWorkflowStore, backend: CAS, stored: Stored) -> None:
    """Raise `StorageError` if a content store is out of reach, `UnknownBackendError` if a run that is not
    done refers to one that is not configured.

    Reads the ticks of these runs as far as the first that holds a ref, and of what they refer to one tick
    for each content store. That something is lost there, or was edited, is its own run's fault: it passes.
    """
    await backend.aexists(_NO_BLOB)
    seen: set[str | None] = set()
    for handler in await inner.query(HandlerQuery(status_in=["running"], is_idle=False)):
        if handler.run_id is None:
            continue
        tick, names = await _first_with_refs(inner.stream_ticks(handler.run_id), stored)
        if names <= seen:
            continue
        seen |= names
        try:
            await stored.whole_texts([tick])
        except (StorageError, UnknownBackendError) as error:
            error.add_note(
                f"Run {handler.run_id} needs it to go on. The server does not start without, since "
                f"LlamaIndex would fail the run for good."
            )
            raise
        except AgentRefError:
            pass


async def _first_with_refs(ticks: AsyncIterator[Any], stored: Stored) -> tuple[Any, set[str | None]]:
    async for tick in ticks:
        data = tick.tick_data
        kept = data[TICK] if data.keys() == {TICK} else data
        with suppress(AgentRefError):
            names = {ref.backend_id for ref in stored.refs(kept)}
            if names:
                return kept, names
    return None, set()
