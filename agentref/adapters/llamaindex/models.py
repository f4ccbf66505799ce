"""A pydantic model for each state class: what `Context[...]` and a serializer take for typed state.

The models are attributes of this module, under names that say whose they are, so that the serializer finds
them again by name in a process that has made the adapter. Nothing is imported because a name asks for it.
"""

from itertools import count
from operator import itemgetter
from threading import Lock
from typing import Annotated, Any, ClassVar, Final, Optional
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model, model_serializer
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from agentref.errors import StateDefinitionError
from agentref.state import AgentRefState, Placement
from agentref.state import Field as StateField

__all__ = ["CellModel", "declared_type", "model_for"]

_OF_CLASS: Final = "__agentref_llamaindex_model__"
_models: Final[WeakValueDictionary[int, type["CellModel"]]] = WeakValueDictionary()  # in order of making
_numbers: Final = count()
_making: Final = Lock()


class CellModel(BaseModel):
    """Base of the models: a cell for each field. One that was never set is not dumped."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        protected_namespaces=(),
        # What the serializer below returns is dumped as anything, and NaN in that as null.
        ser_json_inf_nan="constants",
    )
    # A model and its state class keep each other: a context can be restored while either is there.
    __agentref_state_class__: ClassVar[type[AgentRefState]]
    __agentref_types__: ClassVar[dict[str, TypeAdapter[Any]]]

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: Any) -> dict[str, Any]:
        return {name: cell for name, cell in handler(self).items() if name in self.model_fields_set}


def model_for(state_class: type[AgentRefState]) -> type[CellModel]:
    """The model of a state class: the same object at each call. Of two classes of one name, as when a cell
    of a notebook is run again, each has its own, and the later one is found by name. A model goes with its
    state class, when neither is in use.

    Inline fields have their type, if pydantic knows it, with what stands beside it in `Annotated`, and
    their default; external fields hold the wire form of a ref, or None. Raises `StateDefinitionError` for a
    field that a pydantic model cannot have.
    """
    with _making:
        known: type[CellModel] | None = vars(state_class).get(_OF_CLASS)
        if known is not None:
            return known
        model = _made(state_class)
        model.__agentref_state_class__ = state_class
        setattr(state_class, _OF_CLASS, model)
        _models[next(_numbers)] = model
        return model


def _made(state_class: type[AgentRefState]) -> type[CellModel]:
    owner = f"{state_class.__module__}.{state_class.__qualname__}".replace(".<locals>", "")
    fields = state_class.schema().fields
    for field in fields:
        if hasattr(CellModel, field):
            raise StateDefinitionError(
                f"{state_class.__qualname__}.{field}: pydantic's models, which LlamaIndex keeps state in, "
                f"have an attribute of this name. Rename the field."
            )
    kinds = {field: _kind(declared) for field, declared in fields.items()}
    types = {field: _type(kind) for field, kind in kinds.items() if kind is not Any}
    definitions: Any = {
        field: (kinds[field] if types.get(field) else Any, _default(declared))
        for field, declared in fields.items()
    }
    model = create_model(
        owner.replace(".", "__"),
        __base__=CellModel,
        __module__=__name__,
        __doc__=f"What a workflow's context keeps of a {state_class.__qualname__}.",
        **definitions,
    )
    model.__agentref_types__ = {field: declared for field, declared in types.items() if declared}
    return model


def __getattr__(name: str) -> type[CellModel]:
    for _, model in sorted(_models.items(), key=itemgetter(0), reverse=True):  # the later one of two
        if model.__name__ == name:
            return model
    raise AttributeError(
        f"{__name__} has no {name!r}. If a context is being restored: the module that makes the "
        f"LlamaIndexAdapter for its state must be imported first."
    )


def declared_type(model: type[BaseModel], name: str) -> TypeAdapter[Any] | None:
    """What dumps and reads a value of that field alone. None for an external field, for one that may hold
    anything, and in a model that is not of ours, as a subclass of one is not."""
    types: dict[str, TypeAdapter[Any]] = vars(model).get("__agentref_types__", {})
    return types.get(name)


def _kind(declared: StateField) -> Any:
    if declared.placement is Placement.EXTERNALIZED or declared.type is Any or declared.type is object:
        return Any
    kind = Annotated[(declared.type, *declared.metadata)] if declared.metadata else declared.type
    return Optional[kind]  # noqa: UP045  (also takes strings)


def _type(kind: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(kind, config=CellModel.model_config)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError):
        return None


def _default(declared: StateField) -> Any:
    """The default of a field without one is never read: that field is unset."""
    if declared.default_factory is None:
        return None
    return Field(default_factory=declared.default_factory)
