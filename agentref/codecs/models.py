"""Pydantic models that were packed before, and whether they are still as they were.

LangChain's messages are such models: a growing list of them is stored again and again, and hardly
one of them changes. But they can be changed in place, so each is looked at every time.
"""

from collections.abc import Callable
from operator import is_
from typing import Any, Final, NamedTuple, Self

import msgpack

from agentref.codecs.class_types import ModelParts
from agentref.codecs.records import LEAVES

__all__ = ["KnownModel", "ModelCopy", "plain_packer"]

_CONTAINERS: Final = frozenset({dict, list})
_PLAIN_BYTES: Final = 8 * 1024
"""What a model holds in containers is compared each time, so it must not be more than this."""

Pack = Callable[[object], bytes]


def plain_packer(*, bytes_as_text: bool = False) -> Pack:
    """Packs what is plain, and raises `TypeError`, `ValueError` or `OverflowError` for anything else."""
    packer = msgpack.Packer(strict_types=True, use_bin_type=not bytes_as_text, buf_size=_PLAIN_BYTES)
    return packer.pack  # type: ignore[no-any-return]


def _parts(model: Any) -> tuple[Any, ...]:
    """All that a model refers to. Of what cannot change, identity says everything."""
    cls, values = type(model), model.__dict__
    return cls, cls.model_fields, len(values), *values, *values.values(), *model.__pydantic_fields_set__


def _containers(model: Any) -> list[Any]:
    """All of it that can change in place."""
    values = model.__dict__.values()
    return [
        model.__pydantic_extra__,
        model.__pydantic_private__,
        *[part for part in values if type(part) in _CONTAINERS],
    ]


class ModelCopy(NamedTuple):
    """A private copy of a model, to be packed in its stead: what another thread does to the model
    meanwhile can never make what was packed and what is remembered disagree."""

    parts: tuple[Any, ...]
    plain: bytes

    @classmethod
    def of(cls, model: Any, pack: Pack) -> Self | None:
        """None for a model that holds anything but numbers, texts, None and few containers of them."""
        parts = _parts(model)
        if not {*LEAVES, *_CONTAINERS}.issuperset(map(type, parts[3:])):
            return None
        try:
            containers = _containers(model)
            plain = pack(containers)
            # A bytearray would be packed just as bytes are, so that one could replace the other unseen.
            if len(plain) > _PLAIN_BYTES or plain != plain_packer(bytes_as_text=True)(containers):
                return None
        except (TypeError, ValueError, OverflowError):
            return None
        return cls(parts, plain)

    def state(self) -> ModelParts:
        """What the model consists of."""
        extra, private, *containers = msgpack.unpackb(self.plain, strict_map_key=False)
        end = 3 + self.parts[2]
        rest = iter(containers)
        values = [next(rest) if type(part) in _CONTAINERS else part for part in self.parts[end:][: end - 3]]
        fields = dict(zip(self.parts[3:end], values, strict=True))
        return ModelParts(self.parts[0], fields, self.parts[2 * end - 3 :], extra, private)

    def is_of(self, model: Any, pack: Pack) -> bool:
        """Whether the model is still what it was."""
        parts = _parts(model)
        if len(parts) != len(self.parts) or not all(map(is_, parts, self.parts)):
            return False
        try:
            return pack(_containers(model)) == self.plain
        except (TypeError, ValueError, OverflowError):
            return False


class KnownModel(NamedTuple):
    """A model that was packed by a codec, and what it packed to. Holds it, so that its id stays its own."""

    item: object
    taker: object
    copy: ModelCopy
    ext: msgpack.ExtType
    links: list[Any]
    spilled: int
    texts: list[Any]

    @property
    def size(self) -> int:
        """About the bytes that this keeps alive."""
        return 2 * len(self.ext.data) + self.spilled + 2 * len(self.copy.plain) + 64 * len(self.copy.parts)
