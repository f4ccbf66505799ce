"""From the name of a store to a store that is open. Makes one only where that is asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

from agentref.cli.secrets import is_address, remember, scrub, shown
from agentref.codecs import ValueCodec
from agentref.errors import (
    AgentRefError,
    InvalidInputError,
    MissingExtraError,
    StorageError,
    StoreUnavailableError,
)
from agentref.storage import CAS, BlobStore
from agentref.storage.filesystem import FilesystemBlobStore

__all__ = ["Opened", "check_path", "database_name", "driver_errors", "is_dsn", "open_store"]

_SCHEMES: Final = ("postgres://", "postgresql://")
_EXAMPLE: Final = "postgresql://user@host:5432/dbname"


class Opened(NamedTuple):
    """A store, the blob store below it, and what to call it in print: without a password."""

    cas: CAS
    blobs: BlobStore
    name: str


def is_dsn(name: str) -> bool:
    """Whether it names a database of PostgreSQL; a path, otherwise."""
    return name.startswith(_SCHEMES)


@contextmanager
def open_store(
    store: str | None, *, create: bool = False, backend_aliases: Sequence[str] = ()
) -> Iterator[Opened]:
    """Open the store that a path or a DSN names, and close it. With `create`, make it if it is not there.

    Raises `InvalidInputError` if there is no name, `StorageError` if there is no such store.
    """
    store = _named(store)
    if is_dsn(store):
        with driver_errors(), _open_database(store, backend_aliases, create=create) as cas:
            yield Opened(cas, _below(cas), shown(store))
    else:
        with _open_directory(store, backend_aliases, create=create) as cas:
            yield Opened(cas, _below(cas), scrub(store))


def database_name(store: str | None) -> tuple[str, str]:
    """The DSN of a database, and what to call it in print. Raises `InvalidInputError` if it is none."""
    dsn = _named(store)
    if not is_dsn(dsn):
        check_path(dsn)
        raise InvalidInputError(
            f"{dsn} is no database: a store in PostgreSQL is named by a DSN, {_EXAMPLE}."
        )
    return dsn, shown(dsn)


def check_path(name: str) -> None:
    """Raise `InvalidInputError` for what looks like a mistyped DSN, of which nothing is to be printed."""
    if is_address(name):
        raise InvalidInputError(
            f"What was given as a place looks like a DSN with a mistake in it, and is no path of anything "
            f"(it may hold a password: it is not shown). Write {_EXAMPLE}, with special characters of a "
            f"password percent-encoded, or a path."
        )


def _named(store: str | None) -> str:
    if store is None:
        raise InvalidInputError("No store was named: give --store, or set AGENTREF_STORE.")
    if not store:
        raise InvalidInputError(f"The name of a store is empty: it is a path, or {_EXAMPLE}.")
    remember(store)
    return store


def _below(cas: CAS) -> BlobStore:
    return cas._store  # noqa: SLF001  (to list blobs with their lives is a verb of the blob store only)


def _open_directory(store: str, backend_aliases: Sequence[str], *, create: bool) -> CAS:
    path = Path(store)
    try:
        found = path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        found = False
    if not found:
        check_path(store)
        if not create:
            raise StoreUnavailableError(f"There is no store at {store}: no such directory.")
    try:
        blobs = FilesystemBlobStore(path, create=create)
    except StoreUnavailableError as error:
        if "create=True" not in str(error):  # advice for a program, not for a shell
            raise
        raise StoreUnavailableError(f"There is no store at {store}: it holds no index.") from None
    return CAS(blobs, codec=_codec(), backend_aliases=backend_aliases)


def _open_database(dsn: str, backend_aliases: Sequence[str], *, create: bool) -> CAS:
    try:
        module = import_module("agentref.storage.postgres")
    except MissingExtraError:
        raise
    except ImportError:
        raise MissingExtraError(
            "A store in Postgres needs its driver: pip install 'agentref-checkpoint[postgres]'"
        ) from None
    cas: CAS = module.PostgresCAS(dsn, create=create, codec=_codec(), backend_aliases=backend_aliases)
    return cas


def _codec() -> ValueCodec:
    # Nothing that a stored value names is to run here, in a shell that may well be root's.
    return ValueCodec(allow=[])


@contextmanager
def driver_errors() -> Iterator[None]:
    """What a driver raises may quote its DSN, and so would a traceback of it. A host that can be none is a
    `UnicodeError`."""
    try:
        yield
    except AgentRefError:
        raise
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:
        if not (type(error).__module__.startswith("psycopg") or isinstance(error, UnicodeError)):
            raise
        raise StorageError(f"The database cannot be used: {scrub(str(error))}") from None
