"""LangGraph: checkpoints that carry refs, and typed state whose large fields live in a store.

Needs the `langgraph` extra; importing this room without it raises `MissingExtraError`.
"""

from agentref.errors import MissingExtraError

try:
    import langchain_core  # noqa: F401
    import langgraph.checkpoint.base
    import langgraph.graph  # noqa: F401
except ImportError as error:
    raise MissingExtraError(
        f"The adapter for LangGraph needs langgraph, which cannot be imported: {error}. "
        f"pip install 'agentref-checkpoint[langgraph]'"
    ) from error

from agentref.adapters.langgraph.adapter import LangGraphAdapter
from agentref.adapters.langgraph.collect import acollect_pins, collect_pins
from agentref.adapters.langgraph.differences import GcReport, PinDifference
from agentref.adapters.langgraph.lazy import LazyState
from agentref.adapters.langgraph.naming import channel_key, current_agent
from agentref.adapters.langgraph.saver import ExternalizingSaver, externalize

__all__ = [
    "ExternalizingSaver",
    "GcReport",
    "LangGraphAdapter",
    "LazyState",
    "PinDifference",
    "acollect_pins",
    "channel_key",
    "collect_pins",
    "current_agent",
    "externalize",
]
