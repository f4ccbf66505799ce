"""PostgresSaver and AsyncPostgresSaver: tables `checkpoints`, `checkpoint_writes`, `checkpoint_blobs`."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, Final, TypeVar

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

__all__ = ["AsyncPostgresTables", "PostgresTables"]

T = TypeVar("T")

_AS_OF_ONE_MOMENT: Final = Tell("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", [()])
# Of two copies to one thread, the second finds it taken. Two that erase would wait for each other's rows.
_ONE_AT_ONCE: Final = "SELECT pg_advisory_xact_lock(hashtextextended('agentref copy_thread ' || %s, 0))"

_READ_CHECKPOINTS: Final = """
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint::text AS checkpoint,
    metadata::text AS metadata
FROM checkpoints WHERE thread_id = %s
"""
_READ_WRITES: Final = """
SELECT checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob
FROM checkpoint_writes WHERE thread_id = %s
"""
_READ_BLOBS: Final = """
SELECT checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs WHERE thread_id = %s
"""
_WRITE_CHECKPOINT: Final = """
INSERT INTO checkpoints
    (checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata, thread_id)
VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb, %s)
"""
_WRITE_WRITE: Final = """
INSERT INTO checkpoint_writes
    (checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob, thread_id)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_WRITE_BLOB: Final = """
INSERT INTO checkpoint_blobs (checkpoint_ns, channel, version, type, blob, thread_id)
VALUES (%s, %s, %s, %s, %s, %s)
"""
_ERASE_WRITES: Final = """
DELETE FROM checkpoint_writes WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s)
"""
_ERASE_CHECKPOINTS: Final = """
DELETE FROM checkpoints WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s)
RETURNING checkpoint -> 'channel_versions' AS versions
"""
_ERASE_PARENTS: Final = """
UPDATE checkpoints SET parent_checkpoint_id = NULL
WHERE thread_id = %s AND checkpoint_ns = %s AND parent_checkpoint_id = ANY(%s)
"""
# As of now, not as of when the deletion began: a checkpoint that came meanwhile counts.
_KEPT_BLOBS: Final = """
SELECT DISTINCT version.key AS channel, version.value AS version
FROM checkpoints CROSS JOIN LATERAL jsonb_each_text(checkpoint -> 'channel_versions') AS version
WHERE thread_id = %s AND checkpoint_ns = %s
"""
_ERASE_BLOBS: Final = """
DELETE FROM checkpoint_blobs
WHERE thread_id = %s AND checkpoint_ns = %s AND channel = %s AND version = ANY(%s)
"""


class PostgresTables:
    """For savers that are sync only."""

    def read(self, _: Any, thread_id: str) -> Script[Rows]:
        """All of a thread."""
        yield _AS_OF_ONE_MOMENT
        checkpoints = yield Ask(_READ_CHECKPOINTS, (str(thread_id),))
        writes = yield Ask(_READ_WRITES, (str(thread_id),))
        blobs = yield Ask(_READ_BLOBS, (str(thread_id),))
        there = {_place(row) for row in checkpoints}
        return Rows(checkpoints, [row for row in writes if _place(row) in there], blobs)

    def is_taken(self, _: Any, thread_id: str) -> Script[bool]:
        """Whether there is a checkpoint in that thread."""
        found = yield Ask(
            "SELECT 1 AS one FROM checkpoints WHERE thread_id = %s LIMIT 1", (str(thread_id),)
        )
        return bool(found)

    def write(self, saver: Any, thread_id: str, rows: Rows) -> Script[bool]:
        """Make that thread of these rows."""
        yield Ask(_ONE_AT_ONCE, (str(thread_id),))
        if (yield from self.is_taken(saver, thread_id)):
            return False
        for table in ("checkpoint_writes", "checkpoint_blobs"):
            yield Tell(f"DELETE FROM {table} WHERE thread_id = %s", [(str(thread_id),)])  # noqa: S608
        for sql, few in (
            (_WRITE_BLOB, rows.blobs),
            (_WRITE_WRITE, rows.writes),
            (_WRITE_CHECKPOINT, rows.checkpoints),
        ):
            yield Tell(sql, [(*row.values(), str(thread_id)) for row in few])
        return True

    def erase(self, _: Any, thread_id: str, doomed: Doomed) -> Script[None]:
        """Delete checkpoints with their writes, and what only they need."""
        yield Ask(_ONE_AT_ONCE, (str(thread_id),))
        for namespace, some in doomed.items():
            there, ids = (str(thread_id), namespace), list(some)
            yield Tell(_ERASE_WRITES, [(*there, ids)])
            deleted = yield Ask(_ERASE_CHECKPOINTS, (*there, ids))
            yield Tell(_ERASE_PARENTS, [(*there, ids)])
            kept = yield Ask(_KEPT_BLOBS, there)
            used = {(row["channel"], row["version"]) for row in kept}
            freed: dict[str, list[str]] = {}
            for channel, version in {pair for row in deleted for pair in row["versions"].items()}:
                if (channel, str(version)) not in used:
                    freed.setdefault(channel, []).append(str(version))
            yield Tell(_ERASE_BLOBS, [(*there, channel, versions) for channel, versions in freed.items()])

    def values(self, saver: Any, rows: Rows) -> Iterator[tuple[str, str, Any]]:
        """Namespace, checkpoint id and value of every channel and every write.

        What stands in the checkpoint itself is a number or a text, and never a ref.
        """
        load = saver.serde.loads_typed
        blobs = {
            (row["checkpoint_ns"], row["channel"], row["version"]): load((row["type"], row["blob"]))
            for row in rows.blobs
            if row["type"] != "empty"
        }
        for row in rows.checkpoints:
            for channel, version in json.loads(row["checkpoint"])["channel_versions"].items():
                yield *_place(row), blobs.get((row["checkpoint_ns"], channel, str(version)))
        for row in rows.writes:
            yield *_place(row), load((row["type"], row["blob"]))

    def run(self, saver: Any, script: Script[T]) -> T:
        """Run a script, under the lock of the saver."""
        with saver._cursor() as cursor:  # noqa: SLF001  (it holds the lock, the connection and the pipeline)
            if saver.pipe:
                saver.pipe.sync()  # or the transaction takes in what ran before
            with cursor.connection.transaction():
                return play(script, partial(_answer, cursor))


class AsyncPostgresTables(PostgresTables):
    """For savers that live on an event loop."""

    def run(self, saver: Any, script: Script[T]) -> T:
        """Run a script on the loop of the saver, from another thread."""
        return through_its_loop(saver, lambda: self.arun(saver, script))

    async def arun(self, saver: Any, script: Script[T]) -> T:
        """Run a script, under the lock of the saver."""
        async with saver._cursor() as cursor:  # noqa: SLF001
            if saver.pipe:
                await saver.pipe.sync()
            async with cursor.connection.transaction():
                return await aplay(script, partial(_aanswer, cursor))


def _place(row: Row) -> tuple[str, str]:
    return row["checkpoint_ns"], row["checkpoint_id"]


def _answer(cursor: Any, ask: Ask | Tell) -> list[Row]:
    if isinstance(ask, Tell):
        if ask.times:
            cursor.executemany(ask.sql, ask.times)
        return []
    rows: list[Row] = cursor.execute(ask.sql, ask.arguments).fetchall()
    return rows


async def _aanswer(cursor: Any, ask: Ask | Tell) -> list[Row]:
    if isinstance(ask, Tell):
        if ask.times:
            await cursor.executemany(ask.sql, ask.times)
        return []
    await cursor.execute(ask.sql, ask.arguments)
    rows: list[Row] = await cursor.fetchall()
    return rows
