"""LangGraph: checkpoints that carry refs, and typed state whose large fields live in a store."""

from agentref.adapters.langgraph.adapter import LangGraphAdapter
from agentref.adapters.langgraph.collect import acollect_pins, collect_pins
from agentref.adapters.langgraph.differences import GcReport, PinDifference
from agentref.adapters.langgraph.lazy import LazyState
from agentref.adapters.langgraph.saver import ExternalizingSaver, externalize

__all__ = [
    "ExternalizingSaver",
    "GcReport",
    "LangGraphAdapter",
    "LazyState",
    "PinDifference",
    "acollect_pins",
    "collect_pins",
    "externalize",
]
