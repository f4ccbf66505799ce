"""Checkpoints carry refs, not payloads. Peers carry invalidations, not copies.

Declare which fields of an agent's state are small (`Inline`) and which are large (`Externalized`);
large values are kept once in a content-addressed store, and checkpoints hold a `ContentRef`.
Stores are in `agentref.storage`, frameworks in `agentref.adapters`, errors in `agentref.errors`.
"""

from agentref.errors import AgentRefError, InlineSizeExceeded
from agentref.refs import ContentRef
from agentref.state import AgentRefState, Externalized, Inline, field

__all__ = [
    "AgentRefError",
    "AgentRefState",
    "ContentRef",
    "Externalized",
    "Inline",
    "InlineSizeExceeded",
    "field",
]
