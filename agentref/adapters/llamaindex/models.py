"""A pydantic model for each state class: what `Context[...]` and a serializer take for typed state.

The models are attributes of this module, under names that say whose they are, so that the serializer finds
them again by name in a process that has made the adapter. Nothing is imported because a name asks for it.
"""

from itertools import count
from operator import itemgetter
from threading import Lock
from typing import Any, ClassVar, Final, Optional
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model, model_serializer
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from agentref.errors import StateDefinitionError
from agentref.state import AgentRefState, Placement
from agentref.state import Field as StateField

__all__ = ["CellModel", "model_for"]

_OF_CLASS: Final = "__agentref_llamaindex_model__"
_models: Final[WeakValueDictionary[int, type["CellModel"]]] = WeakValueDictionary()  # in order of making
_numbers: Final = count()
_making: Final = Lock()


class CellModel(BaseModel):
    """Base of the models: a cell for each field. One that was never set is not dumped."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
    # A model and its state class keep each other: a context can be restored while either is there.
    __agentref_state_class__: ClassVar[type[AgentRefState]]

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: Any) -> dict[str, Any]:
        return {name: cell for name, cell in handler(self).items() if name in self.model_fields_set}


def model_for(state_class: type[AgentRefState]) -> type[CellModel]:
    """The model of a state class: the same object at each call. Of two classes of one name, as when a cell
    of a notebook is run again, each has its own, and the later one is found by name. A model goes with its
    state class, when neither is in use.

    Inline fields have their type, if pydantic knows it, and their default; external fields hold the wire
    form of a ref, or None. Raises `StateDefinitionError` for a field that a pydantic model cannot have.
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
    definitions: Any = {field: _definition(declared) for field, declared in fields.items()}
    return create_model(
        owner.replace(".", "__"),
        __base__=CellModel,
        __module__=__name__,
        __doc__=f"What a workflow's context keeps of a {state_class.__qualname__}.",
        **definitions,
    )


def __getattr__(name: str) -> type[CellModel]:
    for _, model in sorted(_models.items(), key=itemgetter(0), reverse=True):  # the later one of two
        if model.__name__ == name:
            return model
    raise AttributeError(
        f"{__name__} has no {name!r}. If a context is being restored: the module that makes the "
        f"LlamaIndexAdapter for its state must be imported first."
    )


def _definition(declared: StateField) -> tuple[Any, Any]:
    """Type and default. The default of a field without one is never read: that field is unset."""
    if declared.placement is Placement.EXTERNALIZED:
        return Any, None
    kind = Optional[declared.type] if _is_known(declared.type) else Any  # noqa: UP045  (also takes strings)
    if declared.default_factory is None:
        return kind, None
    return kind, Field(default_factory=declared.default_factory)


def _is_known(kind: Any) -> bool:
    try:
        TypeAdapter(kind, config=None if _has_config(kind) else CellModel.model_config)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError, NameError):
        return False
    return True


def _has_config(kind: Any) -> bool:
    """Whether pydantic refuses a config from outside, because the type has one of its own."""
    return isinstance(kind, type) and (
        issubclass(kind, BaseModel)
        or hasattr(kind, "__pydantic_config__")
        or hasattr(kind, "__dataclass_fields__")
        or hasattr(kind, "__total__")
    )
