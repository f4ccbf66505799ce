"""Names of content: `Digest` and `ContentRef`, their one parser and their wire forms.

A name says what the content is, never where it is kept, and is never trusted to be well formed:
no text reaches a path or a query before `parse_digest` has read it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NewType

from agentref.errors import InvalidDigestError, InvalidRefError

__all__ = ["DIGEST_SIZE", "REF_KEY", "ContentRef", "Digest", "parse_digest"]

Digest = NewType("Digest", bytes)
"""32 bytes: BLAKE3-256 of the canonical, uncompressed bytes of a blob, keyed by its kind."""

DIGEST_SIZE: Final = 32
REF_KEY: Final = "__agentref__"
"""The one reserved key: a mapping with exactly this key is the wire form of a `ContentRef`."""

_WIRE_VERSION: Final = 1
_MAX_SIZE: Final = 2**63 - 1
_HEX: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_CODEC: Final = re.compile(r"[a-z][a-z0-9.+-]{0,31}", re.ASCII)
_BACKEND: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}", re.ASCII)


def parse_digest(text: object) -> Digest:
    """The digest that `text` (64 lower-case hex digits) or raw 32 bytes name.

    Raises `InvalidDigestError` for everything else. Pure, constant time in practice.
    """
    if isinstance(text, bytes) and len(text) == DIGEST_SIZE:
        return Digest(text)
    if isinstance(text, str) and _HEX.fullmatch(text):
        return Digest(bytes.fromhex(text))
    shown = repr(text) if len(repr(text)) <= 80 else repr(text)[:77] + "..."
    raise InvalidDigestError(f"{shown} is no digest. A digest is 64 lower-case hex digits.")


def _matches(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ContentRef:
    """The name of one value in a content-addressed store.

    Attributes:
        digest: BLAKE3-256 of the root blob's canonical uncompressed bytes, keyed by its kind.
        codec: id of the codec that can decode it; ids are append-only.
        size: logical size in bytes (uncompressed, encoded).
        backend_id: a routing hint when several stores are configured. It takes no part in
            equality or hashing: equal content has equal refs wherever it is kept.

    Immutable, hashable, safe to share among threads and to pickle. Construction validates every
    attribute and raises `InvalidRefError` or `InvalidDigestError`.
    """

    digest: Digest
    codec: str
    size: int
    backend_id: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", parse_digest(self.digest))
        if not _matches(_CODEC, self.codec):
            raise InvalidRefError(f"{self.codec!r:.60} is no codec id.")
        if type(self.size) is not int or not 0 <= self.size <= _MAX_SIZE:
            raise InvalidRefError(f"A ref's size must be an int from 0 to 2**63-1, not {self.size!r:.60}.")
        if self.backend_id is not None and not _matches(_BACKEND, self.backend_id):
            raise InvalidRefError(f"{self.backend_id!r:.60} is no backend id.")

    @property
    def hash(self) -> str:
        """The digest as 64 lower-case hex digits, as the byte face of a store takes it."""
        return self.digest.hex()

    def __str__(self) -> str:
        return f"{self.hash} ({self.codec}, {self.size:,} bytes)"

    def to_dict(self) -> dict[str, Any]:
        """The wire form: JSON- and msgpack-safe, `{"__agentref__": [1, digest, codec, size, backend]}`."""
        return {REF_KEY: [_WIRE_VERSION, self.hash, self.codec, self.size, self.backend_id]}

    @classmethod
    def from_dict(cls, data: object) -> "ContentRef":
        """Parse the wire form. Raises `InvalidRefError`, or `InvalidDigestError` for its digest."""
        if not isinstance(data, Mapping) or len(data) != 1 or REF_KEY not in data:
            raise InvalidRefError(f"A ref is a mapping with the single key {REF_KEY!r}.")
        body = data[REF_KEY]
        if not isinstance(body, (list, tuple)) or len(body) != 5:
            raise InvalidRefError("A ref's body has five items: version, digest, codec, size, backend id.")
        version, digest, codec, size, backend_id = body
        if type(version) is not int or version != _WIRE_VERSION:
            raise InvalidRefError(
                f"Ref version {version!r:.20} is unknown here; a newer agentref may read it."
            )
        if not isinstance(digest, str):
            raise InvalidDigestError(f"A ref's digest is 64 lower-case hex digits, not {digest!r:.60}.")
        return cls(parse_digest(digest), codec, size, backend_id)
