"""LangGraph: checkpoints that carry refs, and typed state whose large fields live in a store."""

from agentref.adapters.langgraph.adapter import LangGraphAdapter
from agentref.adapters.langgraph.lazy import LazyState
from agentref.adapters.langgraph.saver import ExternalizingSaver, externalize

__all__ = ["ExternalizingSaver", "LangGraphAdapter", "LazyState", "externalize"]
