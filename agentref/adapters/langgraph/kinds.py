"""What the metadata of a field's annotation asks of LangGraph: a reducer, a channel, a managed value."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_origin

from langgraph.channels.base import BaseChannel
from langgraph.managed.base import is_managed_value

from agentref.errors import StateDefinitionError
from agentref.state import Field, Placement, Schema

__all__ = ["ChannelKind", "kind_of"]


class ChannelKind(NamedTuple):
    """How LangGraph is to keep a field.

    Attributes:
        reducer: folds the writes of a step into the value; without one, a step has one write at most.
        is_foreign: the annotation brings a channel or a managed value of its own.
        is_checked: whether its size is held under the limit.
    """

    reducer: Callable[[Any, Any], Any] | None
    is_foreign: bool
    is_checked: bool


def kind_of(schema: Schema, name: str) -> ChannelKind:
    """Read a field's metadata as LangGraph would. Raises `StateDefinitionError` for what it cannot mean."""
    declared = schema[name]
    where = f"{schema.name}.{name}"
    is_external = declared.placement is Placement.EXTERNALIZED
    foreign = next((item for item in declared.metadata if _is_channel(item)), None)
    if declared.metadata and _is_managed(declared.metadata[-1]):
        foreign = declared.metadata[-1]
    if foreign is None:
        return ChannelKind(_reducer(where, declared), is_foreign=False, is_checked=not is_external)
    if is_external:
        shown = getattr(foreign, "__name__", type(foreign).__name__)
        raise StateDefinitionError(
            f"{where} is externalized, so it has a channel already and cannot also have {shown}. Write "
            f"Annotated[Externalized[...], reducer] with a plain reducer (left, right), "
            f"or Annotated[Inline[...], {shown}...] and a checkpointer around it: "
            f"externalize(saver, backend=...)."
        )
    return ChannelKind(None, is_foreign=True, is_checked=False)


def _reducer(where: str, declared: Field) -> Callable[[Any, Any], Any] | None:
    *others, last = declared.metadata or (None,)
    if misplaced := [item for item in others if inspect.isroutine(item)]:
        raise StateDefinitionError(
            f"{where}: LangGraph takes the last item of Annotated[...] for the reducer, and would ignore "
            f"{misplaced[0].__name__}. Write it last."
        )
    if not callable(last):
        return None
    if _positional_parameters(last) != 2:
        raise StateDefinitionError(
            f"{where}: {last!r:.80} is no reducer. LangGraph takes the last item of Annotated[...] for one "
            f"if it is callable; a reducer has two parameters: (left, right) -> value."
        )
    reducer: Callable[[Any, Any], Any] = last
    return reducer


def _positional_parameters(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin that does not say
        return 0
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)


def _is_channel(item: Any) -> bool:
    return isinstance(item, BaseChannel) or (isinstance(item, type) and issubclass(item, BaseChannel))


def _is_managed(item: Any) -> bool:
    return is_managed_value(get_origin(item) or item)
