"""Which Python classes a stored value may name, and how a class is named.

Decoding never imports a module on the word of stored bytes, calls no constructor with arguments of
their choice, and unpickles nothing. A class is found only in a module that the program has loaded,
or in one of a few packages whose import is known to be harmless.
"""

import importlib
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Final

from agentref.errors import InvalidInputError, UnsupportedTypeError, UntrustedTypeError

__all__ = ["TypeTrust"]

_IMPORTABLE: Final = ("langchain_core.messages.", "langchain_core.documents.")


class TypeTrust:
    """Resolves the names of dataclasses, pydantic models, enums and named tuples.

    With `allow` given, only those classes (or `module:qualname` names) are constructed; without, any
    such class in a loaded module is. Thread-safe.
    """

    def __init__(self, allow: Collection[type | str] | None = None) -> None:
        self._allow = None if allow is None else _names(allow)
        self._names: dict[type, str] = {}

    def name_of(self, cls: type) -> str:
        """`module:qualname`. Raises `UnsupportedTypeError` for a class that could not be found again."""
        name = self._names.get(cls)
        if name is None:
            name = _plain_name(cls)
            if _lookup(name, load=False) is not cls:
                raise UnsupportedTypeError(
                    f"{cls.__module__}.{cls.__qualname__} cannot be found by its name, so a value of it "
                    f"could never be read back. Define the class at the top level of a module."
                )
            if self._allow is not None and name not in self._allow:
                raise UnsupportedTypeError(
                    f"{name} is not among the types that this codec was allowed to construct, so it "
                    f"could not be read back. Add it to the allowed types."
                )
            self._names[cls] = name
        return name

    def resolve(self, name: object, family: str, belongs: Callable[[type], bool]) -> type:
        """The class of that name. Raises `UntrustedTypeError` unless it may be constructed here."""
        if not isinstance(name, str) or name.count(":") != 1:
            raise UntrustedTypeError(f"{name!r:.80} does not name a class.")
        if self._allow is not None and name not in self._allow:
            raise UntrustedTypeError(
                f"Stored data names the {family} {name:.80}, which is not among the allowed types. "
                f"If it is yours, add it to them."
            )
        found = _lookup(name, load=True)
        if found is None:
            raise UntrustedTypeError(
                f"Stored data names the {family} {name:.80}, which no loaded module defines. "
                f"Import its module before loading the value."
            )
        if not belongs(found):
            raise UntrustedTypeError(f"Stored data names {name:.80} as a {family}, which it is not.")
        return found


def _names(allow: object) -> frozenset[str]:
    # A text would be taken apart into characters, and nothing would be allowed in silence.
    if isinstance(allow, (str, bytes)) or not isinstance(allow, Iterable):
        raise InvalidInputError(
            f"allow must be a list of classes or 'module:qualname' names, not {allow!r:.80}."
        )
    names = []
    for entry in allow:
        if not isinstance(entry, type) and not (isinstance(entry, str) and entry.count(":") == 1):
            raise InvalidInputError(f"allow takes classes and 'module:qualname' names, not {entry!r:.80}.")
        names.append(_plain_name(entry))
    return frozenset(names)


def _plain_name(cls: type | str) -> str:
    return cls if isinstance(cls, str) else f"{cls.__module__}:{cls.__qualname__}"


def _lookup(name: str, *, load: bool) -> type | None:
    module_name, _, path = name.partition(":")
    module = sys.modules.get(module_name)
    if module is None and load and f"{module_name}.".startswith(_IMPORTABLE):
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            return None
    found: object = module
    for part in path.split("."):
        if part.startswith("__") or found is None:
            return None
        # vars() rather than getattr(): a module's or metaclass's __getattr__ could run code.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) else None
