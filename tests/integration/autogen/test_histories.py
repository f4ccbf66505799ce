"""Message histories: segments and a tail, saved again and again, of dicts and of message objects."""

import json
import random

import pytest
from autogen_agentchat.messages import (
    BaseChatMessage,
    HandoffMessage,
    MemoryQueryEvent,
    StructuredMessage,
    TextMessage,
    ToolCallSummaryMessage,
)
from autogen_core import FunctionCall
from autogen_core.memory import MemoryContent
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    SystemMessage,
    UserMessage,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agentref.adapters.autogen import AutoGenAdapter
from agentref.errors import InvalidInputError, MalformedBlobError, UntrustedTypeError
from agentref.storage import FilesystemCAS, InMemoryCAS

from .conftest import MARK, on_disk, payload


class Verdict(BaseModel):
    verdict: str
    points: int


class Whisper(BaseChatMessage):
    content: str
    type: str = "Whisper"

    def to_text(self):
        return self.content

    to_model_text = to_text

    def to_model_message(self):
        return UserMessage(content=self.content, source=self.source)


def message(number, size=520):
    noise = random.Random(number).randbytes(size // 2).hex()
    whole = {"role": "user" if number % 2 else "assistant", "content": noise, "number": f"{number:04}"}
    return {**whole, "content": noise[: size - len(json.dumps({**whole, "content": ""}))]}


def through_json(adapter, history):
    return adapter.adopt(json.loads(json.dumps(history)))


LOOPS = {
    "all messages anew": lambda adapter, history, messages: list(messages),
    "what was returned, and one more": lambda adapter, history, messages: [*history, messages[-1]],
    "what came back from JSON, and one more": lambda adapter, history, messages: [
        *through_json(adapter, history),
        messages[-1],
    ],
}


def test_the_sample_of_the_readme(adapter):
    message = {"role": "worker", "tool_result": "large tool output"}
    history = adapter.externalize_message_history([message], threshold_bytes=1024)
    assert adapter.hydrate_message_history(history) == [message]
    large = {"role": "worker", "tool_result": "large tool output " * 1000}
    history = adapter.externalize_message_history([message, large], threshold_bytes=1024)
    assert "large tool output large" not in json.dumps(history)
    assert adapter.hydrate_message_history(history) == [message, large]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_thousand_saves_are_linear(loop, tmp_path):
    with FilesystemCAS(tmp_path / "store") as cas:
        adapter = AutoGenAdapter(backend=cas)
        history, messages, saved = [], [], 0
        for number in range(1000):
            messages.append(message(number))
            history = adapter.externalize_message_history(LOOPS[loop](adapter, history, messages))
            saved += len(json.dumps(history))
        assert len(json.dumps(messages[0])) == 520
        assert adapter.hydrate_message_history(history) == messages
        assert saved <= 11_000_000
        assert cas.stats().counters.bytes_stored <= 600_000
    assert on_disk(tmp_path / "store") <= 600_000


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("every", [2, 10])
def test_large_messages_among_small_ones_keep_none_of_these_inline(loop, every):
    adapter = AutoGenAdapter(backend=InMemoryCAS())
    history, messages = [], []
    for number in range(300):
        messages.append(message(number, 10_000 if number % every == 0 else 520))
        history = adapter.externalize_message_history(LOOPS[loop](adapter, history, messages))
    assert adapter.hydrate_message_history(history) == messages
    # At most what is not sealed yet, and a ref for each segment.
    assert len(json.dumps(history)) < 32 * 700 + 300 / 8 * 200
    assert adapter.backend.stats().counters.bytes_stored < 2.2 * len(json.dumps(messages))


@pytest.mark.parametrize("threshold", [0, 1, 100, 4096])
@pytest.mark.parametrize("segment", [2, 3, 32])
def test_every_way_gives_the_same_messages(threshold, segment):
    adapter = AutoGenAdapter(backend=InMemoryCAS())
    sizes = [random.Random(segment).choice([60, 200, 5000, 70_000]) for _ in range(40)]
    for loop in LOOPS.values():
        history, messages = [], []
        for number, size in enumerate(sizes):
            messages.append(message(number, size))
            history = adapter.externalize_message_history(
                loop(adapter, history, messages), threshold_bytes=threshold, segment=segment
            )
            assert adapter.hydrate_message_history(json.loads(json.dumps(history))) == messages


def objects():
    call = FunctionCall(id="1", name="search", arguments=json.dumps({"query": "x" * 6000}))
    result = FunctionExecutionResult(content="found " * 2000, name="search", call_id="1", is_error=False)
    return [
        TextMessage(content=payload(10_000), source="user", metadata={"a": "b"}),
        UserMessage(content="a question", source="user"),
        HandoffMessage(content="over", source="a", target="b", context=[SystemMessage(content="y" * 5000)]),
        ToolCallSummaryMessage(content="s", source="a", tool_calls=[call], results=[result]),
        AssistantMessage(content=[call], source="a", thought="hm"),
        FunctionExecutionResultMessage(content=[result]),
        {"role": "user", "content": "a dict among them"},
        StructuredMessage[Verdict](content=Verdict(verdict="good " * 2000, points=3), source="judge"),
        Whisper(content="psst", source="a"),
    ]


def adapter_for_objects(**options):
    return AutoGenAdapter(
        backend=InMemoryCAS(), custom_message_types=[StructuredMessage[Verdict], Whisper], **options
    )


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("threshold", [0, 256, 4096])
def test_message_objects_come_back_as_objects(loop, threshold):
    adapter = adapter_for_objects(threshold_bytes=threshold, segment=4)
    history, messages = [], []
    for each in objects() * 3:
        messages.append(each)
        history = adapter.externalize_message_history(LOOPS[loop](adapter, history, messages))
    again = adapter.hydrate_message_history(json.loads(json.dumps(history)))
    assert [type(each) for each in again] == [type(each) for each in messages]
    assert again == messages
    assert MARK not in json.dumps(history)


def test_the_async_twins_do_the_same(run):
    async def scenario():
        adapter = adapter_for_objects(threshold_bytes=256)
        history, messages = [], objects()
        for each in messages:
            history = await adapter.aexternalize_message_history([*history, each])
        assert await adapter.ahydrate_message_history(history) == messages

    run(scenario())


LOOK_ALIKES = [
    {"__autogen__": ["chat", {"type": "TextMessage", "content": "planted", "source": "user"}]},
    {"__autogen__": "anything"},
    {"__autogen__": ["dict", {"a": 1}]},
    {"role": "user", "content": {"__agentref__": [1, "0" * 64, "x", 1, None]}},
    {"role": "user", "content": {"__agentref__": {"escaped": {"a": 1}}}},
    {"role": "user", "content": [{"__agentref__": [1, "0" * 64, "x", 1, None, 5, None]}]},
]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("planted", LOOK_ALIKES)
def test_look_alikes_of_users_are_data(loop, planted):
    adapter = AutoGenAdapter(backend=InMemoryCAS(), segment=3, threshold_bytes=100)
    history, messages = [], []
    for number in range(12):
        messages.append(planted if number % 2 else message(number, 300))
        history = adapter.externalize_message_history(LOOPS[loop](adapter, history, messages))
    assert adapter.hydrate_message_history(json.loads(json.dumps(history))) == messages


KEYS = st.sampled_from(["role", "content", "__agentref__", "__autogen__", "escaped", ""]) | st.text(
    max_size=3
)
DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.just("long " * 40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
DICTS = st.dictionaries(KEYS, DATA, max_size=4).filter(lambda message: list(message) != ["__agentref__"])


@given(st.lists(DICTS, max_size=12), st.sampled_from([0, 8, 64]), st.sampled_from([2, 3]))
def test_hostile_messages_come_back_by_every_loop(messages, threshold, segment):
    adapter = AutoGenAdapter(backend=InMemoryCAS(), threshold_bytes=threshold, segment=segment)
    for loop in LOOPS.values():
        history = []
        for number in range(1, len(messages) + 1):
            history = adapter.externalize_message_history(loop(adapter, history, messages[:number]))
        assert adapter.hydrate_message_history(json.loads(json.dumps(history))) == messages


def test_a_ref_that_a_caller_writes_into_an_open_message_is_data():
    adapter = AutoGenAdapter(backend=InMemoryCAS())
    (secret,) = adapter.externalizer.refs(adapter.externalizer.externalize(["secret " * 1000]))
    (large,) = adapter.externalize_message_history([{"content": "x" * 5000}])
    large["planted"] = secret.to_dict()
    history = adapter.externalize_message_history([large])
    assert adapter.hydrate_message_history(history)[0]["planted"] == secret.to_dict()


def test_nothing_that_was_passed_in_changes():
    adapter = adapter_for_objects(threshold_bytes=10)
    messages = objects()
    before = [each if isinstance(each, dict) else each.model_copy(deep=True) for each in messages]
    history = adapter.externalize_message_history(messages)
    written = json.dumps(history)
    adapter.externalize_message_history([*history, *messages])
    adapter.hydrate_message_history(history)
    assert messages == before and json.dumps(history) == written


def test_a_history_from_json_that_was_not_adopted_is_refused():
    adapter = AutoGenAdapter(backend=InMemoryCAS(), segment=2, threshold_bytes=100)
    history = json.loads(json.dumps(adapter.externalize_message_history([message(n) for n in range(4)])))
    with pytest.raises(InvalidInputError, match="adopt"):
        adapter.externalize_message_history([*history, message(5)])


class Impostor(TextMessage):
    pass


Impostor.__name__ = "TextMessage"


class Urgent(UserMessage):
    priority: int


NO_TEXT = MemoryContent(content=b"\xff\xfe", mime_type="application/octet-stream")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a text", "list of messages"),
        ({"role": "user"}, "list of messages"),
        (["a text"], r"messages\[0\]"),
        ([{"role": "user"}, 3], r"messages\[1\]"),
        ([Whisper(content="x", source="y")], "custom_message_types=\\[Whisper\\]"),
        ([Impostor(content="x", source="y")], "custom_message_types"),
        ([{}, Urgent(content="x", source="y", priority=9)], r"messages\[1\] is of type Urgent"),
        ([{}, MemoryQueryEvent(content=[NO_TEXT], source="y")], r"messages\[1\] cannot be dumped"),
    ],
)
def test_what_is_no_message_is_refused(given, said):
    with pytest.raises(InvalidInputError, match=said):
        AutoGenAdapter(backend=InMemoryCAS()).externalize_message_history(given)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (["chat", {"type": "os.system", "content": "x", "source": "y"}], UntrustedTypeError),
        (["chat", {"type": ["TextMessage"]}], UntrustedTypeError),
        (["chat", {"content": "x"}], UntrustedTypeError),
        (["chat", {"type": "TextMessage", "content": 7, "source": "y"}], MalformedBlobError),
        (
            ["chat", {"type": "MultiModalMessage", "content": [{"data": "AAAA"}], "source": "y"}],
            MalformedBlobError,
        ),
        (["llm", {"type": "TextMessage", "content": "x"}], MalformedBlobError),
        (["llm", "text"], MalformedBlobError),
        (["pickle", {}], MalformedBlobError),
        (["chat"], MalformedBlobError),
        ("chat", MalformedBlobError),
    ],
)
def test_a_history_that_was_edited_constructs_nothing_else(body, error):
    with pytest.raises(error):
        AutoGenAdapter(backend=InMemoryCAS()).hydrate_message_history([{"__autogen__": body}])


def test_an_owner_keeps_all_segments_of_a_history(cas):
    adapter = AutoGenAdapter(backend=cas, threshold_bytes=256, segment=4)
    history, messages = [], []
    for number in range(30):
        messages.append(message(number))
        history = adapter.externalize_message_history(
            [*through_json(adapter, history), messages[-1]], owner="chat-1"
        )
    needed = {ref.hash for ref in adapter.externalizer.refs(history)}
    assert needed and needed <= {pin.hash for pin in cas.iter_pins("chat-1")}
    adapter.release("chat-1")
    assert not list(cas.iter_pins())
