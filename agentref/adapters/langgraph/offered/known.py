"""Which savers are known, by name: their packages may not be installed."""

from typing import Any, Final

from langgraph.checkpoint.base import BaseCheckpointSaver

from agentref.adapters.langgraph.offered.memory import MemoryTables
from agentref.adapters.langgraph.offered.postgres import AsyncPostgresTables, PostgresTables
from agentref.adapters.langgraph.offered.sqlite import AsyncSqliteTables, SqliteTables
from agentref.adapters.langgraph.offered.tables import Tables

__all__ = ["tables_for"]

_KNOWN: Final[dict[str, Tables]] = {
    "langgraph.checkpoint.memory.InMemorySaver": MemoryTables(),
    "langgraph.checkpoint.sqlite.SqliteSaver": SqliteTables(),
    "langgraph.checkpoint.sqlite.aio.AsyncSqliteSaver": AsyncSqliteTables(),
    "langgraph.checkpoint.postgres.PostgresSaver": PostgresTables(),
    "langgraph.checkpoint.postgres.aio.AsyncPostgresSaver": AsyncPostgresTables(),
}


def tables_for(saver: type[BaseCheckpointSaver[Any]]) -> Tables | None:
    """The tables of savers of that type, or None for a type that is not known here."""
    for ancestor in saver.__mro__:
        tables = _KNOWN.get(f"{ancestor.__module__}.{ancestor.__qualname__}")
        if tables is not None:
            verbs = ("delete_thread", "adelete_thread")
            deletes_alike = all(getattr(saver, verb) is getattr(ancestor, verb) for verb in verbs)
            return tables if deletes_alike else None
    return None
