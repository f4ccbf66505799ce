"""Interrupts, errors, subgraphs, updates and time travel: the same as without agentref."""

import operator
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

Payload = Callable[[], str]
Twin = Callable[..., Any]


class State(TypedDict, total=False):
    text: str
    notes: Annotated[list[str], operator.add]


def graph_of(state: type, **nodes: Callable[..., Any]) -> StateGraph[Any]:
    """The nodes in a row."""
    builder: StateGraph[Any] = StateGraph(state)
    names = list(nodes)
    for name, node in nodes.items():
        builder.add_node(name, node)
    for left, right in zip([START, *names], names, strict=False):
        builder.add_edge(left, right)
    return builder


def everything(run: Any, graph: Any, thread: str = "t") -> list[Any]:
    return [run.state(graph, thread), run.history(graph, thread)]


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_interrupts_and_answers_are_stored_by_ref(twin: Twin, payload: Payload, durability: str) -> None:
    questions, answers = [payload(), payload()], [payload(), payload()]

    def scenario(run: Any) -> Any:
        def ask(state: State) -> State:
            got = [interrupt({"question": q, "options": [1, 2]}) for q in questions]
            return {"notes": [a["said"] for a in got]}

        graph = graph_of(State, ask=ask).compile(checkpointer=run.saver)
        shown = [run.stream(graph, {"text": "go"}, durability=durability), run.state(graph)]
        for answer in answers:
            shown.append(run.stream(graph, Command(resume={"said": answer}), durability=durability))
            shown.append(run.state(graph))
        assert run.state(graph)["values"]["notes"] == answers
        return [shown, run.history(graph)]

    # A later question takes the place of an earlier one, in any saver.
    twin(scenario, questions[-1], *answers)


def test_parallel_interrupts_are_answered_by_their_ids(twin: Twin, payload: Payload) -> None:
    questions = {name: payload() for name in "ab"}
    answers = {name: payload() for name in "ab"}

    def scenario(run: Any) -> Any:
        builder = StateGraph(State)
        for name, question in questions.items():
            builder.add_node(name, lambda state, q=question: {"notes": [interrupt(q)]})
            builder.add_edge(START, name)
        graph = builder.compile(checkpointer=run.saver)
        run.invoke(graph, {"text": "go"})
        pending = run.snapshot(graph).interrupts
        by_question = {question: name for name, question in questions.items()}
        resume = {i.id: answers[by_question[i.value]] for i in pending}
        assert len(resume) == 2
        final = run.invoke(graph, Command(resume=resume))
        assert sorted(final["notes"]) == sorted(answers.values())
        return everything(run, graph)

    twin(scenario, *questions.values(), *answers.values())


def test_a_failed_step_resumes_from_the_writes_of_the_nodes_that_succeeded(
    twin: Twin, payload: Payload
) -> None:
    text = payload()

    def scenario(run: Any) -> Any:
        calls: list[str] = []
        written = threading.Event()

        def steady(state: State) -> State:
            calls.append("steady")
            written.set()
            return {"notes": [text]}

        def flaky(state: State) -> State:
            calls.append("flaky")
            if calls.count("flaky") == 1:
                written.wait()
                time.sleep(0.05)  # so that the other node's result is in before this one fails
                raise ConnectionError("the first call fails")
            return {"notes": ["recovered"]}

        builder = StateGraph(State)
        for node in (steady, flaky):
            builder.add_node(node.__name__, node)
            builder.add_edge(START, node.__name__)
        graph = builder.compile(checkpointer=run.saver)
        with pytest.raises(ConnectionError):
            run.invoke(graph, {"text": "go"})
        failed = run.state(graph)
        assert any("the first call fails" in (t["error"] or "") for t in failed["tasks"])
        final = run.invoke(graph, None)
        assert sorted(final["notes"]) == sorted([text, "recovered"])
        assert sorted(calls) == ["flaky", "flaky", "steady"]
        return [failed, *everything(run, graph)]

    twin(scenario, text)


def test_a_long_error_message_survives(twin: Twin, payload: Payload) -> None:
    text = payload()

    def scenario(run: Any) -> Any:
        def fail(state: State) -> State:
            raise ValueError(text)

        graph = graph_of(State, fail=fail).compile(checkpointer=run.saver)
        with pytest.raises(ValueError, match=text[:16]):
            run.invoke(graph, {"text": "go"})
        return everything(run, graph)

    twin(scenario, text)


def test_a_subgraph_keeps_its_own_state_streams_and_history(twin: Twin, payload: Payload) -> None:
    draft, answer, edited = payload(), payload(), payload()

    class Inner(TypedDict, total=False):
        text: str
        draft: str

    def scenario(run: Any) -> Any:
        def write(state: Inner) -> Inner:
            return {"draft": draft + state["text"]}

        def review(state: Inner) -> Inner:
            return {"text": interrupt({"draft": state["draft"]})}

        inner = graph_of(Inner, write=write, review=review).compile()
        graph = graph_of(State, inner=inner, close=lambda s: {"notes": [s["text"]]}).compile(
            checkpointer=run.saver
        )
        shown: list[Any] = [run.stream(graph, {"text": "go"}, subgraphs=True)]
        paused = run.snapshot(graph, subgraphs=True)
        shown.append(run.state(graph, subgraphs=True))
        nested = paused.tasks[0].state
        assert nested is not None and nested.values["draft"] == draft + "go"
        run.update(graph, {"draft": edited}, nested.config, as_node="write")
        shown.append(run.state(graph, subgraphs=True))
        run.invoke(graph, None)
        shown.append(run.state(graph, subgraphs=True))
        shown.append(run.stream(graph, Command(resume=answer), subgraphs=True))
        assert run.state(graph)["values"]["notes"] == [answer]
        return [shown, run.history(graph)]

    twin(scenario, draft, answer, edited)


def test_update_state_writes_by_ref(twin: Twin, payload: Payload) -> None:
    first, second = payload(), payload()

    def scenario(run: Any) -> Any:
        graph = graph_of(
            State, a=lambda s: {"notes": ["a"]}, b=lambda s: {"notes": [s["text"][-8:]]}
        ).compile(checkpointer=run.saver, interrupt_before=["b"])
        run.update(graph, {"text": first, "notes": [first]}, as_node="__start__")
        fresh = run.state(graph)
        run.invoke(graph, None)
        run.update(graph, {"text": second, "notes": [second]}, as_node="a")
        run.update(graph, None, as_node="__copy__")
        final = run.invoke(graph, None)
        assert final["notes"][-1] == second[-8:]
        return [fresh, *everything(run, graph)]

    twin(scenario, first, second)


def test_time_travel_replays_and_forks_old_checkpoints(twin: Twin, payload: Payload) -> None:
    text, forked = payload(), payload()

    def scenario(run: Any) -> Any:
        def grow(state: State) -> State:
            return {"text": state["text"] + "+", "notes": [state["text"]]}

        graph = graph_of(State, one=grow, two=grow, three=grow).compile(checkpointer=run.saver)
        run.invoke(graph, {"text": text})
        before_two = next(s for s in run.snapshots(graph) if s.next == ("two",))
        replayed = run.stream(graph, None, before_two.config)
        fork = run.update(graph, {"text": forked}, before_two.config)
        final = run.invoke(graph, None, fork)
        assert final["notes"] == [text, forked, forked + "+"]
        old = run.state(graph, before_two.config)
        assert old["values"]["text"] == text + "+"
        limited = run.history(graph, limit=2)
        filtered = run.history(graph, filter={"source": "update"})
        earlier = run.history(graph, before=before_two.config)
        assert len(limited) == 2 and len(filtered) == 1 and 0 < len(earlier) < len(run.history(graph))
        return [replayed, old, limited, filtered, earlier, *everything(run, graph)]

    twin(scenario, text, forked)


def test_a_subgraph_is_replayed_from_the_checkpoint_of_that_time(twin: Twin, payload: Payload) -> None:
    text = payload()

    def scenario(run: Any) -> Any:
        inner = graph_of(
            State, deep=lambda s: {"notes": [s["text"] + str(len(s.get("notes", [])))]}
        ).compile(checkpointer=True)
        graph = graph_of(State, inner=inner, after=lambda s: {"text": s["text"]}).compile(
            checkpointer=run.saver
        )
        run.invoke(graph, {"text": text})
        run.invoke(graph, {"text": "second " + text})
        before = [s for s in run.snapshots(graph) if s.next == ("inner",)]
        assert len(before) == 2
        run.invoke(graph, None, before[-1].config)
        return [run.state(graph, before[0].config, subgraphs=True), *everything(run, graph)]

    twin(scenario, text)


def test_a_deleted_thread_is_gone_and_the_others_stay(twin: Twin, payload: Payload) -> None:
    shared, own = payload(), payload()

    def scenario(run: Any) -> Any:
        graph = graph_of(State, note=lambda s: {"notes": [s["text"]]}).compile(checkpointer=run.saver)
        run.invoke(graph, {"text": shared}, "kept")
        run.invoke(graph, {"text": shared}, "deleted")
        run.invoke(graph, {"text": own}, "deleted")
        run.delete("deleted")
        assert run.history(graph, "deleted") == []
        kept = everything(run, graph, "kept")
        assert kept[0]["values"]["notes"] == [shared]
        run.invoke(graph, {"text": own}, "deleted")
        return [kept, *everything(run, graph, "deleted")]

    twin(scenario, shared, own)


def test_a_task_that_interrupts_keeps_the_results_of_the_tasks_before_it(
    twin: Twin, payload: Payload
) -> None:
    text, answer = payload(), payload()

    def scenario(run: Any) -> Any:
        ran: list[str] = []

        @task
        def fetch(name: str) -> dict[str, Any]:
            ran.append(name)
            return {"name": name, "text": text}

        @entrypoint(checkpointer=run.saver)
        def flow(names: list[str]) -> Any:
            pages = [fetch(name).result() for name in names]
            said = interrupt({"pages": pages})
            return [said, *pages]

        run.invoke(flow, ["x", "y"])
        paused = run.state(flow)
        final = run.invoke(flow, Command(resume=answer))
        assert final == [answer, {"name": "x", "text": text}, {"name": "y", "text": text}]
        assert ran == ["x", "y"]
        return [paused, *everything(run, flow)]

    twin(scenario, text, answer)


@pytest.mark.parametrize("face", ["sqlite", "sqlite-async"], indirect=True)
def test_a_thread_goes_on_in_a_new_saver_over_the_same_database(
    face: Any, wrap: Any, payload: Payload
) -> None:
    text, answer = payload(), payload()

    def build(saver: Any) -> Any:
        def ask(state: State) -> State:
            return {"notes": [state["text"], interrupt(state["text"])]}

        return graph_of(State, ask=ask, end=lambda s: {"text": s["notes"][-1]}).compile(checkpointer=saver)

    first = wrap(threshold=4096)
    first.invoke(build(first.saver), {"text": text})
    second = wrap(face.open(face.databases[id(first.inner)]), threshold=4096)
    graph = build(second.saver)
    assert second.snapshot(graph).interrupts[0].value == text
    assert second.invoke(graph, Command(resume=answer))["notes"] == [text, answer]
    kept = face.bytes_in(first.inner)
    assert text[:16].encode() not in kept and answer[:16].encode() not in kept


@pytest.mark.parametrize("face", ["memory", "sqlite"], indirect=True)
def test_threads_that_run_at_once_share_one_store(face: Any, wrap: Any, payload: Payload) -> None:
    run, shared = wrap(threshold=4096), payload()
    own = {f"thread-{i}": payload() for i in range(6)}
    graph = graph_of(
        State,
        a=lambda s: {"notes": [shared]},
        b=lambda s: {"notes": [s["text"]]},
        c=lambda s: {"text": s["text"] + shared},
    ).compile(checkpointer=run.saver)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda thread: run.invoke(graph, {"text": own[thread]}, thread), own))
    for thread, text in own.items():
        assert run.state(graph, thread)["values"] == {"text": text + shared, "notes": [shared, text]}
    written = {ref.hash for channel, ref in face.refs_in(run.inner) if channel == "notes"}
    # Per thread: the write of b, and the channel after b. Once for all: the write of a, equal
    # to the channel after a.
    assert len(written) == 2 * len(own) + 1
