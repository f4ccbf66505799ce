"""Typed agent state: which fields a checkpoint carries, and which stay in the store.

Pure: values and refs come and go through the `ValueStore` that the caller hands in.
"""

from agentref.state.markers import Externalized, Inline, Placement
from agentref.state.protocol import AsyncValueStore, ValueStore
from agentref.state.schema import Field, Schema, Split, field
from agentref.state.state import DEFAULT_INLINE_THRESHOLD_BYTES, AgentRefState

__all__ = [
    "DEFAULT_INLINE_THRESHOLD_BYTES",
    "AgentRefState",
    "AsyncValueStore",
    "Externalized",
    "Field",
    "Inline",
    "Placement",
    "Schema",
    "Split",
    "ValueStore",
    "field",
]
