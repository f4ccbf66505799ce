"""From refs to bytes and values: fetch in batches, verify everything, hand out only what is whole."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from agentref.chunks import MAX_DEPTH, Blob, Kind, Link, unpack_blob
from agentref.errors import (
    BlobNotFoundError,
    CorruptBlobError,
    IntegrityError,
    InvalidInputError,
    MalformedBlobError,
)
from agentref.refs import Digest
from agentref.storage.frames import Leaves, has_links, open_frame
from agentref.storage.protocol import BlobStore
from agentref.storage.reports import Counters

__all__ = ["BlobReader", "ByteStream", "Tree"]

_READ_AHEAD: Final = 16
_FETCH_BATCH: Final = 1000
_OPEN_BATCH_BYTES: Final = 512 * 1024


class BlobReader:
    """Fetches blobs of a store, verified and parsed. Thread-safe."""

    def __init__(self, store: BlobStore, counters: Counters, distrust: Callable[[Digest], None]) -> None:
        self._store = store
        self._counters = counters
        self._distrust = distrust

    def frames(self, links: Sequence[Link], names: Sequence[str]) -> Mapping[Digest, bytes]:
        """The stored bytes of each link, in one batch, not looked at yet.

        Raises `BlobNotFoundError`, naming the blob and what it is part of.
        """
        digests = [link.digest for link in links]
        frames = self._store.fetch(digests)
        for link, name in zip(links, names, strict=True) if len(frames) < len(set(digests)) else ():
            if link.digest not in frames:
                self._distrust(link.digest)
                raise BlobNotFoundError(
                    f"Blob {link.digest.hex()} of {name} is not in the store {self._store.store_id}. "
                    f"It was deleted, or the checkpoint belongs to another store."
                )
        self._counters.blobs_fetched += len(frames)
        self._counters.bytes_fetched += sum(map(len, frames.values()))
        return frames

    def blobs(self, links: Sequence[Link], name: str) -> list[Blob]:
        """The blob of each link, in one batch. Raises `IntegrityError` besides."""
        frames = self.frames(links, [name] * len(links))
        return [_open(link, frames[link.digest], name, self._distrust) for link in links]

    def trees(self, roots: Sequence[Link], names: Sequence[str]) -> "Tree":
        """All that the roots need, level by level: one batch a level, whatever the number of roots."""
        found: dict[Digest, Blob | bytes] = {}
        leaves: list[Link] = []
        origin = {root.digest: name for root, name in zip(roots, names, strict=True)}
        frontier = {root.digest: root for root in roots}
        for _ in range(MAX_DEPTH + 1):
            if not frontier:
                _refuse_tangles(found, roots)
                return Tree(found, leaves, origin, self._distrust)
            links = list(frontier.values())
            frontier = {}
            for at in range(0, len(links), _FETCH_BATCH):
                batch = links[at : at + _FETCH_BATCH]
                frames = self.frames(batch, [origin[link.digest] for link in batch])
                for link in batch:
                    frame = frames[link.digest]
                    # Leaves stay compressed until they are decoded: they are most of the bytes.
                    found[link.digest] = frame
                    if not has_links(frame):
                        leaves.append(link)
                        continue
                    blob = found[link.digest] = _open(link, frame, origin[link.digest], self._distrust)
                    for child in blob.links:
                        frontier[child.digest] = child
                        origin.setdefault(child.digest, origin[link.digest])
            frontier = {digest: link for digest, link in frontier.items() if digest not in found}
        raise MalformedBlobError(f"The tree of {names[0]} is deeper than {MAX_DEPTH} levels.")


def _refuse_tangles(found: Mapping[Digest, Blob | bytes], roots: Sequence[Link]) -> None:
    """A few blobs that link one another again and again claim much for little. What is written has
    over 1 KiB a blob, but for the last of each tree."""
    pieces: dict[Digest, int] = {}

    def count(digest: Digest) -> int:
        if digest not in pieces:
            blob = found[digest]
            links = () if isinstance(blob, bytes) else blob.links
            # A leaf is one piece; asking for each by a call of its own would take most of the time.
            pieces[digest] = 1 + sum(
                [1 if isinstance(found[link.digest], bytes) else count(link.digest) for link in links]
            )
        return pieces[digest]

    for root in roots:
        if count(root.digest) > 64 + root.size // 256:
            raise MalformedBlobError("A stored value is in far more pieces than anything that is written.")


def _open(link: Link, frame: bytes, name: str, distrust: Callable[[Digest], None]) -> Blob:
    try:
        return _sized(unpack_blob(*open_frame(link.digest, frame)), link)
    except IntegrityError as error:
        if isinstance(error, CorruptBlobError):
            distrust(link.digest)
        raise type(error)(f"{name[:1].upper()}{name[1:]} cannot be read. {error.message}") from error


def _sized(blob: Blob, link: Link) -> Blob:
    # A small tree could otherwise claim, by linking one blob again and again, to be of any size.
    if blob.size != link.size:
        raise MalformedBlobError(f"A blob of {blob.size:,} bytes was announced as {link.size:,} bytes.")
    return blob


class _Window(NamedTuple):
    """Leaves that are read one after the other; `end` is where the next ones begin."""

    links: list[Link]
    end: int
    size: int
    leaves: Leaves


class Tree:
    """Fetched blobs, from which a decoder reads.

    Leaves are opened, and verified, as they are read: with each one those that will be read next, up to
    half a megabyte together. For one thread.
    """

    def __init__(
        self,
        found: Mapping[Digest, Blob | bytes],
        leaves: Sequence[Link],
        origin: Mapping[Digest, str],
        distrust: Callable[[Digest], None],
    ) -> None:
        self._found = found
        self._leaves = leaves
        self._origin = origin
        self._distrust = distrust
        self._unread = {link.digest: index for index, link in enumerate(leaves)}
        self._ahead: dict[Digest, Blob] = {}
        self._ahead_bytes = 0
        self._next: _Window | None = None
        self._size = sum([link.size for link in leaves])

    def raw(self, links: Iterable[Link]) -> Iterator[bytes | memoryview]:
        """The bytes below the links, in order."""
        for leaf in self._below(links):
            yield self._open(leaf, Kind.RAW).payload

    def values(self, links: Iterable[Link]) -> Iterator[tuple[bytes | memoryview, tuple[Link, ...]]]:
        """The packed values below the links, in order, each with its own links."""
        for leaf in self._below(links):
            _, own, payload, _ = self._open(leaf, Kind.VALUE)
            yield payload, own

    def is_bytes(self, link: Link) -> bool:
        """Whether the first leaf below a link is bytes."""
        return self._opened(next(self._below([link]))).kind is Kind.RAW

    def _below(self, links: Iterable[Link]) -> Iterator[Link]:
        for link in links:
            blob = self._found[link.digest]
            if isinstance(blob, bytes) or blob.kind is not Kind.NODE:
                yield link
            else:
                # It was checked against one link to it; another may lie about its size.
                yield from self._below(_sized(blob, link).links)

    def _open(self, link: Link, kind: Kind) -> Blob:
        blob = self._opened(link)
        if blob.kind is not kind:
            raise MalformedBlobError(f"A {kind.name} blob was expected, not {blob.kind.name}.")
        return blob

    def _opened(self, link: Link) -> Blob:
        blob = self._found[link.digest]
        if not isinstance(blob, bytes):
            return _sized(blob, link)
        if link.digest in self._unread:
            self._look_ahead(self._leaves[self._unread[link.digest]])
        ahead = self._ahead.pop(link.digest, None)
        if ahead is None:  # read before, or something is wrong
            return _open(link, blob, self._origin[link.digest], self._distrust)
        self._ahead_bytes -= link.size
        return _sized(ahead, link)

    def _look_ahead(self, link: Link) -> None:
        """Open the leaves from this one on, up to half a megabyte; the next ones are unpacked meanwhile."""
        if self._ahead_bytes > _OPEN_BATCH_BYTES:  # read in another order than they were found
            self._ahead.clear()
            self._ahead_bytes = 0
        window, self._next = self._next, None
        if window is None or link not in window.links:
            self._next, window = window, self._window(self._unread[link.digest], ahead=False)
        if self._next is None:
            self._next = self._window(window.end, ahead=True)
        for opened in window.links:
            self._unread.pop(opened.digest, None)
        blobs = window.leaves.opened()
        if blobs is not None:
            digests = [opened.digest for opened in window.links]
            self._ahead.update(zip(digests, [unpack_blob(*blob) for blob in blobs], strict=True))
            self._ahead_bytes += window.size

    def _window(self, begin: int, *, ahead: bool) -> "_Window":
        links: list[Link] = []
        size = 0
        end = begin
        # Of a value in few leaves this thread unpacks one half, and another one meanwhile the other.
        limit = min(_OPEN_BATCH_BYTES, self._size // 2)
        while end < len(self._leaves) and size <= limit:
            link = self._leaves[end]
            if link.digest in self._unread:
                links.append(link)
                size += link.size
            end += 1
        digests = [link.digest for link in links]
        frames: Any = [self._found[digest] for digest in digests]
        leaves = Leaves(digests, frames, [link.size for link in links], ahead=ahead)
        return _Window(links, end, size, leaves)


class ByteStream(io.RawIOBase):
    """A seekable, read-only file over the bytes of a ref. For one thread at a time.

    Nothing is fetched before it is read; then up to sixteen chunks (about 1.3 MB) at a time.
    """

    def __init__(self, reader: BlobReader, root: Link, name: str) -> None:
        super().__init__()
        self._reader = reader
        self._name = name
        self._root = root
        self._nodes: dict[Digest, Blob] = {}
        self._ahead: dict[Digest, Blob] = {}
        self._at = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The offset of the next byte to be read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move. Past the end is allowed, before the beginning is not."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._root.size}.get(whence)
        if base is None or base + offset < 0:
            raise InvalidInputError(f"Cannot seek to {offset} from {whence}.")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]
        """Read up to the end of the current chunk. Raises as `CAS.load` does."""
        if self.closed:
            raise InvalidInputError("The stream is closed.")
        view = memoryview(buffer)
        if self._at >= self._root.size or not view:
            return 0
        begin, chunk = self._chunk()
        part = chunk[self._at - begin :][: len(view)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _chunk(self) -> tuple[int, bytes | memoryview]:
        """The chunk that holds the current offset, and where it begins."""
        siblings: Sequence[Link] = [self._root]
        begin = 0
        for _ in range(MAX_DEPTH):
            blob = self._blob(siblings)
            if blob.kind is Kind.RAW:
                return begin, blob.payload
            if blob.kind is not Kind.NODE:
                break
            for index, child in enumerate(blob.links):
                if self._at < begin + child.size:
                    siblings = blob.links[index : index + _READ_AHEAD]
                    break
                begin += child.size
        raise MalformedBlobError(f"{self._name} is no stream of bytes.")

    def _blob(self, siblings: Sequence[Link]) -> Blob:
        """The first of them; the others are fetched along if it has to be."""
        digest = siblings[0].digest
        known = self._nodes.get(digest) or self._ahead.get(digest)
        if known is None:
            blobs = self._reader.blobs(siblings, self._name)
            self._ahead = dict(zip([link.digest for link in siblings], blobs, strict=True))
            self._nodes.update((key, blob) for key, blob in self._ahead.items() if blob.kind is Kind.NODE)
            known = blobs[0]
        return _sized(known, siblings[0])  # it may have been fetched by another link
