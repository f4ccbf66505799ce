"""The demo's graph: a research agent whose state grows by texts, 114 node executions a run.

plan, then 28 rounds of retrieve (ten documents more), scrape (another page), analyze (extracts of
the new documents) and refine (every document scored and sorted anew), then answer. Counting words
stands in for the model, so that a run needs no key and gives the same state every time.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from examples._demo.corpus import ROUNDS, documents_of, page_of

__all__ = ["CONFIG", "NODES", "Research", "build", "state_hash", "steps"]

NODES: Final = 2 + 4 * ROUNDS
"""Node executions of one run."""

CONFIG: Final[RunnableConfig] = {"configurable": {"thread_id": "demo"}, "recursion_limit": NODES + 1}

_SUBJECTS: Final = (
    "iterator", "exception", "thread", "socket", "encoding", "descriptor", "module", "generator",
    "process", "signal", "buffer", "decimal", "parser", "import", "lock", "queue", "pattern",
    "string", "directory", "timeout", "callback", "context", "argument", "attribute", "handler",
    "protocol", "sequence", "mapping", "message", "header", "class", "coroutine", "event",
)  # fmt: skip
_TERMS: Final = 9
_EXTRACT_BYTES: Final = 2400
_PASSAGES: Final = 5


class Document(TypedDict):
    """A retrieved document; `score` and `rank` change in every round."""

    name: str
    round: int
    text: str
    score: float
    rank: int


class Page(TypedDict):
    """The page that was scraped last."""

    url: str
    text: str


class Research(TypedDict):
    """The state of the graph."""

    question: str
    plan: list[list[str]]
    round: int
    documents: list[Document]
    page: Page
    extracts: dict[str, list[str]]
    answer: str


def steps(texts: Path) -> dict[str, Callable[[Any], dict[str, Any]]]:
    """The nodes by name, over the texts that `write_texts` left there: from a state to an update."""

    def retrieve(state: Research) -> dict[str, Any]:
        index = state["round"]
        found: list[Document] = [
            {"name": name, "round": index, "text": text, "score": 0.0, "rank": 0}
            for name, text in documents_of(texts, index)
        ]
        return {"documents": state.get("documents", []) + found}

    def scrape(state: Research) -> dict[str, Any]:
        index = state["round"]
        return {"page": Page(url=f"https://example.org/{index}", text=page_of(texts, index))}

    nodes = (_plan, retrieve, scrape, _analyze, _refine, _answer)
    return {node.__name__.lstrip("_"): node for node in nodes}


def build(texts: Path) -> "StateGraph[Research]":
    """The graph over those texts; compile it as you like."""
    graph = StateGraph(Research)
    for name, node in steps(texts).items():
        graph.add_node(name, node)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "retrieve")
    graph.add_edge("retrieve", "scrape")
    graph.add_edge("scrape", "analyze")
    graph.add_edge("analyze", "refine")
    graph.add_conditional_edges("refine", _after_refine, ["retrieve", "answer"])
    graph.add_edge("answer", END)
    return graph


def state_hash(state: Any) -> str:
    """SHA-256 of a final state as canonical JSON: sorted keys, no spaces, ASCII."""
    digest = hashlib.sha256()
    for part in json.JSONEncoder(sort_keys=True, separators=(",", ":")).iterencode(state):
        digest.update(part.encode())
    return digest.hexdigest()


def _plan(state: Research) -> dict[str, Any]:
    subjects = 2 * _SUBJECTS
    topic = state["question"].split()[-1]
    starts = [index * 7 % len(_SUBJECTS) for index in range(ROUNDS)]
    return {"plan": [[topic, *subjects[start : start + _TERMS]] for start in starts], "round": 0}


def _analyze(state: Research) -> dict[str, Any]:
    query = state["plan"][state["round"]]
    extracts = dict(state.get("extracts", {}))
    for document in state["documents"]:
        if document["name"] not in extracts:
            extracts[document["name"]] = _passages(document["text"], query)
    extracts[f"page-{state['round']:02}"] = _passages(state["page"]["text"], query)
    return {"extracts": extracts}


def _refine(state: Research) -> dict[str, Any]:
    query = state["plan"][state["round"]]
    scored = [(_relevance(document["text"], query), document) for document in state["documents"]]
    scored.sort(key=lambda pair: (-pair[0], pair[1]["name"]))
    documents: list[Document] = [
        {**document, "score": score, "rank": rank} for rank, (score, document) in enumerate(scored, start=1)
    ]
    return {"documents": documents, "round": state["round"] + 1}


def _after_refine(state: Research) -> str:
    return "retrieve" if state["round"] < ROUNDS else "answer"


def _answer(state: Research) -> dict[str, Any]:
    best = [state["extracts"][document["name"]][0] for document in state["documents"][:_PASSAGES]]
    return {"answer": "\n\n".join(best)}


def _relevance(text: str, query: list[str]) -> float:
    """How often the words of the query are in the text, a thousand characters."""
    return round(1000 * sum([text.count(word) for word in query]) / len(text), 6)


def _passages(text: str, query: list[str]) -> list[str]:
    """The few paragraphs of a text that say most about the query, in a bounded size."""
    ranked = sorted(text.split("\n\n"), key=lambda passage: (-_relevance(passage, query), passage))
    chosen: list[str] = []
    room = _EXTRACT_BYTES
    for passage in ranked:
        if len(passage) <= room:
            chosen.append(passage)
            room -= len(passage)
        if room < 100 or len(chosen) == _PASSAGES:
            break
    return chosen
