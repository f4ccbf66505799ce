"""InMemorySaver: dicts. Each is read in one step, and a checkpoint comes last and goes first."""

from collections.abc import Iterator
from typing import Any, TypeVar

from langgraph.checkpoint.memory import InMemorySaver

from agentref.adapters.langgraph.offered.tables import Ask, Doomed, Row, Rows, Script, Tell, play

__all__ = ["MemoryTables"]

T = TypeVar("T")


class MemoryTables:
    """The dicts `storage`, `writes` and `blobs`."""

    def read(self, saver: InMemorySaver, thread_id: str) -> Script[Rows]:
        """All of a thread."""
        yield from ()
        checkpoints = [
            {"namespace": namespace, "id": checkpoint_id, "entry": entry}
            for namespace, entries in list(saver.storage.get(thread_id, {}).items())
            for checkpoint_id, entry in list(entries.items())
        ]
        there = {(row["namespace"], row["id"]) for row in checkpoints}
        writes = [
            {"namespace": key[1], "id": key[2], "entries": dict(entries)}
            for key, entries in list(saver.writes.items())
            if key[0] == thread_id and key[1:] in there
        ]
        blobs = [
            {"key": key[1:], "blob": blob} for key, blob in list(saver.blobs.items()) if key[0] == thread_id
        ]
        return Rows(checkpoints, writes, blobs)

    def is_taken(self, saver: InMemorySaver, thread_id: str) -> Script[bool]:
        """Whether there is a checkpoint in that thread."""
        yield from ()
        return any(saver.storage.get(thread_id, {}).values())

    def write(self, saver: InMemorySaver, thread_id: str, rows: Rows) -> Script[bool]:
        """Make that thread of these rows."""
        if (yield from self.is_taken(saver, thread_id)):
            return False
        saver.delete_thread(thread_id)
        for row in rows.blobs:
            saver.blobs[(thread_id, *row["key"])] = row["blob"]
        for row in rows.writes:
            saver.writes[thread_id, row["namespace"], row["id"]] = dict(row["entries"])
        for row in rows.checkpoints:
            saver.storage[thread_id][row["namespace"]][row["id"]] = row["entry"]
        return True

    def erase(self, saver: InMemorySaver, thread_id: str, doomed: Doomed) -> Script[None]:
        """Delete checkpoints with their writes, and what only they need."""
        yield from ()
        for namespace, ids in doomed.items():
            entries = saver.storage.get(thread_id, {}).get(namespace, {})
            freed = {
                key
                for checkpoint_id in ids
                if (entry := entries.pop(checkpoint_id, None)) is not None
                for key in _versions(saver, entry)
            }
            gone = set(ids)
            for checkpoint_id, (checkpoint, metadata, parent) in list(entries.items()):
                if parent in gone:
                    entries[checkpoint_id] = (checkpoint, metadata, None)
            for checkpoint_id in ids:
                saver.writes.pop((thread_id, namespace, checkpoint_id), None)
            kept = {key for entry in list(entries.values()) for key in _versions(saver, entry)}
            for channel, version in freed - kept:
                saver.blobs.pop((thread_id, namespace, channel, version), None)

    def values(self, saver: InMemorySaver, rows: Rows) -> Iterator[tuple[str, str, Any]]:
        """Namespace, checkpoint id and value of every channel and every write."""
        load = saver.serde.loads_typed
        blobs = {row["key"]: load(row["blob"]) for row in rows.blobs if row["blob"][0] != "empty"}
        for row in rows.checkpoints:
            for channel, version in _versions(saver, row["entry"]):
                value = blobs.get((row["namespace"], channel, version))
                yield row["namespace"], row["id"], value
        for row in rows.writes:
            for _, _, blob, *_ in row["entries"].values():
                yield row["namespace"], row["id"], load(blob)

    def run(self, _: InMemorySaver, script: Script[T]) -> T:
        """Run a script."""
        return play(script, _nothing)

    async def arun(self, saver: InMemorySaver, script: Script[T]) -> T:
        """`run` for the event loop."""
        return self.run(saver, script)


def _versions(saver: InMemorySaver, entry: tuple[Any, ...]) -> set[tuple[str, Any]]:
    versions: dict[str, Any] = saver.serde.loads_typed(entry[0])["channel_versions"]
    return set(versions.items())


def _nothing(_: Ask | Tell) -> list[Row]:
    return []
