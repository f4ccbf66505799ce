"""Damaged blobs under a graph: a typed error that names the ref, and never wrong data."""

import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import zstandard
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter, externalize
from agentref.chunks import varint
from agentref.errors import BlobNotFoundError, IntegrityError
from agentref.storage import CAS, FilesystemCAS

AT: Any = {"configurable": {"thread_id": "the-thread"}}


@contextmanager
def opened(database: Path, store: Path) -> Iterator[tuple[Any, CAS]]:
    """A wrapped saver over files, and its store."""
    with (
        closing(sqlite3.connect(database, check_same_thread=False)) as connection,
        FilesystemCAS(store) as cas,
    ):
        yield externalize(SqliteSaver(connection), backend=cas), cas


class Blobs:
    """The stored bytes of a store's blobs, behind its back: in packs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = {
            name: place
            for name, *place in self._run(
                "SELECT hex(digest), pack.name, place, stored_size FROM blob"
                " JOIN pack ON pack.id = pack_id ORDER BY digest"
            )
        }

    def _run(self, statement: str, *parameters: Any) -> list[Any]:
        with closing(sqlite3.connect(self.root / "index.sqlite3")) as index, index:
            return index.execute(statement, parameters).fetchall()

    def read(self, name: str) -> bytes:
        pack, place, size = self.places[name]
        return (self.root / "packs" / pack).read_bytes()[place : place + size]

    def write(self, name: str, data: bytes) -> None:
        pack, place, size = self.places[name]
        with (self.root / "packs" / pack).open("r+b") as file:
            if len(data) != size:  # there is room for it at the end only
                place = file.seek(0, 2)
                self._run(
                    "UPDATE blob SET place = ?, stored_size = ? WHERE hex(digest) = ?",
                    place,
                    len(data),
                    name,
                )
            file.seek(place)
            file.write(data)

    def delete(self, name: str) -> None:
        self._run("DELETE FROM blob WHERE hex(digest) = ?", name)


def flip(blobs: Blobs, name: str, other: str) -> None:
    data = bytearray(blobs.read(name))
    chance = random.Random(name)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    blobs.write(name, bytes(data))


def truncate(blobs: Blobs, name: str, other: str) -> None:
    blobs.write(name, blobs.read(name)[:-1])


def empty(blobs: Blobs, name: str, other: str) -> None:
    blobs.write(name, b"")


def delete(blobs: Blobs, name: str, other: str) -> None:
    blobs.delete(name)


def swap(blobs: Blobs, name: str, other: str) -> None:
    mine, theirs = blobs.read(name), blobs.read(other)
    blobs.write(name, theirs)
    blobs.write(other, mine)


def bomb(blobs: Blobs, name: str, other: str) -> None:
    """A few kilobytes that unpack, as they say themselves, to a quarter of a gigabyte."""
    compressed = 0x18
    kind = blobs.read(name)[:1][0] & 0x07
    blobs.write(name, bytes([compressed | kind]) + varint(BOMB_BYTES) + packed_zeros())


BOMB_BYTES = 2**28


@cache
def packed_zeros() -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(BOMB_BYTES))


DAMAGES = [flip, truncate, empty, delete, swap, bomb]


class Kept(TypedDict, total=False):
    picture: bytes  # a blob that is a file
    table: list[dict[str, Any]]  # a tree of blobs
    note: str  # one blob


KEPT: Kept = {
    "picture": random.Random(1).randbytes(200_000),
    "table": [{"n": n, "text": random.Random(n).randbytes(300).hex()} for n in range(300)],
    "note": random.Random(2).randbytes(3000).hex(),
}


def keeping(saver: Any) -> Any:
    builder = StateGraph(Kept).add_node("keep", lambda state: {"note": state["note"]})
    return builder.add_edge(START, "keep").compile(checkpointer=saver)


def all_of_history(graph: Any) -> Any:
    found = [each.values for each in graph.get_state_history(AT)]
    return found[0]


def error_of(read: Callable[[Any], Any], graph: Any) -> Exception | None:
    """The typed error, or none if the right data were read."""
    try:
        found = read(graph)
    except (IntegrityError, BlobNotFoundError) as error:
        return error
    assert found in (KEPT, None)
    return None


READS: dict[str, Callable[[Any], Any]] = {
    "get_state": lambda graph: graph.get_state(AT).values,
    "history": all_of_history,
    "update_state": lambda graph: graph.update_state(AT, {"note": "n"}) and None,
    "invoke": lambda graph: graph.invoke({"note": "n"}, AT) and None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_a_typed_error_that_names_the_ref_and_never_wrong_data(
    tmp_path: Path, damage: Any
) -> None:
    """Whichever blob is damaged, in a copy for each."""
    whole = tmp_path / "whole"
    whole.mkdir()
    with opened(whole / "db.sqlite", whole / "store") as (saver, _):
        keeping(saver).invoke(KEPT, AT)
    names = list(Blobs(whole / "store").places)
    assert len(names) > 6
    for index, name in enumerate(names):
        place = tmp_path / str(index)
        shutil.copytree(whole, place)
        damage(Blobs(place / "store"), name, names[index - 1])
        raised = set()
        with opened(place / "db.sqlite", place / "store") as (saver, cas):
            graph = keeping(saver)
            kept = len(list(saver.inner.list(AT)))
            for how, read in READS.items():
                error = error_of(read, graph)
                if error is not None:
                    raised.add(how)
                    named = r"hannel '\w+' of thread 'the-thread' \(ref [0-9a-f]{64}\)"
                    assert re.search(named, str(error))
                    assert len(list(saver.inner.list(AT))) == kept
                kept = len(list(saver.inner.list(AT)))
            assert not cas.verify().ok or damage is delete
        assert "history" in raised  # which reads every blob that there is
        shutil.rmtree(place)


class Typed(AgentRefState):
    page: Externalized[str]
    answer: Inline[str]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_under_typed_state_is_an_error_that_names_field_and_ref(tmp_path: Path, damage: Any) -> None:
    database, store = tmp_path / "db.sqlite", tmp_path / "store"
    with closing(sqlite3.connect(database, check_same_thread=False)) as connection:
        with FilesystemCAS(store) as cas:
            graph = typed(cas, connection)
            ref = graph.invoke({"page": KEPT["note"]}, AT)["page"]
            cas.dump("another" * 100)
        name, other = ref.hash.upper(), next(n for n in Blobs(store).places if n != ref.hash.upper())
        damage(Blobs(store), name, other)
        with FilesystemCAS(store) as cas:
            graph = typed(cas, connection)
            before = graph.get_state(AT)  # which reads refs only
            with pytest.raises((IntegrityError, BlobNotFoundError), match=ref.hash) as caught:
                graph.invoke({"answer": "a"}, AT)
            assert "page" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
            assert graph.get_state(before.config).values == before.values
            assert graph.invoke({"page": "mended"}, AT)["answer"] == "mended"


def typed(cas: CAS, connection: sqlite3.Connection) -> Any:
    adapter = LangGraphAdapter(Typed, backend=cas)

    def read(state: Typed) -> Any:
        return {"answer": state.page[:6]}

    builder = StateGraph(adapter.schema()).add_node("read", adapter.wrap_node(read)).add_edge(START, "read")
    return builder.compile(checkpointer=adapter.checkpointer(SqliteSaver(connection)))
