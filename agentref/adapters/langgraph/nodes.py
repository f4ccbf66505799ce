"""Node functions and routers, wrapped so that LangGraph sees no difference.

It reads a node's name, the hint of its first parameter (which channels to read), `Command[Literal[...]]`
in its return hint (where it may go), its other parameters (what to inject), whether it is async, and the
subgraphs that it refers to. All of these stay as they are.
"""

import asyncio
import inspect
from collections.abc import Callable, Collection
from typing import Any, Final

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import run_in_executor
from langgraph._internal._runnable import RunnableCallable, is_async_callable, is_async_generator
from langgraph.pregel.protocol import PregelProtocol

from agentref.adapters.langgraph.channels import ExternalChannel
from agentref.adapters.langgraph.fields import Batch, Fields
from agentref.adapters.langgraph.hints import Hints, dressed, name_of
from agentref.adapters.langgraph.lazy import LazyState
from agentref.adapters.langgraph.visit import NodePlan, Visit

__all__ = ["wrapped_function", "wrapped_runnable"]

Leave = Callable[[Visit, Any], tuple[Any, Batch | None]]

_LAMBDA: Final = "<lambda>"


def wrapped_function(
    function: Callable[..., Any],
    hints: Hints,
    fields: Fields,
    prefetch: Collection[str] | None,
    leave: Leave,
) -> Any:
    """A function, sync or async as `function` is. For a lambda, which may be either, a Runnable."""
    is_async = is_async_callable(function) or is_async_generator(function)
    if prefetch is None and not (is_async and hints.is_narrow):
        prefetch = ()  # what a node does not touch is not fetched
    plan = NodePlan(fields, name_of(function), hints.state_class, prefetch)

    if is_async_generator(function) or inspect.isgeneratorfunction(function):
        adding = RunnableLambda(function)  # as LangGraph does: what it yields is added up
        call = adding.ainvoke if is_async else adding.invoke
        return dressed(_async(call, plan, leave) if is_async else _sync(call, plan, leave), function, hints)
    if is_async:
        return dressed(_async(function, plan, leave), function, hints)
    if plan.name != _LAMBDA:
        return dressed(_sync(function, plan, leave), function, hints)

    def finished(*args: Any, **injected: Any) -> Any:
        result = function(*args, **injected)
        return asyncio.run(result) if inspect.iscoroutine(result) else result

    async def awaited(*args: Any, **injected: Any) -> Any:
        result = await run_in_executor(None, function, *args, **injected)
        return await result if inspect.isawaitable(result) else result

    return RunnableCallable(
        dressed(_sync(finished, plan, leave), function, hints),
        dressed(_async(awaited, plan, leave), function, hints),
        name=_LAMBDA,
        trace=False,
    )


def wrapped_runnable(
    runnable: Runnable[Any, Any], fields: Fields, prefetch: Collection[str] | None, leave: Leave
) -> Runnable[Any, Any]:
    """A Runnable around a Runnable. LangGraph finds a subgraph within, as in any node that calls one."""

    def call(state: Any, config: RunnableConfig) -> Any:
        return runnable.invoke(_input_of(runnable, state, fields), config)

    async def acall(state: Any, config: RunnableConfig) -> Any:
        return await runnable.ainvoke(_input_of(runnable, state, fields), config)

    plan = NodePlan(fields, runnable.get_name(), None, prefetch or ())
    plain = Hints({}, None, is_narrow=False)
    return RunnableCallable(
        dressed(_sync(call, plan, leave), call, plain),
        dressed(_async(acall, plan, leave), acall, plain),
        name=plan.name,
        trace=False,
    )


def _sync(call: Callable[..., Any], plan: NodePlan, leave: Leave) -> Callable[..., Any]:
    def run(given: Any, /, *args: Any, **injected: Any) -> Any:
        visit = Visit(plan, given)
        if visit.prefetch:
            visit.load()
        result = call(visit.state, *args, **injected)
        if type(result) is not dict and isinstance(result, Runnable):
            result = result.invoke(visit.state)
        result, batch = leave(visit, result)
        if batch is not None:
            batch.store()
        return result

    return run


def _async(call: Callable[..., Any], plan: NodePlan, leave: Leave) -> Callable[..., Any]:
    async def run(given: Any, /, *args: Any, **injected: Any) -> Any:
        visit = Visit(plan, given)
        if visit.prefetch:
            await visit.aload()
        result = await call(visit.state, *args, **injected)
        if type(result) is not dict and isinstance(result, Runnable):
            result = await result.ainvoke(visit.state)
        result, batch = leave(visit, result)
        if batch is not None:
            await batch.astore()
        return result

    return run


def _input_of(runnable: Runnable[Any, Any], state: Any, fields: Fields) -> Any:
    """A subgraph keeps its input in its first checkpoint: give it refs where it knows them, else values."""
    if not isinstance(runnable, PregelProtocol) or not isinstance(state, LazyState):
        return state
    channels = getattr(runnable, "channels", None)
    if channels is None:  # a graph that runs elsewhere
        return dict(state)
    return {
        name: stored if _keeps_refs(channels[name], fields) else state[name]
        for name, stored in state.stored_items()
        if name in channels
    }


def _keeps_refs(channel: object, fields: Fields) -> bool:
    ours = fields.runtime.backend.backend_id
    return isinstance(channel, ExternalChannel) and channel.fields.runtime.backend.backend_id == ours
