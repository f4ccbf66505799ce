"""One run of the demo's graph in a process of its own: `python -m examples._demo.worker --help`.

It prints one JSON object a line: `{"done": n}` after each node, at last a `Report`.
"""

import argparse
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from agentref.adapters.langgraph import externalize
from agentref.storage import CAS, FilesystemCAS
from examples._demo.graph import CONFIG, build, state_hash
from examples._demo.process import peak_memory

__all__ = ["CHECKPOINTS", "DSN", "QUESTION", "STORE", "Report"]

QUESTION = "how does the interpreter find a module"
CHECKPOINTS = "checkpoints.sqlite"
STORE = "state_blobs"
DSN = "AGENTREF_DEMO_DSN"


class Report(TypedDict):
    """What a run was like. Bytes and seconds; memory is the peak of the process."""

    found: int
    nodes: int
    idle: int
    peak: int
    seconds: float
    cpu: float
    kept: int
    hash: str


@contextmanager
def _saver(kind: str, work: Path, *, agentref: bool) -> Iterator[BaseCheckpointSaver[Any] | None]:
    with ExitStack() as stack:
        saver: BaseCheckpointSaver[Any] | None = None
        if kind == "memory":
            saver = InMemorySaver()
        elif kind == "sqlite":
            connection = sqlite3.connect(work / CHECKPOINTS, check_same_thread=False)
            saver = SqliteSaver(stack.enter_context(closing(connection)))
        elif kind == "postgres":
            saver = _postgres_saver(stack)
        if saver is not None and agentref:
            store = _postgres_store() if kind == "postgres" else FilesystemCAS(work / STORE)
            saver = externalize(saver, backend=stack.enter_context(store))
        yield saver


def _postgres_saver(stack: ExitStack) -> BaseCheckpointSaver[Any]:
    from langgraph.checkpoint.postgres import PostgresSaver  # noqa: PLC0415  (only installed for it)

    saver = stack.enter_context(PostgresSaver.from_conn_string(os.environ[DSN]))
    saver.setup()
    return saver


def _postgres_store() -> CAS:
    from agentref.storage import PostgresCAS  # noqa: PLC0415  (it needs psycopg)

    return PostgresCAS(os.environ[DSN])


def _kept(saver: BaseCheckpointSaver[Any] | None) -> int:
    """The serialized bytes that an InMemorySaver holds."""
    inner = getattr(saver, "inner", saver)
    if not isinstance(inner, InMemorySaver):
        return 0
    blobs = [blob for _, blob in inner.blobs.values()]
    writes = [write[2][1] for task in inner.writes.values() for write in task.values()]
    checkpoints = [
        part[1]
        for thread in inner.storage.values()
        for namespace in thread.values()
        for saved in namespace.values()
        for part in saved[:2]
    ]
    return sum(map(len, (*blobs, *writes, *checkpoints)))


def _run(arguments: argparse.Namespace, saver: BaseCheckpointSaver[Any] | None) -> Report:
    graph: Any = build(arguments.texts).compile(checkpointer=saver)
    idle, found = peak_memory(), 0
    if arguments.resume or arguments.read:
        saved = graph.get_state(CONFIG)
        found = (saved.metadata or {}).get("step", 0)
        state: Any = saved.values
    started, cpu = time.perf_counter(), time.process_time()
    nodes = 0
    if not arguments.read:
        steps = graph.stream(
            None if arguments.resume else {"question": QUESTION},
            CONFIG,
            stream_mode=["updates", "values"],
            durability=arguments.durability if saver is not None else None,
        )
        for mode, part in steps:
            if mode == "values":
                state = part
            else:
                nodes += 1
                print(json.dumps({"done": found + nodes}), flush=True)
    seconds, cpu, peak = time.perf_counter() - started, time.process_time() - cpu, peak_memory()
    return Report(
        found=found, nodes=nodes, idle=idle, peak=peak, seconds=seconds, cpu=cpu,
        kept=_kept(saver), hash=state_hash(state),
    )  # fmt: skip


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--saver", choices=["none", "memory", "sqlite", "postgres"], default="sqlite")
    parser.add_argument(
        "--agentref", action="store_true", help="wrap the saver, payloads go to a store beside it"
    )
    parser.add_argument("--durability", choices=["async", "sync"], default="async")
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    task.add_argument("--read", action="store_true", help="only read the last checkpoint")
    arguments = parser.parse_args()
    with _saver(arguments.saver, arguments.work, agentref=arguments.agentref) as saver:
        report = _run(arguments, saver)
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    _main()
