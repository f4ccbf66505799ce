"""What typed state leaves in a database, and what a new process makes of it."""

import asyncio
import operator
import os
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Overwrite, Send, interrupt
from typing_extensions import TypedDict

from agentref import AgentRefState, ContentRef, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter, externalize
from agentref.errors import InvalidInputError, UnknownBackendError
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS

AT: Any = {"configurable": {"thread_id": "t"}}


class State(AgentRefState):
    question: Inline[str]
    docs: Externalized[list[dict[str, str]]]
    page: Externalized[str]
    log: Annotated[Externalized[list[str]], operator.add]
    answer: Inline[str]


def build(adapter: LangGraphAdapter, mark: Callable[[str], str]) -> Any:
    """A graph that writes by dict, command, send, overwrite, in place, and from a plain node."""

    @adapter.node
    def retrieve(state: Any) -> Any:
        return {"docs": [{"text": mark("dict")}], "log": [mark("log")]}

    @adapter.node
    def command(state: Any) -> Any:
        return Command(update={"page": mark("command")}, goto=Send("reader", {"page": mark("sent")}))

    @adapter.node
    def reader(arg: Any) -> Any:
        return {"log": Overwrite([mark("overwrite"), arg["page"]])}

    @adapter.node
    def in_place(state: State) -> Any:
        state.docs[0]["more"] = mark("in place")

    def plain(_: Any) -> Any:
        return {"log": [mark("plain")]}

    @adapter.node
    def ask(state: State) -> Any:
        return {"answer": interrupt("well?") + f" {len(state.log)} {len(state.docs[0])}"}

    builder = StateGraph(adapter.schema()).add_node(retrieve).add_node(reader).add_node(in_place)
    builder.add_node("command", command, destinations=("reader",)).add_node(plain).add_node(ask)
    for left, right in [
        (START, "retrieve"),
        ("retrieve", "command"),
        ("reader", "in_place"),
        ("in_place", "plain"),
        ("plain", "ask"),
    ]:
        builder.add_edge(left, right)
    return builder


class Marks:
    """Texts that occur nowhere else, by name."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        return self.made.setdefault(name, f"{name} {secrets.token_hex(12)}")


def final(adapter: LangGraphAdapter, mark: Marks, values: Any) -> None:
    values = adapter.hydrate(values)
    assert values["docs"] == [{"text": mark("dict"), "more": mark("in place")}]
    assert values["page"] == mark("command")
    assert values["log"] == [mark("overwrite"), mark("sent"), mark("plain")]
    assert values["answer"] == "yes 3 2"


@pytest.mark.parametrize("saver", ["stock", "adapter", "externalized"])
def test_a_paused_thread_goes_on_in_a_new_adapter_over_the_same_files(
    face: Any, tmp_path: Path, saver: str
) -> None:
    mark = Marks()
    inner = face.open()

    def open_graph(database: Any) -> tuple[LangGraphAdapter, Any]:
        adapter = LangGraphAdapter(State, backend=FilesystemCAS(tmp_path / "blobs"))
        checkpointer = {
            "stock": lambda: database,
            "adapter": lambda: adapter.checkpointer(database),
            "externalized": lambda: externalize(
                database, backend=adapter.backend, inline_threshold_bytes=0
            ),
        }[saver]()
        return adapter, build(adapter, mark).compile(checkpointer=checkpointer)

    def invoke(graph: Any, value: Any) -> Any:
        return face.wait((graph.ainvoke if face.loop else graph.invoke)(value, AT))

    def state(graph: Any) -> Any:
        return face.wait((graph.aget_state if face.loop else graph.get_state)(AT))

    adapter, graph = open_graph(inner)
    paused = invoke(graph, {"question": "q", "page": mark("input")})
    assert paused["__interrupt__"][0].value == "well?"
    adapter.backend.close()

    adapter, graph = open_graph(face.open(face.databases[id(inner)]) if face.databases else inner)
    final(adapter, mark, invoke(graph, Command(resume="yes")))
    final(adapter, mark, state(graph).values)
    in_database = face.bytes_in(inner)
    if saver == "adapter":
        assert {name for name, text in mark.made.items() if text.encode() in in_database} == set()
    elif saver == "stock":  # what comes from outside, and from plain nodes, a bare saver sees
        assert {name for name, text in mark.made.items() if text.encode() in in_database} == {
            "input",
            "plain",
        }
    adapter.backend.close()


def test_with_an_externalized_input_a_stock_saver_sees_no_payload(face: Any, cas: CAS) -> None:
    mark = Marks()
    adapter = LangGraphAdapter(State, backend=cas)
    inner = face.open()
    graph = StateGraph(adapter.schema()).add_node(
        "n", adapter.wrap_node(lambda state: {"answer": state["page"][:5]})
    )
    app = graph.add_edge(START, "n").compile(checkpointer=inner)
    given = face.wait(
        adapter.aexternalize({"page": mark("input")}) if face.loop else None
    ) or adapter.externalize({"page": mark("input")})
    outcome = face.wait((app.ainvoke if face.loop else app.invoke)(given, AT))
    assert outcome["answer"] == "input"
    update = adapter.externalize({"page": mark("update")})
    face.wait((app.aupdate_state if face.loop else app.update_state)(AT, update))
    assert not any(text.encode() in face.bytes_in(inner) for text in mark.made.values())


def test_the_adapters_checkpointer_keeps_refs_for_inputs_and_updates_of_any_size(
    face: Any, cas: CAS
) -> None:
    mark = Marks()
    adapter = LangGraphAdapter(State, backend=cas)
    inner = face.open()

    def plain(_: Any) -> Any:
        return [
            Command(update={"docs": [{"text": mark("plain")}]}),
            {"log": Overwrite([mark("overwrite")])},
        ]

    app = (
        StateGraph(adapter.schema())
        .add_node(plain)
        .add_edge(START, "plain")
        .compile(checkpointer=adapter.checkpointer(inner))
    )

    def call(name: str, *args: Any) -> Any:
        return face.wait(getattr(app, f"a{name}" if face.loop else name)(*args))

    call("invoke", {"page": mark("input"), "question": "kept inline"}, AT)
    call("update_state", AT, {"page": mark("update")})
    call("invoke", Command(update={"page": mark("command")}, goto="plain"), AT)
    call("invoke", State(page=mark("state"), question="kept inline"), AT)
    values = adapter.hydrate(call("get_state", AT)).values
    assert values["page"] == mark("state") and values["log"] == [mark("overwrite")]
    in_database = face.bytes_in(inner)
    assert b"kept inline" in in_database
    assert {name for name, text in mark.made.items() if text.encode() in in_database} == set()


def test_what_the_saver_itself_shows_of_a_typed_thread(cas: CAS) -> None:
    adapter = LangGraphAdapter(State, backend=cas)
    inner = InMemorySaver()
    saver = adapter.checkpointer(inner)
    app = StateGraph(adapter.schema()).add_node("n", adapter.wrap_node(lambda state: {"page": "p"}))
    app.add_edge(START, "n").compile(checkpointer=saver).invoke({"docs": [{"a": "b"}]}, AT)
    values = next(iter(saver.list(AT))).checkpoint["channel_values"]
    assert values["docs"] == cas.dump([{"a": "b"}]) and type(values["page"]) is ContentRef
    kept = next(iter(inner.list(AT))).checkpoint["channel_values"]["docs"]
    assert kept == {"__agentref__": {"ref": values["docs"].to_dict()["__agentref__"]}}


def test_what_a_kept_ref_names_is_durable_before_the_ref_is(cas: CAS) -> None:
    class Refusing(InMemorySaver):
        def put_writes(self, *_: Any, **__: Any) -> None:
            assert cas.exists(cas.encode([["pending"]]).refs[0].hash)
            raise ConnectionError("the database is gone")

        def put(self, *_: Any, **__: Any) -> Any:
            assert cas.exists(cas.encode([["in the input"]]).refs[0].hash)
            raise ConnectionError("the database is gone")

    saver = LangGraphAdapter(State, backend=cas).checkpointer(Refusing())
    at: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "1"}}
    with pytest.raises(ConnectionError):
        saver.put_writes(at, [("docs", ["pending"])], "task")
    checkpoint = {**empty_checkpoint(), "channel_values": {"__start__": {"docs": ["in the input"]}}}
    with pytest.raises(ConnectionError):
        saver.put(at, checkpoint, {}, {})  # type: ignore[arg-type]


def test_history_forks_and_time_travel_keep_their_values(cas: CAS) -> None:
    adapter = LangGraphAdapter(State, backend=cas)

    def step(state: Any) -> Any:
        return {"docs": [*state["docs"], {"n": str(len(state["docs"]))}], "log": [str(len(state["docs"]))]}

    builder = StateGraph(adapter.schema())
    builder.add_node("a", adapter.wrap_node(step)).add_node("b", adapter.wrap_node(step))
    app = (
        builder.add_edge(START, "a")
        .add_edge("a", "b")
        .compile(checkpointer=adapter.checkpointer(InMemorySaver()))
    )
    app.invoke({"docs": []}, AT)
    history = list(app.get_state_history(AT))
    assert [len(adapter.hydrate(each).values.get("docs", ())) for each in history] == [2, 1, 0, 0]
    fork = app.update_state(history[1].config, {"docs": [{"n": "forked"}]}, as_node="a")
    assert adapter.hydrate(app.invoke(None, fork))["docs"] == [{"n": "forked"}, {"n": "1"}]
    replayed = adapter.hydrate(app.invoke(None, history[1].config))
    assert replayed["docs"] == [{"n": "0"}, {"n": "1"}] and replayed["log"] == ["0", "1"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_thread_from_before_goes_on_with_typed_state(face: Any, cas: CAS, wrapped: bool) -> None:
    class Before(TypedDict, total=False):
        question: str
        docs: list[dict[str, str]]
        page: str
        log: Annotated[list[str], operator.add]
        answer: str

    def stop(state: Any) -> Any:
        return {"answer": interrupt("?")}

    def go_on(state: Any) -> Any:
        state["docs"][0]["in place"] = "kept"
        return {"answer": interrupt("?") + state["page"], "log": ["after"]}

    adapter = LangGraphAdapter(State, backend=cas)
    inner = face.open()
    old = StateGraph(Before).add_node("n", stop).add_edge(START, "n").compile(checkpointer=inner)
    new = (
        StateGraph(adapter.schema())
        .add_node("n", adapter.wrap_node(go_on))
        .add_edge(START, "n")
        .compile(checkpointer=adapter.checkpointer(inner) if wrapped else inner)
    )

    def call(graph: Any, value: Any) -> Any:
        return face.wait((graph.ainvoke if face.loop else graph.invoke)(value, AT))

    look_alike = {"__agentref__": cas.dump("somebody's secret").to_dict()["__agentref__"]}
    call(old, {"docs": [look_alike], "page": "a page", "log": ["before"]})
    outcome = adapter.hydrate(call(new, Command(resume="yes, ")))
    assert outcome["docs"] == [{**look_alike, "in place": "kept"}]
    assert outcome["answer"] == "yes, a page" and outcome["log"] == ["before", "after"]
    assert isinstance(call(new, {"page": "another"})["page"], ContentRef)


def test_a_checkpointer_of_the_adapter_lets_subgraphs_alone(cas: CAS) -> None:
    class Sub(TypedDict, total=False):
        docs: list[str]
        question: str

    def look(state: Sub) -> Any:
        assert state["docs"] == ["plain"], "a plain subgraph sees plain values, also after it was paused"
        return {"question": interrupt("?") * 1000}

    sub = StateGraph(Sub).add_node("look", look).add_edge(START, "look").compile()
    adapter = LangGraphAdapter(State, backend=cas, inline_threshold_bytes=100)

    def call(state: Any) -> Any:
        return {"answer": str(len(sub.invoke({"docs": ["plain"]})["question"]))}

    app = StateGraph(adapter.schema()).add_node("call", adapter.wrap_node(call)).add_edge(START, "call")
    graph = app.compile(checkpointer=adapter.checkpointer(InMemorySaver()))
    graph.invoke({"page": "p"}, AT)
    assert graph.invoke(Command(resume="x"), AT)["answer"] == "1000"


def test_what_a_checkpointer_needs_is_said(cas: CAS) -> None:
    adapter = LangGraphAdapter(State, backend=cas)
    with pytest.raises(InvalidInputError, match="inline_threshold_bytes"):
        adapter.checkpointer(InMemorySaver(), inline_threshold_bytes=-1)


# --- what is shown


def test_streams_and_snapshots_are_hydrated_whatever_their_form(cas: CAS) -> None:
    adapter = LangGraphAdapter(State, backend=cas)
    app = StateGraph(adapter.schema()).add_node(
        "n", adapter.wrap_node(lambda state: {"docs": [{"a": "b"}]})
    )
    graph = app.add_edge(START, "n").compile(checkpointer=InMemorySaver())
    for mode, chunk in graph.stream(
        {"page": "p"}, AT, stream_mode=["values", "updates", "debug", "checkpoints"]
    ):
        shown = adapter.hydrate((mode, chunk))
        assert "ContentRef" not in repr(shown)
    for part in graph.stream({"page": "p"}, AT, stream_mode="updates"):
        assert adapter.hydrate(part) == {"n": {"docs": [{"a": "b"}]}}
    snapshot = adapter.hydrate(graph.get_state(AT))
    assert snapshot.values == {"page": "p", "docs": [{"a": "b"}], "log": []}
    assert snapshot.config == graph.get_state(AT).config
    assert adapter.hydrate(list(graph.get_state_history(AT)))[0].values == snapshot.values
    assert adapter.hydrate(graph.invoke({"page": "p"}, AT, version="v2")).value == snapshot.values
    assert asyncio.run(adapter.ahydrate(graph.get_state(AT))).values == snapshot.values


def test_hydrating_takes_one_batch_and_changes_nothing_that_it_is_given(cas: CAS) -> None:
    adapter = LangGraphAdapter(State, backend=cas)
    given = {
        "a": adapter.backend.dump([1]),
        "same": [],
        "b": [adapter.backend.dump([1]), (adapter.backend.dump(2),)],
    }
    before = dict(given)
    shown = adapter.hydrate(given)
    assert shown == {"a": [1], "same": [], "b": [[1], (2,)]}
    assert given == before and shown["same"] is given["same"]
    assert shown["a"] is not shown["b"][0]
    assert cas.counters.values_loaded == 3
    look_alike = {"docs": given["a"].to_dict()}
    assert adapter.hydrate(look_alike) is look_alike
    with pytest.raises(UnknownBackendError):
        adapter.hydrate({"docs": InMemoryCAS(backend_id="other").dump(1)})


# --- strict mode, in a process of its own

STRICT = """
    import operator, sqlite3, sys
    from dataclasses import dataclass
    from typing import Annotated
    from langgraph.cache.memory import InMemoryCache
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.sqlite import SqliteSaver
    from langgraph.graph import START, StateGraph
    from langgraph.types import CachePolicy, Overwrite, Send, interrupt, Command
    from agentref import AgentRefState, ContentRef, Externalized, Inline
    from agentref.adapters.langgraph import LangGraphAdapter
    from agentref.errors import UntrustedTypeError
    from agentref.storage import FilesystemCAS

    @dataclass
    class Named:
        n: int

    @dataclass
    class Hidden:
        n: int

    class State(AgentRefState):
        docs: Externalized[list[Named]]
        log: Annotated[Externalized[list[str]], operator.add]
        any: Externalized[object]
        note: Inline[Named]
        answer: Inline[str]

    saver, database, blobs, phase = sys.argv[1:]
    adapter = LangGraphAdapter(State, backend=FilesystemCAS(blobs))

    @adapter.node
    def write(state):
        return {"docs": [Named(1)], "any": Hidden(2), "note": Named(3), "log": Overwrite(["o"])}

    @adapter.node
    def ask(state: State):
        return {"answer": interrupt("?") + repr((state.docs, state.any, state.note, state.log))}

    graph = StateGraph(adapter.schema()).add_sequence([write, ask]).add_edge(START, "write")
    inner = SqliteSaver(sqlite3.connect(database, check_same_thread=False))
    app = graph.compile(checkpointer=inner if saver == "stock" else adapter.checkpointer(inner))
    at = {"configurable": {"thread_id": "t"}}
    if phase == "write":
        app.invoke({"log": ["input"]}, at)
    else:
        shown = app.get_state(at)
        assert {type(shown.values[name]) for name in ("docs", "log", "any")} == {ContentRef}, shown.values
        print(app.invoke(Command(resume="> "), at)["answer"])

        cached = StateGraph(adapter.schema())
        cached.add_node("write", write, cache_policy=CachePolicy())
        cached = cached.add_edge(START, "write").compile(cache=InMemoryCache())
        cached.invoke({"log": []})
        try:
            cached.invoke({"log": []})
        except UntrustedTypeError as error:
            print("refused:", error)
"""


@pytest.mark.parametrize("saver", ["stock", "adapter"])
@pytest.mark.parametrize("strict", ["true", "false"])
def test_strict_msgpack_mode_knows_refs_and_the_types_of_the_schema(
    tmp_path: Path, saver: str, strict: str
) -> None:
    script = tmp_path / "app.py"
    script.write_text(textwrap.dedent(STRICT))
    for phase in ("write", "read"):
        done = subprocess.run(
            [sys.executable, str(script), saver, str(tmp_path / "db"), str(tmp_path / "blobs"), phase],
            env={
                **os.environ,
                "LANGGRAPH_STRICT_MSGPACK": strict,
                "PYTHONPATH": str(Path(__file__).parents[3]),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    hidden = "{'n': 2}" if strict == "true" else "Hidden(n=2)"
    assert done.stdout.splitlines()[0] == f"> ([Named(n=1)], {hidden}, Named(n=3), ['o'])"
    assert ("refused: The ref in field" in done.stdout) == (strict == "true")
    assert "ContentRef" not in done.stderr or strict == "true"
