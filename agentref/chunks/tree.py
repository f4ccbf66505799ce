"""Trees of blobs: built while a value is encoded, walked when it is read."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from agentref.chunks.blob import MAX_BLOB_BYTES, Blob, Kind, Link, blob_digest, link_table
from agentref.chunks.cut import cut_bytes, cut_items, cut_links, cut_rows
from agentref.errors import MalformedBlobError, ValueTooLargeError
from agentref.refs import Digest

__all__ = ["MAX_DEPTH", "Pending", "TreeBuilder", "child_links", "encode_text"]

MAX_DEPTH: Final = 32
"""No path from a root to a leaf is longer; a reader refuses one that is."""

_TOP_LINKS: Final = 16


class Pending(NamedTuple):
    """A blob that was hashed and may have to be stored.

    A long text is kept as the `str` that it came from: it is immutable, so encoding it again when
    the store turns out to lack it costs less memory than keeping its bytes until then.
    """

    kind: Kind
    source: bytes | memoryview | str

    def canonical(self) -> bytes | memoryview:
        """The canonical bytes, that its digest is of."""
        return encode_text(self.source) if isinstance(self.source, str) else self.source


def encode_text(text: str) -> bytes:
    """UTF-8; lone surrogates, which JSON from a model may hold, survive as they are."""
    return text.encode("utf-8", "surrogatepass")


class TreeBuilder:
    """Collects the blobs of one value, each once. For one thread, for one value."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, Pending] = {}

    def raw(self, data: bytes | memoryview | str) -> list[Link]:
        """Links that together are the bytes of `data` (for text: its UTF-8), cut by content."""
        encoded = memoryview(encode_text(data) if isinstance(data, str) else data)
        chunks = list(cut_bytes(encoded))
        if len(chunks) == 1 and isinstance(data, str):
            return [self._add(Kind.RAW, encoded, data)]
        return self.top([self._add(Kind.RAW, chunk, chunk) for chunk in chunks])

    def rows(self, data: memoryview, row_bytes: int) -> list[Link]:
        """Links that together are `data`, cut between rows of `row_bytes`."""
        return self.top([self._add(Kind.RAW, chunk, chunk) for chunk in cut_rows(data, row_bytes)])

    def empty(self) -> Link:
        """A link to no bytes at all. It is never part of a tree, only a root."""
        return self._add(Kind.RAW, b"", b"")

    def value(self, parts: Sequence[bytes], links: Sequence[Link]) -> Link:
        """A link to a blob of one encoded value, given in parts, and of the links that it needs."""
        table = link_table(links)
        canonical = b"".join((table, *parts))
        if len(canonical) > MAX_BLOB_BYTES:
            raise ValueTooLargeError(
                f"A part of the value that cannot be split is {len(canonical):,} bytes, over the format's "
                f"limit of {MAX_BLOB_BYTES:,}. Use shorter dictionary keys, or hold it as str or bytes."
            )
        size = len(canonical) - len(table) + sum([link[1] for link in links])
        return self._add(Kind.VALUE, canonical, canonical, size)

    def node(self, links: Sequence[Link]) -> Link:
        """A link to an inner node over `links`."""
        canonical = link_table(links)
        return self._add(Kind.NODE, canonical, canonical, sum([link[1] for link in links]))

    def top(self, links: list[Link]) -> list[Link]:
        """At most sixteen links that stand for all of `links`, with inner nodes between."""
        while len(links) > _TOP_LINKS:
            level: list[Link] = []
            begin = 0
            for end in cut_links([link[0] for link in links]):
                level.append(self.node(links[begin:end]) if end - begin > 1 else links[begin])
                begin = end
            links = level
        return links

    def cut(self, items: Sequence[bytes], weights: Sequence[int]) -> list[int]:
        """Ends of the leaves that `items` fall into."""
        return cut_items(items, weights)

    def _add(
        self, kind: Kind, canonical: bytes | memoryview, source: bytes | memoryview | str, size: int = -1
    ) -> Link:
        digest = blob_digest(kind, canonical)
        if digest not in self.blobs:
            self.blobs[digest] = Pending(kind, source)
        return Link(digest, len(canonical) if size < 0 else size)


def child_links(blob: Blob, expected: int) -> Iterable[Link]:
    """The links of a blob whose size was announced by the link that led to it.

    Raises `MalformedBlobError` if it is not of that size: a small tree could otherwise claim, by
    linking the same blob again and again, to be of any size at all.
    """
    if blob.size != expected:
        raise MalformedBlobError(f"A blob of {blob.size:,} bytes was announced as {expected:,} bytes.")
    return blob.links
