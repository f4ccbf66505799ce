"""LlamaIndex: contexts, chat stores and workflow servers that carry refs, and typed state with lazy fields.

Needs the `llamaindex` extra; importing this room without it raises `MissingExtraError`, and with releases
that it was not written for `ConfigurationError`. The stores of llama-index-core and of llama-agents-server
are imported when their wrappers are first asked for.
"""

from typing import TYPE_CHECKING, Any

from agentref.adapters.llamaindex import versions

try:
    import workflows.context.state_store  # noqa: F401
except ImportError as error:
    raise versions.missing("The adapter for LlamaIndex needs llama-index-workflows", error) from error
else:
    versions.check_installed(versions.WORKFLOWS, versions.CORE)

from agentref.adapters.llamaindex.adapter import LlamaIndexAdapter
from agentref.adapters.llamaindex.context import ContextStore
from agentref.adapters.llamaindex.serializer import AgentRefSerializer
from agentref.adapters.llamaindex.state_storage import AgentRefStateStorage

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
        try:
            from agentref.adapters.llamaindex import chat_stores, kv_store  # noqa: PLC0415
        except ImportError as error:
            raise versions.missing(f"{name} needs llama-index-core", error) from error
        return getattr(kv_store if name == "AgentRefKVStore" else chat_stores, name)
    if name == "AgentRefWorkflowStore":
        versions.check_installed(versions.SERVER)
        try:
            from agentref.adapters.llamaindex.workflow_store import AgentRefWorkflowStore  # noqa: PLC0415
        except ImportError as error:
            raise versions.missing(
                f"{name} needs llama-agents-server",
                error,
                remedy="pip install 'llama-agents-server>=0.8,<0.9'",
            ) from error
        return AgentRefWorkflowStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
