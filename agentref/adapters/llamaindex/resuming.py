"""Whether the runs that a server is about to resume can be read, before it fails those that cannot."""

# ruff: noqa: SLF001  (only a facade knows where a run's state is kept)

from collections.abc import AsyncGenerator
from typing import Any, Final

from llama_agents.server import AbstractWorkflowStore, HandlerQuery
from workflows.context.state_store import StateStorage

from agentref.adapters.llamaindex.stored import Stored
from agentref.errors import AgentRefError, ConfigurationError, StorageError, UntrustedRefError
from agentref.storage import CAS

__all__ = ["TICK", "check_content"]

TICK: Final = "serialized_tick"  # the one key of a tick that a serializer has made a text of
_NO_BLOB: Final = "00" * 32


async def check_content(inner: AbstractWorkflowStore, backend: CAS, stored: Stored) -> None:
    """Raise `StorageError` if a content store is out of reach, `UnknownBackendError` if a run that is not
    done refers to one that is not configured, `ConfigurationError` if refs are sealed and there is no key,
    and `UntrustedRefError` if no ref of any run can be read with the keys there are.

    Reads all ticks and the state of these runs, and of what they refer to one record for each content
    store. That something is lost there, or was edited, is its own run's fault: it passes.
    """
    await backend.aexists(_NO_BLOB)
    seen: set[str | None] = set()
    untrusted: UntrustedRefError | None = None
    for handler in await inner.query(HandlerQuery(status_in=["running"])):
        if handler.run_id is None:
            continue
        async for record in _records(inner, handler.run_id):
            try:
                names = {ref.backend_id for ref in stored.refs(record)}
                if names <= seen:
                    continue
                seen |= names
                await stored.whole_texts([record])
            except UntrustedRefError as error:
                _note(error, handler.run_id)
                untrusted = untrusted or error
            except (StorageError, ConfigurationError) as error:
                _note(error, handler.run_id)
                raise
            except AgentRefError:
                pass
    if untrusted is not None and not seen:
        raise untrusted


def _note(error: AgentRefError, run_id: str) -> None:
    error.add_note(
        f"Run {run_id} needs it to go on. The server does not start without, since LlamaIndex would fail "
        f"the run for good."
    )


async def _records(inner: AbstractWorkflowStore, run_id: str) -> AsyncGenerator[Any]:
    """What a run is resumed from: its ticks, and its state."""
    async for tick in inner.stream_ticks(run_id):
        data = tick.tick_data
        yield data[TICK] if data.keys() == {TICK} else data
    storage = inner._build_state_store(run_id, (), None, None)._storage
    record = await storage.load() if isinstance(storage, StateStorage) else None
    if record is not None:
        yield record.data
