"""What the check of inline values refuses, against what LlamaIndex alone can read again: every value is
saved and restored in a workflow, through its own store over a plain model, and through ours.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, get_type_hints

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, create_model
from workflows import Context, Workflow, step
from workflows.context.serializers import JsonSerializer
from workflows.context.state_store import InMemoryStateStore
from workflows.events import Event, SerializableEvent, SerializableEventType, StartEvent, StopEvent

from agentref import AgentRefState, Inline, field
from agentref.adapters.llamaindex import LlamaIndexAdapter
from agentref.errors import InlineSizeExceeded, InvalidInputError
from tests.integration.llamaindex.conftest import run
from tests.integration.llamaindex.kinds import CASES, Kinds

HINTS = get_type_hints(Kinds, include_extras=True)
# The same fields as a user would declare them without agentref.
Plain = create_model(
    "Plain",
    __module__=__name__,
    __config__=ConfigDict(arbitrary_types_allowed=True),
    **{name: (HINTS[name] | None, None) for name in Kinds.schema().fields},
)
MISSED = {"only_split"}  # its validator raises no ValueError, as one does that misses the other fields


class Failed(NamedTuple):
    how: str
    said: str


def outcome(
    model: Any, store_of: Any, name: str, value: Any, *, way: str = "set", serializer: Any = None
) -> Any:
    """What a restored context holds of a value, or how that fails."""

    class Setting(Workflow):
        @step
        async def work(self, ctx: Context[model], ev: StartEvent) -> StopEvent:  # type: ignore[valid-type]
            store = store_of(ctx.store)
            if hasattr(ev, "read"):
                return StopEvent(result=await store.get(name))
            if way == "set":
                await store.set(name, value)
            else:
                async with store.edit_state() as edited:
                    setattr(edited, name, value)
            return StopEvent()

    async def play() -> Any:
        workflow = Setting()
        ctx: Context = Context(workflow)
        try:
            await workflow.run(ctx=ctx)
        except InvalidInputError as error:
            return Failed("refused", str(error))
        try:
            saved = json.dumps(ctx.to_dict(serializer=serializer))
        except Exception as error:  # noqa: BLE001  (whatever pydantic and users raise)
            return Failed("unsavable", str(error))
        try:
            ctx = Context.from_dict(workflow, json.loads(saved), serializer=serializer)
            return await workflow.run(ctx=ctx, read=True)
        except Exception as error:  # noqa: BLE001
            return Failed("unreadable", str(error))

    return run(play())


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("way", ["set", "edit"])
@pytest.mark.parametrize(
    ("name", "value"), CASES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(CASES)]
)
def test_what_is_refused_is_what_stock_could_not_read(cas: Any, name: str, value: Any, way: str) -> None:
    adapter = LlamaIndexAdapter(Kinds, backend=cas)
    stock = outcome(Plain, lambda store: store, name, value, way=way)
    ours = outcome(adapter.schema(), adapter.context_store, name, value, way=way)
    if isinstance(stock, Failed):
        refused = "refused" if stock.how == "unreadable" and name not in MISSED else stock.how
        assert (ours.how, refused) == (refused, ours.how), (stock, ours)
    else:
        assert repr(ours) == repr(stock)


def local_event() -> type[Event]:
    class Unimportable(Event):
        text: str

    return Unimportable


class Sending(AgentRefState):
    event: Inline[SerializableEvent]
    events: Inline[list[SerializableEvent]]
    kinds: Inline[list[SerializableEventType]]


@pytest.mark.parametrize("name", ["event", "events", "kinds"])
def test_what_only_the_serializer_of_the_workflow_knows_is_taken(cas: Any, name: str) -> None:
    kind = local_event()
    value = {"event": kind(text="a"), "events": [kind(text="a")], "kinds": [kind]}[name]
    adapter = LlamaIndexAdapter(Sending, backend=cas)
    serializer = JsonSerializer(allowed_types=[kind, adapter.schema()])
    for store_of in (lambda store: store, adapter.context_store):
        read = outcome(adapter.schema(), store_of, name, value, serializer=serializer)
        assert repr(read) == repr(value)
    unknown = outcome(adapter.schema(), adapter.context_store, name, value, serializer=JsonSerializer())
    assert unknown.how == "unreadable"


class Holder(BaseModel):
    items: Iterable[int]


@dataclass
class Held:
    items: Any


class OnceReadable:
    """Read but once, and no iterator."""

    def __init__(self) -> None:
        self._items = [1, 2]

    def __iter__(self) -> Iterator[int]:
        while self._items:
            yield self._items.pop(0)


class Streams(AgentRefState):
    stream: Inline[Iterable[int]]
    streams: Inline[list[Iterable[int]]]
    holder: Inline[Holder]
    held: Inline[Held]
    row: Inline[tuple[Any, ...]]
    by_name: Inline[dict[str, list[Any]]]
    anything: Inline[Any]
    untyped: Inline[tuple]  # type: ignore[type-arg]
    numbers: Inline[list[int]]


STREAMS = {
    "stream": lambda stream: stream,
    "streams": lambda stream: [stream],
    "holder": lambda stream: Holder.model_construct(items=stream),
    "held": Held,
    "row": lambda stream: ({"a": stream},),
    "by_name": lambda stream: {"a": [stream]},
    "anything": lambda stream: [stream],
    "untyped": lambda stream: (stream,),
    "numbers": lambda stream: [stream],
}


@pytest.mark.parametrize("make", [lambda: iter([1, 2]), lambda: (n for n in (1, 2)), OnceReadable])
@pytest.mark.parametrize("name", STREAMS)
def test_what_can_be_read_but_once_is_not_used_up_wherever_it_is(cas: Any, name: str, make: Any) -> None:
    async def scenario() -> None:
        adapter = LlamaIndexAdapter(Streams, backend=cas)
        store = adapter.context_store(InMemoryStateStore(adapter.schema()()))
        stream = make()
        await store.set(name, STREAMS[name](stream))
        assert list(stream) == [1, 2]
        stream = make()
        state = await store.get_state()
        setattr(state, name, STREAMS[name](stream))
        await store.set_state(state)
        assert list(stream) == [1, 2]

    run(scenario())


calls: list[str] = []


def noted(value: Any, info: ValidationInfo) -> Any:
    calls.append("validated")
    return value


def below_limit(value: int, info: ValidationInfo) -> int:
    if value > info.data["limit"]:
        raise ValueError("above the limit")
    return value


class Checked(AgentRefState):
    limit: Inline[int] = 10
    number: Inline[Annotated[int, AfterValidator(below_limit)]]
    made: Inline[list[int]] = field(default_factory=lambda: calls.append("made") or [])
    words: Inline[Annotated[list[str], AfterValidator(noted)]]


def test_no_other_field_is_asked_or_made(cas: Any) -> None:
    async def scenario() -> None:
        adapter = LlamaIndexAdapter(Checked, backend=cas, inline_threshold_bytes=1_000)
        store = adapter.context_store(InMemoryStateStore(adapter.schema()(limit=10)))
        calls.clear()
        await store.set("number", 5)
        assert await store.get("number") == 5
        await store.set("words", ["a"])
        assert calls == ["validated"]
        with pytest.raises(InlineSizeExceeded):  # before it is looked at
            await store.set("words", ["long"] * 1_000)
        assert calls == ["validated"]
        with pytest.raises(InvalidInputError, match=r"Checked\.words is declared as list\[str\], and"):
            await store.set("words", [5])

    run(scenario())


def test_a_subclass_of_the_model_is_the_users(cas: Any) -> None:
    async def scenario() -> None:
        adapter = LlamaIndexAdapter(Checked, backend=cas)

        class Own(adapter.schema()):  # type: ignore[misc]
            limit: str = ""

        store = adapter.context_store(InMemoryStateStore(Own()))
        await store.set("limit", "none")
        assert await store.get("limit") == "none"

    run(scenario())
