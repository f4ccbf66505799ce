"""LangGraph's own serializer for who only looks: what it wrote is read as plain data."""

import json
from typing import Any, Final

import ormsgpack
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agentref.errors import AgentRefError, ConfigurationError
from agentref.refs import ContentRef

__all__ = ["PlainReader"]

_DELTA_SNAPSHOT: Final = 7
_OBJECTS: Final = range(6)  # constructors, methods, models: (module, name, what they are made from, ...)


class PlainReader:
    """A serializer for a saver that is only read. It imports and constructs nothing that stored data names:
    an object comes back as what it is made from. Only refs and DeltaChannels' snapshots are what they were.

    Raises `ConfigurationError` for what another serializer wrote: encrypted, pickled, or of one's own.
    """

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """A value from its type and its bytes."""
        kind, packed = data
        match kind:
            case "null":
                return None
            case "bytes" | "bytearray":
                return packed
            case "msgpack" | "json":
                try:
                    return json.loads(packed) if kind == "json" else _unpack(packed)
                except ValueError as error:
                    raise ConfigurationError(
                        f"The checkpoints cannot be read: no {kind} is where it says so ({error!s:.80})."
                    ) from None
        raise ConfigurationError(
            f"The checkpoints were not written by LangGraph's own serializer, but as {kind!r:.40}: they "
            f"are encrypted, pickled, or of one's own. Call collect_pins() with a saver that reads them."
        )

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Never: raises `ConfigurationError`."""
        raise ConfigurationError(f"This serializer only reads; it got a {type(obj).__qualname__} to write.")


def _unpack(packed: bytes) -> Any:
    return ormsgpack.unpackb(packed, ext_hook=_extension, option=ormsgpack.OPT_NON_STR_KEYS)


def _extension(code: int, packed: bytes) -> Any:
    if code == _DELTA_SNAPSHOT:
        return _DeltaSnapshot(_unpack(packed))
    if code not in _OBJECTS:
        return None
    module, name, parts, *_ = _unpack(packed)
    if (module, name) == (ContentRef.__module__, ContentRef.__name__):
        try:
            return ContentRef(**parts)
        except (AgentRefError, TypeError):
            return None
    return parts
