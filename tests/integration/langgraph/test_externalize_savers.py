"""Savers of other habits: old, inlining, encrypting, numbering, sync only, bound to a loop."""

import asyncio
import operator
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import aiosqlite
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agentref.adapters.langgraph import externalize
from agentref.storage import InMemoryCAS

CONFIG: Any = {"configurable": {"thread_id": "t"}}


class Work(TypedDict, total=False):
    document: Any
    turn: Annotated[int, operator.add]


def turning(saver: Any) -> Any:
    """Ten turns that leave the document alone."""
    builder = StateGraph(Work)
    builder.add_node("turn", lambda state: {"turn": 1})
    builder.add_edge(START, "turn")
    builder.add_conditional_edges(
        "turn", lambda state: "turn" if state["turn"] % 10 else "__end__", ["turn", "__end__"]
    )
    return builder.compile(checkpointer=saver)


def test_a_sync_saver_refuses_async_calls_as_it_always_did(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "c.sqlite", check_same_thread=False)
    saver = externalize(SqliteSaver(connection), backend=InMemoryCAS())
    with pytest.raises(NotImplementedError, match="async"):
        asyncio.run(turning(saver).ainvoke({"document": "x"}, CONFIG))
    connection.close()


class OldSaver(InMemorySaver):
    """As savers were before `task_path`."""

    def put_writes(self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str) -> None:  # type: ignore[override]
        super().put_writes(config, writes, task_id)


def test_a_saver_from_before_task_paths_is_called_as_it_expects(payload: Any) -> None:
    text = payload()
    graph = turning(externalize(OldSaver(), backend=InMemoryCAS()))
    graph.invoke({"document": text}, CONFIG)
    assert graph.get_state(CONFIG).values == {"document": text, "turn": 10}


PRIMITIVE = (str, int, float, bool, type(None))


class InliningSaver(InMemorySaver):
    """Keeps primitives in every checkpoint and the rest by version, as PostgresSaver does."""

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        values = checkpoint["channel_values"]
        inline = {k: v for k, v in values.items() if isinstance(v, PRIMITIVE)}
        by_version = {k: v for k, v in values.items() if k not in inline}
        versions = {k: v for k, v in new_versions.items() if k in by_version}
        kept = {**checkpoint, "channel_values": by_version, "inline": inline}
        return super().put(config, kept, metadata, versions)

    def get_tuple(self, config: Any) -> Any:
        found = super().get_tuple(config)
        if found is not None:
            inline = found.checkpoint.pop("inline")
            found.checkpoint["channel_values"] = {**inline, **found.checkpoint["channel_values"]}
        return found


@pytest.mark.parametrize(
    "before", [None, 10**6, 4096, 0], ids=["raw", "inline", "large-only", "everything"]
)
@pytest.mark.parametrize("after", [10**6, 4096, 0], ids=["inline", "large-only", "everything"])
def test_a_text_survives_a_change_of_threshold_in_a_saver_that_inlines(
    before: int | None, after: int
) -> None:
    inner, cas, text = InliningSaver(), InMemoryCAS(), "t" * 9000
    first: Any = inner
    if before is not None:
        first = externalize(inner, backend=cas, inline_threshold_bytes=before)
    turning(first).invoke({"document": text}, CONFIG)
    graph = turning(externalize(inner, backend=cas, inline_threshold_bytes=after))
    graph.invoke({"turn": 0}, CONFIG)  # the version of the text does not move
    assert graph.get_state(CONFIG).values == {"document": text, "turn": 20}


class Mirror:
    """A cipher that is easy to see through, and yet hides a text from a search."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "mirror", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


def test_what_stays_inline_is_still_encrypted(payload: Any) -> None:
    text, inner = payload(), InMemorySaver(serde=EncryptedSerializer(Mirror()))
    graph = turning(externalize(inner, backend=InMemoryCAS()))
    graph.invoke({"document": {"note": "left inline", "text": text}}, CONFIG)
    graph.update_state(CONFIG, {"document": "left inline"})
    assert graph.get_state(CONFIG).values == {"document": "left inline", "turn": 10}
    kept = b"".join(part[1] for part in inner.blobs.values())
    assert b"enilni tfel" in kept and b"left inline" not in kept
    assert text[:16].encode() not in kept and text[:16][::-1].encode() not in kept


class Numbering(SqliteSaver):
    """Versions that are mere numbers, which two forks use for different values."""

    def get_next_version(self, current: Any, channel: None) -> Any:
        return 1 if current is None else current + 1


def test_forks_under_equal_versions_keep_their_own_values(tmp_path: Path, payload: Any) -> None:
    connection = sqlite3.connect(tmp_path / "c.sqlite", check_same_thread=False)
    graph = turning(externalize(Numbering(connection), backend=InMemoryCAS()))
    graph.invoke({"document": payload()}, CONFIG)
    texts = [payload() for _ in range(3)]
    start = graph.get_state(CONFIG).config
    forks = [graph.update_state(start, {"document": text}) for text in texts]
    assert [graph.get_state(fork).values["document"] for fork in forks] == texts
    for fork, text in zip(forks, texts, strict=True):
        assert graph.invoke({"turn": 0}, {"configurable": {**fork["configurable"]}})["document"] == text
        assert graph.get_state(CONFIG).values["document"] == text
    connection.close()


def test_a_checkpoint_made_by_hand_is_kept_as_the_saver_keeps_it(tmp_path: Path) -> None:
    # The form that the documentation of SqliteSaver shows: no versions, and writes in the metadata.
    config: Any = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
    checkpoint: Any = {
        "ts": "2024-05-04T06:32:42+00:00",
        "id": "1ef4f797",
        "channel_values": {"key": "v" * 9000},
    }
    metadata: Any = {"source": "input", "step": 1, "writes": {"key": "value"}}
    found = []
    for name in ("stock", "wrapped"):
        connection = sqlite3.connect(tmp_path / name, check_same_thread=False)
        saver: Any = SqliteSaver(connection)
        if name == "wrapped":
            saver = externalize(saver, backend=InMemoryCAS())
        at = saver.put(config, checkpoint, metadata, {})
        found.append((at, saver.get_tuple(at), list(saver.list(None))))
        connection.close()
    assert found[0] == found[1]


def test_many_runs_of_one_event_loop_share_a_saver(tmp_path: Path, payload: Any) -> None:
    texts = [payload() for _ in range(12)]

    async def everything() -> None:
        async with aiosqlite.connect(tmp_path / "c.sqlite") as connection:
            graph = turning(externalize(AsyncSqliteSaver(connection), backend=InMemoryCAS()))
            at: list[Any] = [{"configurable": {"thread_id": str(i)}} for i in range(len(texts))]
            await asyncio.gather(
                *(graph.ainvoke({"document": t}, c) for t, c in zip(texts, at, strict=True))
            )
            states = await asyncio.gather(*map(graph.aget_state, at))
            assert [state.values for state in states] == [{"document": t, "turn": 10} for t in texts]

    asyncio.run(everything())


def test_the_sync_methods_of_an_async_saver_work_from_another_thread(tmp_path: Path, payload: Any) -> None:
    text, seen = payload(), []

    async def serve() -> None:
        async with aiosqlite.connect(tmp_path / "c.sqlite") as connection:
            saver = externalize(AsyncSqliteSaver(connection), backend=InMemoryCAS())
            graph = turning(saver)
            with pytest.raises(asyncio.InvalidStateError):
                saver.get_tuple(CONFIG)

            def work() -> None:
                graph.invoke({"document": text}, CONFIG)
                seen.append((graph.get_state(CONFIG).values, len(list(graph.get_state_history(CONFIG)))))
                saver.delete_thread("t")

            await asyncio.to_thread(work)
            assert await saver.aget_tuple(CONFIG) is None

    asyncio.run(serve())
    assert seen == [({"document": text, "turn": 10}, 12)]
