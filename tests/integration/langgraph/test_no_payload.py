"""Ways into a checkpoint that are easily forgotten: their payloads, too, are not in the raw database."""

import operator
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langgraph.channels import Topic
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Overwrite, Send, StateUpdate, interrupt
from typing_extensions import TypedDict


class State(TypedDict, total=False):
    text: str
    notes: Annotated[list[str], operator.add]
    topic: Annotated[list[str], Topic(str, accumulate=True)]


Scenario = Callable[[Any, str], Any]


def graph_of(run: Any, *nodes: Callable[..., Any], **how: Any) -> Any:
    builder = StateGraph(State).add_sequence(list(nodes)).add_edge(START, nodes[0].__name__)
    return builder.compile(checkpointer=run.saver, **how)


def interrupting(run: Any, text: str) -> Any:
    def ask(state: State) -> State:
        return {"notes": [str(len(interrupt(text)))]}

    graph = graph_of(run, ask)
    run.invoke(graph, {"text": "go"})
    return run.state(graph)


def resuming(run: Any, text: str) -> Any:
    def ask(state: State) -> State:
        said = interrupt("first")
        return {"notes": [str(len(said)), interrupt("second")]}  # so that the first answer stays a write

    graph = graph_of(run, ask)
    run.invoke(graph, {"text": "go"})
    run.invoke(graph, Command(resume=text))
    return run.state(graph)


def failing(run: Any, text: str) -> Any:
    def fail(state: State) -> State:
        raise ValueError(text)

    graph = graph_of(run, fail)
    with pytest.raises(ValueError, match=text[:16]):
        run.invoke(graph, {"text": "go"})
    return run.state(graph)


def waiting_with_a_write(run: Any, text: str) -> Any:
    def write(state: State) -> State:
        return {"notes": [text]}

    def wait(state: State) -> State:
        return {"notes": [interrupt("?")]}

    builder = StateGraph(State).add_node(write).add_node(wait)
    graph = builder.add_edge(START, "write").add_edge(START, "wait").compile(checkpointer=run.saver)
    run.invoke(graph, {"text": "go"})
    return run.state(graph)


def sending_from_a_command(run: Any, text: str) -> Any:
    def send(state: State) -> Command[str]:
        return Command(goto=[Send("take", {"deep": [{"text": text}]})])

    def take(arg: Any) -> State:
        return {"notes": [arg["deep"][0]["text"][-8:]]}

    builder = StateGraph(State).add_node("send", send, destinations=("take",)).add_node("take", take)
    graph = builder.add_edge(START, "send").compile(checkpointer=run.saver, interrupt_before=["take"])
    run.invoke(graph, {"notes": []})
    paused = run.state(graph)
    return [paused, run.invoke(graph, None)]


def commanding_the_parent(run: Any, text: str) -> Any:
    def leave(state: State) -> Command[str]:
        return Command(graph=Command.PARENT, goto="after", update={"notes": [text], "text": text})

    def after(state: State) -> State:
        return {"notes": [state["text"][-8:]]}

    sub = StateGraph(State).add_node("leave", leave).add_edge(START, "leave").compile()
    builder = StateGraph(State).add_node("sub", sub, destinations=("after",)).add_node("after", after)
    graph = builder.add_edge(START, "sub").add_edge("after", END).compile(checkpointer=run.saver)
    run.invoke(graph, {"text": "go"})
    return [run.state(graph), run.history(graph)]


def subgraph_inside(run: Any, text: str) -> Any:
    def send(state: State) -> State:
        return {"text": text}

    def fan(state: State) -> list[Send]:
        return [Send("ask", {"text": state["text"] + "sent"})]

    def ask(arg: Any) -> State:
        return {"notes": [interrupt({"about": arg["text"]})]}

    sub = StateGraph(State).add_node(send).add_node("ask", ask).add_edge(START, "send")
    inner = sub.add_conditional_edges("send", fan, ["ask"]).compile()
    builder = StateGraph(State).add_node("sub", inner).add_edge(START, "sub")
    graph = builder.compile(checkpointer=run.saver)
    run.invoke(graph, {"notes": []})
    paused = run.state(graph, subgraphs=True)
    run.invoke(graph, Command(resume=text))
    return [paused, run.history(graph)]


def updating_in_bulk(run: Any, text: str) -> Any:
    def first(state: State) -> State:
        return {"notes": ["first"]}

    def second(state: State) -> State:
        return {"notes": [each[-8:] for each in state["notes"]]}

    graph = graph_of(run, first, second)
    call = graph.abulk_update_state if run.face.loop else graph.bulk_update_state
    steps = [
        [StateUpdate({"text": text, "notes": [text]}, "__input__")],
        [StateUpdate({"notes": Overwrite([text, "bulk"])}, "first")],
    ]
    run.face.wait(call(run.at("t"), steps))
    return [run.state(graph), run.invoke(graph, None), run.history(graph)]


def travelling(run: Any, text: str) -> Any:
    def first(state: State) -> State:
        return {"notes": [state["text"]]}

    def second(state: State) -> State:
        return {"notes": [state["text"] + "second"]}

    graph = graph_of(run, first, second)
    run.invoke(graph, {"text": "go"})
    past = next(each for each in run.snapshots(graph) if each.next == ("second",))
    fork = run.update(graph, {"text": text}, past.config, as_node="first")
    run.invoke(graph, None, fork)
    run.update(graph, None, run.snapshot(graph).config, as_node="__copy__")
    return run.history(graph)


def publishing(run: Any, text: str) -> Any:
    def publish(state: State) -> Any:
        return {"topic": [text, text + "again"]}

    def read(state: State) -> State:
        return {"notes": [each[-8:] for each in state["topic"]]}

    graph = graph_of(run, publish, read)
    run.invoke(graph, {"text": "go"})
    return run.history(graph)


def working_functionally(run: Any, text: str) -> Any:
    @task
    def load(name: str) -> dict[str, Any]:
        return {"name": name, "text": text}

    @entrypoint(checkpointer=run.saver)
    def flow(given: dict[str, Any], *, previous: Any = None) -> Any:
        page = load(given["name"]).result()
        return entrypoint.final(value=[page, interrupt(page)], save=[previous, given, page])

    run.invoke(flow, {"name": "x", "text": text + "given"})
    paused = run.state(flow)
    return [paused, run.invoke(flow, Command(resume=text)), run.history(flow)]


# The channel is where the payload must be found to stand as a ref.
PATHS: dict[str, tuple[Scenario, str]] = {
    "an interrupt that waits": (interrupting, "__interrupt__"),
    "an answer to the first of two questions": (resuming, "__resume__"),
    "an error": (failing, "__error__"),
    "a write of a step that is not over": (waiting_with_a_write, "notes"),
    "a message in a command": (sending_from_a_command, "__pregel_tasks"),
    "a command to the parent": (commanding_the_parent, "notes"),
    "messages, interrupts and answers in a subgraph": (subgraph_inside, "__pregel_tasks"),
    "updates in bulk, as input and to overwrite": (updating_in_bulk, "notes"),
    "a fork of the past, and a copy": (travelling, "text"),
    "a topic": (publishing, "topic"),
    "tasks and entrypoints": (working_functionally, "__previous__"),
}


@pytest.mark.parametrize("threshold", [4096], indirect=True)
@pytest.mark.parametrize("path", PATHS)
def test_no_part_of_a_payload_is_in_the_raw_database(twin: Any, payload: Any, path: str) -> None:
    scenario, channel = PATHS[path]
    text = payload()
    wrapped = twin(lambda run: scenario(run, text), text)
    assert channel in {name for name, _ in wrapped.face.refs_in(wrapped.inner)}
    kept = wrapped.face.bytes_in(wrapped.inner)
    # Any 64 digits in a row hold a whole one of these pieces, wherever a page of the database may end.
    assert not [at for at in range(0, len(text) - 32, 32) if text[at : at + 32].encode() in kept]
