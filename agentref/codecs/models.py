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
_KINDS: Final = LEAVES | _CONTAINERS
_PLAIN_BYTES: Final = 8 * 1024
"""What a model holds in containers is compared each time, so it must not be more than this."""

Pack = Callable[[object], bytes]


def plain_packer(*, bytes_as_text: bool = False) -> Pack:
    """Packs what is plain, and raises `TypeError`, `ValueError` or `OverflowError` for anything else."""
    packer = msgpack.Packer(strict_types=True, use_bin_type=not bytes_as_text, buf_size=_PLAIN_BYTES)
    return packer.pack  # type: ignore[no-any-return]


def _parts(model: Any) -> tuple[Any, ...]:
    """All that a model refers to: its class, how many values it has, their names, the values, what it
    holds besides, and which fields were set. Of what cannot change, identity says everything."""
    cls, values = type(model), model.__dict__.copy()
    return (
        *(cls, cls.model_fields, len(values), *values, *values.values()),
        *(model.__pydantic_extra__, model.__pydantic_private__, *model.__pydantic_fields_set__),
    )


class ModelCopy(NamedTuple):
    """A private copy of a model, to be packed in its stead: what another thread does to the model
    meanwhile can never make what was packed and what is remembered disagree.

    `places` is where in the parts those are that can change in place, and `plain` what they pack to.
    """

    parts: tuple[Any, ...]
    places: list[int]
    plain: bytes

    @classmethod
    def of(cls, model: Any, pack: Pack) -> Self | None:
        """None for a model that holds anything but numbers, texts, None and few containers of them."""
        try:
            parts = _parts(model)
            if not _KINDS.issuperset(map(type, parts[3:])):
                return None
            places = [place for place, part in enumerate(parts) if place > 2 and type(part) in _CONTAINERS]
            containers = [parts[place] for place in places]
            plain = pack(containers)
            # A bytearray would be packed just as bytes are, so that one could replace the other unseen.
            if len(plain) > _PLAIN_BYTES or plain != plain_packer(bytes_as_text=True)(containers):
                return None
        except (AttributeError, TypeError, ValueError, OverflowError):
            return None
        return cls(parts, places, plain)

    def state(self) -> ModelParts:
        """What the model consists of."""
        parts = list(self.parts)
        containers = msgpack.unpackb(self.plain, strict_map_key=False)
        for place, container in zip(self.places, containers, strict=True):
            parts[place] = container
        count = parts[2]
        fields = dict(zip(parts[3 : 3 + count], parts[3 + count : 3 + 2 * count], strict=True))
        extra, private, *fields_set = parts[3 + 2 * count :]
        return ModelParts(parts[0], fields, fields_set, extra, private)

    def is_of(self, model: Any, pack: Pack) -> bool:
        """Whether the model is still what it was."""
        try:
            parts = _parts(model)
            return (
                len(parts) == len(self.parts)
                and all(map(is_, parts, self.parts))
                and pack([parts[place] for place in self.places]) == self.plain
            )
        except (AttributeError, TypeError, ValueError, OverflowError):
            return False


class KnownModel(NamedTuple):
    """A model that was packed by a codec, and what it packed to. Holds it, so that its id stays its own."""

    item: object
    taker: object
    copy: ModelCopy
    ext: msgpack.ExtType
    packed: bytes
    links: list[Any]
    spilled: int
    texts: list[Any]

    @property
    def size(self) -> int:
        """About the bytes that this keeps alive."""
        return 2 * len(self.packed) + self.spilled + 2 * len(self.copy.plain) + 64 * len(self.copy.parts)
