"""The TypedDict that a StateGraph is built from."""

from collections.abc import Mapping
from typing import Annotated, Any

from typing_extensions import TypedDict

from agentref.adapters.langgraph.channels import channel_for
from agentref.adapters.langgraph.fields import Fields
from agentref.errors import StateDefinitionError
from agentref.state import AgentRefState, Field

__all__ = ["graph_schema"]


def graph_schema(declared: type[AgentRefState], fields: Fields) -> type[Any]:
    """A TypedDict with the fields of `declared`, each with its channel; named after the class.

    `declared` is the class of `fields`, or a narrower one: its fields are then those of that class.
    Raises `StateDefinitionError` for a field that the graph's state does not have, or keeps elsewhere.
    """
    annotations: Mapping[str, Any] = {
        name: _annotation(_same_field(declared, field, fields), fields)
        for name, field in declared.schema().fields.items()
    }
    made: type[Any] = TypedDict(declared.__name__, annotations, total=False)  # type: ignore[misc]
    made.__module__, made.__qualname__ = declared.__module__, declared.__qualname__
    made.__doc__ = declared.__doc__
    return made


def _annotation(declared: Field, fields: Fields) -> Any:
    if fields.kinds[declared.name].is_foreign:
        return declared.annotation
    return Annotated[declared.annotation, channel_for(declared, fields)]


def _same_field(narrow: type[AgentRefState], field: Field, fields: Fields) -> Field:
    known = fields.schema.fields.get(field.name)
    if known is None:
        raise StateDefinitionError(
            f"{narrow.__qualname__}.{field.name}: the graph's state {fields.schema.name} has no such "
            f"field. Declare it there too, or hint the node with a TypedDict of its own."
        )
    if known.placement is not field.placement:
        raise StateDefinitionError(
            f"{narrow.__qualname__}.{field.name} is {field.placement.value}, but in the graph's state "
            f"{fields.schema.name} it is {known.placement.value}. Declare it alike."
        )
    return known
