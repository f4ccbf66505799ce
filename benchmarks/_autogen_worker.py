"""A team of three AutoGen agents that reads the demo's documents, in a process of its own, with and without
agentref.

Every turn ends with a checkpoint, the team's `save_state()` as JSON. All of them stay in memory, as those
of LangGraph's InMemorySaver do. Prints one JSON object: memory, time, and a hash of the final state.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import FunctionCall
from autogen_core.models import ChatCompletionClient, CreateResult, LLMMessage, ModelInfo, RequestUsage

from agentref.adapters.autogen import AutoGenAdapter
from agentref.storage import FilesystemCAS
from examples._demo.corpus import ROUNDS, documents_of
from examples._demo.graph import state_hash
from examples._demo.process import peak_memory
from examples._demo.worker import QUESTION

_AGENTS: Final = 3
_DOCUMENTS: Final = 2
_NOTHING: Final = RequestUsage(prompt_tokens=0, completion_tokens=0)


class Model(ChatCompletionClient):
    """Stands in for a model: a function of the messages that it is shown."""

    def __init__(self, answer: Callable[[Sequence[LLMMessage]], str | list[FunctionCall]]) -> None:
        self._answer = answer

    async def create(self, messages: Sequence[LLMMessage], **_: Any) -> CreateResult:  # type: ignore[override]
        """The answer."""
        content = self._answer(messages)
        reason: Any = "stop" if isinstance(content, str) else "function_calls"
        return CreateResult(finish_reason=reason, content=content, usage=_NOTHING, cached=False)

    async def create_stream(self, messages: Sequence[LLMMessage], **_: Any) -> Any:  # type: ignore[override]
        """The answer, at once."""
        yield await self.create(messages)

    async def close(self) -> None:
        """Nothing is open."""

    def actual_usage(self) -> RequestUsage:
        """None."""
        return _NOTHING

    total_usage = actual_usage

    def count_tokens(self, messages: Sequence[LLMMessage], **_: Any) -> int:  # type: ignore[override]
        """About."""
        return sum(len(str(message.content)) // 4 for message in messages)

    def remaining_tokens(self, *_: Any, **__: Any) -> int:
        """As many as it takes."""
        return 10**9

    @property
    def model_info(self) -> ModelInfo:
        """It calls functions."""
        return ModelInfo(
            vision=False,
            function_calling=True,
            json_output=False,
            family="unknown",
            structured_output=False,
        )

    capabilities: Any = model_info


def _team(texts: Path) -> RoundRobinGroupChat:
    async def retrieve(index: int) -> str:
        """The documents of a round."""
        return "\n\n".join(text for _, text in list(documents_of(texts, index))[:_DOCUMENTS])

    def call(messages: Sequence[LLMMessage]) -> list[FunctionCall]:
        index = sum(type(message).__name__ == "FunctionExecutionResultMessage" for message in messages)
        return [FunctionCall(id=f"call {index}", name="retrieve", arguments=json.dumps({"index": index}))]

    def read(messages: Sequence[LLMMessage]) -> str:
        passages = sorted(str(messages[-1].content).split("\n\n"), key=lambda text: -text.count("module"))
        return "\n\n".join(passages[:3])

    def write(messages: Sequence[LLMMessage]) -> str:
        return f"{len(messages)} messages, the last of {len(str(messages[-1].content))} characters"

    return RoundRobinGroupChat(
        [
            AssistantAgent("retriever", Model(call), tools=[retrieve], description="finds documents"),
            AssistantAgent("reader", Model(read), description="picks passages"),
            AssistantAgent("writer", Model(write), description="writes"),
        ],
        max_turns=1,
    )


def _contents(state: Any) -> Any:
    """A state without what is new in every run: ids and times of messages."""
    if isinstance(state, dict):
        return {name: _contents(part) for name, part in state.items() if name not in {"id", "created_at"}}
    return [_contents(part) for part in state] if isinstance(state, list) else state


async def _run(texts: Path, adapter: AutoGenAdapter | None) -> dict[str, Any]:
    team = _team(texts)
    checkpoints: list[str] = []
    started = time.perf_counter()
    for turn in range(_AGENTS * ROUNDS):
        await team.run(task=QUESTION if turn == 0 else None)
        state = await (team.save_state() if adapter is None else adapter.save_state(team))
        checkpoints.append(json.dumps(state))
        del state
    seconds, peak = time.perf_counter() - started, peak_memory()
    # What can be had from the last checkpoint is what counts.
    last, restored = json.loads(checkpoints[-1]), _team(texts)
    await (restored.load_state(last) if adapter is None else adapter.load_state(restored, last))
    return {
        "peak": peak,
        "seconds": seconds,
        "kept": sum(map(len, checkpoints)),
        "checkpoints": len(checkpoints),
        "hash": state_hash(_contents(await restored.save_state())),
    }


def _main() -> None:
    texts, store = Path(sys.argv[1]), sys.argv[2]
    if store == "-":
        print(json.dumps(asyncio.run(_run(texts, None))))
        return
    with FilesystemCAS(store) as cas:
        print(json.dumps(asyncio.run(_run(texts, AutoGenAdapter(backend=cas)))))


if __name__ == "__main__":
    _main()
