"""A blob store in PostgreSQL, for many machines, and the CAS over it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from itertools import count

from agentref.codecs import ValueCodec
from agentref.postgres import Connection, Opening
from agentref.postgres import blobs as blob_table
from agentref.postgres import roots as root_table
from agentref.refs import Digest
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
    valid_blobs,
)
from agentref.storage.cas import CAS
from agentref.storage.frames import LINKS
from agentref.storage.protocol import FOREVER, AliasRow, BlobInfo, PinRow

__all__ = ["PostgresBlobStore", "PostgresCAS"]


class PostgresBlobStore:
    """Blobs, aliases and pins in the tables `agentref_*` of one database, in the current search_path.

    Safe for many threads, processes and machines, and across a fork. Every verb is one transaction, and all
    but `unpin`, `forget` and a `store` of over 256 KiB (three) are one round trip; what is stored is
    durable on return, as far as the server is. A verb survives a restart of the server. Works through a
    pooler that pools transactions.

    Connects at the first verb.

    Args:
        dsn: a connection string, as libpq takes it. None if a connection is given.
        create: make the tables, or bring them up to date, at the first verb.
        connection: the caller's own `psycopg.Connection`, of READ COMMITTED: all verbs run there, inside of
            the caller's transaction, so that blobs and the caller's rows are committed together. Until it
            ends, other stores wait where they need a row that was written there.
        min_size, max_size: how many connections are kept, and how many there may be.
        timeout: seconds that a verb waits for a connection.

    Raises `InvalidInputError` for what is no connection string. Every verb raises `StoreUnavailableError`,
    `StoreBusyError`, `StoreFullError` or `StoreVersionError`, and on a connection of the caller's
    `ConfigurationError` if that is not of READ COMMITTED, or does not speak UTF-8; messages name host and
    database, never a password.
    """

    def __init__(  # noqa: PLR0913
        self,
        dsn: str | None = None,
        *,
        create: bool = True,
        connection: Connection | None = None,
        min_size: int = 0,
        max_size: int = 8,
        timeout: float = 30.0,
    ) -> None:
        self._opening = Opening(
            dsn,
            connection=connection,
            create=create,
            min_size=min_size,
            max_size=max_size,
            timeout=timeout,
            kind="store",
        )
        self._run = self._opening.run
        self._check_open = self._opening.check_open
        self._store_id: str | None = None
        self._doubts = count(1)

    @property
    def store_id(self) -> str:
        """`pg-` and 12 hex digits, made with the tables. Connects, if nothing did yet."""
        if self._store_id is None:
            self._store_id = self._run(blob_table.store_id)
        return self._store_id

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """The bytes of each blob that is here."""
        wanted = self._wanted(digests)
        return self._run(lambda connection: blob_table.fetch(connection, wanted)) if wanted else {}

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Keep all blobs; a blob that is here keeps its bytes, is touched, and lives at least as long."""
        check_time("expires_at", expires_at)
        self._put(valid_blobs(blobs), float(expires_at), overwrite=False)

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Overwrite the bytes of blobs that are here, whose lives go on; store the others for ever."""
        self._put(valid_blobs(blobs), FOREVER, overwrite=True)

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """What is known of each blob that is here."""
        wanted = self._wanted(digests)
        rows = self._run(lambda connection: blob_table.stat(connection, wanted)) if wanted else []
        return {row[0]: BlobInfo._make(row) for row in rows}

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Which of them are here; each lives until `expires_at` at least from now on. Writes nothing and
        locks nothing where all live so long."""
        check_time("expires_at", expires_at)
        wanted, until = self._wanted(digests), float(expires_at)
        return self._run(lambda connection: blob_table.touch(connection, wanted, until)) if wanted else []

    def peek(self, digests: Collection[Digest], /) -> Mapping[Digest, int]:
        """The first byte of each blob that is here; -1 for an empty one. Reads no payload."""
        wanted = self._wanted(digests)
        return self._run(lambda connection: blob_table.peek(connection, wanted)) if wanted else {}

    def epoch(self) -> int:
        """How many removals took something away: one row, of one page. On the caller's connection another
        number each time: a transaction that was rolled back took away what was stored in it."""
        self._check_open()
        return self._run(blob_table.epoch) if self._opening.pool is not None else -next(self._doubts)

    def clock(self) -> float:
        """The server's. It is asked once a minute; in between, this machine measures how much passed."""
        return self._opening.clock()

    def scan(
        self, *, after: Digest | None = None, limit: int = 1000, expires_by: float = FOREVER
    ) -> Sequence[BlobInfo]:
        """The next `limit` blobs in digest order; with `expires_by`, every row on the way is looked at."""
        check_limit(limit)
        check_time("expires_by", expires_by)
        if after is not None:
            check_digest(after)
        until = float(expires_by)
        rows = self._run(lambda connection: blob_table.page(connection, after or b"", limit, until))
        return list(map(BlobInfo._make, rows))

    def survey(self, see: Callable[[Sequence[BlobInfo], int], object], /, *, expires_by: float) -> None:
        """Show those whose life ends by then, and the others that link to others: as of one moment, and in
        the order in which they lie. Each row is looked at, two seconds a million, in one transaction on a
        connection beside the pool. In a transaction of the caller's, `see` cannot end that."""
        check_time("expires_by", expires_by)
        until = float(expires_by)
        pages = self._opening.pages(lambda connection: blob_table.survey(connection, until, links=LINKS))
        with closing(pages):
            for rows in pages:
                see(list(map(BlobInfo._make, rows)), len(rows))

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """Note that nothing needs these; those whose life ends after `expires_by` are left alone."""
        check_time("expires_by", expires_by)
        wanted, until = self._wanted(digests), float(expires_by)
        return self._run(lambda connection: blob_table.condemn(connection, wanted, until)) if wanted else 0

    def remove(
        self,
        digests: Collection[Digest],
        /,
        *,
        expires_by: float = FOREVER,
        condemned_by: float | None = None,
    ) -> int:
        """Remove those whose life ends at `expires_by` or before, and that are condemned if that is
        asked for; says how many. After a lost connection it may count too few, never too many."""
        check_time("expires_by", expires_by)
        if condemned_by is not None:
            check_time("condemned_by", condemned_by)
        until, by = float(expires_by), None if condemned_by is None else float(condemned_by)
        wanted = self._wanted(digests)
        return (
            self._run(lambda connection: blob_table.remove(connection, wanted, until, by)) if wanted else 0
        )

    # Roots

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Let a name stand for content; None if `expect` is not the version that stands there now.

        With `expect`, a connection that is lost half-way is an error: whether it was set is not known.
        """
        check_alias(alias)
        check_expect(expect)
        new = alias._replace(expires_at=float(alias.expires_at))
        version = self._run(
            lambda connection: root_table.set_alias(connection, new._asdict(), expect=expect),
            repeatable=expect is None,
        )
        return None if version is None else new._replace(version=version)

    def alias(self, name: str, /) -> AliasRow | None:
        """What a name stands for."""
        check_name("The name of an alias", name)
        row = self._run(lambda connection: root_table.alias(connection, name))
        return None if row is None else AliasRow._make(row)

    def delete_alias(self, name: str, /, *, expect: int | None = None) -> bool:
        """Whether the name was there, at the version expected if one is given; it is gone then.

        A connection that is lost half-way is an error: whether it is gone is not known.
        """
        check_name("The name of an alias", name)
        check_expect(expect)
        return self._run(
            lambda connection: root_table.delete_alias(connection, name, expect), repeatable=False
        )

    def scan_aliases(
        self, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> Sequence[AliasRow]:
        """The next `limit` names with that prefix, in the order of their code points."""
        check_limit(limit)
        check_prefix(prefix)
        if after is not None:
            check_name("after", after)
        rows = self._run(lambda connection: root_table.page_of_aliases(connection, prefix, after, limit))
        return list(map(AliasRow._make, rows))

    def pin(self, rows: Collection[PinRow], /) -> None:
        """Let owners keep blobs alive, besides what they keep already: one statement."""
        wanted = unique_pins(rows)
        self._check_open()
        if wanted:
            self._run(lambda connection: root_table.pin(connection, wanted))

    def store_pinned(
        self, blobs: Mapping[Digest, bytes], pins: Collection[PinRow], /, *, expires_at: float = FOREVER
    ) -> None:
        """`store`, and then `pin`: in one round trip, where both fit into a statement."""
        check_time("expires_at", expires_at)
        new, wanted, until = valid_blobs(blobs), unique_pins(pins), float(expires_at)
        self._check_open()
        if new and wanted:
            self._run(lambda connection: root_table.put_pinned(connection, new, wanted, expires_at=until))
        elif new:
            self._put(new, until, overwrite=False)
        else:
            self.pin(wanted)

    def inherit_pins(self, heir: str, digests: Collection[Digest], /, *, parent: str) -> bool:
        """Let `heir` keep what `parent` keeps of these for ever: one statement, whose commit does not wait
        for the server's disk.

        Not on a connection of the caller's, whose commit has to wait for it: nothing is done, and False.
        """
        check_owner(heir)
        check_owner(parent)
        wanted = unique_digests(digests)
        self._check_open()
        if not wanted or self._opening.pool is None:
            return not wanted
        return self._run(lambda connection: root_table.inherit_pins(connection, heir, wanted, parent))

    def unpin(self, owners: Collection[str], /) -> int:
        """Take all pins of these owners away; returns how many pins there were, or too few after a lost
        connection."""
        named = unique_owners(owners)
        self._check_open()
        return self._run(lambda connection: root_table.unpin(connection, named)) if named else 0

    def scan_pins(
        self, *, prefix: str = "", after: tuple[str, Digest] | None = None, limit: int = 1000
    ) -> Sequence[PinRow]:
        """The next `limit` pins of owners with that prefix, in the order of owner and digest."""
        check_limit(limit)
        check_prefix(prefix)
        if after is not None:
            check_owner(after[0])
            check_digest(after[1])
        start = after or ("", b"")
        rows = self._run(lambda connection: root_table.page_of_pins(connection, prefix, start, limit))
        return list(map(PinRow._make, rows))

    def forget(self, *, expires_by: float) -> int:
        """Drop the aliases and pins whose life ended at `expires_by` or before; returns how many."""
        check_time("expires_by", expires_by)
        until = float(expires_by)
        return self._run(lambda connection: root_table.forget(connection, until))

    def close(self) -> None:
        """Close the connections that this store opened. Idempotent; later verbs raise
        `StoreUnavailableError`."""
        self._opening.close()

    def _wanted(self, digests: Collection[Digest]) -> list[Digest]:
        wanted = unique_digests(digests)
        self._check_open()
        return wanted

    def _put(self, new: Mapping[Digest, bytes], expires_at: float, *, overwrite: bool) -> None:
        self._check_open()
        if new:
            self._run(
                lambda connection: blob_table.put(
                    connection, new, expires_at=expires_at, overwrite=overwrite
                )
            )


class PostgresCAS(CAS):
    """A content-addressed store in PostgreSQL, for many processes and machines.

    Takes the options of `CAS` and of `PostgresBlobStore`. Connects at once, to learn the name of the store,
    unless `backend_id` gives one.

    Raises `StoreUnavailableError` or `StoreVersionError` if it cannot be used, `InvalidInputError` for
    what is no connection string, and `MissingExtraError` if psycopg is not installed.
    """

    def __init__(  # noqa: PLR0913
        self,
        dsn: str | None = None,
        *,
        create: bool = True,
        connection: Connection | None = None,
        min_size: int = 0,
        max_size: int = 8,
        timeout: float = 30.0,
        backend_id: str | None = None,
        codec: ValueCodec | None = None,
        compression_level: int | None = None,
        max_value_bytes: int = 1024**3,
        backend_aliases: Sequence[str] = (),
        default_ttl_seconds: float | None = None,
        refresh_on_read: bool = False,
    ) -> None:
        super().__init__(
            PostgresBlobStore(
                dsn,
                create=create,
                connection=connection,
                min_size=min_size,
                max_size=max_size,
                timeout=timeout,
            ),
            backend_id=backend_id,
            codec=codec,
            compression_level=compression_level,
            max_value_bytes=max_value_bytes,
            backend_aliases=backend_aliases,
            default_ttl_seconds=default_ttl_seconds,
            refresh_on_read=refresh_on_read,
        )
