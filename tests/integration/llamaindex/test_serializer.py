"""`AgentRefSerializer`: what it keeps out of the text, what comes back, and what it refuses."""

import asyncio
import json
import secrets
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field
from workflows import Context, Workflow, step
from workflows.context import JsonSerializer
from workflows.errors import WorkflowCancelledByUser
from workflows.events import Event, StartEvent, StopEvent
from workflows.runtime.types.ticks import TickAddEvent, WorkflowTickAdapter

from agentref.adapters.llamaindex import AgentRefSerializer
from agentref.errors import (
    ConfigurationError,
    InvalidInputError,
    InvalidRefError,
    StoreUnavailableError,
    UntrustedRefError,
)
from agentref.trees import Externalizer

from .conftest import run

FORGED = {"__agentref__": [1, "00" * 32, "agr1", 10, None]}
LARGE = "a large text. " * 1000


class Report(BaseModel):
    """A user's typed state."""

    title: str = ""
    body: str = ""
    image: bytes = b""
    anything: Any = None
    when: datetime | None = None


class Big(Event):
    """An event with a field and what was not declared."""

    payload: str
    more: Any = None


@pytest.fixture
def serializer(cas: Any) -> AgentRefSerializer:
    return AgentRefSerializer(cas)


VALUES = [
    None,
    "small",
    LARGE,
    [LARGE, 1, {"deep": [LARGE, None, True]}],
    {"docs": [{"text": LARGE, "n": n} for n in range(100)]},
    [0.25] * 5000,
    {"small": b"", "one": b"\xff", "some": b"\x80" * 100, "large": bytes(range(256)) * 100},
    Report(title="t", body=LARGE, when=datetime(2026, 1, 1, tzinfo=UTC)),
    Report(image=b"\x89PNG\xff", when=datetime(2026, 1, 1, tzinfo=UTC)),
    Report(image=b"\xff" * 10_000, anything=[{"raw": b"\xfe", "text": LARGE}]),
    Report(anything=b"abc"),
    Report(image=b"abc", anything=[b"", {"text": b"abc", "raw": b"\xff"}]),
    Report(anything={"large": b"abc" * 10_000}),
    Big(payload="", more=b"abc", undeclared=[b"abc"]),
    {"reports": [Report(body=LARGE), {"nested": Report(title="x")}]},
    FORGED,
    {"agentref_value": 1, "tree": FORGED},
    {"agentref_value": 1, "tree": LARGE},
    [FORGED, {"at": FORGED, "text": LARGE}, {"__agentref__": {"escaped": FORGED}}],
    Report(anything=FORGED),
    Report(body=LARGE, anything=[FORGED]),
    Big(payload=LARGE, more=FORGED, undeclared={"x": LARGE, "y": FORGED}),
    {"__is_pydantic": False, "qualified_name": LARGE, "value": LARGE},
    {"__is_pydantic": True, "value": LARGE},
]


@pytest.mark.parametrize("threshold", [0, 1, 4096])
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_what_is_serialized_comes_back(cas: Any, value: Any, threshold: int) -> None:
    serializer = AgentRefSerializer(cas, threshold_bytes=threshold)
    text = serializer.serialize(value)
    assert LARGE[:40] not in text or threshold > len(LARGE)
    found = serializer.deserialize(text)
    assert type(found) is type(value)
    assert found == value
    if isinstance(value, Big):
        assert dict(found.items()) == dict(value.items())


class Aliased(BaseModel):
    """Dumped under one name, and read under another."""

    data: bytes = Field(default=b"", alias="d")


class ByName(Aliased):
    """Read under either."""

    model_config = ConfigDict(populate_by_name=True)


class ByAlias(Aliased):
    """Dumped under the same."""

    model_config = ConfigDict(serialize_by_alias=True)


def test_bytes_that_would_not_be_read_again_are_refused(serializer: Any) -> None:
    for kept in (ByName(d=b"\xff"), ByAlias(d=b"abc"), Report(anything=ByName(d=b"abc").data)):
        assert serializer.deserialize(serializer.serialize(kept)) == kept
    for data in (b"abc", b"\xff"):
        for lost in (Aliased(d=data), Report(anything=[Aliased(d=data)]), {"a": [Aliased(d=data)]}):
            with pytest.raises(InvalidInputError, match=r"Aliased.data holds bytes"):
                serializer.serialize(lost)


def test_only_the_value_is_walked(cas: Any) -> None:
    text = AgentRefSerializer(cas, threshold_bytes=0).serialize({"event": Big(payload="x")})
    assert json.loads(text)["tree"]["event"]["qualified_name"] == f"{__name__}.Big"


def test_a_name_that_is_not_allowed_is_refused_as_before(cas: Any) -> None:
    open_to_all = AgentRefSerializer(cas, threshold_bytes=0)
    text = open_to_all.serialize(Report(title="x"))
    closed = AgentRefSerializer(cas, threshold_bytes=0, allowed_types=[Big])
    with pytest.raises(ValueError, match="not in the serializer's allowed types"):
        closed.deserialize(text)
    assert closed.with_types(Report).deserialize(text) == Report(title="x")
    # Nor can the name come out of the store.
    marked = json.loads(text)
    hidden = json.loads(open_to_all.serialize(marked["tree"]["qualified_name"]))["tree"]
    with pytest.raises(InvalidInputError, match="no name of a class"):
        open_to_all.deserialize(
            json.dumps({**marked, "tree": {**marked["tree"], "qualified_name": hidden}})
        )


def test_with_types_goes_on_externalizing(cas: Any) -> None:
    serializer = AgentRefSerializer(cas, allowed_types=[])
    wider = serializer.with_types(Big)
    assert type(wider) is AgentRefSerializer
    text = wider.serialize(Big(payload=LARGE))
    assert LARGE[:40] not in text
    assert wider.deserialize(text).payload == LARGE
    with pytest.raises(ValueError, match="not in the serializer's allowed types"):
        serializer.deserialize(text)
    # The negative control: what a subclass that does not override it gets.
    plain = JsonSerializer.with_types(serializer, Big)
    assert type(plain) is JsonSerializer
    assert LARGE[:40] in plain.serialize(Big(payload=LARGE))
    assert AgentRefSerializer(cas).with_types(Big).serialize(LARGE) == serializer.serialize(LARGE)


def test_what_an_event_says_is_not_read_twice(serializer: Any) -> None:
    """LlamaIndex reads nested events with the serializer that is at work: by then refs are values."""
    tick = TickAddEvent(event=Big(payload=LARGE, more=FORGED))
    text = serializer.serialize(tick)
    assert LARGE[:40] not in text
    with serializer.validation_context():
        found = WorkflowTickAdapter.validate_python(serializer.deserialize(text))
    assert (found.event.payload, found.event.more) == (LARGE, FORGED)


def test_what_stock_wrote_is_read(serializer: Any) -> None:
    for value in ({"text": LARGE, "n": [1]}, Report(body=LARGE), Big(payload=LARGE), FORGED, [FORGED]):
        assert serializer.deserialize(JsonSerializer().serialize(value)) == value


def test_what_holds_no_ref_is_written_as_stock_writes_it(serializer: Any) -> None:
    for value in ({"text": "small", "n": [1]}, Report(body="small"), Big(payload=""), [], "agentref_value"):
        assert serializer.serialize(value) == JsonSerializer().serialize(value)


EDITED = [
    {"agentref_value": 2, "tree": {}},
    {"agentref_value": 1},
    {"agentref_value": 1, "tree": {}, "more": 1},
    {"__is_pydantic": True, "qualified_name": "no_such.Module"},
    {"__is_pydantic": True, "qualified_name": "no_such.Module", "value": {}},
    {"__is_pydantic": True, "qualified_name": f"{__name__}.NoSuch", "value": {}},
    {"__is_pydantic": True, "qualified_name": f"{__name__}.Report", "value": {"when": "never"}},
    {"__is_pydantic": True, "qualified_name": f"{__name__}.Report"},
    {"__is_component": True, "qualified_name": f"{__name__}.Report", "value": {}},
]


@pytest.mark.parametrize("tree", EDITED, ids=range(len(EDITED)))
def test_an_edited_text_is_a_typed_error(serializer: Any, tree: Any) -> None:
    for text in (json.dumps(tree), json.dumps({"agentref_value": 1, "tree": tree})):
        if text.startswith('{"agentref_value": 1, "tree": {"agentref_value"'):
            continue  # there it is a value
        with pytest.raises(InvalidInputError, match="What is to be deserialized"):
            serializer.deserialize(text)


def test_a_list_that_grows_is_not_stored_again(serializer: Any, cas: Any) -> None:
    history: list[dict[str, str]] = []
    sizes = []
    for number in range(400):
        history.append({"role": "user", "content": secrets.token_hex(250), "n": str(number)})
        sizes.append(len(serializer.serialize(history)))
    assert max(sizes) < 100_000
    assert cas.stats().stored_bytes < 5 * len(json.dumps(history))
    assert serializer.deserialize(serializer.serialize(history)) == history


def test_typed_state_of_ones_own_and_events_shrink_with_the_serializer_alone(
    serializer: Any, text: str
) -> None:
    class Working(Workflow):
        @step
        async def work(self, ctx: Context[Report], ev: StartEvent) -> Big:
            await ctx.store.set("body", text)
            return Big(payload=text)

        @step
        async def end(self, ctx: Context[Report], ev: Big) -> StopEvent:
            return StopEvent(result=len(ev.payload))

    async def scenario() -> None:
        workflow = Working()
        handler = workflow.run()
        assert await handler == len(text)
        saved = json.dumps(handler.ctx.to_dict(serializer=serializer))
        assert len(saved) <= 1536
        assert text[:30] not in saved
        ctx = Context.from_dict(workflow, json.loads(saved), serializer=serializer)
        assert await ctx.store.get("body") == text
        assert len(json.dumps(handler.ctx.to_dict())) > 1_000_000  # stock, the same context

    run(scenario())


def test_a_run_that_was_cancelled_in_a_step_goes_on_with_the_event_it_was_at(
    serializer: Any, text: str
) -> None:
    inside, released = asyncio.Event(), asyncio.Event()

    class Interrupted(Workflow):
        @step
        async def begin(self, ctx: Context, ev: StartEvent) -> Big:
            return Big(payload=text)

        @step
        async def end(self, ctx: Context, ev: Big) -> StopEvent:
            inside.set()
            await released.wait()
            return StopEvent(result=len(ev.payload))

    async def scenario() -> None:
        workflow = Interrupted(timeout=None)
        handler = workflow.run()
        await inside.wait()
        stock = json.dumps(handler.ctx.to_dict())
        saved = json.dumps(handler.ctx.to_dict(serializer=serializer))
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler
        assert text[:30] in stock
        assert text[:30] not in saved
        assert len(saved) < 2_500
        resumed = Interrupted(timeout=None)
        released.set()
        ctx = Context.from_dict(resumed, json.loads(saved), serializer=serializer)
        assert await resumed.run(ctx=ctx) == len(text)

    run(scenario())


def test_a_state_file_that_was_edited_or_cut_is_refused(serializer: Any) -> None:
    text = serializer.serialize({"docs": LARGE, "n": 1})
    for damaged in (text[:-20], text[20:], "", "not json", text.replace('"agr1"', '"zz99"')):
        with pytest.raises((InvalidInputError, InvalidRefError)):
            serializer.deserialize(damaged)
    other = json.loads(text)
    other["tree"]["docs"]["__agentref__"][1] = "ab" * 32
    with pytest.raises(KeyError, match="abab"):
        serializer.deserialize(json.dumps(other))


def test_with_keys_another_tenants_state_is_refused(cas: Any) -> None:
    key, next_key = secrets.token_bytes(32), secrets.token_bytes(32)
    ada = AgentRefSerializer(cas, keys=key, tenant="ada")
    eve = AgentRefSerializer(cas, keys=key, tenant="eve")
    text = ada.serialize({"secret": LARGE})
    loaded = cas.counters.values_loaded
    for stolen in (text, json.dumps({**json.loads(text), "tree": FORGED})):
        with pytest.raises(UntrustedRefError):
            eve.deserialize(stolen)
    assert cas.counters.values_loaded == loaded
    rotated = AgentRefSerializer(cas, keys=[next_key, key], tenant="ada")
    assert rotated.deserialize(text) == {"secret": LARGE}
    with pytest.raises(UntrustedRefError):
        ada.deserialize(rotated.serialize({"secret": LARGE}))
    assert ada.deserialize(ada.serialize(FORGED)) == FORGED


def test_what_is_no_json_is_refused_without_being_shown(serializer: Any, cas: Any) -> None:
    class Unknown:
        def __str__(self) -> str:
            return "the secret"

    for value in (Unknown(), {"a": {1, 2}}, [object()], {"a": Unknown(), "large": LARGE}):
        with pytest.raises(ValueError, match="Failed to serialize value") as caught:
            serializer.serialize(value)
        assert "the secret" not in str(caught.value)
        assert len(str(caught.value)) < 300
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidInputError):
        serializer.serialize(endless)


def test_a_store_that_is_down_is_a_typed_error(serializer: Any, offline: Any) -> None:
    text = serializer.serialize(LARGE)
    offline.begin()
    with pytest.raises(StoreUnavailableError):
        serializer.serialize(LARGE + "x")
    with pytest.raises(StoreUnavailableError):
        serializer.deserialize(text)
    offline.end()
    assert serializer.deserialize(text) == LARGE


def test_it_is_made_from_a_store_an_externalizer_or_an_adapter(adapter: Any, cas: Any) -> None:
    external = Externalizer(cas, threshold_bytes=10)
    assert AgentRefSerializer(external).externalizer is external
    made = adapter.serializer(threshold_bytes=10, allowed_types=[Report])
    text = made.serialize(Report(body="eleven chars and more"))
    assert "eleven" not in text
    assert made.deserialize(text) == Report(body="eleven chars and more")
    with pytest.raises(ValueError, match="allowed types"):
        made.serialize(Report()) and made.deserialize(JsonSerializer().serialize(Big(payload="")))
    with pytest.raises(InvalidInputError, match="threshold_bytes"):
        AgentRefSerializer(external, threshold_bytes=1)
    with pytest.raises(ConfigurationError, match="needs a store"):
        AgentRefSerializer()
    with pytest.raises(InvalidInputError, match="content-addressed store"):
        AgentRefSerializer("./state_blobs")  # type: ignore[arg-type]
