"""Entries of the feed: what one commit changed, in about a hundred bytes, whatever was committed."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgpack

from agentref.coherence.keys import Key, decode_key, encode_key
from agentref.coherence.rows import ref_of
from agentref.errors import InvalidKeyError, MalformedBlobError
from agentref.refs import ContentRef

__all__ = ["Change", "Page", "pack_entry", "unpack_entry"]

_FORMAT: Final = 1


class Change(NamedTuple):
    """An invalidation: which version of what stands there now. It carries no payload.

    Attributes:
        key, version, epoch, writer: as of `Versioned`.
        ref: the content; None if it was deleted.
        cursor: where the feed goes on after the commit that this is from; changes of one commit share it.
    """

    key: Key
    version: int
    ref: ContentRef | None
    epoch: int
    writer: str
    cursor: str = ""


class Page(NamedTuple):
    """Changes in the order of their commits, and `cursor`, from which the feed goes on. `gap` says that
    some before these are gone: a follower fell so far behind that the feed was compacted meanwhile."""

    changes: Sequence[Change]
    cursor: str
    gap: bool = False


def pack_entry(changes: Sequence[Change]) -> bytes:
    """What one commit changed, as it is kept and sent. Pure."""
    packed: bytes = msgpack.packb([_FORMAT, *map(_packed, changes)])
    return packed


def unpack_entry(entry: bytes, cursor: str) -> list[Change]:
    """The changes of an entry. Raises `MalformedBlobError` for bytes that are none. Pure."""
    try:
        kind, *changes = msgpack.unpackb(entry)
        if kind == _FORMAT:
            return [_unpacked(change, cursor) for change in changes]
    except (ValueError, TypeError, msgpack.UnpackException, InvalidKeyError, OverflowError) as error:
        raise MalformedBlobError(f"An entry of the feed is damaged: {error}") from error
    raise MalformedBlobError(f"An entry of the feed has format {kind!r:.20}; a newer agentref may read it.")


def _packed(change: Change) -> list[Any]:
    ref = change.ref
    body = [] if ref is None else [ref.digest, ref.codec, ref.size, ref.backend_id]
    return [encode_key(change.key), change.version, change.epoch, change.writer, *body]


def _unpacked(item: Any, cursor: str) -> Change:
    key, version, epoch, writer, *body = item
    if not (type(key) is bytes and type(version) is type(epoch) is int and type(writer) is str):
        raise TypeError("a change holds something else than a key, a version, an epoch and a writer")
    ref = None
    if body:
        digest, codec, size, backend_id = body
        ref = ref_of(digest, codec, size, backend_id)
    return Change(decode_key(key), version, ref, epoch, writer, cursor)
