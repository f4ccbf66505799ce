"""What psycopg raises, as errors of ours."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg_pool import PoolTimeout, TooManyRequests

from agentref.errors import (
    AgentRefError,
    StorageError,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)

__all__ = ["is_lost", "is_undone", "typed_errors"]

_FULL: Final = {"53100"}
_BUSY: Final = {"25P04", "40001", "40P01", "53300", "55P03", "57014"}
_UNDONE: Final = {"40001", "40P01"}
_DENIED: Final = "42501"
_NOT_OURS: Final = {"42P01", "42703", "42883"}
_FAILED_TRANSACTION: Final = "25P02"
# Connections end, logins fail, the database is not there, or is a replica that takes no writes.
_AWAY: Final = ("08", "28", "3D", "57P", "25006", "25P03", "53")

_UNRESOLVED: Final = re.compile("failed to resolve host|could not translate host name")
_QUOTED: Final = re.compile(r"""'[^']*'|"[^"]*\"""")
_OBJECT: Final = re.compile(r"(table|sequence|schema|function) \"?(\w+)")
_RIGHTS: Final = {
    "agentref_migration": "SELECT",
    "agentref_meta": "SELECT, UPDATE",
    "agentref_feed": "SELECT, UPDATE",
    "agentref_change": "SELECT, INSERT, DELETE",
}
_GRANTS: Final = {
    "table": "GRANT {rights} ON {name} TO <role>",
    "function": "GRANT EXECUTE ON FUNCTION {name} TO <role>",
    "sequence": "GRANT USAGE ON SEQUENCE {name} TO <role>",
    "schema": "GRANT USAGE ON SCHEMA {name} TO <role> (and CREATE, for the role that upgrades)",
}


@contextmanager
def typed_errors(shown: str) -> Iterator[None]:
    """Raise a `StorageError` in place of what psycopg raises inside; messages name the database as `shown`.

    No message and no cause of one holds a password.
    """
    try:
        yield
    except AgentRefError:
        raise
    except (PoolTimeout, TooManyRequests):
        raise StoreBusyError(
            f"No connection to PostgreSQL ({shown}) became free in time. Raise max_size or timeout, or "
            f"look for what holds the connections in pg_stat_activity."
        ) from None
    except psycopg.Error as error:
        typed = _typed(error, shown)
        if error.sqlstate is None:  # of libpq, whose text may repeat parts of the connection string
            raise typed from None
        raise typed from error


def is_lost(error: BaseException, connection: "psycopg.Connection[object]") -> bool:
    """Whether the connection is gone, and with it all knowledge of what became of the statement."""
    return isinstance(error, psycopg.Error) and (connection.closed or connection.broken)


def is_undone(error: BaseException) -> bool:
    """Whether the server took everything back, so that to try again is safe."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _UNDONE


def _typed(error: psycopg.Error, shown: str) -> StorageError:
    state, text = error.sqlstate or "", _reason(error)
    if state in _FULL:
        return StoreFullError(
            f"The disk of PostgreSQL ({shown}) is full: {text}. Nothing was half-written. Free space "
            f"there and try again; what `agentref prune` removes is used again after the next VACUUM."
        )
    if state in _BUSY:
        return StoreBusyError(f"PostgreSQL ({shown}) is busy: {text}. Nothing was changed; try again.")
    if state == _DENIED:
        return StoreUnavailableError(
            f"PostgreSQL ({shown}) does not permit it: {text}. As the owner: {_grant(text)}"
        )
    if state in _NOT_OURS:
        return StoreVersionError(
            f"The tables of agentref in PostgreSQL ({shown}) are missing, or of another version: {text}. "
            f"Run: agentref db upgrade"
        )
    if state == _FAILED_TRANSACTION:
        return StoreUnavailableError(
            f"The transaction that this store takes part in has failed ({shown}): roll it back first."
        )
    if state.startswith(_AWAY) or isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return StoreUnavailableError(f"PostgreSQL ({shown}) cannot be used: {text}.")
    return StorageError(f"PostgreSQL ({shown}) failed: {text} ({state or type(error).__name__}).")


def _reason(error: psycopg.Error) -> str:
    text = error.diag.message_primary or str(error)
    if error.sqlstate is None:
        if _UNRESOLVED.search(text):
            return "the name of its host cannot be resolved. Is it spelt right, and does the DNS know it"
        if "invalid" in _QUOTED.sub("", text):  # of the text itself, not of a host that is named so
            return "the connection string holds an invalid value"
    return " ".join(text.split()).rstrip(".")


def _grant(text: str) -> str:
    found = _OBJECT.search(text)
    if found is None:
        return "grant the role what docs/postgres.md lists"
    kind, name = found.groups()
    return _GRANTS[kind].format(name=name, rights=_RIGHTS.get(name, "SELECT, INSERT, UPDATE, DELETE"))
