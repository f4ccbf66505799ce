"""The frameworks with and without agentref: persisted bytes, memory, and what a step without anything large
costs."""

import asyncio
import json
import sqlite3
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from workflows import Context, Workflow, step
from workflows.events import StartEvent, StopEvent

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.autogen import AutoGenAdapter
from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS, PostgresCAS
from benchmarks import _small_steps
from benchmarks._autogen_worker import Model
from benchmarks.measure import MB, Row, child, corpus, interleaved, ratio, scratch
from benchmarks.server import fresh_database
from examples._demo.corpus import write_texts
from examples._demo.process import directory_bytes

__all__ = ["rows"]

_ROUNDS: Final = 3
_STEP_ROUNDS: Final = 15
_QUICK_ROUNDS: Final = 61  # where a step is so short that all else shows
_SAVES: Final = 1000
_MESSAGE_BYTES: Final = 520


class _State(AgentRefState):
    step: Inline[str]
    docs: Externalized[list[dict[str, Any]]]


class _Flow(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:  # noqa: ARG002
        """A workflow has a step."""
        return StopEvent()


def _bytes() -> Iterator[Row]:
    text = corpus().text("a payload", MB)[:MB]
    what = "persisted with a payload of 1 MB"
    for name, make in (("stock", None), ("agentref", InMemoryCAS)):
        size = asyncio.run(_context_bytes(text, make and make()))
        bar = 1500 if make else None
        yield Row(f"LlamaIndex Context.to_dict, {what}: {name}", float(size), "B", at_most=bar)
    for name, make in (("stock", None), ("agentref", InMemoryCAS)):
        size = asyncio.run(_team_bytes(text, make and make()))
        yield Row(
            f"AutoGen team of three agents, {what}: {name}",
            float(size),
            "B",
            at_most=4000 if make else None,
        )


async def _context_bytes(text: str, cas: CAS | None) -> int:
    ctx: Context = Context(_Flow())
    store: Any = (
        ctx.store if cas is None else LlamaIndexAdapter(_State, backend=cas).context_store(ctx.store)
    )
    await store.set("step", "retrieve")
    await store.set("docs", [{"id": "doc-1", "text": text}])
    saved = json.dumps(ctx.to_dict())
    assert (len(saved) > MB) == (cas is None)
    return len(saved)


async def _team_bytes(text: str, cas: CAS | None) -> int:
    agents = [AssistantAgent(name, Model(lambda _: "noted")) for name in ("reader", "writer", "critic")]
    team = RoundRobinGroupChat(agents, max_turns=3)  # type: ignore[arg-type]
    await team.run(task=text)
    state = await (team.save_state() if cas is None else AutoGenAdapter(backend=cas).save_state(team))
    return len(json.dumps(state))


def _histories() -> Iterator[Row]:
    text = corpus().text("a history", _SAVES * _MESSAGE_BYTES)
    naive = ours = 0
    history: list[dict[str, str]] = []
    with scratch() as directory, FilesystemCAS(directory / "store") as cas:
        adapter = AutoGenAdapter(backend=cas)
        for index in range(_SAVES):
            said = text[index * _MESSAGE_BYTES : (index + 1) * _MESSAGE_BYTES]
            message = {"role": "user", "content": ""}
            room = _MESSAGE_BYTES - len(json.dumps(message))
            while len(json.dumps({**message, "content": said})) > _MESSAGE_BYTES:
                said = said[: min(room, len(said) - 1)]
            history.append({**message, "content": said})
            naive += len(json.dumps(history))
            saved = json.dumps(adapter.externalize_message_history(history))
            ours += len(saved)
        assert adapter.hydrate_message_history(json.loads(saved)) == history
        stored = cas.stats().stored_bytes
        cas.close()
        on_disk = directory_bytes(directory / "store")
    what = f"AutoGen history, {_SAVES:,} saves, messages of {_MESSAGE_BYTES} B"
    yield Row(f"{what}: states in sum, stock", naive / MB, "MB")
    yield Row(f"{what}: states in sum, agentref", ours / MB, "MB", at_most=11.0)
    yield Row(f"{what}: store", stored / MB, "MB", at_most=0.6)
    yield Row(f"{what}: store, its files on disk", on_disk / MB, "MB")


def _memory() -> Iterator[Row]:
    workers = {
        "LangGraph": (_langgraph_worker, 0.17),
        "LlamaIndex": (_plain_worker("benchmarks._llamaindex_worker"), 0.25),
        "AutoGen": (_plain_worker("benchmarks._autogen_worker"), 0.35),
    }
    with scratch() as directory:
        texts = directory / "texts"
        texts.mkdir()
        write_texts(texts, "demo")
        for name, (worker, bar) in workers.items():
            stock, ours = [], []
            for index in range(_ROUNDS):
                for kind in (stock, ours) if index % 2 == 0 else (ours, stock):
                    work = directory / f"{name}-{index}-{kind is ours}"
                    work.mkdir()
                    kind.append(worker(texts, work, kind is ours))
            if len({report["hash"] for report in stock + ours}) != 1:
                raise RuntimeError(f"{name}: equal runs ended in different states")
            what = f"{name}, complex workflow, every checkpoint in memory"
            for kind, reports in (("stock", stock), ("agentref", ours)):
                peak = statistics.median(report["peak"] for report in reports)
                yield Row(f"{what}: {kind}, peak memory", peak / 2**20, "MiB")
            pairs = list(zip(ours, stock, strict=True))
            peaks = statistics.median(our["peak"] / their["peak"] for our, their in pairs)
            yield Row(f"{what}: agentref / stock, peak memory", peaks, "x", at_most=bar)
            seconds = statistics.median(our["seconds"] / their["seconds"] for our, their in pairs)
            yield Row(f"{what}: agentref / stock, time", seconds, "x")


def _langgraph_worker(texts: Path, work: Path, with_agentref: bool) -> dict[str, Any]:
    options = ["--agentref"] if with_agentref else []
    report: dict[str, Any] = child(
        "examples._demo.worker", str(texts), str(work), "--saver", "memory", *options
    )
    return report


def _plain_worker(module: str) -> Callable[[Path, Path, bool], dict[str, Any]]:
    def worker(texts: Path, work: Path, with_agentref: bool) -> dict[str, Any]:
        report: dict[str, Any] = child(module, str(texts), str(work / "store") if with_agentref else "-")
        return report

    return worker


def _steps() -> Iterator[Row]:
    with scratch() as directory, ExitStack() as stack:

        def sqlite_saver(name: str) -> SqliteSaver:
            connection = sqlite3.connect(directory / name, check_same_thread=False)
            return SqliteSaver(stack.enter_context(closing(connection)))

        files = stack.enter_context(FilesystemCAS(directory / "store"))
        yield from _compared(
            "LangGraph and SqliteSaver",
            files,
            _small_steps.langgraph(None, sqlite_saver("stock.sqlite")),
            _small_steps.langgraph(files, sqlite_saver("ours.sqlite")),
            bar=1.1,
        )
    with scratch() as directory, ExitStack() as stack:
        files = stack.enter_context(FilesystemCAS(directory / "store"))
        tables = stack.enter_context(PostgresCAS(fresh_database()))
        for name, cas, large, rounds in (
            ("LangGraph and PostgresSaver, beside a text", files, _small_steps.TEXT, _STEP_ROUNDS),
            ("LangGraph and PostgresSaver, beside a list", files, _small_steps.LIST, _QUICK_ROUNDS),
            (
                "LangGraph, PostgresSaver and PostgresCAS, beside a list",
                tables,
                _small_steps.LIST,
                _QUICK_ROUNDS,
            ),
        ):
            addresses = fresh_database(), fresh_database()
            savers = [stack.enter_context(PostgresSaver.from_conn_string(each)) for each in addresses]
            for saver in savers:
                saver.setup()
            yield from _compared(
                name,
                cas,
                _small_steps.langgraph(None, savers[0], large),
                _small_steps.langgraph(cas, savers[1], large),
                bar=1.1,
                rounds=rounds,
            )
    for name, make, bar in (
        ("LangGraph and InMemorySaver", _small_steps.langgraph, 1.1),
        ("LlamaIndex", _small_steps.llamaindex, 1.1),
        ("AutoGen", _small_steps.autogen, 1.1),
    ):
        cas = InMemoryCAS()
        yield from _compared(name, cas, make(None), make(cas), bar=bar, rounds=_QUICK_ROUNDS)


def _compared(  # noqa: PLR0913
    name: str,
    cas: CAS,
    stock: Callable[[], object],
    ours: Callable[[], object],
    *,
    bar: float,
    rounds: int = _STEP_ROUNDS,
) -> Iterator[Row]:
    stock()
    ours()
    before = cas.counters.values_loaded
    costs = interleaved({"stock": stock, "agentref": ours}, rounds)
    what = f"{name}: steps that touch nothing large"
    fetched = cas.counters.values_loaded - before
    yield Row(f"{what}: values loaded in {rounds} runs", float(fetched), "", at_most=0)
    micros = statistics.median(one.wall for one in costs["stock"]) / _small_steps.STEPS * 1e6
    note = f"a step without agentref: {micros:,.0f} us"
    times = ratio(costs["agentref"], costs["stock"])
    yield Row(f"{what}: time / without agentref", times, "x", at_most=bar, note=note)


def rows() -> Iterator[Row]:
    """Bytes are exact; memory is the median of runs in processes of their own; times are of turns."""
    yield from _bytes()
    yield from _histories()
    yield from _memory()
    yield from _steps()
