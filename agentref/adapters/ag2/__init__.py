"""AG2: a history storage whose events keep their payloads in a store.

Needs the `ag2` extra; importing this room without it raises `MissingExtraError`, and with a version of AG2
that it was not made for `ConfigurationError`.
"""

from agentref.extras import require

require(extra="ag2", distribution="ag2", module="ag2", since="1.2", before="2")

from agentref.adapters.ag2.events import StoredEvent  # noqa: E402
from agentref.adapters.ag2.storage import AgentRefStorage  # noqa: E402

__all__ = ["AgentRefStorage", "StoredEvent"]
