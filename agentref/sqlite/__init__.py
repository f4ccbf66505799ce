"""SQLite: connections to one database for threads, processes and across forks; what goes wrong there."""

from agentref.sqlite.blocks import Session
from agentref.sqlite.database import Database, Synchronous, check_synchronous, connect
from agentref.sqlite.failures import Subject, storage_errors
from agentref.sqlite.kept import OpenFile, persist
from agentref.sqlite.scratch import Scratch
from agentref.sqlite.watch import Watch
from agentref.sqlite.writer import Writer

__all__ = [
    "Database",
    "OpenFile",
    "Scratch",
    "Session",
    "Subject",
    "Synchronous",
    "Watch",
    "Writer",
    "check_synchronous",
    "connect",
    "persist",
    "storage_errors",
]
