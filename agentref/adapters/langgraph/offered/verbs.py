"""`copy_thread`, `prune` and `delete_for_runs` over the tables of a saver, and the pins that go along."""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver

from agentref.adapters.langgraph.offered.keeping import Node, all_but_latest, node_of, of_runs
from agentref.adapters.langgraph.offered.known import tables_for
from agentref.adapters.langgraph.offered.tables import AsyncTables, Doomed, Rows, Tables
from agentref.adapters.langgraph.pins import (
    Pins,
    alisted,
    atake_away,
    listed,
    owner_of,
    pinned_refs,
    runs,
    take_away,
    threads,
)
from agentref.errors import InvalidInputError

if TYPE_CHECKING:
    from agentref.adapters.langgraph.saver import ExternalizingSaver

__all__ = ["offered_verbs"]

_STRATEGIES: Final = ("keep_latest", "delete")


def offered_verbs(inner: type[BaseCheckpointSaver[Any]]) -> dict[str, Any]:
    """The methods for a wrapper of a saver of that type, in its colours; none for one not known here."""
    tables = tables_for(inner)
    sync = {"copy_thread": copy_thread, "prune": prune, "delete_for_runs": delete_for_runs}
    twins = {"acopy_thread": acopy_thread, "aprune": aprune, "adelete_for_runs": adelete_for_runs}
    if tables is None:
        return {}
    return {**sync, **twins} if isinstance(tables, AsyncTables) else sync


# What is copied is pinned first, and again when it is there: whoever deletes a thread of that name
# meanwhile lets go of the pins of checkpoints with the same ids.


def copy_thread(self: "ExternalizingSaver", source_thread_id: str, target_thread_id: str) -> None:
    """Make a thread of all checkpoints and pending writes of another, with their ids.

    One transaction. No payload is copied: what the copy needs is pinned before. A source without
    checkpoints makes no thread. Raises `InvalidInputError` if there are checkpoints in the target.
    """
    source_thread_id, target_thread_id = _checked_copy(source_thread_id, target_thread_id)
    tables, inner = _tables(self), self.inner
    if tables.run(inner, tables.is_taken(inner, target_thread_id)):
        raise _taken(target_thread_id)
    rows = tables.run(inner, tables.read(inner, source_thread_id))
    if not rows.checkpoints:
        return
    pins = _pins_of(self, rows, target_thread_id)
    self.runtime.pin_each(pins)
    if not tables.run(inner, tables.write(inner, target_thread_id, rows)):
        self.runtime.unpin(pins.keys() - listed(inner, threads([target_thread_id])).keys())
        raise _taken(target_thread_id)
    self.runtime.pin_each(pins)


async def acopy_thread(self: "ExternalizingSaver", source_thread_id: str, target_thread_id: str) -> None:
    """`copy_thread` for the event loop."""
    source_thread_id, target_thread_id = _checked_copy(source_thread_id, target_thread_id)
    tables, inner = _async(self), self.inner
    if await tables.arun(inner, tables.is_taken(inner, target_thread_id)):
        raise _taken(target_thread_id)
    rows = await tables.arun(inner, tables.read(inner, source_thread_id))
    if not rows.checkpoints:
        return
    pins = _pins_of(self, rows, target_thread_id)
    await asyncio.to_thread(self.runtime.pin_each, pins)
    if not await tables.arun(inner, tables.write(inner, target_thread_id, rows)):
        there = await alisted(inner, threads([target_thread_id]))
        await self.runtime.aunpin(pins.keys() - there.keys())
        raise _taken(target_thread_id)
    await asyncio.to_thread(self.runtime.pin_each, pins)


def prune(self: "ExternalizingSaver", thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
    """Delete old checkpoints of threads; what nothing else needs is free to be pruned from the store.

    `"keep_latest"` keeps the latest checkpoint of each namespace, with its pending writes, and the
    ancestors that a DeltaChannel in it is rebuilt from; the calls of subgraphs go with the checkpoint that
    they started from. `"delete"` deletes the threads. One transaction for each thread; safe beside a run
    that goes on in a thread, not beside one that starts from an old checkpoint. Raises `InvalidInputError`
    for another strategy, for a single text, and for a thread whose DeltaChannels LangGraph.js wrote.
    """
    thread_ids = _checked_prune(thread_ids, strategy)
    take_away(self.runtime, self.inner, threads(thread_ids), partial(_prune, self, thread_ids, strategy))


async def aprune(
    self: "ExternalizingSaver", thread_ids: Sequence[str], *, strategy: str = "keep_latest"
) -> None:
    """`prune` for the event loop."""
    thread_ids = _checked_prune(thread_ids, strategy)
    deletion = partial(_aprune, self, thread_ids, strategy)
    await atake_away(self.runtime, self.inner, threads(thread_ids), deletion)


def delete_for_runs(self: "ExternalizingSaver", run_ids: Sequence[str]) -> None:
    """Delete the checkpoints of runs, in all threads, and what nothing else needs is free to be pruned.

    A run is told by `run_id` in the metadata of its checkpoints. One transaction for each thread; not while
    one of the runs goes on. Raises `InvalidInputError`, and deletes nothing, for a run whose writes a
    DeltaChannel of another one is rebuilt from, and for a single text.
    """
    _check_list("run_ids", run_ids)
    take_away(self.runtime, self.inner, runs(run_ids), partial(_delete_for_runs, self, run_ids))


async def adelete_for_runs(self: "ExternalizingSaver", run_ids: Sequence[str]) -> None:
    """`delete_for_runs` for the event loop."""
    _check_list("run_ids", run_ids)
    await atake_away(self.runtime, self.inner, runs(run_ids), partial(_adelete_for_runs, self, run_ids))


# All threads are looked at before the first is touched. Returned are the owners of what went.


def _prune(self: "ExternalizingSaver", thread_ids: Sequence[str], strategy: str) -> dict[str, str]:
    if strategy == "delete":
        for thread_id in thread_ids:
            self.inner.delete_thread(thread_id)
        return {}
    return _erase(self, [(one, all_but_latest(_nodes(self, one))) for one in thread_ids])


async def _aprune(self: "ExternalizingSaver", thread_ids: Sequence[str], strategy: str) -> dict[str, str]:
    if strategy == "delete":
        for thread_id in thread_ids:
            await self.inner.adelete_thread(thread_id)
        return {}
    return await _aerase(self, [(one, all_but_latest(await _anodes(self, one))) for one in thread_ids])


def _delete_for_runs(self: "ExternalizingSaver", run_ids: Sequence[str]) -> dict[str, str]:
    concerned = {
        item.config["configurable"]["thread_id"]
        for query, chosen in runs(run_ids)
        for item in self.inner.list(query, filter=chosen)
    }
    return _erase(self, [(one, _of_runs(one, _nodes(self, one), run_ids)) for one in concerned])


async def _adelete_for_runs(self: "ExternalizingSaver", run_ids: Sequence[str]) -> dict[str, str]:
    concerned = {
        item.config["configurable"]["thread_id"]
        for query, chosen in runs(run_ids)
        async for item in self.inner.alist(query, filter=chosen)
    }
    found = [(one, _of_runs(one, await _anodes(self, one), run_ids)) for one in concerned]
    return await _aerase(self, found)


def _tables(self: "ExternalizingSaver") -> Tables:
    return cast("Tables", tables_for(type(self.inner)))


def _async(self: "ExternalizingSaver") -> AsyncTables:
    return cast("AsyncTables", tables_for(type(self.inner)))


def _erase(self: "ExternalizingSaver", found: Sequence[tuple[str, Doomed]]) -> dict[str, str]:
    for thread_id, doomed in found:
        if doomed:
            _tables(self).run(self.inner, _tables(self).erase(self.inner, thread_id, doomed))
    return _owners(found)


async def _aerase(self: "ExternalizingSaver", found: Sequence[tuple[str, Doomed]]) -> dict[str, str]:
    for thread_id, doomed in found:
        if doomed:
            await _async(self).arun(self.inner, _tables(self).erase(self.inner, thread_id, doomed))
    return _owners(found)


def _owners(found: Sequence[tuple[str, Doomed]]) -> dict[str, str]:
    return {
        owner_of(thread_id, namespace, checkpoint_id): thread_id
        for thread_id, doomed in found
        for namespace, ids in doomed.items()
        for checkpoint_id in ids
    }


def _nodes(self: "ExternalizingSaver", thread_id: str) -> list[Node]:
    return _understood(thread_id, map(node_of, self.inner.list(_whole(thread_id))))


async def _anodes(self: "ExternalizingSaver", thread_id: str) -> list[Node]:
    nodes = [node_of(item) async for item in self.inner.alist(_whole(thread_id))]
    return _understood(thread_id, nodes)


def _whole(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}


def _understood(thread_id: str, nodes: Iterable[Node]) -> list[Node]:
    found = list(nodes)
    if any(node.is_foreign for node in found):
        raise InvalidInputError(
            f"Thread {thread_id!r} has DeltaChannels that LangGraph.js wrote, and which of its checkpoints "
            f"they need is not known here. Nothing was deleted. Delete the whole thread, or prune it there."
        )
    return found


def _of_runs(thread_id: str, nodes: Iterable[Node], run_ids: Sequence[str]) -> Doomed:
    doomed, needed = of_runs(nodes, {str(run_id) for run_id in run_ids})
    if needed:
        raise InvalidInputError(
            f"run_ids: later checkpoints of thread {thread_id!r} are rebuilt from what "
            f"{', '.join(map(repr, sorted(needed)))} wrote to a DeltaChannel. Nothing was deleted. "
            f"Name the runs that went on from there as well, or delete the thread."
        )
    return doomed


def _pins_of(self: "ExternalizingSaver", rows: Rows, thread_id: str) -> Pins:
    pins: Pins = {}
    if self.runtime.pins:
        for namespace, checkpoint_id, value in _tables(self).values(self.inner, rows):
            if refs := pinned_refs([value]):
                pins.setdefault(owner_of(thread_id, namespace, checkpoint_id), []).extend(refs)
    return pins


def _checked_copy(source: str, target: str) -> tuple[str, str]:
    if str(source) == str(target):
        raise InvalidInputError(
            f"target_thread_id must be another thread than the source, which is {source!r}, too."
        )
    return str(source), str(target)  # as LangGraph does with the ids in a config


def _taken(target: str) -> InvalidInputError:
    return InvalidInputError(
        f"target_thread_id: there are checkpoints in thread {target!r}, and two histories cannot be one. "
        f"Name a new thread, or delete that one first."
    )


def _checked_prune(thread_ids: Sequence[str], strategy: str) -> list[str]:
    _check_list("thread_ids", thread_ids)
    if strategy not in _STRATEGIES:
        raise InvalidInputError(f"strategy must be 'keep_latest' or 'delete', not {strategy!r:.40}.")
    return list(map(str, thread_ids))


def _check_list(name: str, given: Sequence[str]) -> None:
    if isinstance(given, (str, bytes)):
        raise InvalidInputError(f"{name} must be a list of ids, {name}=[{given!r:.40}], not a single text.")
