"""What keeps blobs alive beyond their own lives, in the index of a store in a directory."""

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Final

from agentref.refs import Digest
from agentref.sqlite import Database
from agentref.storage._arguments import (
    check_alias,
    check_digest,
    check_expect,
    check_limit,
    check_name,
    check_owner,
    check_prefix,
    check_time,
    unique_digests,
    unique_owners,
    unique_pins,
)
from agentref.storage.protocol import AliasRow, PinRow

__all__ = ["IndexedRoots", "set_pins"]

_ALIAS: Final = """
SELECT name, digest, codec, CAST(size AS INTEGER), CAST(version AS INTEGER), CAST(expires_at AS REAL)
FROM alias
"""

_NEXT_SETTING: Final = """
INSERT INTO meta(key, value) VALUES ('settings', 1)
ON CONFLICT(key) DO UPDATE SET value = value + 1 RETURNING value
"""

_SET: Final = """
INSERT OR REPLACE INTO alias(name, digest, codec, size, version, expires_at) VALUES (?, ?, ?, ?, ?, ?)
"""

# Many in one statement: at each row of `executemany` other threads take the interpreter lock.
_AT_ONCE: Final = 256  # three parameters each, of 999 that every SQLite takes


def _pin(rows: int) -> str:
    values = ", ".join(["(?, ?, ?)"] * rows)
    return (
        f"INSERT INTO pin(owner, digest, expires_at) VALUES {values} "  # noqa: S608  (no text of others)
        f"ON CONFLICT(owner, digest) DO UPDATE SET expires_at = excluded.expires_at "
        f"WHERE excluded.expires_at > expires_at"
    )


_PIN: Final = _pin(1)
_PINS_AT_ONCE: Final = _pin(_AT_ONCE)


def _inherit(rows: int) -> str:
    digests = ", ".join(["?"] * rows)
    return (
        f"INSERT INTO pin(owner, digest, expires_at) "  # noqa: S608
        f"SELECT ?, digest, expires_at FROM pin "
        f"WHERE owner = ? AND expires_at = 9e999 AND digest IN ({digests}) "
        f"ON CONFLICT(owner, digest) DO UPDATE SET expires_at = excluded.expires_at"
    )


_INHERIT: Final = _inherit(1)
_INHERIT_AT_ONCE: Final = _inherit(_AT_ONCE)

# A transaction that changes nothing is not synced, and what it found may have been inherited: so these are
# counted, and whoever sets a pin that is there already says up to which one he has made them durable.
_COUNT: Final = """
INSERT INTO meta(key, value) VALUES ('inherited', 1) ON CONFLICT(key) DO UPDATE SET value = value + 1
"""

_MAKE_DURABLE: Final = """
INSERT INTO meta(key, value) SELECT 'durable', value FROM meta WHERE key = 'inherited'
ON CONFLICT(key) DO UPDATE SET value = excluded.value WHERE value < excluded.value
"""

_PINS: Final = """
SELECT owner, digest, CAST(expires_at AS REAL) FROM pin
WHERE (owner, digest) > (?, ?) AND owner >= ? AND owner <= ? AND expires_at > ?
ORDER BY owner, digest LIMIT ?
"""

_LAST: Final = "\U0010ffff" * 128  # no name is longer than 512 bytes


class IndexedRoots(ABC):
    """The verbs of a `RootStore` over the tables `alias` and `pin`."""

    _database: Database

    @abstractmethod
    def _verb(self) -> AbstractContextManager[None]: ...

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Let a name stand for content; None if `expect` is not the version that stands there now."""
        check_alias(alias)
        check_expect(expect)
        with self._verb(), self._database.write() as connection:
            old = _standing(connection, alias.name)
            if expect is not None and expect != (old.version if old else 0):
                return None
            version = int(connection.execute(_NEXT_SETTING).fetchone()[0])
            new = alias._replace(version=version)
            connection.execute(_SET, new)
        return new

    def alias(self, name: str, /) -> AliasRow | None:
        """What a name stands for."""
        check_name("The name of an alias", name)
        with self._verb(), self._database.read() as connection:
            return _standing(connection, name)

    def delete_alias(self, name: str, /, *, expect: int | None = None) -> bool:
        """Whether the name was there, at the version expected if one is given; it is gone then."""
        check_name("The name of an alias", name)
        check_expect(expect)
        with self._verb(), self._database.write() as connection:
            old = _standing(connection, name)
            if old is None or (expect is not None and expect != old.version):
                return False
            connection.execute("DELETE FROM alias WHERE name = ?", (name,))
        return True

    def scan_aliases(
        self, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> Sequence[AliasRow]:
        """The next `limit` names with that prefix, in the order of their code points."""
        check_limit(limit)
        check_prefix(prefix)
        if after is not None:
            check_name("after", after)
        with self._verb(), self._database.read() as connection:
            found = connection.execute(
                _ALIAS
                + "WHERE name > ? AND name >= ? AND name <= ? AND expires_at > ? ORDER BY name LIMIT ?",
                (after or "", prefix, prefix + _LAST, time.time(), limit),
            )
            return list(map(AliasRow._make, found))

    def pin(self, rows: Collection[PinRow], /) -> None:
        """Let owners keep blobs alive, besides what they keep already: one transaction."""
        wanted = unique_pins(rows)
        with self._verb():
            if not wanted:
                return
            with self._database.write() as connection:
                set_pins(connection, wanted)

    def inherit_pins(self, heir: str, digests: Collection[Digest], /, *, parent: str) -> bool:
        """Let `heir` keep what `parent` keeps of these for ever: one transaction, without a sync."""
        check_owner(heir)
        check_owner(parent)
        wanted = unique_digests(digests)
        given = 0
        whole = len(wanted) // _AT_ONCE * _AT_ONCE
        with self._verb():
            if not wanted:
                return True
            with self._database.write_unsynced() as connection:
                for start in range(0, whole, _AT_ONCE):
                    batch = wanted[start : start + _AT_ONCE]
                    given += connection.execute(_INHERIT_AT_ONCE, [heir, parent, *batch]).rowcount
                for digest in wanted[whole:]:
                    given += connection.execute(_INHERIT, (heir, parent, digest)).rowcount
                connection.execute(_COUNT)
        return given == len(wanted)

    def unpin(self, owners: Collection[str], /) -> int:
        """Take all pins of these owners away; returns how many pins there were."""
        names = unique_owners(owners)
        now = time.time()
        with self._verb():
            if not names:
                return 0
            with self._database.write() as connection:
                gone = 0
                for owner in names:
                    found = connection.execute(
                        "DELETE FROM pin WHERE owner = ? RETURNING expires_at > ?", (owner, now)
                    )
                    gone += sum(alive for (alive,) in found.fetchall())
        return gone

    def scan_pins(
        self, *, prefix: str = "", after: tuple[str, Digest] | None = None, limit: int = 1000
    ) -> Sequence[PinRow]:
        """The next `limit` pins of owners with that prefix, in the order of owner and digest."""
        check_limit(limit)
        check_prefix(prefix)
        owner, digest = after or ("", b"")
        if after is not None:
            check_owner(owner)
            check_digest(digest)
        with self._verb(), self._database.read() as connection:
            found = connection.execute(_PINS, (owner, digest, prefix, prefix + _LAST, time.time(), limit))
            return list(map(PinRow._make, found))

    def forget(self, *, expires_by: float) -> int:
        """Drop the aliases and pins whose life ended at `expires_by` or before; returns how many."""
        check_time("expires_by", expires_by)
        until = (min(expires_by, time.time()),)
        with self._verb(), self._database.write() as connection:
            aliases = connection.execute("DELETE FROM alias WHERE expires_at <= ?", until).rowcount
            return aliases + connection.execute("DELETE FROM pin WHERE expires_at <= ?", until).rowcount


def set_pins(connection: sqlite3.Connection, pins: Collection[PinRow], *, is_synced: bool = True) -> None:
    """Let owners keep blobs, durably if the transaction is synced."""
    wanted = list(pins)
    whole = len(wanted) // _AT_ONCE * _AT_ONCE
    for start in range(0, whole, _AT_ONCE):
        connection.execute(_PINS_AT_ONCE, list(chain.from_iterable(wanted[start : start + _AT_ONCE])))
    connection.executemany(_PIN, wanted[whole:])
    if wanted and is_synced:
        connection.execute(_MAKE_DURABLE)


def _standing(connection: sqlite3.Connection, name: str) -> AliasRow | None:
    found = connection.execute(_ALIAS + "WHERE name = ? AND expires_at > ?", (name, time.time())).fetchone()
    return None if found is None else AliasRow._make(found)
