"""Where others teach the codec their types."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from agentref.errors import InvalidInputError

__all__ = ["Extension", "Extensions", "Foreign"]


class Extension(NamedTuple):
    """One type of a framework, taken apart into values that the codec knows.

    Attributes:
        tag: its name on the wire, such as "langgraph.Send"; never changes its meaning.
        cls: the exact type.
        take: an instance to a state.
        make: a state to an instance; may raise `TypeError`, `ValueError` or `LookupError`.
    """

    tag: str
    cls: type
    take: Callable[[Any], object]
    make: Callable[[Any], object]


class Extensions:
    """A set of extensions, found by type or tag."""

    def __init__(self, extensions: Iterable[Extension] = ()) -> None:
        given: Any = extensions  # whatever the type checker was told
        known = tuple(given) if isinstance(given, Iterable) else (given,)
        for extension in known:
            if not isinstance(extension, Extension):
                raise InvalidInputError(f"extensions must be a list of Extension, not {extension!r:.80}.")
        self.by_type = {extension.cls: extension for extension in known}
        self.by_tag = {extension.tag: extension for extension in known}


class Foreign(Protocol):
    """A serializer of somebody else's, asked last, for types that nothing else here knows."""

    def dumps_typed(self, obj: Any, /) -> tuple[str, bytes]:
        """A tag and bytes. Raises whatever it likes for an object that it does not know either."""
        ...

    def loads_typed(self, data: tuple[str, bytes], /) -> Any:
        """The inverse."""
        ...
