"""The value codec under the rules of a saver's own serializer."""

from typing import Any

from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.types import Send

from agentref.codecs import Extension, ValueCodec

__all__ = ["codec_for"]

_EXTENSIONS = (
    Extension(
        "langgraph.Send",
        Send,
        lambda send: [send.node, send.arg, send.timeout],
        lambda state: Send(state[0], state[1], timeout=state[2]),
    ),
)


def codec_for(serde: Any) -> ValueCodec:
    """A codec that constructs what `serde` would construct, and asks it for types of its own.

    A strict serializer (LANGGRAPH_STRICT_MSGPACK) has an allowlist, which holds here as well: a type
    outside of it is left to the serializer, and so comes back as it does without agentref.
    """
    rules = getattr(serde, "serde", serde)  # an EncryptedSerializer wraps the one with the rules
    allowed = getattr(rules, "_allowed_msgpack_modules", True)
    if allowed is True:
        return ValueCodec(extensions=_EXTENSIONS, foreign=serde, lenient=True)
    names = {":".join(entry) for entry in {*SAFE_MSGPACK_TYPES, *(allowed or ())} if len(entry) == 2}
    return ValueCodec(allow=names, extensions=_EXTENSIONS, foreign=serde, lenient=True)
