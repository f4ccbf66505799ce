"""A typed state for LangGraph: the documents stay in a store, the checkpoint carries their name.

Needs `pip install "agentref-checkpoint[langgraph]"`, no key and no network. Run it in an empty directory:
it leaves `state_blobs/` and `checkpoints.sqlite` there.
"""

import sqlite3
from contextlib import closing

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter
from agentref.storage import FilesystemCAS


class RAGState(AgentRefState):
    """What the graph knows."""

    question: Inline[str]
    docs: Externalized[list[dict]]
    answer: Inline[str]


def retrieve(state):  # noqa: ANN001, ANN201, ARG001  (a node as one writes it)
    """Stands in for a search."""
    docs = [
        {"id": f"doc-{number}", "text": f"large retrieved text {number}. " * 2_000} for number in range(3)
    ]
    return {"docs": docs}


def answer(state):  # noqa: ANN001, ANN201
    """Stands in for a model. Reading `docs` loads them."""
    return {"answer": f"Read {len(state['docs'])} document(s)."}


def main() -> None:
    """Run the graph, and show what its checkpoint carries."""
    adapter = LangGraphAdapter(
        RAGState,
        backend=FilesystemCAS("./state_blobs"),
        inline_threshold_bytes=64 * 1024,
    )

    graph = StateGraph(adapter.schema())
    graph.add_node("retrieve", adapter.wrap_node(retrieve))
    graph.add_node("answer", adapter.wrap_node(answer))
    graph.add_edge(START, "retrieve")
    graph.add_edge("retrieve", "answer")
    graph.add_edge("answer", END)

    config = {"configurable": {"thread_id": "rag-1"}}
    with closing(sqlite3.connect("checkpoints.sqlite", check_same_thread=False)) as connection:
        app = graph.compile(checkpointer=adapter.checkpointer(SqliteSaver(connection)))
        result = app.invoke({"question": "What do the documents say?"}, config)
        print(result["answer"])
        print(f"In the checkpoint: {result['docs']}")
        print(f"In the store: {len(adapter.hydrate(result)['docs'])} documents")


if __name__ == "__main__":
    main()
