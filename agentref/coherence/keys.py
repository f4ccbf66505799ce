"""Names of artifacts: tuples of texts, which are data and never parsed, and bytes that stand for them."""

from functools import lru_cache
from typing import Final, TypeAlias

from agentref.errors import InvalidKeyError

__all__ = ["MAX_KEY_BYTES", "Key", "decode_key", "encode_key", "key_range"]

Key: TypeAlias = tuple[str, ...]
"""`("proj", "plan")`. Two keys are one only if they are equal, part for part."""

MAX_KEY_BYTES: Final = 1024
_MAX_PARTS: Final = 32
_REMEMBERED: Final = 1024
_TEXTS: Final = frozenset({str})
_END: Final = b"\xff"  # of a part. It occurs in no UTF-8 text (RFC 3629, section 3)


def encode_key(key: object) -> bytes:
    """The bytes of a key; different keys have different ones, and keys that share parts begin alike.

    Raises `InvalidKeyError` for what is no tuple of 1 to 32 texts with something in one of them, or is
    over 1,024 bytes. Pure; remembers some keys.
    """
    # A part of another class may take itself for another text.
    if type(key) is tuple and _TEXTS.issuperset(map(type, key)):
        return _remembered(key)
    return _encode(key)


def _encode(key: object) -> bytes:
    if isinstance(key, tuple) and 0 < len(key) <= _MAX_PARTS:
        try:
            something = "".join(key)
            encoded = _END.join([part.encode() for part in key]) + _END
        except (TypeError, UnicodeEncodeError):
            pass
        else:
            if something and len(encoded) <= MAX_KEY_BYTES:
                return encoded
    raise InvalidKeyError(
        f"A key must be a tuple of 1 to {_MAX_PARTS} texts, not all empty, of {MAX_KEY_BYTES:,} bytes in "
        f"all; not {key!r:.80}. Write ('project', 'plan')."
    )


_remembered = lru_cache(maxsize=_REMEMBERED)(_encode)


def decode_key(encoded: bytes) -> Key:
    """The key that these bytes stand for. Raises `InvalidKeyError` for bytes that stand for none."""
    try:
        if encoded.endswith(_END) and len(encoded) <= MAX_KEY_BYTES:
            key = tuple(part.decode() for part in encoded[:-1].split(_END))
            if any(key) and len(key) <= _MAX_PARTS:
                return key
    except UnicodeDecodeError:
        pass
    raise InvalidKeyError(f"{encoded!r:.80} stands for no key: the database is damaged, or none of ours.")


def key_range(prefix: object) -> tuple[bytes, bytes]:
    """The bounds, the second one excluded, between which all keys lie that begin with these parts; `()` is
    the beginning of all. Raises `InvalidKeyError`. Pure."""
    first = b"" if prefix == () else encode_key(prefix)
    # Longer than a key can be, of the greatest byte there is: greater than all that begin so.
    return first, first + _END * (MAX_KEY_BYTES + 1 - len(first))
