"""Envelopes and stored records: what a store of LlamaIndex is given comes back, whatever it looks like."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentref.adapters.llamaindex.envelopes import closed, opened
from agentref.adapters.llamaindex.stored import Stored
from agentref.errors import AgentRefError, InvalidInputError
from agentref.storage import InMemoryCAS
from agentref.trees import Externalizer

KEYS = st.sampled_from(
    ["a", "agentref", "tree", "text", "json", "texts", "_data", "__agentref__", "escaped", "value",
     "qualified_name", "__is_pydantic", "__is_component"]
)  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=12) | st.just("large " * 5)
TREES = st.recursive(
    LEAVES,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(KEYS, parts, max_size=4),
    max_leaves=20,
)
DICTS = st.dictionaries(KEYS, TREES, max_size=4)


def stored(threshold: int = 8) -> Stored:
    return Stored(Externalizer(InMemoryCAS(), threshold_bytes=threshold, segment=2))


@given(TREES)
def test_what_was_opened_closes_to_the_same(tree: Any) -> None:
    before = json.dumps(tree)
    assert closed(opened(tree)) == tree
    assert json.dumps(tree) == before


def test_names_are_kept_apart_from_values() -> None:
    inner = {"__is_pydantic": True, "value": {"x": 1}, "qualified_name": "a.B"}
    outer = {"__is_component": True, "value": {"event": inner, "list": [inner, 1]}, "qualified_name": "c.D"}
    _, value, first, second = opened({"top": outer})
    assert list(value) == ["event", "list"]
    assert first == second == {"x": 1}
    assert "a.B" not in json.dumps([first, second, value["list"][1]])


def test_what_is_too_deep_is_a_typed_error() -> None:
    endless: list[Any] = []
    endless.append({"a": endless})
    with pytest.raises(InvalidInputError, match="nested too deeply"):
        opened(endless)


def test_tuples_become_lists_and_what_holds_no_envelope_is_not_copied() -> None:
    tree = {"list": [1, {"a": [2]}]}
    assert opened(tree)[0] is tree
    assert opened({"t": (1, 2)})[0] == {"t": [1, 2]}


@given(DICTS)
def test_a_tree_comes_back(tree: dict[str, Any]) -> None:
    async def scenario() -> None:
        store = stored()
        small = json.loads(json.dumps(await store.shrunk(tree)))
        assert isinstance(small, dict)
        assert await store.whole([small, tree] if "agentref" not in tree else [small, {}]) == [
            tree,
            tree if "agentref" not in tree else {},
        ]

    asyncio.run(scenario())


@given(
    st.one_of(
        st.text(max_size=40),
        TREES.map(json.dumps),
        DICTS.map(lambda tree: json.dumps({"agentref": 1, **tree})),
        DICTS.map(
            lambda tree: json.dumps({"_data": {key: json.dumps(part) for key, part in tree.items()}})
        ),
        st.dictionaries(KEYS, st.text(max_size=20), max_size=4).map(
            lambda data: json.dumps({"_data": data})
        ),
    )
)
def test_a_text_comes_back(text: str) -> None:
    async def scenario() -> None:
        store = stored()
        small = await store.shrunk_text(text)
        (found,) = await store.whole_texts([small])
        assert found == text or json.loads(found) == json.loads(text)
        if small.startswith('{"agentref": '):  # a database may keep JSON as a tree of its own
            assert await store.whole_texts([json.loads(small)]) == [found]

    asyncio.run(scenario())


def test_a_text_that_holds_nothing_large_is_kept_to_the_letter() -> None:
    text = '{"_data":{"a":"1"},   "b": 1.50}'
    assert asyncio.run(stored(4096).shrunk_text(text)) is text


@pytest.mark.parametrize(
    "record",
    [
        '{"agentref": ',
        '{"agentref": 1}',
        '{"agentref": 2, "tree": {"text": "x"}}',
        '{"agentref": 1, "tree": "x"}',
        '{"agentref": 1, "tree": {"text": 5}}',
        '{"agentref": 1, "tree": {"texts": {"a": "b"}}}',
        '{"agentref": 1, "tree": {"json": {"__agentref__": 5}}}',
        '{"agentref": 1, "tree": {"json": {"__agentref__": [1, "00", "agr1", 1, null]}}}',
        '{"agentref": 1, "tree": ' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_a_record_that_was_edited_is_a_typed_error(record: str) -> None:
    with pytest.raises(AgentRefError):
        asyncio.run(stored().whole_texts([record]))


def test_a_tree_that_was_edited_is_a_typed_error() -> None:
    with pytest.raises(InvalidInputError, match="edited"):
        asyncio.run(stored().whole([{"agentref": 1, "tree": {}, "more": 1}]))
