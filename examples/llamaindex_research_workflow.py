"""A typed state for a LlamaIndex workflow: the documents stay in a store, the context carries their name.

Needs `pip install "agentref-checkpoint[llamaindex]"`, no key and no network. Run it in an empty directory:
it leaves `state_blobs/` and `context.json` there, and goes on from them when it is run again.
"""

import asyncio
import json
from pathlib import Path

from agentref import AgentRefState, Externalized, Inline
from agentref.storage import FilesystemCAS

SAVED = Path("context.json")


class WorkflowState(AgentRefState):
    """What the workflow knows."""

    current_step: Inline[str]
    docs: Externalized[list[dict]]


def retrieved():  # noqa: ANN201
    """Stands in for a search."""
    return [
        {"id": f"doc-{number}", "text": f"large retrieved text {number}. " * 2_000} for number in range(3)
    ]


def research(adapter=None):  # noqa: ANN001, ANN201
    """The workflow; without an adapter as one writes it without agentref."""
    from workflows import Context, Workflow, step  # noqa: PLC0415  (so that this module imports without it)
    from workflows.events import Event, StartEvent, StopEvent  # noqa: PLC0415

    class Retrieved(Event):
        """The documents are in the state, so the event need not carry them."""

    class Research(Workflow):
        @step
        async def retrieve(self, ctx: Context, ev: StartEvent) -> Retrieved:  # noqa: ARG002
            store = adapter.context_store(ctx.store) if adapter else ctx.store
            if await store.get("docs", default=None) is None:
                await store.set("docs", retrieved())
            await store.set("current_step", "retrieve")
            return Retrieved()

        @step
        async def answer(self, ctx: Context, ev: Retrieved) -> StopEvent:  # noqa: ARG002
            store = adapter.context_store(ctx.store) if adapter else ctx.store
            docs = await store.get("docs")
            await store.set("current_step", "answer")
            return StopEvent(
                result=f"Read {len(docs)} document(s), {sum(len(doc['text']) for doc in docs):,} bytes."
            )

    return Research()


async def run(workflow, saved=None):  # noqa: ANN001, ANN201
    """Run the workflow, from a saved context if there is one: its result, and its context to be saved."""
    from workflows import Context  # noqa: PLC0415

    handler = workflow.run(ctx=Context.from_dict(workflow, saved) if saved else None)
    return await handler, handler.ctx.to_dict()


def main() -> None:
    """Run the workflow without and with agentref, and show what its contexts carry."""
    from agentref.adapters.llamaindex import LlamaIndexAdapter  # noqa: PLC0415

    said, context = asyncio.run(run(research()))
    print(f"Without agentref: {said} The context has {len(json.dumps(context)):,} bytes.")

    adapter = LlamaIndexAdapter(WorkflowState, backend=FilesystemCAS("./state_blobs"))
    saved = json.loads(SAVED.read_text()) if SAVED.exists() else None
    said, context = asyncio.run(run(research(adapter), saved))
    SAVED.write_text(json.dumps(context))
    print(f"With agentref: {said} The context has {SAVED.stat().st_size:,} bytes.")
    print(f"In its place for the documents: {context['state']['state_data']['_data']['docs']}")


if __name__ == "__main__":
    main()
