"""From the name of a database of checkpoints to a saver that reads it. Never makes or changes one."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from agentref.cli.secrets import remember, shown
from agentref.cli.stores import check_path, driver_errors, is_dsn
from agentref.errors import AgentRefError, MissingExtraError, StorageError, StoreUnavailableError

__all__ = ["Checkpoints", "open_checkpoints"]

# What a saver reads, and a database without it is none of LangGraph's.
_TABLES: Final = {
    "sqlite": (
        "SELECT thread_id, checkpoint_ns, checkpoint_id, type, checkpoint FROM checkpoints LIMIT 0",
        "SELECT thread_id, checkpoint_ns, checkpoint_id, idx, type, value FROM writes LIMIT 0",
    ),
    "postgres": (
        "SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint FROM checkpoints LIMIT 0",
        "SELECT thread_id, checkpoint_ns, channel, version, type FROM checkpoint_blobs LIMIT 0",
        "SELECT thread_id, checkpoint_ns, checkpoint_id, task_path FROM checkpoint_writes LIMIT 0",
    ),
}
_COUNT: Final = "SELECT count(*) FROM checkpoints"


class Checkpoints(NamedTuple):
    """What to call a database in print, a saver that reads it, and how many checkpoints it has."""

    name: str
    saver: Any
    how_many: Callable[[], int]


@contextmanager
def open_checkpoints(name: str) -> Iterator[Checkpoints]:
    """Open the database that a path (SqliteSaver) or a DSN (PostgresSaver) names, and close it.

    Raises `StorageError` if there is none, if it holds no checkpoints or cannot be read, and
    `MissingExtraError` without the saver that reads it.
    """
    remember(name)
    if is_dsn(name):
        with driver_errors(), _open_postgres(name) as found:
            yield found
    else:
        try:
            with _open_sqlite(name) as found:
                yield found
        except AgentRefError:
            raise
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"The checkpoints in {name} cannot be read: {error}") from None


@contextmanager
def _open_sqlite(name: str) -> Iterator[Checkpoints]:
    kind = _saver("sqlite", "SqliteSaver", "agentref-checkpoint[langgraph]")
    path = Path(name)
    try:
        is_file, is_directory = path.is_file(), path.is_dir()
    except (OSError, ValueError):  # a name too long, or with a NUL
        is_file = is_directory = False
    if not is_file:
        check_path(name)
        what = "it is a directory. Name the file of SqliteSaver" if is_directory else "no such file"
        raise StoreUnavailableError(f"There are no checkpoints at {name}: {what}.")
    with closing(_connect(path)) as connection:
        try:
            for query in _TABLES["sqlite"]:
                connection.execute(query)
        except sqlite3.OperationalError as error:
            raise _none_of_ours(name, error) from None
        columns = [row[1] for row in connection.execute("PRAGMA table_info(writes)")]
        saver = kind(connection, serde=_reader())
        # Its own setup would write.
        saver.is_setup, saver._has_task_path = True, "task_path" in columns  # noqa: SLF001
        yield Checkpoints(name, saver, lambda: int(connection.execute(_COUNT).fetchone()[0]))


def _connect(path: Path) -> sqlite3.Connection:
    """For reading only, if that can be: a database whose last writer was killed may have to be mended
    first. Neither way makes one."""
    for mode in ("ro", "rw"):
        address = f"{path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        except sqlite3.OperationalError:
            connection.close()
            if mode == "rw":
                raise
        except sqlite3.DatabaseError as error:
            connection.close()
            raise _none_of_ours(str(path), error) from None
        else:
            return connection
    raise AssertionError


@contextmanager
def _open_postgres(dsn: str) -> Iterator[Checkpoints]:
    kind = _saver(
        "postgres", "PostgresSaver", "agentref-checkpoint[postgres]' 'langgraph-checkpoint-postgres"
    )
    psycopg: Any = import_module("psycopg")
    rows: Any = import_module("psycopg.rows")
    # Without prepared statements it goes through a transaction pooler.
    with psycopg.connect(
        dsn, autocommit=True, prepare_threshold=None, row_factory=rows.dict_row
    ) as connection:
        try:
            for query in _TABLES["postgres"]:
                connection.execute(query)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
            raise _none_of_ours(shown(dsn), error) from None
        saver = kind(connection, serde=_reader())
        yield Checkpoints(shown(dsn), saver, lambda: int(connection.execute(_COUNT).fetchone()["count"]))


def _none_of_ours(name: str, error: Exception) -> StoreUnavailableError:
    why = str(error).partition("\n")[0]
    return StoreUnavailableError(f"There are no checkpoints of LangGraph in {name}: {why}.")


def _reader() -> Any:
    # Nothing that a stored value names is to run here, in a shell that may well be root's.
    return import_module("agentref.adapters.langgraph.plain").PlainReader()


def _saver(module: str, name: str, package: str) -> Any:
    try:
        return getattr(import_module(f"langgraph.checkpoint.{module}"), name)
    except ImportError:
        raise MissingExtraError(
            f"To read these checkpoints needs LangGraph's {name}: pip install '{package}'"
        ) from None
