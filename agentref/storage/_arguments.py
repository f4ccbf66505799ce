"""The checks that every blob store makes of its arguments, before anything is touched."""

import math
from collections.abc import Collection, Mapping

from agentref.errors import InvalidDigestError, InvalidInputError
from agentref.refs import DIGEST_SIZE, Digest

__all__ = ["check_digest", "check_limit", "check_time", "unique_digests", "valid_blobs"]


def check_digest(digest: object) -> None:
    """Raise `InvalidDigestError` unless `digest` is 32 raw bytes."""
    if not isinstance(digest, bytes) or len(digest) != DIGEST_SIZE:
        raise InvalidDigestError(
            f"{digest!r:.80} is no Digest. A blob store takes 32 raw bytes; parse_digest() reads hex."
        )


def unique_digests(digests: Collection[Digest]) -> list[Digest]:
    """The digests, each once, in the order given."""
    for digest in digests:
        check_digest(digest)
    return list(dict.fromkeys(digests))


def valid_blobs(blobs: Mapping[Digest, bytes]) -> dict[Digest, bytes]:
    """A copy of the mapping that no other thread can change, its names and bytes checked."""
    copy = dict(blobs)
    for digest, data in copy.items():
        check_digest(digest)
        if not isinstance(data, bytes):
            raise InvalidInputError(f"Blob {digest.hex()} must be bytes, not {type(data).__name__}.")
    return copy


def check_time(name: str, value: object) -> None:
    """Raise `InvalidInputError` unless `value` is a number of seconds, or infinity."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise InvalidInputError(f"{name} must be seconds since the epoch, or FOREVER, not {value!r:.80}.")


def check_limit(limit: object) -> None:
    """Raise `InvalidInputError` unless `limit` is a positive int."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit < 2**63:
        raise InvalidInputError(f"limit must be a positive int, not {limit!r:.80}.")
