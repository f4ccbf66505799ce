"""`Inline` and `Externalized` inside of annotations: what they mean, and where they may not stand."""

import operator
from collections.abc import Callable
from typing import Annotated, Any, Literal, NotRequired, Required, TypeVar, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentref.errors import StateDefinitionError
from agentref.state import Externalized, Inline, Placement
from agentref.state.markers import read_annotation

T = TypeVar("T")


class Policy:
    """Metadata that is no callable."""

    def __repr__(self):
        return "Policy()"


POLICY = Policy()


def refusal(annotation):
    with pytest.raises(StateDefinitionError) as caught:
        read_annotation("RAGState.docs", annotation)
    assert "RAGState.docs" in str(caught.value)
    return str(caught.value)


def test_a_marker_leaves_the_plain_type():
    assert read_annotation("S.x", Inline[int]) == (Placement.INLINE, int, ())
    assert read_annotation("S.x", Externalized[list[dict]]) == (Placement.EXTERNALIZED, list[dict], ())


def test_without_a_marker_there_is_no_placement():
    assert read_annotation("S.x", Annotated[list, operator.add]) == (None, list, (operator.add,))


def test_type_hints_without_extras_are_the_plain_types():
    class Plain:
        docs: Externalized[list[str]]
        step: Annotated[Inline[int], max]

    assert get_type_hints(Plain) == {"docs": list[str], "step": int}


def test_a_marker_is_neither_callable_nor_a_class():
    assert not any(callable(each) or isinstance(each, type) for each in Placement)


def test_a_reducer_around_a_marker_keeps_both():
    found = read_annotation("S.x", Annotated[Externalized[list[str]], operator.add])
    assert found == (Placement.EXTERNALIZED, list[str], (operator.add,))


def test_metadata_that_is_no_reducer_may_stand_on_either_side():
    assert read_annotation("S.x", Annotated[Externalized[str], POLICY]).metadata == (POLICY,)
    assert read_annotation("S.x", Externalized[Annotated[str, POLICY]]).metadata == (POLICY,)
    both = Annotated[Externalized[Annotated[str, "doc"]], operator.add]
    assert read_annotation("S.x", both).metadata == ("doc", operator.add)


def test_a_reducer_inside_of_a_marker_is_refused_with_what_to_write():
    assert "Write Annotated[Externalized[list], add]." in refusal(
        Externalized[Annotated[list, operator.add]]
    )
    assert "Write Annotated[Inline[list[str]], add]." in refusal(Inline[Annotated[list[str], operator.add]])


def test_a_reducer_inside_is_refused_whatever_stands_beside_it():
    nested = Externalized[Annotated[list, POLICY, operator.add, "doc"]]
    assert "Write Annotated[Externalized[list], Policy(), add, 'doc']." in refusal(nested)
    assert "Write Annotated[Inline[int], max, min]." in refusal(Annotated[Inline[Annotated[int, max]], min])


def test_a_channel_class_inside_of_a_marker_is_refused():
    assert "Write Annotated[Externalized[list], Policy]." in refusal(
        Externalized[Annotated[list, Policy]]
    ).replace(Policy.__qualname__, "Policy")


@pytest.mark.parametrize(
    ("annotation", "remedy"),
    [
        (list[Externalized[str]], "Write Externalized[list[str]]."),
        (Externalized[str] | None, "Write Externalized[Optional[str]]."),
        (dict[str, list[Inline[int]]], "Write Inline[dict[str, list[int]]]."),
        (
            tuple[Inline[int], Externalized[str]],
            "Write Inline[tuple[int, str]] or Externalized[tuple[int, str]].",
        ),
        (Callable[[Inline[int]], str], "Write Inline["),
        (Externalized[list[Inline[int]]], "Write Externalized[list[int]] or Inline[list[int]]."),
        (list[Annotated[Externalized[str], "doc"]], "Write Externalized[list[str]]."),
        (list[Annotated[list[Inline[int]], "doc"]], "Write Inline[list[list[int]]]."),
    ],
)
def test_a_marker_inside_of_another_type_is_refused_with_what_to_write(annotation, remedy):
    message = refusal(annotation)
    assert "inside of another type" in message
    # Python 3.14 writes Optional[str] as str | None.
    assert remedy in message.replace("str | None", "Optional[str]")


def test_two_markers_are_refused_with_the_choice():
    assert "Keep one: Inline[int] or Externalized[int]." in refusal(Externalized[Inline[int]])
    assert "Keep one: Inline[int]." in refusal(Inline[Inline[int]])
    assert "carries 2 markers" in refusal(Annotated[Inline[int], "doc", Placement.EXTERNALIZED])


def test_a_marker_without_a_type_is_refused():
    assert "Write Inline[str]" in refusal(Inline)
    assert "Write Externalized[str]" in refusal(Externalized)


def test_a_type_variable_of_ones_own_is_a_type():
    assert read_annotation("S.x", Inline[T]).type is T


def test_a_marker_as_a_literal_value_is_no_marker():
    assert read_annotation("S.x", Inline[Literal[Placement.INLINE]]).placement is Placement.INLINE


def test_qualifiers_of_a_typed_dict_may_stand_on_either_side():
    expected = (Placement.EXTERNALIZED, str, ())
    assert read_annotation("S.x", NotRequired[Externalized[str]]) == expected
    assert read_annotation("S.x", Externalized[Required[str]]) == expected
    reduced = Annotated[NotRequired[Externalized[list]], operator.add]
    assert read_annotation("S.x", reduced) == (Placement.EXTERNALIZED, list, (operator.add,))
    assert "Write Annotated[Externalized[list], add]." in refusal(
        Externalized[NotRequired[Annotated[list, operator.add]]]
    )


def test_read_only_of_typing_extensions_is_a_qualifier():
    extensions = pytest.importorskip("typing_extensions")
    assert read_annotation("S.x", extensions.ReadOnly[Inline[str]]).placement is Placement.INLINE


def test_langgraph_takes_the_reducer_and_not_the_marker():
    graph = pytest.importorskip("langgraph.graph")
    typing_extensions = pytest.importorskip("typing_extensions")
    plan = typing_extensions.TypedDict(
        "plan",
        {
            "log": Annotated[Externalized[list], operator.add],
            "docs": Externalized[list[dict]],
            "step": Inline[int],
        },
    )
    channels = graph.StateGraph(plan).channels
    kinds = {name: type(channel).__name__ for name, channel in channels.items()}
    assert kinds == {"log": "BinaryOperatorAggregate", "docs": "LastValue", "step": "LastValue"}


metadata = st.lists(st.sampled_from([operator.add, max, POLICY, "doc", 3]), max_size=3)
types = st.sampled_from([int, str, list[dict[str, Any]], str | None, tuple[int, ...]])


@given(types, metadata, metadata, st.sampled_from([Inline, Externalized]))
def test_an_annotation_is_refused_exactly_when_a_callable_stands_inside_of_the_marker(
    tp, inner, outer, marker
):
    def around(inside, items):
        for item in items:
            inside = Annotated[inside, item]
        return inside

    annotation = around(marker[around(tp, inner)], outer)
    if any(callable(item) for item in inner):
        refusal(annotation)
    else:
        found = read_annotation("S.x", annotation)
        assert found == (marker[int].__metadata__[0], tp, (*inner, *outer))
