"""LlamaIndex: contexts, chat stores and workflow servers that carry refs, and typed state with lazy fields.

Needs the `llamaindex` extra; importing this room without it raises `MissingExtraError`, and with a version
of LlamaIndex that it was not made for `ConfigurationError`. The stores of llama-index-core and of
llama-agents-server, which the extra `llamaindex-server` brings, are imported when they are first asked for.
"""

from typing import TYPE_CHECKING, Any

from agentref.extras import require

_EXTRA = "llamaindex"
require(extra=_EXTRA, distribution="llama-index-workflows", module="workflows", since="2.24", before="3")
# Its version only: to import it takes seconds, and not everybody needs it.
require(extra=_EXTRA, distribution="llama-index-core", module="workflows", since="0.14.25", before="0.15")

from agentref.adapters.llamaindex.adapter import LlamaIndexAdapter  # noqa: E402
from agentref.adapters.llamaindex.context import ContextStore  # noqa: E402
from agentref.adapters.llamaindex.serializer import AgentRefSerializer  # noqa: E402
from agentref.adapters.llamaindex.state_storage import AgentRefStateStorage  # noqa: E402

if TYPE_CHECKING:
    from agentref.adapters.llamaindex.chat_stores import AgentRefAsyncDBChatStore, AgentRefChatStore
    from agentref.adapters.llamaindex.kv_store import AgentRefKVStore
    from agentref.adapters.llamaindex.workflow_store import AgentRefWorkflowStore

__all__ = [
    "AgentRefAsyncDBChatStore",
    "AgentRefChatStore",
    "AgentRefKVStore",
    "AgentRefSerializer",
    "AgentRefStateStorage",
    "AgentRefWorkflowStore",
    "ContextStore",
    "LlamaIndexAdapter",
]


def __getattr__(name: str) -> Any:
    if name in {"AgentRefAsyncDBChatStore", "AgentRefChatStore", "AgentRefKVStore"}:
        require(
            extra=_EXTRA,
            distribution="llama-index-core",
            module="llama_index.core",
            since="0.14.25",
            before="0.15",
        )
        from agentref.adapters.llamaindex import chat_stores, kv_store  # noqa: PLC0415

        return getattr(kv_store if name == "AgentRefKVStore" else chat_stores, name)
    if name == "AgentRefWorkflowStore":
        require(
            extra="llamaindex-server",
            distribution="llama-agents-server",
            module="llama_agents.server",
            since="0.8",
            before="0.9",
        )
        from agentref.adapters.llamaindex.workflow_store import AgentRefWorkflowStore  # noqa: PLC0415

        return AgentRefWorkflowStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
