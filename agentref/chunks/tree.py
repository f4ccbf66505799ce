"""Trees of blobs: built while a value is encoded, walked when it is read."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from agentref.chunks.blob import MAX_BLOB_BYTES, Kind, Link, blob_digest, link_table
from agentref.chunks.cut import WHOLE_BYTES, cut_bytes, cut_items, cut_links, cut_rows
from agentref.errors import ValueTooLargeError
from agentref.refs import Digest

__all__ = ["MAX_DEPTH", "IdentityMemo", "Pending", "TreeBuilder", "encode_text"]

MAX_DEPTH: Final = 32
"""No path from a root to a leaf is longer; a reader refuses one that is."""

_TOP_LINKS: Final = 16


class Pending(NamedTuple):
    """A blob that was hashed and may have to be stored; `size` is of its canonical bytes.

    A long text is kept as the `str` that it came from, and a packed value as its parts: most blobs
    turn out to be in the store already, and are never put together again.
    """

    kind: Kind
    source: bytes | memoryview | str | tuple[bytes, ...]
    size: int

    def canonical(self) -> bytes | memoryview:
        """The canonical bytes, that its digest is of."""
        if isinstance(self.source, str):
            return encode_text(self.source)
        return b"".join(self.source) if isinstance(self.source, tuple) else self.source


class _Leaf(NamedTuple):
    """What is remembered of a text in a single blob."""

    links: tuple[Link]
    pending: Pending


def encode_text(text: str) -> bytes:
    """UTF-8; lone surrogates, which JSON from a model may hold, survive as they are."""
    return text.encode("utf-8", "surrogatepass")


class IdentityMemo:
    """Remembers what was found out about objects that never change, by their identity.

    A state is encoded again and again, and most of its texts are the very objects of the last time.
    What is remembered must hold on to every object that its truth depends on, so that no other gets
    its id, and whoever asks must check that those are the objects before him. Keeps about
    `limit_bytes` at most. Safe among threads: a race costs repeated work, never a wrong answer.
    """

    def __init__(self, limit_bytes: int = 16 * 1024 * 1024) -> None:
        self._half = limit_bytes // 2
        self._young: dict[int, tuple[Any, int]] = {}
        self._old: dict[int, tuple[Any, int]] = {}
        self._young_bytes = 0

    def get(self, key: object) -> Any:
        """What was remembered under the id of this object, or None."""
        entry = self._young.get(id(key))
        if entry is None:
            entry = self._old.get(id(key))
            if entry is None:
                return None
            self.add(key, *entry)
        return entry[0]

    def add(self, key: object, known: object, size: int) -> None:
        """Remember `known`, which keeps `size` bytes alive."""
        if self._young_bytes > self._half:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[id(key)] = (known, size)
        self._young_bytes += size


class TreeBuilder:
    """Collects the blobs of one value, each once. For one thread, for one value."""

    def __init__(self, memo: IdentityMemo | None = None) -> None:
        self.blobs: dict[Digest, Pending] = {}
        self.memo = memo if memo is not None else IdentityMemo(0)
        self._heights: dict[Digest, int] = {}

    def raw(self, data: bytes | str) -> Sequence[Link]:
        """Links that together are the bytes of `data` (for text: its UTF-8), cut by content."""
        known = self.memo.get(data)
        if isinstance(known, _Leaf) and known.pending.source is data:
            self.blobs[known.links[0][0]] = known.pending
            return known.links
        encoded = encode_text(data) if isinstance(data, str) else data
        if not 0 < len(encoded) <= WHOLE_BYTES:
            return self.top([self._add(Kind.RAW, chunk, chunk) for chunk in cut_bytes(memoryview(encoded))])
        link = self._add(Kind.RAW, encoded, data)
        self.memo.add(data, _Leaf((link,), Pending(Kind.RAW, data, len(encoded))), len(encoded))
        return (link,)

    def rows(self, data: memoryview, row_bytes: int) -> list[Link]:
        """Links that together are `data`, cut between rows of `row_bytes`."""
        return self.top([self._add(Kind.RAW, chunk, chunk) for chunk in cut_rows(data, row_bytes)])

    def empty(self) -> Link:
        """A link to no bytes at all. It is never part of a tree, only a root."""
        return self._add(Kind.RAW, b"", b"")

    def value(self, parts: Sequence[bytes], links: Sequence[Link]) -> Link:
        """A link to a blob of one encoded value, given in parts, and of the links that it needs."""
        table = link_table(links)
        source = (table, *parts)
        canonical = b"".join(source)
        if len(canonical) > MAX_BLOB_BYTES:
            raise ValueTooLargeError(
                f"A part of the value that cannot be split is {len(canonical):,} bytes, over the format's "
                f"limit of {MAX_BLOB_BYTES:,}. Use shorter dictionary keys, or hold it as str or bytes."
            )
        size = len(canonical) - len(table) + sum([link[1] for link in links])
        return self._rise(self._add(Kind.VALUE, canonical, source, size), links)

    def node(self, links: Sequence[Link]) -> Link:
        """A link to an inner node over `links`."""
        canonical = link_table(links)
        link = self._add(Kind.NODE, canonical, canonical, sum([link[1] for link in links]))
        return self._rise(link, links)

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

    def _rise(self, link: Link, children: Sequence[Link]) -> Link:
        """A blob is one level above its highest child; no reader goes down more than `MAX_DEPTH`."""
        if children:
            height = 1 + max([self._heights.get(child[0], 0) for child in children])
            if height >= MAX_DEPTH:
                raise ValueTooLargeError(
                    f"The value has more than {MAX_DEPTH} levels of large parts in large parts. Flatten it."
                )
            self._heights[link.digest] = height
        return link

    def _add(
        self,
        kind: Kind,
        canonical: bytes | memoryview,
        source: bytes | memoryview | str | tuple[bytes, ...],
        size: int = -1,
    ) -> Link:
        digest = blob_digest(kind, canonical)
        self.blobs.setdefault(digest, Pending(kind, source, len(canonical)))
        return Link(digest, len(canonical) if size < 0 else size)
