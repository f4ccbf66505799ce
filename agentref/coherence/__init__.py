"""Coherence: agents share artifacts by name, and exchange refs and invalidations instead of copies.

A coordinator versions the hashes of contents, grants leases and keeps a feed of what changed: in memory for
the threads of one process, in SQLite for the processes of one machine, in PostgreSQL for many machines.
A peer is one agent's cached view of it.
"""

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
