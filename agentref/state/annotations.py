"""From what a class body wrote to types: one annotation at a time, so that an error can name the field.

Nothing is skipped: what cannot be resolved is an error, never a field less.
"""

import inspect
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, ClassVar, get_origin, get_type_hints

from agentref.errors import StateDefinitionError

__all__ = ["is_class_variable", "own_annotations", "resolve"]

if sys.version_info >= (3, 14):
    import annotationlib

    def own_annotations(cls: type) -> Mapping[str, Any]:
        """What the body of `cls` itself annotated, unresolved where it must be."""
        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
else:

    def own_annotations(cls: type) -> Mapping[str, Any]:
        """What the body of `cls` itself annotated, unresolved where it must be."""
        return inspect.get_annotations(cls)


def resolve(cls: type, annotations: Mapping[str, Any]) -> dict[str, Any]:
    """Each annotation of `cls` as a type, with its `Annotated` metadata.

    Strings and forward references see what the class body saw: the class body itself, the functions
    around it while they run, the module. Raises `StateDefinitionError` naming the field.
    """
    module = getattr(sys.modules.get(cls.__module__), "__dict__", {})
    names = {
        **_enclosing_locals(cls),
        # A default must not shadow a type of the same name: `date: Inline["date"] = TODAY`.
        **{name: value for name, value in vars(cls).items() if name not in annotations},
        **{parameter.__name__: parameter for parameter in getattr(cls, "__type_params__", ())},
        cls.__name__: cls,
    }
    return {name: _resolve_one(cls, name, annotations[name], module, names) for name in annotations}


def _resolve_one(
    cls: type, name: str, annotation: Any, module: dict[str, Any], names: dict[str, Any]
) -> Any:
    # A class of one annotation: only there does `get_type_hints` let a string say ClassVar.
    holder = type("holder", (), {"__annotations__": {name: annotation}})
    try:
        resolved = get_type_hints(holder, module, names, include_extras=True)[name]
        # A `type` statement (Python 3.12) names a type without being one.
        while hasattr(resolved, "__value__") and type(resolved).__name__ == "TypeAliasType":
            resolved = resolved.__value__
    except NameError as error:
        raise StateDefinitionError(
            f"{cls.__qualname__}.{name}: the name {error.name!r} in its annotation is not known when the "
            f"class is created. Import it at run time (not only under TYPE_CHECKING) and above the class, "
            f"or define it above the class."
        ) from error
    except Exception as error:  # an annotation is the user's code and may raise anything
        raise StateDefinitionError(
            f"{cls.__qualname__}.{name}: its annotation {annotation!r:.120} cannot be evaluated: {error}"
        ) from error
    return resolved


def is_class_variable(annotation: Any) -> bool:
    """Whether a resolved annotation says ClassVar, and so names no field."""
    return annotation is ClassVar or get_origin(annotation) is ClassVar


def _enclosing_locals(cls: type) -> dict[str, Any]:
    """The variables of the functions around the class statement, as far as they are running."""
    *functions, _ = cls.__qualname__.split(".<locals>.")
    around = {".<locals>.".join(functions[: depth + 1]) for depth in range(len(functions))}
    found: dict[str, Any] = {}
    frame: FrameType | None = inspect.currentframe() if around else None
    while frame is not None:
        if frame.f_code.co_qualname in around and frame.f_globals.get("__name__") == cls.__module__:
            found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found
