"""The value codec: encoder and decoder under one set of rules."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from agentref.codecs.decode import Decoder, Source
from agentref.codecs.encode import Encoder
from agentref.codecs.extension import Extension, Extensions, Foreign
from agentref.codecs.sink import Sink
from agentref.codecs.take import Taker
from agentref.codecs.trust import TypeTrust
from agentref.codecs.where import place_error
from agentref.codecs.wire import CODEC_ID
from agentref.errors import InvalidInputError

__all__ = ["ValueCodec"]


class ValueCodec:
    """Type-faithful, canonical encoding of Python values.

    Knows None, bool, int of any size, float, str, bytes, bytearray, list, dict (any key, in order),
    tuple, set, frozenset, complex, datetime, date, time, timedelta, time zones, Decimal, UUID, paths,
    deque, OrderedDict, defaultdict of a builtin, enums, dataclasses, named tuples, pydantic models
    (LangChain's messages among them), numpy arrays and scalars, in any mixture. Anything else is
    refused with `UnsupportedTypeError` before a byte is stored. Equal values of equal types encode to
    equal bytes in every process.

    Args:
        allow: the only classes (or `module:qualname` names) that decoding may construct; without it,
            any dataclass, model, enum or named tuple of a loaded module.
        extensions: more types.
        foreign: a serializer of somebody else's, asked for types that nothing else knows.
        lenient: hand out the plain fields of an object whose class may not be constructed, with a
            warning, instead of raising `UntrustedTypeError`.

    Immutable; safe to share among threads.
    """

    id: Final = CODEC_ID

    def __init__(
        self,
        *,
        allow: Collection[type | str] | None = None,
        extensions: Iterable[Extension] = (),
        foreign: Foreign | None = None,
        lenient: bool = False,
    ) -> None:
        self._trust = TypeTrust(allow)
        self._extensions = Extensions(extensions)
        self._foreign = foreign
        self._taker = Taker(self._trust, self._extensions, foreign)
        self._lenient = lenient

    def encode(self, value: object, sink: Sink) -> Any:
        """A link to `value`, after all of it went into `sink`. CPU only; no I/O. Raises
        `UnsupportedTypeError`, `ValueTooLargeError`, or `RecursionError` deep in a stack."""
        return Encoder(sink, self._taker).encode(value)

    def place(self, error: InvalidInputError, values: Sequence[object], index: int) -> None:
        """Say in an error about `values[index]` where in it the trouble sits. It need not be one of
        `encode`. Takes a second or two at most; raises nothing."""
        place_error(error, values, index, self._extensions.by_type)

    def decode(self, link: Any, source: Source) -> object:
        """The value behind a link, new in every part at each call. Raises `IntegrityError`."""
        decoder = Decoder(source, self._trust, self._extensions, self._foreign, lenient=self._lenient)
        return decoder.decode(link)
