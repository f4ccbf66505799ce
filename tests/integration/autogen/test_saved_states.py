"""States of agents, of teams of every kind, and of runtimes: small, whole, and loadable elsewhere."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import SingleThreadedAgentRuntime

from agentref.adapters.autogen import AutoGenAdapter
from agentref.storage import FilesystemCAS, InMemoryCAS

from .conftest import MARK, TEAMS, ScriptedClient, Slow, agents, payload, round_robin

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", TEAMS)
def test_a_state_of_every_kind_of_team_is_small_and_loads_elsewhere(kind, adapter, cas, run):
    text = payload()

    async def scenario():
        team = TEAMS[kind]()
        await team.run(task=text)
        stock = await team.save_state()
        written = json.dumps(await adapter.save_state(team))
        assert MARK not in written
        assert len(json.dumps(stock)) > 1_000_000 and len(written) < 12_000
        other = TEAMS[kind]()
        await adapter.load_state(other, json.loads(written))
        assert await other.save_state() == stock
        return stock

    run(scenario())
    assert cas.stats().counters.values_dumped > 0 and cas.stats().counters.values_loaded > 0


def test_three_agents_and_a_megabyte_make_at_most_four_kilobytes(adapter, run):
    async def scenario():
        team = round_robin()
        await team.run(task=payload())
        return len(json.dumps(await team.save_state())), len(json.dumps(await adapter.save_state(team)))

    stock, small = run(scenario())
    assert stock > 4_000_000
    assert small <= 4096


@pytest.mark.parametrize("kind", TEAMS)
def test_a_team_goes_on_as_one_that_was_loaded_without_agentref(kind, run):
    """AutoGen's states hold no conditions for an end, so that a team which was never saved may differ."""

    def scrub(state):
        if isinstance(state, dict):
            return {key: scrub(value) for key, value in state.items() if key not in {"id", "created_at"}}
        return [scrub(item) for item in state] if isinstance(state, list) else state

    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS(), threshold_bytes=1)
        saved, stock, other = TEAMS[kind](), TEAMS[kind](), TEAMS[kind]()
        await saved.run(task="the first task")
        await stock.load_state(json.loads(json.dumps(await saved.save_state())))
        await adapter.load_state(other, json.loads(json.dumps(await adapter.save_state(saved))))
        one, two = await stock.run(task="and another"), await other.run(task="and another")
        assert [(m.source, m.to_text()) for m in one.messages] == [
            (m.source, m.to_text()) for m in two.messages
        ]
        assert scrub(await stock.save_state()) == scrub(await other.save_state())

    run(scenario())


def test_an_agent_on_its_own(adapter, run):
    async def scenario():
        (agent,), (other,) = agents("reader"), agents("reader")
        await agent.run(task=payload())
        state = json.loads(json.dumps(await adapter.save_state(agent)))
        await adapter.load_state(other, state)
        assert await other.save_state() == await agent.save_state()
        assert len(json.dumps(state)) < 1000

    run(scenario())


def test_a_runtime_with_teams_in_it(adapter, run):
    async def scenario():
        runtime = SingleThreadedAgentRuntime()
        runtime.start()
        team = round_robin()
        team._runtime = runtime
        team._embedded_runtime = False
        await team.run(task=payload())
        await runtime.stop_when_idle()
        stock = await runtime.save_state()
        state = await adapter.save_state(runtime)
        assert MARK not in json.dumps(state)
        assert adapter.hydrate_state(json.loads(json.dumps(state))) == stock
        await adapter.load_state(runtime, json.loads(json.dumps(state)))
        assert await runtime.save_state() == stock

    run(scenario())


def test_states_of_before_agentref_load(adapter, run):
    async def scenario():
        team, other = round_robin(), round_robin()
        await team.run(task="small")
        stock = json.loads(json.dumps(await team.save_state()))
        await adapter.load_state(other, stock)
        assert await other.save_state() == stock

    run(scenario())


RESUME = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[3])
from tests.integration.autogen.conftest import TEAMS, payload
from agentref.adapters.autogen import AutoGenAdapter
from agentref.storage import FilesystemCAS

async def main():
    team = TEAMS["round robin"]()
    adapter = AutoGenAdapter(backend=FilesystemCAS(sys.argv[1]))
    await adapter.load_state(team, json.load(open(sys.argv[2])))
    result = await team.run(task="go on")
    first = team._participants[0]._model_context
    same = (await first.get_messages())[0].content == payload()
    print(same, len(result.messages), result.messages[-1].to_text())

asyncio.run(main())
"""


def test_a_new_process_resumes_and_no_file_holds_the_payload_but_the_store(tmp_path, run):
    text = payload()

    async def scenario():
        with FilesystemCAS(tmp_path / "state_blobs") as cas:
            team = round_robin()
            await team.run(task=text)
            state = await AutoGenAdapter(backend=cas).save_state(team)
        (tmp_path / "state.json").write_text(json.dumps(state))

    run(scenario())
    done = subprocess.run(
        [sys.executable, "-c", RESUME, tmp_path / "state_blobs", tmp_path / "state.json", ROOT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=2)[:2] == ["True", "4"]
    kept = [
        path.name for path in tmp_path.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()
    ]
    assert "state.json" not in kept


def test_concurrent_saves_are_whole_each(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS(), threshold_bytes=64)
        teams = [round_robin() for _ in range(6)]
        for number, team in enumerate(teams):
            await team.run(task=payload(20_000, seed=number))
        states = await asyncio.gather(*(adapter.save_state(team) for team in teams for _ in range(3)))
        for number, state in enumerate(states):
            assert adapter.hydrate_state(state) == await teams[number // 3].save_state()

    run(scenario())


def test_a_save_that_is_cancelled_leaves_team_and_store_as_they_were(run):
    async def scenario():
        cas = Slow()
        adapter = AutoGenAdapter(backend=cas)
        team = round_robin()
        await team.run(task=payload())
        before = await team.save_state()
        cas.go.clear()
        saving = asyncio.create_task(adapter.save_state(team))
        await asyncio.to_thread(cas.entered.wait)
        saving.cancel()
        cas.go.set()
        with pytest.raises(asyncio.CancelledError):
            await saving
        assert await team.save_state() == before
        other = round_robin()
        await adapter.load_state(other, await adapter.save_state(team))
        assert await other.save_state() == before
        assert cas.verify().ok

    run(scenario())


def test_owners_keep_what_states_need_and_let_go(adapter, cas, run):
    async def scenario():
        team = round_robin()
        await team.run(task=payload(100_000))
        state = await adapter.save_state(team, owner="run-1")
        assert {pin.hash for pin in cas.iter_pins("run-1")} == {
            ref.hash for ref in adapter.externalizer.refs(state)
        }
        await adapter.arelease("run-1")
        assert not list(cas.iter_pins())

    run(scenario())


def test_base64_of_images_is_opaque(run):
    from autogen_agentchat.messages import MultiModalMessage
    from autogen_core import Image
    from PIL import Image as Picture

    async def scenario():
        picture = Image(Picture.effect_noise((200, 200), 90))
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        agent, other = (AssistantAgent("reader", ScriptedClient("seen")) for _ in range(2))
        message = MultiModalMessage(content=["look", picture], source="user")
        await agent.run(task=message)
        state = json.loads(json.dumps(await adapter.save_state(agent)))
        assert picture.to_base64()[100:200] not in json.dumps(state)
        await adapter.load_state(other, state)
        assert await other.save_state() == await agent.save_state()
        history = adapter.externalize_message_history([message])
        (again,) = adapter.hydrate_message_history(json.loads(json.dumps(history)))
        assert type(again) is MultiModalMessage and again.dump() == message.dump()

    run(scenario())
