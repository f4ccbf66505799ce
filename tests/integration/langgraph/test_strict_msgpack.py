"""LANGGRAPH_STRICT_MSGPACK, which LangGraph reads once at import: so each mode has its own process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# One process: writes a thread, or only reads it, with a raw or a wrapped saver. `Declared` is in the
# state's schema, `Hidden` is not: strict mode learns its types from the schema at compile time.
PROGRAM = """
import dataclasses, enum, json, sqlite3, sys
from datetime import datetime
from typing import Any
from typing_extensions import TypedDict
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel
from agentref.adapters.langgraph import externalize
from agentref.storage import FilesystemCAS

@dataclasses.dataclass
class Declared:
    text: str
    inner: "Child"

class Child(BaseModel):
    name: str

@dataclasses.dataclass
class Hidden:
    text: str

class HiddenModel(BaseModel):
    name: str

class Colour(enum.Enum):
    RED = "red"

class HiddenColour(enum.Enum):
    BLUE = "blue"

class State(TypedDict, total=False):
    declared: Declared
    colour: Colour
    message: HumanMessage
    hidden: Any
    answer: Any

HIDDEN = {
    "dataclass": Hidden("x" * 50), "model": HiddenModel(name="y"), "enum": HiddenColour.BLUE,
    "nested": {"deep": [Hidden("z"), 1]}, "known": datetime(2026, 1, 2),
}

def first(state):
    return {
        "declared": Declared("d" * 50, Child(name="c")), "colour": Colour.RED,
        "message": HumanMessage("hello", id="m"), "hidden": HIDDEN,
    }

def second(state):
    return {"answer": interrupt(Hidden("asked"))}

def worker(arg):
    return {"answer": {"sent": arg}}

mode, directory, wrap, threshold, allowed = sys.argv[1:]
connection = sqlite3.connect(f"{directory}/c.sqlite", check_same_thread=False)
serde = JsonPlusSerializer(allowed_msgpack_modules=[Hidden]) if allowed == "hidden" else None
saver = SqliteSaver(connection, serde=serde)
if wrap == "wrapped":
    store = FilesystemCAS(f"{directory}/blobs", backend_id="b")
    saver = externalize(saver, backend=store, inline_threshold_bytes=int(threshold))
builder = StateGraph(State)
for node in (first, second, worker):
    builder.add_node(node.__name__, node)
builder.add_edge(START, "first")
builder.add_edge("first", "second")
builder.add_conditional_edges("second", lambda s: [Send("worker", Hidden("argument"))], ["worker"])
graph = builder.compile(checkpointer=saver, interrupt_before=["worker"])
config = {"configurable": {"thread_id": "t"}}
if mode == "write":
    graph.invoke({"answer": None}, config)
paused = graph.get_state(config)
shown = {"values": repr(paused.values), "asked": [repr(i.value) for i in paused.interrupts]}
if mode == "write":
    graph.invoke(Command(resume=Hidden("answered")), config)
    graph.invoke(None, config)
shown["final"] = repr(graph.get_state(config).values)
shown["history"] = [repr(s.values) for s in graph.get_state_history(config)]
print(json.dumps(shown))
"""


def play(
    directory: Path, mode: str, saver: str, *, strict: bool, threshold: int = 0, allowed: str = "none"
) -> dict[str, Any]:
    directory.mkdir(exist_ok=True)
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": str(strict).lower()}
    arguments = [mode, str(directory), saver, str(threshold), allowed]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize("threshold", [0, 10**6], ids=["everything", "nothing"])
def test_strict_mode_loads_what_it_loads_without_agentref(tmp_path: Path, threshold: int) -> None:
    stock = play(tmp_path / "stock", "write", "raw", strict=True)
    wrapped = play(tmp_path / "wrapped", "write", "wrapped", strict=True, threshold=threshold)
    assert wrapped == stock
    # The comparison says something only if the schema's types survived and the hidden ones did not.
    assert "Declared(text=" in stock["values"] and "<Colour.RED" in stock["values"]
    assert "inner=Child(name='c')" in stock["values"] and "HumanMessage(" in stock["values"]
    assert "Hidden" not in stock["values"] + "".join(stock["asked"])


def test_an_allowlist_of_the_inner_serializer_holds_for_externalized_values(tmp_path: Path) -> None:
    stock = play(tmp_path / "stock", "write", "raw", strict=True, allowed="hidden")
    wrapped = play(tmp_path / "wrapped", "write", "wrapped", strict=True, allowed="hidden")
    assert wrapped == stock
    assert "Hidden(text=" in stock["values"] and "HiddenModel" not in stock["values"]
    assert stock["asked"] == ["Hidden(text='asked')"]


def test_without_strict_mode_every_type_of_the_program_is_loaded(tmp_path: Path) -> None:
    stock = play(tmp_path / "stock", "write", "raw", strict=False)
    wrapped = play(tmp_path / "wrapped", "write", "wrapped", strict=False)
    assert wrapped == stock
    for name in ("Declared(", "Hidden(", "HiddenModel(", "<HiddenColour."):
        assert name in stock["values"]


def test_a_thread_from_before_strict_mode_is_read_as_it_is_without_agentref(tmp_path: Path) -> None:
    for name, saver in (("stock", "raw"), ("wrapped", "wrapped")):
        play(tmp_path / name, "write", saver, strict=False)
    stock = play(tmp_path / "stock", "read", "raw", strict=True)
    wrapped = play(tmp_path / "wrapped", "read", "wrapped", strict=True)
    assert "Hidden" not in stock["values"]
    assert wrapped == stock
