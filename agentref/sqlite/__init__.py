"""SQLite: connections to one database for threads, processes and across forks; what goes wrong there."""

from agentref.sqlite.database import Database, Synchronous, connect
from agentref.sqlite.failures import Subject, storage_errors

__all__ = ["Database", "Subject", "Synchronous", "connect", "storage_errors"]
