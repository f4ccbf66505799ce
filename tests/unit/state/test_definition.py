"""What a body of a state class may say, and the error for each thing it may not."""

import operator
from typing import Annotated, ClassVar, Generic, TypeVar, get_type_hints

import pytest

from agentref.errors import StateDefinitionError
from agentref.state import AgentRefState, Externalized, Field, Inline, Placement, Schema, field

T = TypeVar("T")


class Question(AgentRefState):
    question: Inline[str]


class RAGState(Question):
    docs: Annotated[Externalized[list[str]], operator.add]
    tries: Inline[int] = 0


def refusal(make):
    with pytest.raises(StateDefinitionError) as caught:
        make()
    return str(caught.value)


def test_the_schema_lists_the_fields_in_order_of_declaration():
    schema = RAGState.schema()
    assert schema.name == "RAGState"
    assert list(schema.fields) == ["question", "docs", "tries"]
    assert schema.external == {"docs"}
    assert schema.fields["docs"] == Field(
        name="docs",
        placement=Placement.EXTERNALIZED,
        type=list[str],
        annotation=Annotated[Externalized[list[str]], operator.add],
        metadata=(operator.add,),
    )
    assert schema.fields["tries"].default_factory() == 0


def test_the_schema_cannot_be_changed():
    with pytest.raises(TypeError):
        RAGState.schema().fields["more"] = RAGState.schema().fields["docs"]
    with pytest.raises(AttributeError):
        RAGState.schema().name = "Other"


def test_the_schema_of_a_state_class_is_its_own_schema():
    assert Schema.of(RAGState) is RAGState.schema()


def test_the_annotations_of_a_state_are_its_fields_and_no_others():
    # A framework that reads the class itself, as LangGraph does, makes a channel of each.
    hints = get_type_hints(RAGState, include_extras=True)
    assert hints == {name: each.annotation for name, each in RAGState.schema().fields.items()}


def test_an_unmarked_annotation_is_refused_with_what_to_write():
    def make():
        class S(AgentRefState):
            docs: list[str]

    message = refusal(make)
    assert "S.docs" in message
    assert "`docs: Inline[list[str]]`" in message
    assert "`docs: Externalized[list[str]]`" in message


def test_an_unmarked_annotation_with_a_reducer_is_refused_with_the_reducer_outside():
    def make():
        class S(AgentRefState):
            docs: Annotated[list, operator.add]

    assert "`docs: Annotated[Externalized[list], add]`" in refusal(make)


def test_a_reducer_inside_of_a_marker_is_refused_when_the_class_is_created():
    def make():
        class S(AgentRefState):
            docs: Externalized[Annotated[list, operator.add]]

    assert "Write Annotated[Externalized[list], add]." in refusal(make)


@pytest.mark.parametrize("value", [3, "text", [], None])
def test_a_value_without_annotation_is_refused(value):
    message = refusal(lambda: type("S", (AgentRefState,), {"limit": value}))
    assert "S.limit" in message
    assert "limit: Inline[...]" in message
    assert "ClassVar" in message


def test_a_field_specifier_without_annotation_is_refused():
    assert "S.docs" in refusal(lambda: type("S", (AgentRefState,), {"docs": field(default=1)}))


def test_methods_properties_constants_and_nested_classes_are_no_fields():
    class S(AgentRefState):
        LIMIT: ClassVar[int] = 3
        _private = 4
        question: Inline[str]

        class Nested:
            pass

        def method(self):
            return self.question

        @property
        def upper(self):
            return self.question.upper()

        @classmethod
        def make(cls):
            return cls(question="q")

        @staticmethod
        def plain():
            return 5

    assert list(S.schema().fields) == ["question"]
    state = S.make()
    assert (state.method(), state.upper, S.LIMIT, S._private, state.plain()) == ("q", "Q", 3, 4, 5)


def test_a_name_with_an_underscore_is_refused():
    def make():
        class S(AgentRefState):
            _docs: Inline[str]

    assert "S._docs" in refusal(make)
    assert "S._count" in refusal(lambda: type("S", (AgentRefState,), {"__annotations__": {"_count": int}}))


@pytest.mark.parametrize(
    "name",
    sorted(name for name in vars(AgentRefState) if not name.startswith("_")),
)
def test_every_method_name_of_the_base_is_refused(name):
    message = refusal(lambda: type("S", (AgentRefState,), {"__annotations__": {name: Inline[str]}}))
    assert f"S.{name}" in message
    assert "Rename the field" in message


def test_names_that_only_classes_have_are_free():
    state = type("S", (AgentRefState,), {"__annotations__": {"mro": Inline[str]}})(mro="x")
    assert state.mro == "x"


@pytest.mark.parametrize("value", [[], {}, set(), bytearray(), Question(question="q")])
def test_a_mutable_default_is_refused_with_the_factory_to_write(value):
    body = {"__annotations__": {"docs": Externalized[object]}, "docs": value}
    message = refusal(lambda: type("S", (AgentRefState,), body))
    assert "S.docs" in message
    assert f"field(default_factory={type(value).__qualname__})" in message


def test_a_default_that_field_would_share_is_refused():
    assert "default_factory=list" in refusal(lambda: field(default=[]))


def test_field_takes_exactly_one_kind_of_default():
    refusal(field)
    refusal(lambda: field(default=1, default_factory=int))
    assert "callable" in refusal(lambda: field(default_factory=[]))


def test_each_instance_has_a_default_of_its_own():
    class S(AgentRefState):
        docs: Externalized[list[str]] = field(default_factory=list)
        tags: Inline[tuple[str, ...]] = field(default=("a",))

    one, other = S(), S()
    one.docs.append("x")
    assert (one.docs, other.docs, one.tags) == (["x"], [], ("a",))


def test_a_factory_is_not_called_for_a_field_that_is_given():
    made = []

    class S(AgentRefState):
        docs: Externalized[list[str]] = field(default_factory=lambda: made.append(1))

    S(docs=["x"])
    assert made == []


def test_a_subclass_may_declare_a_field_again_with_another_placement():
    class Bigger(RAGState):
        question: Externalized[str]

    assert list(Bigger.schema().fields) == ["question", "docs", "tries"]
    assert Bigger.schema().external == {"question", "docs"}
    assert RAGState.schema().external == {"docs"}


def test_a_field_that_is_declared_again_without_default_has_none():
    class S(RAGState):
        tries: Inline[int]

    assert "tries" not in S()


def test_a_subclass_cannot_give_a_field_a_value_without_annotation():
    assert "S.tries" in refusal(lambda: type("S", (RAGState,), {"tries": 5}))


def test_a_method_cannot_hide_an_inherited_field():
    message = refusal(lambda: type("S", (RAGState,), {"docs": lambda self: []}))
    assert "S.docs" in message


def test_a_method_of_a_plain_mixin_cannot_hide_a_field():
    class Mixin:
        def docs(self):
            return []

    body = {"__annotations__": {"docs": Inline[str]}}
    assert "S.docs" in refusal(lambda: type("S", (Mixin, AgentRefState), body))


def test_fields_of_several_bases_merge():
    class Scores(AgentRefState):
        scores: Externalized[dict[str, float]]

    class Both(RAGState, Scores):
        answer: Inline[str]

    assert set(Both.schema().fields) == {"question", "docs", "tries", "scores", "answer"}
    assert Both(scores={"a": 1.0}).scores == {"a": 1.0}


def test_bases_that_disagree_about_a_field_are_refused_until_the_class_decides():
    class Small(AgentRefState):
        docs: Inline[list[str]]

    message = refusal(lambda: type("S", (Small, RAGState), {}))
    assert "S.docs" in message
    assert "Small" in message
    assert "RAGState" in message
    decided = type("S", (Small, RAGState), {"__annotations__": {"docs": Inline[list[str]]}})
    assert decided.schema().external == frozenset()


def test_in_a_diamond_the_most_derived_declaration_wins():
    class Left(Question):
        question: Externalized[str] = "left"

    class Right(Question):
        pass

    class Bottom(Right, Left):
        pass

    assert Bottom.schema().external == {"question"}
    assert Bottom().question == "left"


def test_a_generic_state_class_works():
    class Box(AgentRefState, Generic[T]):
        content: Externalized[T]

    class Words(Box[list[str]]):
        title: Inline[str]

    assert Box[int](content=3).content == 3
    assert list(Words(content=["a"], title="t")) == ["content", "title"]


def test_keywords_of_the_class_statement_reach_the_next_base():
    seen = []

    class Mixin:
        def __init_subclass__(cls, flag=None, **options):
            super().__init_subclass__(**options)
            seen.append(flag)

    class S(AgentRefState, Mixin, flag="on"):
        question: Inline[str]

    assert seen == ["on"]
