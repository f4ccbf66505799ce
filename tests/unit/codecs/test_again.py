"""What a store remembers of the values before changes no byte of the next one: only how long it takes."""

import copy
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from agentref.chunks import Memo, TreeBuilder, unpack_blob
from agentref.codecs import ValueCodec
from agentref.errors import UnsupportedTypeError, ValueTooLargeError
from agentref.storage import InMemoryCAS

CODEC = ValueCodec()


class Text(str):
    """Not exactly a str, so that it cannot be stored."""

    __slots__ = ()


def encoded(value: object, memo: Memo | None = None, codec: ValueCodec = CODEC) -> object:
    """The link to a value and all its blobs, or the error; children come before their parents."""
    builder = TreeBuilder(memo)
    try:
        link = codec.encode(value, builder)
    except UnsupportedTypeError as error:
        return str(error)
    blobs = {digest: bytes(pending.canonical()) for digest, pending in builder.blobs.items()}
    seen = set()
    for digest, pending in builder.blobs.items():
        assert pending.size == len(blobs[digest])
        assert seen.issuperset(child.digest for child in unpack_blob(pending.kind, blobs[digest]).links)
        seen.add(digest)
    return link, blobs


def assert_same_again(value: object, memo: Memo) -> None:
    cold = encoded(value)
    assert encoded(value, memo) == cold
    assert encoded([value, {"k": value}], memo) == encoded([value, {"k": value}])
    assert encoded(value, memo) == cold


SHORT = "some words of a text, "
LONG = {n: f"{n} " + SHORT * 500 for n in range(4)}
VALUES = st.sampled_from(
    [
        *(None, True, False, 1, 0, 1.0, 0.0, -0.0, float("nan"), 2**70, -(2**90), "", "1", b"", b"1"),
        *(b"raw" * 1000, SHORT * 90, SHORT * 350, SHORT * 700, *LONG.values(), LONG[1].encode()),
        *("\ud800", "\ud800" * 9000, "ü" * 5000, "x" * 300_000, b"y" * 5_000_000),
        *(bytearray(b"1"), bytearray(LONG[1].encode()), [], {}, [1], {"a": [b"1"]}, [LONG[2]], (1, "t")),
        *(Text("1"), Text(LONG[1]), memoryview(b"1"), {f"k{n}": n for n in range(40)}),
    ]
)
KEYS = st.sampled_from(["text", "n", "more", 1, True, 1.0, None, b"text", "\ud800", (1,), LONG[3]])
EDITS = st.sampled_from(
    [
        *("append", "put", "put in a copy", "pop key", "insert", "delete", "sort", "reverse", "copy all"),
        *(
            "reorder keys",
            "same type",
            "negate zero",
            "trim",
            "deep copy",
            "widen",
            "swap",
            "extend",
            "empty",
        ),
    ]
)


def records(count: int, weight: int = 60, start: int = 0) -> list[dict]:
    return [
        {"n": n, "role": "user", "text": f"{n} " + SHORT * weight, "score": n / 3, "flag": n % 2 == 0}
        for n in range(start, start + count)
    ]


def edit(items: list, data: st.DataObject) -> None:  # noqa: C901  (a table of cases)
    how = data.draw(EDITS)
    at = data.draw(st.integers(0, max(len(items) - 1, 0)))
    if how == "append":
        items.append({"n": len(items), "text": data.draw(VALUES)})
    elif how == "extend":
        items.extend(records(20, data.draw(st.sampled_from([1, 60, 400])), start=1000 * len(items)))
    elif how == "insert":
        items.insert(at, {"new": data.draw(VALUES)})
    elif how == "delete":
        del items[at : at + data.draw(st.integers(1, 3))]
    elif how == "sort":
        items.sort(key=lambda item: -len(str(item)))
    elif how == "reverse":
        items.reverse()
    elif how == "trim":
        del items[:3]
    elif how == "deep copy":
        items[:] = map(deep_copy, items)
    elif how == "copy all":
        items[:] = map(dict, items)
    elif how == "empty":
        items.insert(at, {})
    elif how == "swap" and items:
        items[at], items[0] = items[0], items[at]
    elif items:
        edit_record(items, at, how, data)


def deep_copy(item: dict) -> dict:
    return {key: part if type(part) is memoryview else copy.deepcopy(part) for key, part in item.items()}


def edit_record(items: list, at: int, how: str, data: st.DataObject) -> None:  # noqa: C901
    if how in {"put in a copy", "pop key", "reorder keys"}:
        items[at] = dict(items[at])
    item = items[at]
    if how in {"put", "put in a copy"}:
        item[data.draw(KEYS)] = data.draw(VALUES)
    elif how == "pop key" and item:
        item.popitem()
    elif how == "reorder keys" and item:
        first = next(iter(item))
        item[first] = item.pop(first)
    elif how == "same type":
        for key, part in item.items():
            if type(part) in {int, bool}:
                item[key] = bool(part) if type(part) is int else int(part)
    elif how == "negate zero":
        for key, part in item.items():
            if type(part) is float:
                item[key] = -part
    elif how == "widen":
        item.update({f"w{n}": n for n in range(35)})


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_list_that_changes_step_by_step_is_encoded_as_if_new(data: st.DataObject) -> None:
    memo = Memo(data.draw(st.sampled_from([1 << 24, 1 << 24, 200_000, 0])))
    items = records(data.draw(st.sampled_from([15, 16, 60, 200])), data.draw(st.sampled_from([1, 60, 400])))
    if data.draw(st.booleans()):
        for item in items[::7]:
            item["text"] = LONG[data.draw(st.integers(0, 3))]
    others = records(30)
    assert_same_again(items, memo)
    for _ in range(data.draw(st.integers(1, 8))):
        edit(items, data)
        assert encoded(items, memo) == encoded(items)
        if data.draw(st.booleans()):
            items = [dict(item) for item in items]
        if data.draw(st.booleans()):
            edit(others, data)
            assert encoded(others, memo) == encoded(others)
    assert_same_again(items, memo)


def renamed(item: dict, old: str, new: object) -> dict:
    return {new if key == old else key: part for key, part in item.items()}


@pytest.mark.parametrize("at", [0, 1, 30, 58, 59])
@pytest.mark.parametrize(
    "change",
    [
        lambda item: item | {"one": True},
        lambda item: item | {"one": 1.0},
        lambda item: item | {"zero": -0.0},
        lambda item: item | {"zero": 0},
        lambda item: item | {"text": "B" * 20_000},
        lambda item: item | {"text": b"A" * 20_000},
        lambda item: renamed(item, "zero", "null"),
        lambda item: renamed(item, "key", "yek"),
        lambda item: dict(reversed(item.items())),
    ],
    ids=["True", "1.0", "-0.0", "0", "text", "bytes", "last key", "a key", "order"],
)
def test_what_is_equal_and_not_the_same_is_seen_wherever_it_is(change, at: int) -> None:
    memo = Memo()
    items = [{"n": n, "text": "A" * 20_000, "key": None, "one": 1, "zero": 0.0} for n in range(60)]
    before = encoded(items, memo)
    new = list(items)
    new[at] = change(items[at])
    assert encoded(new, memo) == encoded(new) != before
    assert encoded(items, memo) == before


def test_a_list_that_grows_by_one_is_cut_as_a_new_one() -> None:
    memo, items = Memo(), records(150, 40)
    for end in range(10, 150):
        assert encoded(items[:end], memo) == encoded(items[:end])


def messages(count: int, weight: int) -> list:
    out: list = []
    for n in range(count):
        text = f"{n} " + SHORT * weight
        if n % 3 == 0:
            out.append(HumanMessage(text, id=f"h{n}"))
        elif n % 3 == 1:
            call = {
                "name": "search",
                "args": {"q": text[:50], "k": [n]},
                "id": f"c{n}",
                "type": "tool_call",
            }
            tokens = {"input_tokens": n, "output_tokens": 1, "total_tokens": n + 1}
            out.append(AIMessage(text, id=f"a{n}", tool_calls=[call], usage_metadata=tokens))
        else:
            out.append(ToolMessage(text, tool_call_id=f"c{n - 1}"))
    return out


MESSAGE_EDITS = {
    "id": lambda message, part: setattr(message, "id", part),
    "content": lambda message, part: setattr(message, "content", part),
    "kwargs": lambda message, part: message.additional_kwargs.update(k=part),
    "nested": lambda message, part: message.response_metadata.setdefault("usage", {}).update(k=[part]),
    "clear": lambda message, part: message.additional_kwargs.clear(),
    "name": lambda message, part: setattr(message, "name", part),
    "extra": lambda message, part: (message.__pydantic_extra__ or {}).update(k=part),
    "extra none": lambda message, part: object.__setattr__(message, "__pydantic_extra__", None),
    "private": lambda message, part: object.__setattr__(message, "__pydantic_private__", {"k": part}),
    "fields set": lambda message, part: message.__pydantic_fields_set__.add("name"),
    "fields unset": lambda message, part: message.__pydantic_fields_set__.discard("id"),
    "attribute": lambda message, part: message.__dict__.update(response_metadata={"k": part}),
    "reorder": lambda message, part: message.__dict__.update(type=message.__dict__.pop("type")),
    "no field": lambda message, part: message.__dict__.pop("name", None),
    "cached": lambda message, part: message.__dict__.update(no_field=part),
}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_models_that_are_changed_in_place_are_encoded_as_if_new(data: st.DataObject) -> None:
    memo = Memo(data.draw(st.sampled_from([1 << 24, 1 << 24, 200_000])))
    items: list = messages(data.draw(st.integers(1, 40)), data.draw(st.sampled_from([1, 60, 600])))
    items.append(Document("a page", metadata={"source": "x", "n": 1}))
    assert_same_again(items, memo)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(items) - 1))
        how = data.draw(st.sampled_from([*MESSAGE_EDITS, "append", "copy", "delete", "record"]))
        if how == "append":
            items = [*items, *messages(3, 60)]
        elif how == "copy":
            items = [message.model_copy() if hasattr(message, "id") else message for message in items]
        elif how == "delete" and len(items) > 1:
            items = items[:at] + items[at + 1 :]
        elif how == "record":
            items = [*items[:at], {"n": at, "text": data.draw(VALUES)}, *items[at:]]
        elif isinstance(items[at], (HumanMessage, AIMessage, ToolMessage)) and how in MESSAGE_EDITS:
            MESSAGE_EDITS[how](items[at], data.draw(VALUES))
        assert encoded(items, memo) == encoded(items)
    assert_same_again(items, memo)


@pytest.mark.parametrize("empty", [True, False])
def test_a_bytearray_in_the_place_of_bytes_is_seen_in_a_model(empty: bool) -> None:
    memo, data = Memo(), b"" if empty else b"data"
    message = HumanMessage("x", id="1", additional_kwargs={"k": [data], "n": 1})
    before = encoded(message, memo)
    assert before == encoded(message)
    message.additional_kwargs["k"][0] = bytearray(data)
    assert encoded(message, memo) == encoded(message) != before


@pytest.mark.parametrize("inner", ["model", "records"])
def test_what_is_remembered_lies_no_deeper_than_what_is_new_may(inner: str) -> None:
    memo = Memo()
    value: object = (
        HumanMessage("x" * 1000, id="1") if inner == "model" else [{"n": 2**70 + n} for n in range(20)]
    )
    for _ in range(70):
        assert outcome(value, memo) == outcome(value)
        value = (value,)


def outcome(value: object, memo: Memo | None = None) -> object:
    try:
        return encoded(value, memo)
    except ValueTooLargeError as error:
        return str(error)


def test_what_one_codec_remembers_of_a_model_is_nothing_to_another() -> None:
    memo, message = Memo(), HumanMessage("x" * 1000, id="1")
    assert encoded(message, memo) == encoded(message)
    strict = ValueCodec(allow=[Document])
    assert "not among the types" in str(encoded(message, memo, strict))


@pytest.mark.parametrize("kind", ["records", "messages"])
def test_a_list_that_another_thread_changes_is_read_as_it_was_at_some_time(same, kind: str) -> None:
    """Each record always says the same twice, and long texts follow the numbers beside them."""
    cas = InMemoryCAS()
    texts = [f"{n} " + SHORT * 500 for n in range(8)]
    items: list = [{"a": 0, "b": texts[0], "c": 0} for _ in range(200)]
    if kind == "messages":
        items = [HumanMessage("x", id="0", additional_kwargs={"n": 0}) for _ in range(200)]
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            for item in items[n % 7 :: 7]:
                if kind == "records":
                    item.update(a=n % 8, b=texts[n % 8], c=n % 8)
                else:
                    item.__dict__.update(id=str(n), additional_kwargs={"n": n})

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for loaded in [cas.load(cas.dump(items)) for _ in range(60)]:
            for item in loaded:
                if kind == "records":
                    assert item["a"] == item["c"] and item["b"] == texts[item["a"]]
                else:
                    assert item.id == str(item.additional_kwargs["n"])
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert cas.dump(items) == InMemoryCAS().dump(copy.deepcopy(items))
    assert same(cas.load(cas.dump(items)), items)
