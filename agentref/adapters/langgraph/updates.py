"""What nodes hand to LangGraph, with a ref in place of every external value.

All forms that LangGraph reads are known here: a dict, a state object, a `Command`, a `Send`, a list of
these. What is not known passes as it is, for LangGraph to take or refuse.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from langgraph._internal._fields import get_cached_annotated_keys, get_update_as_tuples
from langgraph.channels.binop import _get_overwrite
from langgraph.types import Command, Send

from agentref.adapters.langgraph.fields import Batch, Fields
from agentref.adapters.langgraph.lazy import LazyState
from agentref.errors import InPlaceMutationError
from agentref.state import AgentRefState

__all__ = ["Translation", "amended"]


class Translation:
    """Translates what one node hands over. `batch` then holds what is to be stored before it is.

    Attributes:
        written: the fields that the node itself wrote.
        overwritten: those of them that it wrote past the reducer.
    """

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self.batch = Batch(fields)
        self.written: set[str] = set()
        self.overwritten: set[str] = set()

    def result(self, value: Any) -> Any:
        """What a node returned. Raises `InlineSizeExceeded`."""
        if isinstance(value, Send):
            return self.send(value)
        if isinstance(value, Command):
            return self._command(value)
        if isinstance(value, (list, tuple)):
            return [self.result(item) for item in value]
        return self._update(value)

    def route(self, value: Any) -> Any:
        """What a router returned: names, and messages to nodes."""
        if isinstance(value, (list, tuple)):
            return [self.route(item) for item in value]
        return self.send(value) if isinstance(value, Send) else value

    def send(self, send: Send) -> Send:
        """A message to a node: what it says about fields of the state is kept as the state keeps it."""
        items = _items(send.arg)
        if items is None:
            return send
        return Send(send.node, {name: self.value(name, each) for name, each in items}, timeout=send.timeout)

    def mapping(self, items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """An update of the state."""
        return dict(self._pairs(items))

    def value(self, name: str, value: Any) -> Any:
        """What is written to one field, or to another channel."""
        if name in self.fields.external:
            return self.batch.operand(name, value)
        return self.fields.checked(name, value) if name in self.fields.kinds else value

    def _update(self, value: Any) -> Any:
        items = _items(value)
        if items is not None:
            return self.mapping(items)
        # An object of the user's own state class.
        keys = () if value is None else get_cached_annotated_keys(type(value))
        if self.fields.kinds.keys().isdisjoint(keys):
            return value
        return self.mapping(get_update_as_tuples(value, keys))

    def _command(self, command: Command[Any]) -> Command[Any]:
        if command.graph is not None:
            return command  # another graph's state, of which nothing is known here
        update = command.update
        if isinstance(update, (list, tuple)) and all(_is_pair(item) for item in update):
            update = self._pairs(update)
        else:
            update = self._update(update)
        goto = command.goto
        if isinstance(goto, (Send, list, tuple)):
            goto = self.route(goto)
        return dataclasses.replace(command, update=update, goto=goto)

    def _pairs(self, items: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
        pairs = [(name, self.value(name, each)) for name, each in items]
        self.written.update(name for name, _ in pairs)
        self.overwritten.update(name for name, each in pairs if _get_overwrite(each)[0])
        return pairs


def amended(result: Any, extra: Mapping[str, Any], node: str) -> Any:
    """A translated result that also writes `extra`. Raises `InPlaceMutationError` where it cannot."""
    if not extra:
        return result
    if result is None:
        return dict(extra)
    if isinstance(result, dict):
        return {**result, **extra}
    if isinstance(result, Send):
        return Command(update=dict(extra), goto=[result])
    if any(isinstance(each, Command) and each.graph is not None for each in _each(result)):
        raise InPlaceMutationError(
            f"Node {node!r} changed {', '.join(extra)} and left for another graph, so that the change "
            f"would be lost. Put it into the command's update."
        )
    if isinstance(result, Command):
        update = result.update
        pairs = update if isinstance(update, list) else (update or {}).items()
        return dataclasses.replace(result, update=[*pairs, *extra.items()])
    return [*result, dict(extra)] if isinstance(result, list) else result


def _items(value: object) -> Iterable[tuple[str, Any]] | None:
    """The items of a dict or a state, without loading what is not loaded."""
    if isinstance(value, LazyState):
        return value.stored_items()
    if isinstance(value, AgentRefState):
        refs = value.refs()
        return [(name, refs[name] if name in refs else value[name]) for name in value]
    return value.items() if isinstance(value, dict) else None


def _each(result: Any) -> list[Any]:
    return result if isinstance(result, list) else [result]


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)
