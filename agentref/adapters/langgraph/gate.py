"""What a checkpointer of a typed graph lets in."""

from collections.abc import Iterable
from typing import Any

from langgraph._internal._constants import TASKS
from langgraph.constants import START

from agentref.adapters.langgraph.fields import Fields
from agentref.adapters.langgraph.updates import Translation
from agentref.runtime import Outgoing
from agentref.state import AgentRefState

__all__ = ["Gate"]


class Gate:
    """Holds the values of a graph's own checkpoints to its fields, before anything is stored.

    External values become refs whatever their size, also those that come from outside: inputs, updates of
    the state, nodes that are not wrapped. Inline values over the limit are `InlineSizeExceeded`.
    Subgraphs have fields of their own, which may have the same names: they are let through.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def __call__(
        self, namespace: str, items: Iterable[tuple[str, Any]]
    ) -> tuple[list[tuple[str, Any]], Outgoing]:
        """(channel, value) pairs as they may be kept, and what has to be stored before."""
        translation = Translation(self._fields)
        if namespace:
            return list(items), translation.batch.pending
        admitted = [(channel, self._admitted(channel, value, translation)) for channel, value in items]
        return admitted, translation.batch.pending

    def limit(self, channel: str, /) -> int | None:
        """The encoded size up to which a value that holds no others stays as it is, in the graph's own
        checkpoints; None for any size, -1 for none."""
        return self._fields.limits.get(channel)

    @staticmethod
    def _admitted(channel: str, value: Any, translation: Translation) -> Any:
        if channel == START:
            return translation.result(value) if isinstance(value, (dict, AgentRefState)) else value
        if channel == TASKS:
            return translation.route(value)
        return translation.value(channel, value)
