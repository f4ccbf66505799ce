"""A pytest plugin that puts agentref into LlamaIndex's own test suites, and counts what went through it.

AGENTREF_PEER says where: `serializer` makes every JsonSerializer externalize, `server` gives every
WorkflowServer one that does, `stores` wraps every SQLite state store and workflow store. The threshold is
one byte. The last line of the report says how often something was stored and loaded.
"""

import os
from typing import Any

import llama_agents.server
from llama_agents.server import WorkflowServer
from llama_agents.server._store.sqlite.sqlite_state_store import SqliteStateStore
from workflows.context.serializers import JsonSerializer

from agentref.adapters.llamaindex import AgentRefSerializer, AgentRefStateStorage, AgentRefWorkflowStore
from agentref.storage import InMemoryCAS
from agentref.trees import Externalizer

CAS = InMemoryCAS()
EXTERNALIZER = Externalizer(CAS, threshold_bytes=1)


def with_refs(serializer: JsonSerializer) -> AgentRefSerializer:
    """Ours, with the allowed types of that one."""
    made = AgentRefSerializer(EXTERNALIZER)
    made.__dict__.update(serializer.__dict__)
    return made


def inject_serializer() -> None:
    JsonSerializer.serialize = lambda self, value: AgentRefSerializer.serialize(with_refs(self), value)
    JsonSerializer.deserialize = lambda self, value: AgentRefSerializer.deserialize(with_refs(self), value)


def inject_server() -> None:
    begin = WorkflowServer.__init__

    def init(self: Any, **how: Any) -> None:
        begin(self, **{"serializer": AgentRefSerializer(EXTERNALIZER), **how})

    WorkflowServer.__init__ = init


class Transparent(AgentRefWorkflowStore):
    """Shows the attributes of the store inside, which tests look at."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_inner"], name)


def wrapping(stock: Any) -> Any:
    """A class in place of `stock`, whose instances are wrapped; subclasses of it are left as they are."""

    class Wrapping(stock):
        def __new__(cls, *args: Any, **how: Any) -> Any:
            if cls is not Wrapping:
                return super().__new__(cls)
            return Transparent(stock(*args, **how), backend=EXTERNALIZER)

    return Wrapping


def inject_stores() -> None:
    begin = SqliteStateStore.__init__

    def init(self: Any, *args: Any, **how: Any) -> None:
        begin(self, *args, **how)
        self._storage = self._durable = AgentRefStateStorage(self._storage, backend=EXTERNALIZER)

    SqliteStateStore.__init__ = init
    for name in ("SqliteWorkflowStore", "MemoryWorkflowStore"):
        stock = getattr(llama_agents.server, name)
        setattr(llama_agents.server, name, wrapping(stock))


{"serializer": inject_serializer, "server": inject_server, "stores": inject_stores}[
    os.environ["AGENTREF_PEER"]
]()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counted = CAS.counters
    terminalreporter.write_line(f"agentref: {counted.values_dumped} puts, {counted.values_loaded} gets")
