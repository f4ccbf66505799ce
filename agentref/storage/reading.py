"""From refs to bytes and values: fetch in batches, verify everything, hand out only what is whole."""

import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from agentref.chunks import MAX_DEPTH, Blob, Kind, Link, unpack_blob
from agentref.errors import BlobNotFoundError, IntegrityError, InvalidInputError, MalformedBlobError
from agentref.refs import Digest
from agentref.storage.frames import has_links, open_frame
from agentref.storage.parallel import spread
from agentref.storage.protocol import BlobStore
from agentref.storage.reports import Counters

__all__ = ["BlobReader", "ByteStream", "Tree"]

_READ_AHEAD: Final = 16
_FETCH_BATCH: Final = 1000
_OPEN_BATCH_BYTES: Final = 512 * 1024


class BlobReader:
    """Fetches blobs of a store, verified and parsed. Thread-safe."""

    def __init__(self, store: BlobStore, counters: Counters) -> None:
        self._store = store
        self._counters = counters

    def frames(self, links: Sequence[Link], names: Sequence[str]) -> Mapping[Digest, bytes]:
        """The stored bytes of each link, in one batch, not looked at yet.

        Raises `BlobNotFoundError`, naming the blob and what it is part of.
        """
        frames = self._store.fetch([link.digest for link in links])
        for link, name in zip(links, names, strict=True):
            if link.digest not in frames:
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
        return spread(
            lambda link: _open(link, frames[link.digest], name), links, sum([link.size for link in links])
        )

    def trees(self, roots: Sequence[Link], names: Sequence[str]) -> "Tree":
        """All that the roots need, level by level: one batch a level, whatever the number of roots."""
        found: dict[Digest, Blob | bytes] = {}
        origin = {root.digest: name for root, name in zip(roots, names, strict=True)}
        frontier = {root.digest: root for root in roots}
        for _ in range(MAX_DEPTH):
            if not frontier:
                return Tree(found, origin)
            links = list(frontier.values())
            frontier = {}
            for at in range(0, len(links), _FETCH_BATCH):
                batch = links[at : at + _FETCH_BATCH]
                frames = self.frames(batch, [origin[link.digest] for link in batch])
                for link in batch:
                    frame = frames[link.digest]
                    # Leaves stay compressed until they are decoded: they are most of the bytes.
                    found[link.digest] = frame
                    if has_links(frame):
                        blob = found[link.digest] = _open(link, frame, origin[link.digest])
                        for child in blob.links:
                            frontier[child.digest] = child
                            origin.setdefault(child.digest, origin[link.digest])
            frontier = {digest: link for digest, link in frontier.items() if digest not in found}
        raise MalformedBlobError(f"The tree of {names[0]} is deeper than {MAX_DEPTH} levels.")


def _open(link: Link, frame: bytes, name: str) -> Blob:
    try:
        return _sized(unpack_blob(*open_frame(link.digest, frame)), link)
    except IntegrityError as error:
        raise type(error)(f"{name[:1].upper()}{name[1:]} cannot be read. {error.message}") from error


def _sized(blob: Blob, link: Link) -> Blob:
    # A small tree could otherwise claim, by linking one blob again and again, to be of any size.
    if blob.size != link.size:
        raise MalformedBlobError(f"A blob of {blob.size:,} bytes was announced as {link.size:,} bytes.")
    return blob


class Tree:
    """Fetched blobs, from which a decoder reads. Leaves are opened, and verified, as they are read."""

    def __init__(self, found: Mapping[Digest, Blob | bytes], origin: Mapping[Digest, str]) -> None:
        self._found = found
        self._origin = origin

    def raw(self, link: Link) -> Iterator[bytes | memoryview]:
        """The bytes below a link, in order."""
        for blob in self._leaves(link, Kind.RAW):
            yield blob.payload

    def values(self, link: Link) -> Iterator[tuple[bytes | memoryview, tuple[Link, ...]]]:
        """The packed values below a link, each with its links."""
        for blob in self._leaves(link, Kind.VALUE):
            yield blob.payload, blob.links

    def _leaves(self, root: Link, kind: Kind) -> Iterator[Blob]:
        batch: list[Link] = []
        size = 0
        for link in self._leaf_links(root):
            batch.append(link)
            size += link.size
            if size >= _OPEN_BATCH_BYTES:
                yield from self._opened(batch, size, kind)
                batch, size = [], 0
        yield from self._opened(batch, size, kind)

    def _leaf_links(self, link: Link) -> Iterator[Link]:
        blob = self._found[link.digest]
        if isinstance(blob, bytes) or blob.kind is not Kind.NODE:
            yield link
            return
        # It was checked against one link to it; another may lie about its size.
        for child in _sized(blob, link).links:
            yield from self._leaf_links(child)

    def _opened(self, links: Sequence[Link], size: int, kind: Kind) -> list[Blob]:
        blobs = spread(self._open, links, size)
        for blob in blobs:
            if blob.kind is not kind:
                raise MalformedBlobError(f"A {kind.name} blob was expected, not {blob.kind.name}.")
        return blobs

    def _open(self, link: Link) -> Blob:
        blob = self._found[link.digest]
        return _open(link, blob, self._origin[link.digest]) if isinstance(blob, bytes) else _sized(blob, link)


class ByteStream(io.RawIOBase):
    """A seekable, read-only file over the bytes of a ref. For one thread at a time.

    Opening fetches the inner nodes; reading fetches at most sixteen chunks (about 1.3 MB) ahead.
    """

    def __init__(self, reader: BlobReader, root: Link, name: str) -> None:
        super().__init__()
        self._reader = reader
        self._name = name
        self._leaves: list[Link] = []
        self._ends: list[int] = []
        self._ready: dict[int, bytes | memoryview] = {}
        self._at = 0
        self._size = root.size
        self._add_leaves([root])

    def _add_leaves(self, roots: list[Link]) -> None:
        # Nodes are found by fetching; leaves are RAW, and of those only the first of a level is fetched.
        level = roots
        for _ in range(MAX_DEPTH):
            first = self._reader.blobs(level[:1], self._name)[0]
            if first.kind is not Kind.NODE:
                break
            blobs = [first, *self._reader.blobs(level[1:], self._name)]
            level = [child for blob in blobs for child in blob.links]
        end = 0
        for link in level:
            end += link.size
            self._leaves.append(link)
            self._ends.append(end)

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
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}.get(whence)
        if base is None or base + offset < 0:
            raise InvalidInputError(f"Cannot seek to {offset} from {whence}.")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]
        """Read up to the end of the current chunk. Raises as `CAS.load` does."""
        if self.closed:
            raise InvalidInputError("The stream is closed.")
        view = memoryview(buffer)
        if self._at >= self._size or not len(view):
            return 0
        index = bisect_right(self._ends, self._at)
        chunk = self._chunk(index)
        begin = self._at - (self._ends[index] - len(chunk))
        part = chunk[begin : begin + len(view)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _chunk(self, index: int) -> bytes | memoryview:
        if index not in self._ready:
            self._ready.clear()
            ahead = self._leaves[index : index + _READ_AHEAD]
            blobs: Iterable[Blob] = self._reader.blobs(ahead, self._name)
            for offset, blob in enumerate(blobs):
                if blob.kind is not Kind.RAW:
                    raise MalformedBlobError(f"{self._name} is no stream of bytes.")
                self._ready[index + offset] = blob.payload
        return self._ready[index]
