"""What a node function says about itself, as LangGraph reads it, with state classes made readable to it."""

import inspect
import typing
from collections.abc import Callable
from functools import partial, update_wrapper
from typing import Any, Final, NamedTuple

from langgraph._internal._fields import get_cached_annotated_keys
from typing_extensions import is_typeddict

from agentref.adapters.langgraph.fields import Fields
from agentref.errors import StateDefinitionError
from agentref.state import AgentRefState
from agentref.state.annotations import own_annotations

__all__ = ["Hints", "dressed", "name_of", "read_hints"]

_RETURN: Final = "return"


class Hints(NamedTuple):
    """What was read.

    Attributes:
        annotations: for LangGraph: the schema of the first parameter, and what is returned.
        state_class: what the function wants to get; a dict if None.
        is_narrow: whether it says which fields it reads.
    """

    annotations: dict[str, Any]
    state_class: type[AgentRefState] | None
    is_narrow: bool


def read_hints(
    function: Callable[..., Any],
    fields: Fields,
    state_class: type[AgentRefState],
    schema_of: Callable[[type[AgentRefState]], type[Any]],
) -> Hints:
    """Read the hints of a node or router. One that cannot be resolved counts as absent, as in LangGraph."""
    known = {state_class.__name__: state_class}
    annotations: dict[str, Any] = {}
    returned = _hint(function, _RETURN, known)
    if returned is not None:
        annotations[_RETURN] = returned
    first = next(iter(_parameters(function)), "")
    hint = _hint(function, first, known) if first else None
    if not isinstance(hint, type):
        return Hints(annotations, None, is_narrow=False)
    if issubclass(hint, AgentRefState):
        wanted = state_class if hint is AgentRefState else hint
        annotations[first] = schema_of(wanted)
        return Hints(annotations, wanted, is_narrow=wanted is not state_class)
    if not is_typeddict(hint) and (clash := fields.external.intersection(get_cached_annotated_keys(hint))):
        raise StateDefinitionError(
            f"{name_of(function)}: LangGraph would build a {hint.__name__} from refs for "
            f"{', '.join(sorted(clash))}. Hint its parameter {first!r} with {state_class.__name__}, "
            f"a narrower AgentRefState, or a TypedDict."
        )
    annotations[first] = hint
    return Hints(annotations, None, is_narrow=is_typeddict(hint) and hint is not schema_of(state_class))


def dressed(wrapper: Callable[..., Any], function: Callable[..., Any], hints: Hints) -> Callable[..., Any]:
    """`wrapper`, which looks like `function` to LangGraph."""
    update_wrapper(wrapper, function, updated=("__dict__",) if inspect.isroutine(function) else ())
    wrapper.__name__ = name_of(function)
    wrapper.__annotations__ = hints.annotations
    if parameters := _parameters(function):
        wrapper.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return wrapper


def name_of(function: Callable[..., Any]) -> str:
    """What LangGraph would call it."""
    return getattr(function, "__name__", type(function).__name__)


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except ValueError:  # a builtin that does not say
        return {}


def _hint(function: Any, name: str, known: dict[str, Any]) -> Any:
    """The hint of one parameter, resolved by itself: others may name what exists for type checkers only."""
    while isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__
    written = own_annotations(function).get(name)
    if written is None:
        return None
    holder = type("holder", (), {"__annotations__": {name: written}})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        return typing.get_type_hints(holder, names, known)[name]
    except Exception:  # noqa: BLE001  (a hint is the user's code and may raise anything)
        return None
