"""`Schema.of` for classes that are not ours: the same rules, and nothing of their machinery."""

import dataclasses
import operator
from typing import Annotated, ClassVar, NotRequired, TypedDict

import pydantic
import pytest
import typing_extensions

from agentref.errors import StateDefinitionError, UnknownFieldError
from agentref.state import Externalized, Inline, Placement, Schema


class Typed(TypedDict):
    docs: Annotated[Externalized[list[str]], operator.add]
    step: NotRequired[Inline[int]]
    _key: Inline[str]


class Longer(Typed, total=False):
    more: Externalized["list[Typed]"]


@dataclasses.dataclass
class Data:
    docs: Externalized[list[str]]
    LIMIT: ClassVar[int] = 3
    step: Inline[int] = 0


class Model(pydantic.BaseModel):
    docs: Externalized[list[str]]
    step: Annotated[Inline[int], pydantic.Field(ge=0)] = 0
    _private: int = 3


class Extended(typing_extensions.TypedDict):
    docs: Externalized[list[str]]
    step: Inline[int]
    _key: Inline[str]


@pytest.mark.parametrize("declared", [Typed, Data, Model, Extended])
def test_the_markers_are_read_from_any_kind_of_class(declared):
    schema = Schema.of(declared)
    assert schema.external == {"docs"}
    assert schema.fields["docs"].type == list[str]
    assert schema.fields["step"].placement is Placement.INLINE
    assert schema.unmarked == frozenset()


def test_the_fields_are_those_of_the_class_and_no_others():
    assert list(Schema.of(Typed).fields) == ["docs", "step", "_key"]
    assert list(Schema.of(Data).fields) == ["docs", "step"]
    assert list(Schema.of(Model).fields) == ["docs", "step"]
    assert list(Schema.of(Extended).fields) == ["docs", "step", "_key"]


def test_a_typed_dict_inherits_fields():
    schema = Schema.of(Longer)
    assert schema.external == {"docs", "more"}
    assert schema.fields["more"].type == list[Typed]


def test_pydantic_and_dataclass_take_the_plain_type():
    assert Model(docs=["a"], step=2).step == 2
    with pytest.raises(pydantic.ValidationError):
        Model(docs="no list")
    assert Data(docs=["a"]).docs == ["a"]


def test_an_unmarked_field_is_refused_or_listed_as_the_caller_says():
    class Mixed(TypedDict):
        messages: Annotated[list, operator.add]
        docs: Externalized[list[str]]

    with pytest.raises(StateDefinitionError, match=r"Mixed\.messages does not say where"):
        Schema.of(Mixed)
    schema = Schema.of(Mixed, allow_unmarked=True)
    assert list(schema.fields) == ["docs"]
    assert schema.unmarked == {"messages"}


def test_a_field_marked_in_a_subclass_is_no_longer_unmarked_and_the_other_way_round():
    @dataclasses.dataclass
    class Base:
        docs: list[str]
        step: Inline[int]

    @dataclasses.dataclass
    class Sub(Base):
        docs: Externalized[list[str]]
        step: int

    schema = Schema.of(Sub, allow_unmarked=True)
    assert (set(schema.fields), schema.unmarked) == ({"docs"}, {"step"})


def test_the_same_mistakes_are_refused():
    class Hidden(TypedDict):
        docs: Externalized[Annotated[list, operator.add]]

    class Lost(TypedDict):
        docs: Externalized["list[Nowhere]"]  # noqa: F821

    with pytest.raises(
        StateDefinitionError, match=r"Hidden\.docs .*Write Annotated\[Externalized\[list\], add\]"
    ):
        Schema.of(Hidden, allow_unmarked=True)
    with pytest.raises(StateDefinitionError, match=r"Lost\.docs: the name 'Nowhere'"):
        Schema.of(Lost)


@pytest.mark.parametrize("declared", [object, dict, int])
def test_a_class_without_fields_is_refused(declared):
    with pytest.raises(StateDefinitionError, match="declares no field"):
        Schema.of(declared)


@pytest.mark.parametrize("declared", [None, {"docs": Externalized[str]}, "Typed", list[int]])
def test_what_is_no_class_is_refused(declared):
    with pytest.raises(StateDefinitionError, match="is no class"):
        Schema.of(declared)


def test_updates_are_sorted_by_where_they_are_kept():
    split = Schema.of(Typed).split({"step": 1, "docs": ["a"], "typo": None})
    assert (split.inline, split.external, split.unknown) == ({"step": 1}, {"docs": ["a"]}, {"typo": None})


def test_an_unknown_name_is_answered_with_the_closest():
    schema = Schema.of(Typed)
    assert schema["docs"].name == "docs"
    with pytest.raises(UnknownFieldError, match=r"Typed has no field 'dcos'. Did you mean 'docs'\?"):
        schema["dcos"]
    with pytest.raises(UnknownFieldError, match=r"no field 3\. Its fields: docs, step, _key"):
        schema[3]
