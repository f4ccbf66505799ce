"""The model context: it shows what AutoGen's own would, keeps old messages in the store, and saves refs."""

import asyncio
import json

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import FunctionCall
from autogen_core.model_context import (
    BufferedChatCompletionContext,
    HeadAndTailChatCompletionContext,
    TokenLimitedChatCompletionContext,
    UnboundedChatCompletionContext,
)
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    SystemMessage,
    UserMessage,
)

from agentref.adapters.autogen import AgentRefChatCompletionContext, AutoGenAdapter
from agentref.errors import (
    BlobNotFoundError,
    InvalidInputError,
    InvalidRefError,
    MalformedBlobError,
    StoreUnavailableError,
    UntrustedRefError,
)
from agentref.storage import InMemoryCAS

from .conftest import MARK, Failing, ScriptedClient, Slow, payload, round_robin


class WithoutThoughts(UnboundedChatCompletionContext):
    """A context of a user's own, as AutoGen's documents show one."""

    async def get_messages(self):
        return [m.model_copy(update={"thought": None}) for m in await super().get_messages()]


INNER = {
    "unbounded": UnboundedChatCompletionContext,
    "buffered": lambda: BufferedChatCompletionContext(buffer_size=5),
    "head and tail": lambda: HeadAndTailChatCompletionContext(head_size=3, tail_size=4),
    "token limit": lambda: TokenLimitedChatCompletionContext(ScriptedClient(), token_limit=300),
    "a user's own": WithoutThoughts,
}


def messages(count, size=300):
    made = [SystemMessage(content="be brief")]
    for number in range(count):
        call = FunctionCall(id=str(number), name="f", arguments=json.dumps({"q": payload(size, number)}))
        result = FunctionExecutionResult(content=payload(size, -number), name="f", call_id=str(number))
        made += [
            UserMessage(content=payload(size, number), source="user"),
            AssistantMessage(content=[call], source="a", thought="hm"),
            FunctionExecutionResultMessage(content=[result]),
        ]
    return made


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("size", [20, 300, 3000, 100_000])
def test_it_shows_what_the_context_inside_shows(inner, size, run):
    async def scenario():
        stock, cas = INNER[inner](), InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas, threshold_bytes=256, segment=4)
        ours = AgentRefChatCompletionContext(adapter, INNER[inner]())
        for each in messages(8, size):
            await stock.add_message(each)
            await ours.add_message(each.model_copy(deep=True))
            assert await ours.get_messages() == await stock.get_messages()
        state = json.loads(json.dumps(await ours.save_state()))
        other = AgentRefChatCompletionContext(adapter, INNER[inner]())
        await other.load_state(state)
        assert await other.get_messages() == await stock.get_messages()
        await other.load_state(await stock.save_state())
        assert await other.get_messages() == await stock.get_messages()
        await other.clear()
        assert await other.get_messages() == []
        assert cas.stats().counters.values_dumped > 0 and cas.stats().counters.values_loaded > 0

    run(scenario())


def test_old_messages_are_in_the_store_and_not_in_memory(run):
    async def scenario():
        context = AgentRefChatCompletionContext(AutoGenAdapter(backend=InMemoryCAS()))
        for number in range(40):
            await context.add_message(UserMessage(content=payload(200_000, number), source="user"))
            assert len(context._kept._open) == 0
            assert all(segments.messages is None for segments in context._kept._sealed)
        state = await context.save_state()
        assert MARK not in json.dumps(state) and len(json.dumps(state)) < 10_000
        assert [m.content for m in await context.get_messages()] == [payload(200_000, n) for n in range(40)]

    run(scenario())


def test_a_step_that_shows_small_messages_loads_nothing(run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas)
        context, other = (AgentRefChatCompletionContext(adapter) for _ in range(2))
        for number in range(200):
            await context.add_message(UserMessage(content=payload(500, number), source="user"))
            await context.get_messages()
        state = await context.save_state()
        assert cas.stats().counters.values_loaded == 0 < cas.stats().counters.values_dumped
        # Of another process's state, each segment is loaded once.
        await other.load_state(json.loads(json.dumps(state)))
        assert cas.stats().counters.values_loaded == 0
        for _ in range(3):
            assert await other.get_messages() == await context.get_messages()
        assert cas.stats().counters.values_loaded == len(other._kept._sealed) > 0

    run(scenario())


def test_a_buffer_loads_the_segments_that_it_shows(run):
    async def scenario():
        cas = InMemoryCAS()
        context = AgentRefChatCompletionContext(
            AutoGenAdapter(backend=cas), BufferedChatCompletionContext(buffer_size=3)
        )
        for number in range(100):
            await context.add_message(UserMessage(content=payload(100_000, number), source="user"))
        await context.get_messages()
        assert cas.stats().counters.values_loaded == 3

    run(scenario())


def test_a_thousand_saves_of_an_agent_are_linear(run):
    async def scenario():
        cas = InMemoryCAS()
        context = AgentRefChatCompletionContext(AutoGenAdapter(backend=cas))
        saved = 0
        for number in range(1000):
            await context.add_message(UserMessage(content=payload(460, number), source="user"))
            saved += len(json.dumps(await context.save_state()))
        assert saved <= 11_000_000
        assert cas.stats().counters.bytes_stored <= 600_000

    run(scenario())


def test_a_team_with_our_contexts_is_saved_whole(run):
    async def scenario():
        cas = InMemoryCAS()
        adapter = AutoGenAdapter(backend=cas)

        def context():
            return AgentRefChatCompletionContext(adapter)

        team, plain = round_robin(context=context), round_robin()
        await team.run(task=payload())
        by_hand = json.dumps(await team.save_state())
        assert 1_000_000 < len(by_hand) < 1_010_000  # the manager's copy
        state = await adapter.save_state(team, owner="run-1")
        assert MARK not in json.dumps(state)
        pinned = {pin.hash for pin in cas.iter_pins("run-1")}
        for participant in team._participants:
            own = await participant.model_context.save_state()
            needed = {ref.hash for ref in adapter.externalizer.refs(own)}
            assert needed and needed <= pinned
        other = round_robin(context=context)
        await adapter.load_state(other, json.loads(json.dumps(state)))
        for one, two in zip(team._participants, other._participants, strict=True):
            assert await one.model_context.get_messages() == await two.model_context.get_messages()
        with pytest.raises(InvalidRefError, match="AgentRefChatCompletionContext"):
            await adapter.load_state(plain, json.loads(json.dumps(state)))
        assert await plain._participants[0].model_context.get_messages() == []

    run(scenario())


def test_an_owner_of_a_context_keeps_its_segments_until_it_is_cleared(run):
    async def scenario():
        cas = InMemoryCAS()
        context = AgentRefChatCompletionContext(AutoGenAdapter(backend=cas), owner="reader")
        for number in range(3):
            await context.add_message(UserMessage(content=payload(100_000, number), source="user"))
        assert len({pin.hash for pin in cas.iter_pins("reader")}) == 3
        await context.clear()
        assert not list(cas.iter_pins())

    run(scenario())


class Urgent(UserMessage):
    """A message class of a user's own."""

    priority: int = 0


@pytest.mark.parametrize("size", [20, 3000])
def test_a_message_of_another_class_stays_the_object_that_it_is(size, run):
    async def scenario():
        made = [Urgent(content=payload(size, n), source="user", priority=n) for n in range(9)]
        made.insert(4, UserMessage(content=payload(size), source="user"))
        context = AgentRefChatCompletionContext(
            AutoGenAdapter(backend=InMemoryCAS(), threshold_bytes=256, segment=4),
            initial_messages=made[:1],
        )
        for each in made[1:]:
            await context.add_message(each)
        await context.save_state()
        got = await context.get_messages()
        assert got == made and [type(each) for each in got] == [type(each) for each in made]

    run(scenario())


def test_what_is_saved_of_a_changed_message_is_what_is_shown(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS(), threshold_bytes=2000, segment=4)
        context, other = (AgentRefChatCompletionContext(adapter) for _ in range(2))
        made = [UserMessage(content=payload(900, n), source="user") for n in range(6)]
        for each in made:
            await context.add_message(each)
        assert context._kept._sealed and context._kept._open
        for each in made:
            each.content = "redacted"
        await other.load_state(json.loads(json.dumps(await context.save_state())))
        shown = await context.get_messages()
        assert await other.get_messages() == shown
        assert shown[0].content == payload(900, 0) and shown[-1].content == "redacted"

    run(scenario())


def test_a_store_that_is_down_leaves_the_context_as_it_was(run):
    async def scenario():
        cas = Failing()
        context = AgentRefChatCompletionContext(AutoGenAdapter(backend=cas))
        first = UserMessage(content="small", source="user")
        large = UserMessage(content=payload(100_000), source="user")
        await context.add_message(first)
        cas.down = True
        with pytest.raises(StoreUnavailableError):
            await context.add_message(large)
        assert await context.get_messages() == [first]
        await context.save_state()
        cas.down = False
        await context.add_message(large)
        cas.down = True
        with pytest.raises(StoreUnavailableError):
            await context.get_messages()
        cas.down = False
        assert await context.get_messages() == [first, large]

    run(scenario())


def test_adding_that_is_cancelled_adds_nothing(run):
    async def scenario():
        cas = Slow()
        context = AgentRefChatCompletionContext(AutoGenAdapter(backend=cas))
        large = UserMessage(content=payload(100_000), source="user")
        cas.go.clear()
        adding = asyncio.create_task(context.add_message(large))
        await asyncio.to_thread(cas.entered.wait)
        await context.add_message(UserMessage(content="meanwhile", source="user"))
        adding.cancel()
        cas.go.set()
        with pytest.raises(asyncio.CancelledError):
            await adding
        assert [m.content for m in await context.get_messages()] == ["meanwhile"]

    run(scenario())


def test_messages_that_are_added_at_once_keep_their_order(run):
    async def scenario():
        context = AgentRefChatCompletionContext(
            AutoGenAdapter(backend=InMemoryCAS(), threshold_bytes=64, segment=3)
        )
        made = [UserMessage(content=payload(50 * (n % 7), n), source=str(n)) for n in range(60)]
        await asyncio.gather(*(context.add_message(each) for each in made))
        assert await context.get_messages() == made
        saves = await asyncio.gather(*(context.save_state() for _ in range(5)), context.clear())
        assert all(state == saves[0] for state in saves[:5])
        assert await context.get_messages() == []

    run(scenario())


def test_initial_messages_go_first(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        first, then = (UserMessage(content=text, source="user") for text in ("first", "then"))
        for context in (
            AgentRefChatCompletionContext(adapter, initial_messages=[first]),
            AgentRefChatCompletionContext(adapter, BufferedChatCompletionContext(9, [first])),
        ):
            await context.add_message(then)
            assert await context.get_messages() == [first, then]
        with pytest.raises(InvalidInputError, match="inside"):
            AgentRefChatCompletionContext(adapter, WithoutThoughts(), initial_messages=[first])

    run(scenario())


KEY, OTHER = b"k" * 32, b"o" * 32
PLANTED = {"__agentref__": [1, "0" * 64, "msgpack", 3, None, 1, None]}


def edited(state, how):
    state = json.loads(json.dumps(state))
    body = state["messages"][0]["__agentref__"]
    match how:
        case "digest":
            body[1] = "0" * 64
        case "count":
            body[5] = 3
        case "seal":
            body[6] = "0" * 32
        case "gone":
            state.pop("messages")
        case "no list":
            state["messages"] = {}
        case "no messages":
            state["messages"] = [{"type": "os.system", "content": "x"}]
        case "planted":
            state["messages"].insert(0, PLANTED)
        case "truncated ref":
            del body[3:]
    return state


@pytest.mark.parametrize(
    ("how", "keys", "error"),
    [
        ("digest", (), BlobNotFoundError),
        ("digest", KEY, UntrustedRefError),
        ("count", (), MalformedBlobError),
        ("count", KEY, UntrustedRefError),
        ("seal", KEY, UntrustedRefError),
        ("planted", (), InvalidRefError),
        ("planted", KEY, UntrustedRefError),
        ("gone", (), InvalidRefError),
        ("no list", (), InvalidRefError),
        ("no messages", (), MalformedBlobError),
        ("truncated ref", (), InvalidRefError),
    ],
)
def test_a_state_that_was_edited_is_a_typed_error(how, keys, error, run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS(), keys=keys)
        context, other = (AgentRefChatCompletionContext(adapter) for _ in range(2))
        await context.add_message(UserMessage(content=payload(100_000), source="user"))
        state = edited(await context.save_state(), how)

        async def loaded():
            await other.load_state(state)
            await other.get_messages()

        with pytest.raises(error):
            await loaded()

    run(scenario())


def test_agents_with_such_a_context_save_little_on_their_own(run):
    async def scenario():
        adapter = AutoGenAdapter(backend=InMemoryCAS())
        agent, other = (
            AssistantAgent(
                "reader", ScriptedClient("read"), model_context=AgentRefChatCompletionContext(adapter)
            )
            for _ in range(2)
        )
        await agent.run(task=payload())
        state = json.dumps(await agent.save_state())
        assert len(state) < 1000 and MARK not in state
        await other.load_state(json.loads(state))
        assert await other.model_context.get_messages() == await agent.model_context.get_messages()

    run(scenario())
