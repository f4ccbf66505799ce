"""Objects of richer types, taken apart into a code and a state that the encoder packs."""

from typing import Any

from agentref.codecs import builtin_types, class_types
from agentref.codecs.extension import Extensions, Foreign
from agentref.codecs.screen import Boxed, unsupported
from agentref.codecs.trust import TypeTrust
from agentref.codecs.where import blame
from agentref.codecs.wire import Ext
from agentref.errors import AgentRefError, UnsupportedTypeError

__all__ = ["Taker"]


class Taker:
    """Knows all types but the plain ones and sets. Safe to share among threads."""

    def __init__(self, trust: TypeTrust, extensions: Extensions, foreign: Foreign | None) -> None:
        self._trust = trust
        self._extensions = extensions
        self._foreign = foreign
        self._models: dict[type, bool] = {}

    def state_of(self, item: Any) -> tuple[Ext, object]:
        """What an object is, and plainer values that say all about it.

        Raises `UnsupportedTypeError`, also for whatever the object's own code raises meanwhile.
        """
        try:
            return self._state_of(item)
        except (AgentRefError, RecursionError, MemoryError) as error:
            if isinstance(error, UnsupportedTypeError):
                blame(error, item)
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and "during iteration" in str(error):
                raise  # another thread is changing it: for the caller to try again
            refusal = UnsupportedTypeError(
                f"A value of type {type(item).__module__}.{type(item).__qualname__} cannot be taken apart: "
                f"{error!r:.200}"
            )
            blame(refusal, item)
            raise refusal from error

    def is_model(self, cls: type) -> bool:
        """Whether instances of exactly this class are taken apart as pydantic models."""
        known = self._models.get(cls)
        if known is None:
            is_other = cls in builtin_types.BY_TYPE or cls in self._extensions.by_type
            family = None if is_other else class_types.family_of(cls)
            known = self._models[cls] = family is not None and family.code is Ext.PYDANTIC
        return known

    def state_of_model(self, parts: class_types.ModelParts) -> tuple[Ext, object]:
        """`state_of` a model of these parts. Raises `UnsupportedTypeError`."""
        return Ext.PYDANTIC, parts.state(self._trust)

    def _state_of(self, item: Any) -> tuple[Ext, object]:
        cls = type(item)
        if cls is Boxed:
            return Ext.BYTEARRAY, item.data
        builtin = builtin_types.BY_TYPE.get(cls)
        if builtin is not None:
            return builtin.code, builtin.take(item)
        extension = self._extensions.by_type.get(cls)
        if extension is not None:
            return Ext.EXTENSION, [extension.tag, extension.take(item)]
        family = class_types.family_of(cls)
        if family is not None:
            try:
                return family.code, family.take(item, self._trust)
            except UnsupportedTypeError:
                if self._foreign is None:
                    raise
        return Ext.FOREIGN, list(self._ask_foreign(item))

    def _ask_foreign(self, item: Any) -> tuple[str, bytes]:
        if self._foreign is None:
            raise unsupported(item)
        try:
            return self._foreign.dumps_typed(item)
        except Exception as error:
            raise unsupported(item) from error
