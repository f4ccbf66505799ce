"""Numbered SQL, applied once each and never changed: `migrations/README.md` has the rules."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from agentref.errors import StoreUnavailableError, StoreVersionError
from agentref.postgres.address import Address
from agentref.postgres.errors import typed_errors

__all__ = ["Migration", "Status", "bring_up", "migrations", "status", "upgrade"]

_FILE: Final = re.compile(r"(\d{4})_((?:pre|post)_[a-z0-9_]+)\.sql", re.ASCII)
_LOCK: Final = 0x61_67_65_6E_74_72_65_66  # "agentref"

_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS agentref_migration (
    number integer PRIMARY KEY,
    name varchar(100) NOT NULL,
    checksum varchar(64) NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
# Not to_regclass(): its cache may not know yet what was made while the lock was waited for.
_LOOK: Final = """
SELECT current_setting('server_encoding'), current_schema(), EXISTS (
    SELECT FROM pg_class WHERE relname = 'agentref_migration' AND relkind = 'r' AND pg_table_is_visible(oid)
)
"""


_ELSEWHERE: Final = "?options=-csearch_path%3D<schema> in the dsn."


class Migration(NamedTuple):
    """One step of the schema. `name` begins with `pre_` or `post_`; `checksum` is SHA-256 of the SQL."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """64 hex digits; the same on every platform."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def is_pre(self) -> bool:
        """Whether code that does not know of it goes on working."""
        return self.name.startswith("pre_")


class Status(NamedTuple):
    """What was applied, as (number, name), oldest first, and what was not yet."""

    applied: Sequence[tuple[int, str]]
    pending: Sequence[Migration]


@cache
def migrations(folder: Path | None = None) -> tuple[Migration, ...]:
    """The migrations in `folder`, in order; those of this version if none is given."""
    if folder is None:
        packed = Path(__file__).parent / "migrations"
        folder = packed if packed.is_dir() else Path(__file__).parents[2] / "migrations"
    found = [
        Migration(int(match[1]), match[2], path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.sql"))
        if (match := _FILE.fullmatch(path.name))
    ]
    if [step.number for step in found] != list(range(1, len(found) + 1)) or not found:
        raise StoreVersionError(
            f"The migrations in {folder} are not numbered 1, 2, 3 ...: reinstall agentref."
        )
    return tuple(found)


def status(dsn: str, *, steps: Sequence[Migration] | None = None) -> Status:
    """What was applied to a database and what was not. Changes nothing.

    Raises `StoreVersionError` if it was written by a newer agentref, or by another one.
    """
    address = Address.read(dsn)
    with typed_errors(address.shown), psycopg.connect(address.conninfo, autocommit=True) as connection:
        return _status(connection, steps or migrations(), address.shown)


def upgrade(dsn: str, *, steps: Sequence[Migration] | None = None) -> Sequence[Migration]:
    """Apply all that is pending, in one transaction; returns what was. Safe to run from many at once.

    Also applies `post` migrations, so first end every process that still runs an older version.
    """
    address = Address.read(dsn)
    with typed_errors(address.shown), psycopg.connect(address.conninfo, autocommit=True) as connection:
        return _apply(connection, steps or migrations(), address.shown, all_of_it=True)


def bring_up(
    connection: psycopg.Connection[Any],
    shown: str,
    *,
    create: bool,
    steps: Sequence[Migration] | None = None,
) -> bool:
    """See to it that this code can work with the database; apply what is missing, if `create`.

    To an empty database everything is applied; to another one no `post` migration, nor what comes after it.
    Returns whether anything was applied. Raises `StoreVersionError` if it cannot.
    """
    steps = steps or migrations()
    pending = _status(connection, steps, shown).pending
    made = False
    if create and _for_now(pending, all_of_it=len(pending) == len(steps)):
        made = bool(_apply(connection, steps, shown, all_of_it=False))
        pending = _status(connection, steps, shown).pending
    left = [step.number for step in pending if step.is_pre]
    if left:
        raise StoreVersionError(
            f"The database {shown} lacks migrations {left} of agentref. Run: agentref db upgrade"
        )
    return made


def _status(connection: psycopg.Connection[Any], steps: Sequence[Migration], shown: str) -> Status:
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    encoding, schema, exists = cursor.execute(_LOOK, prepare=False).fetchone() or ("", None, False)
    if encoding != "UTF8":
        raise StoreUnavailableError(
            f"The database {shown} is encoded in {encoding}; agentref needs one made with ENCODING 'UTF8'."
        )
    if not exists and schema is None:
        raise StoreUnavailableError(
            f"No schema in the search_path of {shown} exists (or may be used by this role), so there is "
            f"nowhere to make tables. Execute: CREATE SCHEMA <name>, or name one that exists: "
            f"{_ELSEWHERE}"
        )
    if not exists:
        return Status((), tuple(steps))
    try:
        rows = cursor.execute(
            "SELECT number, name, checksum FROM agentref_migration ORDER BY number", prepare=False
        ).fetchall()
    except psycopg.errors.UndefinedColumn as error:
        raise StoreVersionError(
            f"The table agentref_migration in {shown} is not one of agentref: it has other columns. Rename "
            f"it, or use another schema: {_ELSEWHERE}"
        ) from error
    known = {step.number: step for step in steps}
    for number, name, checksum in rows:
        if number not in known and not name.startswith("pre_"):
            raise StoreVersionError(
                f"The database {shown} has migration {number} ({name}), which this version of agentref "
                f"does not know: install the version that applied it."
            )
        if number in known and checksum != known[number].checksum:
            raise StoreVersionError(
                f"Migration {number} ({name}) of the database {shown} is not the one that this version of "
                f"agentref has: the tables were made by another build. Nothing was changed."
            )
    applied = {number for number, _, _ in rows}
    return Status(
        tuple((number, name) for number, name, _ in rows),
        tuple(step for step in steps if step.number not in applied),
    )


def _apply(
    connection: psycopg.Connection[Any], steps: Sequence[Migration], shown: str, *, all_of_it: bool
) -> Sequence[Migration]:
    with _nothing_in_the_way(shown), connection.transaction():
        # Released at the end of the transaction, by whatever end: a pooler may lend the session to others.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,), prepare=False)
        found = _status(connection, steps, shown)
        if not found.applied:
            connection.execute(_LEDGER, prepare=False)
        wanted = _for_now(found.pending, all_of_it=all_of_it or not found.applied)
        for step in wanted:
            connection.execute(step.sql.encode(), prepare=False)
            connection.execute(
                "INSERT INTO agentref_migration(number, name, checksum) VALUES (%s, %s, %s)",
                (step.number, step.name, step.checksum),
                prepare=False,
            )
    return wanted


@contextmanager
def _nothing_in_the_way(shown: str) -> Iterator[None]:
    try:
        yield
    except (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject) as error:
        raise StoreVersionError(
            f"Tables of agentref cannot be made in {shown}, since {error.diag.message_primary}, and "
            f"agentref_migration does not tell of it. If that is a store, restore its agentref_migration "
            f"from a backup; if not, use another schema: {_ELSEWHERE}"
        ) from error


def _for_now(pending: Sequence[Migration], *, all_of_it: bool) -> Sequence[Migration]:
    """Those of `pending` that may be applied while processes of an older version run."""
    if all_of_it:
        return pending
    first_post = next((at for at, step in enumerate(pending) if not step.is_pre), len(pending))
    return pending[:first_post]
