"""`agentref gc` on databases as LangGraph's savers leave them."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref import AgentRefState, Externalized
from agentref.adapters.langgraph import LangGraphAdapter, externalize
from agentref.storage import FilesystemCAS, PostgresCAS

KINDS = ("unpinned", "stale", "surplus", "missing", "damaged", "foreign")


class Work(TypedDict, total=False):
    document: Any
    small: Any


def write(saver, *threads, small=None):
    builder = StateGraph(Work)
    builder.add_node("rewrite", lambda state: {"document": state["document"] + " again " * 500})
    builder.add_edge(START, "rewrite")
    for thread in threads:
        builder.compile(checkpointer=saver).invoke(
            {"document": f"{thread} " * 1000, "small": small}, {"configurable": {"thread_id": thread}}
        )


@pytest.fixture
def database(tmp_path):
    return tmp_path / "checkpoints.db"


@pytest.fixture
def saver(database):
    with SqliteSaver.from_conn_string(str(database)) as saver:
        yield saver


@pytest.fixture
def gc(run, database):
    def gc(*options, name=database, store=None):
        return run("gc", "--checkpoints", str(name), "--grace", "0", *options, store=store)

    return gc


def said(result, code=0):
    assert result.exit_code == code, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def pins(cas):
    return {(pin.owner, pin.hash) for pin in cas.iter_pins()}


def refused(result, *words):
    assert result.exit_code == 2
    assert result.stdout == "" and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_nothing_to_do(cas, saver, gc):
    write(externalize(saver, backend=cas), "one")
    before = pins(cas)
    found = said(gc("--json"))
    assert found["ok"] and found["differences"] == [] and found["checkpoints"] == 3
    assert found["pins"] == len(before) and not any(found[kind] for kind in KINDS)
    assert "checkpoints" in gc().stdout
    assert pins(cas) == before


def test_pins_that_lack_are_set_and_what_stays_is_exit_code_1(cas, saver, database, gc):
    write(externalize(saver, backend=cas), "one", "two")
    held = pins(cas)
    cas.unpin(*{owner for owner, _ in held})
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM checkpoints WHERE thread_id = 'two'")
    cas.pin("langgraph:two::gone", [cas.dump("left behind")])
    one = {pair for pair in held if pair[0].startswith("langgraph:one:")}
    for options, changes in ((["--dry-run"], False), ([], True)):
        found = said(gc("--json", *options), 1)
        assert (found["dry_run"], found["ok"]) == (not changes, False)
        assert (found["unpinned"], found["stale"], found["removed"]) == (len(one), 1, 0)
        assert found["pinned"] == changes * len(one)
        told = {(each["owner"], each["hash"]) for each in found["differences"]}
        assert told - pins(cas) == (set() if changes else one)
    result = gc()
    assert result.exit_code == 1 and "langgraph:two::gone" in result.stdout
    assert "--remove-stale" in result.stdout
    found = said(gc("--json", "--remove-stale"))
    assert (found["removed"], found["ok"]) == (1, True)
    assert pins(cas) == one


def test_each_difference_is_in_the_document_and_the_first_ones_in_the_text(cas, saver, gc):
    write(externalize(saver, backend=cas), *(f"thread {number}" for number in range(12)))
    held = pins(cas)
    cas.unpin(*{owner for owner, _ in held})
    result = gc("--dry-run")
    assert result.stdout.count("unpinned: ") == 20 < len(held)
    assert "There are more" in result.stdout
    found = said(gc("--json"))
    assert {(each["owner"], each["hash"]) for each in found["differences"]} == held == pins(cas)


def test_a_payload_that_is_missing(cas, saver, gc):
    write(externalize(saver, backend=cas), "one")
    name = min(pins(cas))[1]
    cas.delete(name)
    found = said(gc("--json"), 1)
    assert {each["hash"] for each in found["differences"]} == {name}
    assert found["missing"] == len(found["differences"]) and not found["ok"]
    assert f"missing: {name}, thread one " in gc().stdout


def test_other_names_of_the_store(cas, saver, path, gc):
    with FilesystemCAS(path, backend_id="the-old-name") as other:
        write(externalize(saver, backend=other), "one")
        held = pins(other)
        other.unpin(*{owner for owner, _ in held})
    result = gc()
    assert result.exit_code == 0 and "--backend-alias" in result.stdout
    assert said(gc("--json"))["foreign"] == len(held)
    found = said(gc("--json", "--backend-alias", "the-old-name"))
    assert (found["foreign"], found["pinned"]) == (0, len(held)) and pins(cas) == held


def test_several_databases(cas, saver, tmp_path, gc):
    write(externalize(saver, backend=cas), "one")
    second = tmp_path / "second.db"
    with SqliteSaver.from_conn_string(str(second)) as other:
        write(externalize(other, backend=cas), "two")
    held = pins(cas)
    assert said(gc("--json"), 1)["stale"] > 0
    found = said(gc("--json", "--remove-stale", "--checkpoints", str(second)))
    assert found["stale"] == 0 and found["checkpoints"] == 6
    assert pins(cas) == held


def test_an_empty_database_frees_nothing(cas, saver, tmp_path, gc):
    write(externalize(saver, backend=cas), "one")
    held = pins(cas)
    empty = tmp_path / "empty.db"
    with SqliteSaver.from_conn_string(str(empty)) as other:
        other.setup()
    refused(gc("--remove-stale", name=empty), "no checkpoint at all", str(empty), "agentref pins rm")
    cas.pin("langgraph:gone::1", [cas.dump("left behind")])
    several = gc("--remove-stale", "--checkpoints", str(empty))
    refused(several, f"no checkpoint at all in {empty}, and")
    cas.unpin("langgraph:gone::1")
    assert pins(cas) == held
    assert pins(cas) == held
    assert said(gc("--json", name=empty), 1)["stale"] == len(held)


def test_what_is_no_database_of_checkpoints(cas, path, tmp_path, gc):
    missing = tmp_path / "chekpoints.db"
    refused(gc(name=missing), str(missing), "no such file")
    refused(gc(name=tmp_path), str(tmp_path), "a directory")
    refused(gc(name="x" * 5000), "no such file")
    text = tmp_path / "text"
    text.write_text("no database at all, but a text that is long enough to be looked at " * 20)
    refused(gc(name=text), "no checkpoints of LangGraph")
    refused(gc(name=path / "index.sqlite3"), "no checkpoints of LangGraph", "no such table")
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection, connection:
        connection.execute("CREATE TABLE checkpoints(id)")
    refused(gc(name=other), "no checkpoints of LangGraph", "no such column")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.db", "store", "text"]


def pickled_if_it_may_be():
    """LangGraph's serializer knows no functions."""


class Cipher:
    """Shifts each byte: enough to be unreadable."""

    def encrypt(self, plaintext):
        return "shifted", bytes((byte + 1) % 256 for byte in plaintext)

    def decrypt(self, ciphername, ciphertext):
        return bytes((byte - 1) % 256 for byte in ciphertext)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("encrypted", "'msgpack+shifted'"),
        ("pickled", "'pickle'"),
        ("garbled", "no msgpack"),
        ("other", "none"),
    ],
)
def test_what_another_serializer_wrote_is_refused_and_nothing_is_changed(cas, database, gc, how, words):
    serde = JsonPlusSerializer(pickle_fallback=True)
    small = pickled_if_it_may_be if how == "pickled" else None
    if how == "encrypted":
        serde = EncryptedSerializer(Cipher())
    with closing(sqlite3.connect(database, check_same_thread=False)) as connection:
        saver = SqliteSaver(connection, serde=serde)
        write(externalize(saver, backend=cas), "one", small=small)
        for when, stands in (("garbled", b"\xc1\xc1"), ("other", b"\x01")):
            if how == when:
                connection.execute("UPDATE checkpoints SET checkpoint = ? WHERE rowid = 2", (stands,))
                connection.commit()
    held = pins(cas)
    cas.unpin(next(iter(held))[0])
    before = pins(cas)
    refused(gc("--remove-stale"), "checkpoint", words)
    assert pins(cas) == before


def test_no_class_that_a_checkpoint_names_is_looked_up(cas, database, tmp_path, path):
    """Written by a program with modules of its own; read by a shell that has none of them."""
    module = tmp_path / "there" / "elsewhere.py"
    module.parent.mkdir()
    module.write_text("""
import sys
from dataclasses import dataclass
from enum import Enum
from typing import Any
from pydantic import BaseModel
assert "agentref.cli" not in sys.modules, "imported by the command"
@dataclass
class Plain: part: Any
class Model(BaseModel): part: Any = None
class Colour(Enum): RED = 1
""")
    script = f"""
import sys
sys.path[:0] = [{str(module.parent)!r}]
import elsewhere
from test_gc import SqliteSaver, externalize, write, FilesystemCAS
with SqliteSaver.from_conn_string({str(database)!r}) as saver, FilesystemCAS({str(path)!r}) as cas:
    write(externalize(saver, backend=cas), "one",
        small=[elsewhere.Plain({{1}}), elsewhere.Model(part="x"), elsewhere.Colour.RED])
    cas.unpin(*{{pin.owner for pin in cas.iter_pins()}})
"""
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": paths})
    done = subprocess.run(
        [sys.executable, "-m", "agentref.cli", "gc", "--checkpoints", database, "--store", path, "--json"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(module.parent), *sys.path])},
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["ok"] and found["pinned"] == found["unpinned"] > 0


class Typed(AgentRefState):
    docs: Externalized[list[str]]


def test_refs_of_typed_state(cas, saver, gc):
    adapter = LangGraphAdapter(Typed, backend=cas)
    builder = StateGraph(adapter.schema())
    builder.add_node("write", adapter.wrap_node(lambda state: {"docs": ["a" * 3000]}))
    builder.add_edge(START, "write")
    shown = builder.compile(checkpointer=saver).invoke({"docs": []}, {"configurable": {"thread_id": "t"}})
    found = said(gc("--json"))
    assert shown["docs"].hash in {each["hash"] for each in found["differences"]}
    assert found["pinned"] == found["unpinned"] and said(gc("--json"))["unpinned"] == 0


def test_the_database_is_only_read(cas, saver, database, gc):
    write(externalize(saver, backend=cas), "one")
    saver.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = database.read_bytes()
    said(gc("--json"))
    assert database.read_bytes() == before
    assert database.with_name("checkpoints.db-wal").read_bytes() == b""


def test_what_a_killed_writer_left_is_read(cas, saver, database, tmp_path, gc):
    write(externalize(saver, backend=cas), "one")
    left = tmp_path / "left.db"
    for ending in ("", "-wal"):
        left.with_name(left.name + ending).write_bytes(
            database.with_name(database.name + ending).read_bytes()
        )
    assert left.with_name("left.db-wal").stat().st_size > 0
    assert said(gc("--json", name=left))["checkpoints"] == 3


def test_a_database_from_before_task_paths(cas, saver, database, gc):
    write(externalize(saver, backend=cas), "one")
    with closing(sqlite3.connect(database)) as connection:
        if "task_path" in [column[1] for column in connection.execute("PRAGMA table_info(writes)")]:
            connection.execute("ALTER TABLE writes DROP COLUMN task_path")
    assert said(gc("--json"))["checkpoints"] == 3


def test_checkpoints_and_a_store_in_postgres(dsn, gc):
    with PostgresCAS(dsn) as cas, PostgresSaver.from_conn_string(dsn) as saver:
        refused(gc(name=dsn, store=dsn), "no checkpoints of LangGraph", "does not exist")
        saver.setup()
        write(externalize(saver, backend=cas), "one")
        held = pins(cas)
        cas.unpin(*{owner for owner, _ in held})
        found = said(gc("--json", name=dsn, store=dsn))
        assert (found["checkpoints"], found["pinned"]) == (3, len(held)) and pins(cas) == held
        wrong = dsn.replace("/agentref_test_", "/no_such_")
        results = [
            gc(name=name, store=dsn) for name in (dsn, wrong, "postgresql://a:hush@nowhere.invalid/b")
        ]
        assert [result.exit_code for result in results] == [0, 2, 2]
        assert all("hush" not in result.output for result in results)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("langgraph.checkpoint.sqlite", "agentref-checkpoint[langgraph]"),
        ("langgraph.checkpoint.postgres", "langgraph-checkpoint-postgres"),
        ("agentref.adapters.langgraph", "agentref-checkpoint[langgraph]"),
    ],
)
def test_a_missing_extra_is_named(cas, saver, gc, monkeypatch, module, words):  # noqa: PLR0917
    saver.setup()
    monkeypatch.setitem(sys.modules, module, None)
    name = "postgresql://nowhere.invalid/a" if "postgres" in module else None
    refused(gc(**({"name": name} if name else {})), "pip install", words)


def test_bad_options(saver, run, gc):
    saver.setup()
    assert run("gc").exit_code == 2
    refused(gc("--grace", "soon"), "--grace")
    refused(gc("--grace", "2d"), "grace")
