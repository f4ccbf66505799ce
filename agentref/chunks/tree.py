"""Trees of blobs: built while a value is encoded, walked when it is read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, repeat
from operator import is_, itemgetter
from typing import Final, NamedTuple, TypeVar

from agentref.chunks.blob import MAX_BLOB_BYTES, Kind, Link, blob_digest, link_table
from agentref.chunks.cut import WHOLE_BYTES, cut_bytes, cut_items, cut_links, cut_rows, cut_tail
from agentref.chunks.memo import Memo
from agentref.errors import ValueTooLargeError
from agentref.refs import Digest

__all__ = ["MAX_DEPTH", "Pending", "TreeBuilder", "encode_text"]

MAX_DEPTH: Final = 32
"""No path from a root to a leaf is longer; a reader refuses one that is."""

_TOP_LINKS: Final = 16

# Python 3.11 takes 170 ns to look a member of an enum up, which adds up where it is done for each blob.
_RAW: Final = Kind.RAW
_VALUE: Final = Kind.VALUE
_NODE: Final = Kind.NODE

_KEY_BYTES: Final = 512
"""So much of a leaf's first element is what the leaf is remembered under."""

_ITEM_BYTES: Final = 100
"""What remembering an element keeps alive beside its bytes."""

_Result = TypeVar("_Result")

OnNew = Callable[[Digest, Kind, bytes | memoryview], None]


_FORGETFUL: Final = Memo(0)


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


class _Text(NamedTuple):
    """What is remembered of a text in a single blob. Holds the text, so that its id stays its own."""

    text: bytes | str
    digest: Digest
    pending: Pending
    links: tuple[Link]


class _Node(NamedTuple):
    """What is remembered of an inner node."""

    link: Link
    pending: Pending


class _Leaf(NamedTuple):
    """What is remembered of a leaf: all that decided where it ends and what is in it, and the blob
    that it became."""

    items: Sequence[bytes]
    weights: Sequence[int]
    links: Sequence[Link]
    link: Link
    pending: Pending
    height: int

    def opens(
        self,
        items: Sequence[bytes],
        weights: Sequence[int],
        links: Sequence[Link],
        begin: int,
        firsts: Sequence[int],
    ) -> bool:
        """Whether the items from `begin` on begin with the very items of this leaf."""
        end = begin + len(self.items)
        return (
            end <= len(items)
            and self.weights == weights[begin:end]
            and self.items == items[begin:end]
            and self.links == links[firsts[begin] : firsts[end]]
        )


def encode_text(text: str) -> bytes:
    """UTF-8; lone surrogates, which JSON from a model may hold, survive as they are."""
    return text.encode("utf-8", "surrogatepass")


def _leaf_key(
    items: Sequence[bytes], links: Sequence[Link], firsts: Sequence[int], begin: int
) -> tuple[bytes, object]:
    """What leaves are found by: how the first element begins, and its first link."""
    first = firsts[begin]
    return items[begin][:_KEY_BYTES], links[first] if first != firsts[begin + 1] else None


class Kept(NamedTuple):
    """Blobs, and how high those stand that have others below them."""

    blobs: dict[Digest, Pending]
    heights: dict[Digest, int]


class TreeBuilder:
    """Collects the blobs of one value, each once. For one thread, for one value.

    `on_new` is told of each blob that is hashed here, with its canonical bytes, which must not change.
    """

    def __init__(self, memo: Memo | None = None, *, on_new: OnNew | None = None) -> None:
        self.blobs: dict[Digest, Pending] = {}
        self._on_new = on_new
        self.memo = memo if memo is not None else _FORGETFUL
        self._heights: dict[Digest, int] = {}

    def raw(self, data: bytes | str) -> Sequence[Link]:
        """Links that together are the bytes of `data` (for text: its UTF-8), cut by content."""
        return self.texts([data])[0]

    def whole(self, data: bytes) -> Link | None:
        """A link to bytes that need not be cut, and are not remembered; None if they need to be."""
        return self._add(_RAW, data, data) if 0 < len(data) <= WHOLE_BYTES else None

    def texts(self, texts: Iterable[bytes | str]) -> list[Sequence[Link]]:
        """The same for many."""
        get, blobs = self.memo.objects.get, self.blobs
        out: list[Sequence[Link]] = []
        for data in texts:
            known: _Text | None = get(data)
            if known is not None and known[0] is data:
                blobs[known[1]] = known[2]
                out.append(known[3])
            else:
                out.append(self._new_raw(data))
        return out

    def _new_raw(self, data: bytes | str) -> Sequence[Link]:
        encoded = encode_text(data) if isinstance(data, str) else data
        if not 0 < len(encoded) <= WHOLE_BYTES:
            return self.top([self._add(_RAW, chunk, chunk) for chunk in cut_bytes(memoryview(encoded))])
        link = self._add(_RAW, encoded, data)
        pending = Pending(_RAW, data, len(encoded))
        self.memo.objects.add(data, _Text(data, link.digest, pending, (link,)), len(encoded))
        return (link,)

    def rows(self, data: memoryview, row_bytes: int) -> list[Link]:
        """Links that together are `data`, cut between rows of `row_bytes`."""
        return self.top([self._add(_RAW, chunk, chunk) for chunk in cut_rows(data, row_bytes)])

    def empty(self) -> Link:
        """A link to no bytes at all. It is never part of a tree, only a root."""
        return self._add(_RAW, b"", b"")

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
        return self._rise(self._add(_VALUE, canonical, source, size), links)

    def node(self, links: Sequence[Link]) -> Link:
        """A link to an inner node over `links`."""
        key = tuple(links)
        known: _Node | None = self.memo.nodes.find(key)
        if known is None:
            canonical = link_table(links)
            link = self._add(_NODE, canonical, canonical, sum([link[1] for link in links]))
            known = _Node(link, self.blobs[link.digest])
            self.memo.nodes.keep(key, known, len(canonical) + _ITEM_BYTES * len(links))
        self.blobs.setdefault(known.link.digest, known.pending)
        return self._rise(known.link, links)

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

    def leaves(
        self,
        header: Callable[[int], bytes],
        items: Sequence[bytes],
        weights: Sequence[int],
        counts: Sequence[int],
        links: Sequence[Link],
    ) -> list[Link]:
        """Links to the leaves that packed elements fall into; none if all fall into one.

        `counts` says how many of the links belong to each element, `header` makes what a leaf of so
        many elements opens with. A leaf that was made before of the very same is neither cut nor
        hashed again.
        """
        firsts = list(accumulate(counts, initial=0))
        known: dict[int, _Leaf] = {}

        def known_end(begin: int) -> int:
            leaf: _Leaf | None = self.memo.leaves.find(_leaf_key(items, links, firsts, begin))
            if leaf is None or not leaf.opens(items, weights, links, begin, firsts):
                return 0
            known[begin] = leaf
            return begin + len(leaf.items)

        ends = cut_items(items, weights, known_end)
        gathered = ends[-1] if ends else 0
        ends += cut_tail(items, gathered)
        if len(ends) <= 1:
            return []
        out: list[Link] = []
        begin = 0
        for end in ends:
            leaf = known.get(begin)
            if leaf is None:
                own = links[firsts[begin] : firsts[end]]
                leaf = self._leaf(header(end - begin), items[begin:end], weights[begin:end], own)
                if end <= gathered:  # the tail is cut by other rules
                    size = leaf.pending.size + _ITEM_BYTES * (end - begin)
                    self.memo.leaves.keep(_leaf_key(items, links, firsts, begin), leaf, size)
            self.blobs.setdefault(leaf.link.digest, leaf.pending)
            self._heights[leaf.link.digest] = leaf.height
            out.append(leaf.link)
            begin = end
        return out

    def _leaf(
        self, header: bytes, items: Sequence[bytes], weights: Sequence[int], links: Sequence[Link]
    ) -> _Leaf:
        link = self.value([header, *items], links)
        return _Leaf(
            items, weights, links, link, self.blobs[link.digest], self._heights.get(link.digest, 0)
        )

    def opaque(self, links: Sequence[Link]) -> list[tuple[Digest, Pending]] | None:
        """The blobs of the links, one by one; None if one of them needs others."""
        digests = list(map(itemgetter(0), links))
        pendings = list(map(self.blobs.__getitem__, digests))
        if not all(map(is_, map(itemgetter(0), pendings), repeat(_RAW))):
            return None
        return list(zip(digests, pendings, strict=True))

    def apart(self, work: Callable[[], _Result]) -> tuple[_Result, "Kept"]:
        """What `work` returns, and all blobs that it put in."""
        outer = Kept(self.blobs, self._heights)
        self.blobs, self._heights = {}, {}
        try:
            return work(), Kept(self.blobs, self._heights)
        finally:
            inner = Kept(self.blobs, self._heights)
            self.blobs, self._heights = outer
            self.again(*inner)

    def again(
        self,
        blobs: Mapping[Digest, Pending] | Iterable[tuple[Digest, Pending]],
        heights: Mapping[Digest, int],
    ) -> None:
        """Put in what another builder kept."""
        self.blobs.update(blobs)
        self._heights.update(heights)

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
        if digest not in self.blobs:
            self.blobs[digest] = Pending(kind, source, len(canonical))
            if self._on_new is not None:
                self._on_new(digest, kind, canonical)
        return Link(digest, len(canonical) if size < 0 else size)
