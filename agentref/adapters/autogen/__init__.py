"""AutoGen: message histories, saved states, model contexts and memories whose payloads live in a store.

Needs the `autogen` extra; importing this room without it raises `MissingExtraError`, and with a version of
AutoGen that it was not made for `ConfigurationError`.
"""

from agentref.extras import check, require

# All is checked before any is imported: one that is imported counts as a framework that is at work.
for _look in (check, require):
    for _distribution in ("autogen-core", "autogen-agentchat"):
        _look(
            extra="autogen",
            distribution=_distribution,
            module=_distribution.replace("-", "_"),
            since="0.7.5",
            before="0.8",
        )

from agentref.adapters.autogen.adapter import AutoGenAdapter  # noqa: E402
from agentref.adapters.autogen.context import (  # noqa: E402
    AgentRefChatCompletionContext,
    AgentRefChatCompletionContextConfig,
)
from agentref.adapters.autogen.memory import AgentRefMemory, AgentRefMemoryConfig  # noqa: E402
from agentref.adapters.autogen.registry import register, registered, unregister  # noqa: E402

__all__ = [
    "AgentRefChatCompletionContext",
    "AgentRefChatCompletionContextConfig",
    "AgentRefMemory",
    "AgentRefMemoryConfig",
    "AutoGenAdapter",
    "register",
    "registered",
    "unregister",
]
