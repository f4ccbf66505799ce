"""Checkpoints carry refs, not payloads. Peers carry invalidations, not copies.

Declare which fields of an agent's state are small (`Inline`) and which are large (`Externalized`);
large values are kept once in a content-addressed store, and checkpoints hold a `ContentRef`.
Stores are in `agentref.storage`, frameworks in `agentref.adapters`, errors in `agentref.errors`.
"""

from agentref.detection import Framework, auto_adapt, configure, configured, detect_active_framework
from agentref.errors import AgentRefError, AmbiguousFrameworkError, InlineSizeExceeded
from agentref.refs import ContentRef
from agentref.state import AgentRefState, Externalized, Inline, field

__all__ = [
    "AgentRefError",
    "AgentRefState",
    "AmbiguousFrameworkError",
    "ContentRef",
    "Externalized",
    "Framework",
    "Inline",
    "InlineSizeExceeded",
    "auto_adapt",
    "configure",
    "configured",
    "detect_active_framework",
    "field",
]
