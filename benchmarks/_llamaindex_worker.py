"""The demo's work as a LlamaIndex workflow, in a process of its own, with and without agentref.

Every step ends with a checkpoint, `Context.to_dict()` as JSON. All of them stay in memory, as those of
LangGraph's InMemorySaver do. Prints one JSON object: memory, time, and a hash of the final state.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.storage import FilesystemCAS
from examples._demo.corpus import ROUNDS
from examples._demo.graph import state_hash, steps
from examples._demo.process import peak_memory
from examples._demo.worker import QUESTION

_READS: Final = {
    "plan": ["question"],
    "retrieve": ["round", "documents"],
    "scrape": ["round"],
    "analyze": ["plan", "round", "documents", "page", "extracts"],
    "refine": ["plan", "round", "documents"],
    "answer": ["documents", "extracts"],
}
_NEXT: Final = {"plan": "retrieve", "retrieve": "scrape", "scrape": "analyze", "analyze": "refine"}


class ResearchState(AgentRefState):
    """The state of the demo's graph, typed."""

    question: Inline[str]
    plan: Inline[list[list[str]]]
    round: Inline[int]
    documents: Externalized[list[dict[str, Any]]]
    page: Externalized[dict[str, str]]
    extracts: Externalized[dict[str, list[str]]]
    answer: Inline[str]


class Work(Event):
    """What is to be done next."""

    name: str


class Research(Workflow):
    """The demo's nodes, one after the other."""

    def __init__(self, texts: Path, adapter: LlamaIndexAdapter[ResearchState] | None) -> None:
        super().__init__(timeout=None)
        self.nodes = steps(texts)
        self.adapter = adapter
        self.checkpoints: list[str] = []
        self._done: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    def store(self, ctx: Context) -> Any:
        """The store of a context, as the steps see it."""
        return ctx.store if self.adapter is None else self.adapter.context_store(ctx.store)

    async def _saved(self) -> None:
        saved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done.put_nowait(saved)
        await saved

    async def save(self, handler: Any) -> None:
        """Take a checkpoint whenever a node is done: only outside of the steps can a context be saved."""
        while True:
            saved = await self._done.get()
            self.checkpoints.append(json.dumps(handler.ctx.to_dict()))
            saved.set_result(None)

    @step
    async def begin(self, ctx: Context, ev: StartEvent) -> Work:
        """Note the question."""
        await self.store(ctx).set("question", ev.question)
        return Work(name="plan")

    @step
    async def work(self, ctx: Context, ev: Work) -> Work | StopEvent:
        """Run a node, keep what it says, and take a checkpoint."""
        store = self.store(ctx)
        state = {name: await store.get(name, default=None) for name in _READS[ev.name]}
        update = self.nodes[ev.name]({name: part for name, part in state.items() if part is not None})
        for name, value in update.items():
            await store.set(name, value)
        del state, update
        await self._saved()
        if ev.name == "answer":
            return StopEvent(result="done")
        if ev.name == "refine":
            return Work(name="retrieve" if await store.get("round") < ROUNDS else "answer")
        return Work(name=_NEXT[ev.name])


async def _run(texts: Path, cas: FilesystemCAS | None) -> dict[str, Any]:
    adapter = None if cas is None else LlamaIndexAdapter(ResearchState, backend=cas)
    workflow = Research(texts, adapter)
    started = time.perf_counter()
    ctx: Context = Context(workflow)
    handler = workflow.run(ctx=ctx, question=QUESTION)
    saving = asyncio.create_task(workflow.save(handler))
    await handler
    saving.cancel()
    seconds, peak = time.perf_counter() - started, peak_memory()
    # What can be had from the last checkpoint is what counts.
    last = Context.from_dict(Research(texts, adapter), json.loads(workflow.checkpoints[-1]))
    store = workflow.store(last)
    final = {name: await store.get(name) for name in ResearchState.schema().fields}
    return {
        "peak": peak,
        "seconds": seconds,
        "kept": sum(map(len, workflow.checkpoints)),
        "checkpoints": len(workflow.checkpoints),
        "hash": state_hash(final),
    }


def _main() -> None:
    texts, store = Path(sys.argv[1]), sys.argv[2]
    if store == "-":
        print(json.dumps(asyncio.run(_run(texts, None))))
        return
    with FilesystemCAS(store) as cas:
        print(json.dumps(asyncio.run(_run(texts, cas))))


if __name__ == "__main__":
    _main()
