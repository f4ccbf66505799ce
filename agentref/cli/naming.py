"""What people call content in a shell: a hash, `@alias`, or the JSON form of a ref."""

import json
from typing import NamedTuple

from agentref.chunks import Kind, unpack_blob
from agentref.cli.stores import Opened
from agentref.codecs import CODEC_ID
from agentref.errors import BlobNotFoundError, InvalidRefError, MalformedBlobError
from agentref.refs import ContentRef, Digest, parse_digest
from agentref.storage.cas import RAW_CODEC
from agentref.storage.frames import open_frame
from agentref.storage.walking import in_groups, links_of

__all__ = ["REF_HELP", "Extent", "extent", "find_expected", "find_ref", "kind_of"]

REF_HELP = "A hash, @alias, or the JSON form of a ref."

_MAX_DEPTH = 64


class Extent(NamedTuple):
    """How many blobs are below a root, the size as kept of all, and how many are not here."""

    below: int
    stored_bytes: int
    missing: int


def find_ref(opened: Opened, text: str) -> ContentRef:
    """The ref that `text` means. Looks into the store for an alias, and for what a bare hash is.

    Raises `AliasNotFoundError`, `BlobNotFoundError`, or an `InvalidInputError` for what is none of them.
    """
    if text.startswith("@"):
        return opened.cas.resolve_alias(text[1:])
    if text.lstrip().startswith("{"):
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidRefError("A ref that begins with { has to be JSON, and is not.") from None
        return ContentRef.from_dict(document)
    digest = parse_digest(text)
    kind, size = _look(opened, digest)
    codec = _codec_below(opened, digest) if kind is Kind.NODE else _codec(kind)
    return ContentRef(digest, codec, size, opened.cas.backend_id)


def find_expected(opened: Opened, text: str) -> ContentRef:
    """As `find_ref`, to compare an alias with: its hash alone counts, and its content may be gone."""
    if text.startswith("@") or text.lstrip().startswith("{"):
        return find_ref(opened, text)
    return ContentRef(parse_digest(text), RAW_CODEC, 0, opened.cas.backend_id)


def kind_of(opened: Opened, digest: Digest) -> str:
    """`raw`, `value` or `node`: what the root blob is. Raises `BlobNotFoundError`."""
    return _look(opened, digest)[0].name.lower()


def extent(opened: Opened, root: Digest) -> Extent:
    """Walk over all that a root needs; reads only blobs that link to others."""
    seen = {root}
    level = [root]
    stored = missing = 0
    while level:
        below: dict[Digest, None] = {}
        for few in in_groups(level, 1000):
            here = opened.blobs.stat(few)
            stored += sum([info.stored_size for info in here.values()])
            missing += len(few) - len(here)
            below.update((child, None) for _, children in links_of(opened.blobs, few) for child in children)
        level = [digest for digest in below if digest not in seen]
        seen.update(level)
    return Extent(len(seen) - 1, stored, missing)


def _codec(kind: Kind) -> str:
    return RAW_CODEC if kind is Kind.RAW else CODEC_ID


def _codec_below(opened: Opened, digest: Digest) -> str:
    """What a tree of nodes holds is what its first leaf is."""
    for _ in range(_MAX_DEPTH):
        kind, children = _open(opened, digest)
        if kind is not Kind.NODE:
            return _codec(kind)
        digest = children[0]
    raise MalformedBlobError(f"The tree of {digest.hex()} is deeper than {_MAX_DEPTH} levels.")


def _look(opened: Opened, digest: Digest) -> tuple[Kind, int]:
    blob = unpack_blob(*open_frame(digest, _frame(opened, digest)))
    return blob.kind, blob.size


def _open(opened: Opened, digest: Digest) -> tuple[Kind, list[Digest]]:
    blob = unpack_blob(*open_frame(digest, _frame(opened, digest)))
    return blob.kind, [link.digest for link in blob.links]


def _frame(opened: Opened, digest: Digest) -> bytes:
    found = opened.blobs.fetch([digest])
    if digest not in found:
        raise BlobNotFoundError(f"Blob {digest.hex()} is not in the store {opened.blobs.store_id}.")
    return found[digest]
