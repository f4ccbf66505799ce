# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""What mypy and pyright see of `agentref.state`. Never run, only read by both, in their strict modes.

Each `assert_type` must hold, and each line with an ignore must be an error: both tools report an
ignore that nothing needs.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Generic, TypedDict, TypeVar, assert_type

from agentref.refs import ContentRef
from agentref.state import (
    AgentRefState,
    AsyncValueStore,
    Externalized,
    Field,
    Inline,
    Schema,
    Split,
    ValueStore,
    field,
)
from agentref.storage import CAS, InMemoryCAS

T = TypeVar("T")


class RAGState(AgentRefState):
    LIMIT: ClassVar[int] = 3
    question: Inline[str]
    docs: Externalized[list[dict[str, str]]]
    log: Annotated[Externalized[list[str]], operator.add]
    maybe: Inline[str | None] = None
    tries: Inline[int] = 0
    pages: Externalized[list[str]] = field(default_factory=list[str])
    tags: Inline[tuple[str, ...]] = field(default=("a", "b"))

    def first(self) -> str:
        return self.docs[0]["text"]


class Longer(RAGState):
    answer: Inline[str]


class Box(AgentRefState, Generic[T]):
    content: Externalized[T]


def a_field_reads_as_its_plain_type(state: RAGState) -> None:
    assert_type(state.question, str)
    assert_type(state.docs, list[dict[str, str]])
    assert_type(state.log, list[str])
    assert_type(state.maybe, str | None)
    assert_type(state.tries, int)
    assert_type(state.pages, list[str])
    assert_type(state.tags, tuple[str, ...])
    assert_type(RAGState.LIMIT, int)
    assert_type(Box(content=[1]).content, list[int])


def a_field_takes_its_plain_type(state: RAGState) -> None:
    state.question = "q"
    state.docs = [{"text": "t"}]
    state.question = 3  # type: ignore[assignment]
    state.docs = ["t"]  # type: ignore[list-item]


def a_name_that_is_not_declared_is_an_error(state: RAGState) -> None:
    state.typo = 1  # type: ignore[attr-defined]
    print(state.dcos)  # type: ignore[attr-defined]


def the_constructor_is_typed_and_takes_keywords() -> None:
    RAGState(question="q", docs=[], log=[])
    RAGState(question="q", docs=[], log=[], tries=3, pages=["p"], maybe="m")
    Longer(question="q", docs=[], log=[], answer="a")
    RAGState(question="q", docs=[])  # type: ignore[call-arg]
    RAGState(question=1, docs=[], log=[])  # type: ignore[arg-type]
    RAGState(question="q", docs=[], log=[], typo=1)  # type: ignore[call-arg]
    RAGState("q", [], [])  # type: ignore[call-arg]


def a_default_must_fit_its_field() -> None:
    class Wrong(AgentRefState):
        number: Inline[int] = "n"  # type: ignore[assignment]
        names: Inline[list[str]] = field(default_factory=dict)  # type: ignore[arg-type]

    print(Wrong)


def field_takes_one_kind_of_default() -> None:
    assert_type(field(default=3), int)
    field()  # type: ignore[call-overload]
    field(default=3, default_factory=int)  # type: ignore[call-overload]


def a_state_is_used_as_a_mapping(state: RAGState) -> None:
    merged: dict[str, Any] = {**state}
    copied = dict(state)
    assert_type(copied, dict[str, Any])
    assert_type(list(state), list[str])
    assert_type(state.keys(), list[str])
    assert_type("docs" in state, bool)
    print(merged, state["docs"], state.get("docs", []))


def a_state_goes_into_a_checkpoint_and_comes_back(
    state: Longer, store: ValueStore, data: dict[str, Any]
) -> None:
    assert_type(state.to_checkpoint_dict(store, inline_threshold_bytes=1024), dict[str, Any])
    assert_type(Longer.from_checkpoint_dict(data, store), Longer)
    assert_type(state.refs(), dict[str, ContentRef])
    assert_type(state.touched(), frozenset[str])


async def the_async_twins_have_the_same_types(state: Longer, store: AsyncValueStore) -> None:
    assert_type(await state.ato_checkpoint_dict(store), dict[str, Any])
    assert_type(Longer.from_checkpoint_dict({}, store), Longer)
    await state.aload("docs")
    state.to_checkpoint_dict(store)  # type: ignore[arg-type]


def a_schema_is_typed() -> None:
    schema = RAGState.schema()
    assert_type(schema, Schema)
    assert_type(schema.fields, Mapping[str, Field])
    assert_type(schema.split({}), Split)
    assert_type(schema.external, frozenset[str])
    Schema.of(3)  # type: ignore[arg-type]


def the_stores_of_the_library_are_value_stores(cas: CAS) -> None:
    sync: ValueStore = cas
    colour: AsyncValueStore = InMemoryCAS()
    print(sync, colour)


class Typed(TypedDict):
    docs: Externalized[list[str]]
    step: Inline[int]


@dataclasses.dataclass
class Data:
    docs: Externalized[list[str]]
    step: Inline[int] = 0


def the_markers_read_the_same_in_other_classes(typed: Typed) -> None:
    assert_type(typed["docs"], list[str])
    assert_type(Data(docs=[]).docs, list[str])
    Data(docs=3)  # type: ignore[arg-type]
    Schema.of(Typed)
    Schema.of(Data, allow_unmarked=True)
