"""SqliteSaver and AsyncSqliteSaver: tables `checkpoints` and `writes`, with the columns that they have."""

from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar

from agentref.adapters.langgraph.offered.tables import (
    Ask,
    Doomed,
    Row,
    Rows,
    Script,
    Tell,
    aplay,
    play,
    through_its_loop,
)

__all__ = ["AsyncSqliteTables", "SqliteTables"]

T = TypeVar("T")

_BEGIN = "BEGIN IMMEDIATE"


class SqliteTables:
    """For savers that are sync only."""

    def read(self, _: Any, thread_id: str) -> Script[Rows]:
        """All of a thread."""
        checkpoints = yield Ask("SELECT * FROM checkpoints WHERE thread_id = ?", (str(thread_id),))
        writes = yield Ask("SELECT * FROM writes WHERE thread_id = ?", (str(thread_id),))
        there = {_place(row) for row in checkpoints}
        return Rows(checkpoints, [row for row in writes if _place(row) in there], [])

    def is_taken(self, _: Any, thread_id: str) -> Script[bool]:
        """Whether there is a checkpoint in that thread."""
        found = yield Ask("SELECT 1 AS one FROM checkpoints WHERE thread_id = ? LIMIT 1", (str(thread_id),))
        return bool(found)

    def write(self, saver: Any, thread_id: str, rows: Rows) -> Script[bool]:
        """Make that thread of these rows."""
        if (yield from self.is_taken(saver, thread_id)):
            return False
        yield Tell("DELETE FROM writes WHERE thread_id = ?", [(str(thread_id),)])
        for table, few in (("writes", rows.writes), ("checkpoints", rows.checkpoints)):
            if few:
                columns = ", ".join(f'"{name}"' for name in few[0])
                places = ", ".join("?" * len(few[0]))
                renamed = [tuple({**row, "thread_id": str(thread_id)}.values()) for row in few]
                sql = f"INSERT INTO {table} ({columns}) VALUES ({places})"  # noqa: S608  (names of its columns)
                yield Tell(sql, renamed)
        return True

    def erase(self, _: Any, thread_id: str, doomed: Doomed) -> Script[None]:
        """Delete checkpoints with their writes."""
        places = [(str(thread_id), namespace, one) for namespace, ids in doomed.items() for one in ids]
        of_thread = "thread_id = ? AND checkpoint_ns = ?"
        for table in ("checkpoints", "writes"):
            sql = f"DELETE FROM {table} WHERE {of_thread} AND checkpoint_id = ?"  # noqa: S608
            yield Tell(sql, places)
        for namespace, ids in doomed.items():
            left = yield Ask(
                f"SELECT checkpoint_id, parent_checkpoint_id AS parent FROM checkpoints WHERE {of_thread}",  # noqa: S608
                (str(thread_id), namespace),
            )
            gone = set(ids)
            orphans = [
                (str(thread_id), namespace, row["checkpoint_id"]) for row in left if row["parent"] in gone
            ]
            orphaned = f"{of_thread} AND checkpoint_id = ?"
            sql = f"UPDATE checkpoints SET parent_checkpoint_id = NULL WHERE {orphaned}"  # noqa: S608
            yield Tell(sql, orphans)

    def values(self, saver: Any, rows: Rows) -> Iterator[tuple[str, str, Any]]:
        """Namespace, checkpoint id and value of every channel and every write."""
        load = saver.serde.loads_typed
        for row in rows.checkpoints:
            for value in load((row["type"], row["checkpoint"]))["channel_values"].values():
                yield *_place(row), value
        for row in rows.writes:
            yield *_place(row), load((row["type"], row["value"]))

    def run(self, saver: Any, script: Script[T]) -> T:
        """Run a script, under the lock of the saver."""
        with saver.cursor() as cursor:
            cursor.row_factory = None
            try:
                if not saver.conn.in_transaction:
                    cursor.execute(_BEGIN)
                return play(script, partial(_answer, cursor))
            except BaseException:
                saver.conn.rollback()  # or the saver commits what came of it so far
                raise


class AsyncSqliteTables(SqliteTables):
    """For savers that live on an event loop."""

    def run(self, saver: Any, script: Script[T]) -> T:
        """Run a script on the loop of the saver, from another thread."""
        return through_its_loop(saver, lambda: self.arun(saver, script))

    async def arun(self, saver: Any, script: Script[T]) -> T:
        """Run a script, under the lock of the saver."""
        await saver.setup()
        async with saver.lock, saver.conn.cursor() as cursor:
            cursor.row_factory = None
            try:
                if not saver.conn.in_transaction:
                    await cursor.execute(_BEGIN)
                value = await aplay(script, partial(_aanswer, cursor))
                await saver.conn.commit()
            except BaseException:
                await saver.conn.rollback()
                raise
            return value


def _place(row: Row) -> tuple[str, str]:
    return row["checkpoint_ns"], row["checkpoint_id"]


def _answer(cursor: Any, ask: Ask | Tell) -> list[Row]:
    if isinstance(ask, Tell):
        cursor.executemany(ask.sql, ask.times)
        return []
    cursor.execute(ask.sql, ask.arguments)
    return _rows(cursor, cursor.fetchall())


async def _aanswer(cursor: Any, ask: Ask | Tell) -> list[Row]:
    if isinstance(ask, Tell):
        await cursor.executemany(ask.sql, ask.times)
        return []
    await cursor.execute(ask.sql, ask.arguments)
    return _rows(cursor, await cursor.fetchall())


def _rows(cursor: Any, found: Any) -> list[Row]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in found]
