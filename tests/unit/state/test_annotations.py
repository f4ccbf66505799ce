"""Annotations as text, as forward references, deferred: resolved, or a typed error; never a field less."""

import sys
from typing import Annotated

import pytest

from agentref.errors import StateDefinitionError
from agentref.state import AgentRefState, Externalized, Inline, Schema

HEADER = """
from __future__ import annotations
from typing import TYPE_CHECKING, Annotated, ClassVar
from agentref.state import AgentRefState, Externalized, Inline
"""


class Document(dict):
    """A type that annotations name as text."""


def test_postponed_annotations_are_resolved(module):
    made = module(
        HEADER
        + """
import operator

class Doc: ...

class S(AgentRefState):
    LIMIT: ClassVar[int] = 3
    docs: Annotated[Externalized[list[Doc]], operator.add]
    step: Inline[int] = 0
"""
    )
    fields = made.S.schema().fields
    assert {name: each.type for name, each in fields.items()} == {"docs": list[made.Doc], "step": int}
    assert len(fields["docs"].metadata) == 1


def test_postponed_annotations_see_the_variables_of_the_function_around(module):
    made = module(
        HEADER
        + """
def outer():
    class Doc: ...
    def inner():
        class Page: ...
        class S(AgentRefState):
            docs: Externalized[list[Doc]]
            page: Inline[Page]
        return S, Doc, Page
    return inner()
"""
    )
    state, doc, page = made.outer()
    assert [each.type for each in state.schema().fields.values()] == [list[doc], page]


def test_postponed_annotations_see_the_class_body_and_the_class_itself(module):
    made = module(
        HEADER
        + """
class S(AgentRefState):
    class Part: ...
    part: Inline[Part]
    parent: Inline[S | None] = None
"""
    )
    assert made.S.schema().fields["part"].type is made.S.Part
    assert made.S.schema().fields["parent"].type == made.S | None


def test_a_default_does_not_shadow_the_type_of_the_same_name(module):
    made = module(
        HEADER
        + """
from datetime import date

class S(AgentRefState):
    date: Inline[date] = date.max
"""
    )
    from datetime import date

    assert made.S.schema().fields["date"].type is date


def test_a_name_that_only_type_checkers_import_is_refused(module):
    with pytest.raises(StateDefinitionError, match=r"S\.docs: the name 'Decimal' .*TYPE_CHECKING"):
        module(
            HEADER
            + """
if TYPE_CHECKING:
    from decimal import Decimal

class S(AgentRefState):
    step: Inline[int]
    docs: Externalized[list[Decimal]]
"""
        )


def test_an_annotation_that_is_no_python_is_refused():
    with pytest.raises(
        StateDefinitionError, match=r"S\.docs: its annotation 'Inline\[' cannot be evaluated"
    ):
        type("S", (AgentRefState,), {"__annotations__": {"docs": "Inline["}})


def test_an_annotation_whose_evaluation_fails_is_refused():
    with pytest.raises(StateDefinitionError, match=r"S\.docs: .* division by zero"):
        type("S", (AgentRefState,), {"__annotations__": {"docs": "Inline[1 / 0]"}})


def test_an_annotation_that_is_a_number_is_refused():
    with pytest.raises(StateDefinitionError, match=r"S\.docs"):
        type("S", (AgentRefState,), {"__annotations__": {"docs": 3}})


def test_forward_references_inside_of_a_marker_are_resolved():
    class S(AgentRefState):
        docs: Externalized["list[Document]"]
        first: "Inline[Document]"
        parent: Inline["S | None"]

    types = {name: each.type for name, each in S.schema().fields.items()}
    assert types == {"docs": list[Document], "first": Document, "parent": S | None}


def test_a_reducer_hidden_in_a_forward_reference_is_found():
    with pytest.raises(StateDefinitionError, match=r"Annotated\[Externalized\[list\], sorted\]"):

        class S(AgentRefState):
            docs: Externalized["Annotated[list, sorted]"]


def test_a_forward_reference_to_nothing_is_refused():
    with pytest.raises(StateDefinitionError, match=r"S\.docs: the name 'Missing'"):

        class S(AgentRefState):
            docs: Externalized["list[Missing]"]  # noqa: F821


def test_a_class_made_inside_of_a_method_sees_its_variables():
    class Factory:
        def make(self):
            class Local:
                pass

            class S(AgentRefState):
                local: "Inline[Local]"

            return S, Local

    state, local = Factory().make()
    assert state.schema().fields["local"].type is local


def test_a_subclass_hook_of_the_users_own_does_not_hide_local_types():
    class Base(AgentRefState):
        def __init_subclass__(cls, **options):
            super().__init_subclass__(**options)

    class Local:
        pass

    class S(Base):
        local: "Inline[Local]"

    assert S.schema().fields["local"].type is Local


def test_inherited_fields_are_not_resolved_again(module):
    made = module(
        HEADER
        + """
def base():
    class Hidden: ...
    class Base(AgentRefState):
        hidden: Inline[Hidden]
    return Base
"""
    )

    class S(made.base()):
        step: Inline[int]

    assert list(S.schema().fields) == ["hidden", "step"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is new in Python 3.12")
def test_a_type_statement_is_looked_through(module):
    made = module(
        """
from agentref.state import AgentRefState, Externalized, Inline

type Docs = Externalized[list[str]]
type More = Docs

class S[T](AgentRefState):
    docs: More
    item: "Inline[T]"
"""
    )
    fields = made.S.schema().fields
    assert made.S.schema().external == {"docs"}
    assert fields["docs"].type == list[str]
    assert fields["item"].type is made.S.__type_params__[0]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are deferred from Python 3.14 on")
def test_deferred_annotations_are_resolved_or_refused(module):
    header = "from agentref.state import AgentRefState, Externalized, Inline\n"
    made = module(
        header + "class S(AgentRefState):\n    docs: Externalized[list[str]]\n    me: Inline[S | None]\n"
    )
    assert [each.type for each in made.S.schema().fields.values()] == [list[str], made.S | None]
    with pytest.raises(StateDefinitionError, match=r"S\.docs: the name 'Missing'"):
        module(header + "class S(AgentRefState):\n    docs: Externalized[list[Missing]]\n")


def test_the_schema_of_a_typed_dict_in_a_function_sees_its_local_types(module):
    made = module(
        HEADER
        + """
from typing import TypedDict
from agentref.state import Schema

def outer():
    class Doc: ...
    class S(TypedDict):
        docs: Externalized[list[Doc]]
    return Schema.of(S), Doc
"""
    )
    schema, doc = made.outer()
    assert schema.fields["docs"].type == list[doc]
    assert isinstance(schema, Schema)
