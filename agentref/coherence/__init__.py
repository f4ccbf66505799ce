"""Coherence: agents share artifacts by name, and exchange refs and invalidations instead of copies.

A coordinator versions the hashes of contents, grants leases and keeps a feed of what changed: in memory for
the threads of one process, in SQLite for the processes of one machine, in PostgreSQL for many machines.
A peer is one agent's cached view of it.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from agentref.coherence.checking import HistoryReport, check_history
from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.feed import Change, Page
from agentref.coherence.held import HeldLease
from agentref.coherence.history import History, read_history
from agentref.coherence.keys import Key
from agentref.coherence.leases import Lease
from agentref.coherence.memory import MemoryCoordinator
from agentref.coherence.mesi import State
from agentref.coherence.observer import Observer
from agentref.coherence.peer import Peer
from agentref.coherence.rows import LeaseMode, Versioned
from agentref.coherence.snapshots import Snapshot
from agentref.coherence.sqlite import SqliteCoordinator
from agentref.coherence.strategies import Strategy
from agentref.coherence.views import View
from agentref.coherence.writer import Put
from agentref.errors import Conflict, Reason

if TYPE_CHECKING:
    from agentref.coherence.postgres import PostgresCoordinator as PostgresCoordinator

__all__ = [
    "Change",
    "Conflict",
    "Coordinator",
    "HeldLease",
    "History",
    "HistoryReport",
    "Key",
    "Lease",
    "LeaseMode",
    "MemoryCoordinator",
    "Observer",
    "Page",
    "Peer",
    "Put",
    "Reason",
    "Snapshot",
    "SqliteCoordinator",
    "State",
    "Strategy",
    "Versioned",
    "View",
    "Write",
    "check_history",
    "read_history",
]

# It needs an extra. Where that is missing, `import *` would fail as a whole.
if find_spec("psycopg") and find_spec("psycopg_pool"):
    __all__ += ["PostgresCoordinator"]


def __getattr__(name: str) -> Any:
    """`PostgresCoordinator`, when it is asked for: psycopg is an extra."""
    if name == "PostgresCoordinator":
        from agentref.coherence.postgres import PostgresCoordinator  # noqa: PLC0415

        return PostgresCoordinator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
