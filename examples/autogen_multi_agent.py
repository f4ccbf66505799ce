"""Three agents of AutoGen read a megabyte: the saved state of their team names it, and a new team goes on.

Needs `pip install "agentref-checkpoint[autogen]"`, no key and no network. Run it in an empty directory: it
leaves `state_blobs/` and `team_state.json` there.
"""

import asyncio
import json
from pathlib import Path

from agentref.storage import FilesystemCAS

STATE = Path("team_state.json")
DOCUMENT = "".join(f"Measurement {number}: {number * number % 9973} units.\n" for number in range(32_000))


def scripted_model(*answers):  # noqa: ANN002, ANN201
    """Stands in for a model: it says one answer after the other."""
    from autogen_core.models import ChatCompletionClient, CreateResult, RequestUsage  # noqa: PLC0415

    class ScriptedModel(ChatCompletionClient):
        model_info = {  # noqa: RUF012
            "vision": False,
            "function_calling": False,
            "json_output": False,
            "structured_output": False,
            "family": "unknown",
        }
        capabilities = model_info
        calls = 0

        async def create(self, messages, **options):  # noqa: ANN001, ANN003, ANN202, ARG002
            read = sum(len(message.content) for message in messages)
            text = answers[self.calls % len(answers)].format(read=read)
            self.calls += 1
            return CreateResult(finish_reason="stop", content=text, usage=self.total_usage(), cached=False)

        async def create_stream(self, messages, **options):  # noqa: ANN001, ANN003, ANN202
            yield await self.create(messages, **options)

        async def close(self):  # noqa: ANN202
            pass

        def total_usage(self):  # noqa: ANN202
            return RequestUsage(prompt_tokens=0, completion_tokens=0)

        def actual_usage(self):  # noqa: ANN202
            return self.total_usage()

        def count_tokens(self, messages, **options):  # noqa: ANN001, ANN003, ANN202, ARG002
            return 0

        def remaining_tokens(self, messages, **options):  # noqa: ANN001, ANN003, ANN202, ARG002
            return 1_000_000

    return ScriptedModel()


def make_team():  # noqa: ANN201
    """A reader, an analyst and a critic, one after the other."""
    from autogen_agentchat.agents import AssistantAgent  # noqa: PLC0415
    from autogen_agentchat.conditions import MaxMessageTermination  # noqa: PLC0415
    from autogen_agentchat.teams import RoundRobinGroupChat  # noqa: PLC0415

    return RoundRobinGroupChat(
        [
            AssistantAgent(name, scripted_model(f"The {name} has read {{read:,}} characters."))
            for name in ("reader", "analyst", "critic")
        ],
        termination_condition=MaxMessageTermination(4),
    )


def write(state):  # noqa: ANN001, ANN201
    """To the file; the number of bytes."""
    return STATE.write_text(json.dumps(state), encoding="utf-8")


def read():  # noqa: ANN201
    """From the file."""
    return json.loads(STATE.read_text(encoding="utf-8"))


async def main() -> None:
    """Run the team, save its state with and without refs, and let a new team go on from the file."""
    from agentref.adapters.autogen import AutoGenAdapter  # noqa: PLC0415

    adapter = AutoGenAdapter(backend=FilesystemCAS("./state_blobs"))

    team = make_team()
    result = await team.run(task=DOCUMENT)
    print(result.messages[-1].to_text())

    without = len(json.dumps(await team.save_state()))
    written = write(await adapter.save_state(team))
    print(f"State of the team: {without:,} bytes without agentref, {written:,} with it.")
    print(f"In the store: {adapter.backend.stats().stored_bytes:,} bytes.")

    resumed = make_team()
    await adapter.load_state(resumed, read())
    result = await resumed.run(task="What did you read?")
    print(f"Resumed: {result.messages[1].to_text()}")


if __name__ == "__main__":
    asyncio.run(main())
