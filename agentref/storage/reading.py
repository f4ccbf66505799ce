"""From refs to bytes and values: fetch in batches, verify everything, hand out only what is whole."""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
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

__all__ = ["BlobReader", "ByteStream", "RenewingStream", "Tree"]

_RAW: Final = Kind.RAW
_VALUE: Final = Kind.VALUE
_NODE: Final = Kind.NODE

_READ_AHEAD: Final = 16
_FETCH_BATCH: Final = 1000
_WINDOW_BYTES: Final = 512 * 1024
_SHARED_BYTES: Final = 256 * 1024


class BlobReader:
    """Fetches blobs of a store, verified and parsed. Thread-safe."""

    def __init__(self, store: BlobStore, counters: Counters, distrust: Callable[..., None]) -> None:
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
                self._distrust(link.digest, is_here=False)
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
                frames = self.frames(batch, [origin[link[0]] for link in batch])
                for link in batch:
                    digest = link[0]
                    # Leaves stay compressed until they are decoded: they are most of the bytes.
                    frame = found[digest] = frames[digest]
                    if not has_links(frame):
                        leaves.append(link)
                        continue
                    name = origin[digest]
                    blob = found[digest] = _open(link, frame, name, self._distrust)
                    for child in blob[1]:
                        digest = child[0]
                        frontier[digest] = child
                        origin.setdefault(digest, name)
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


def _open(link: Link, frame: bytes, name: str, distrust: Callable[..., None]) -> Blob:
    try:
        return _sized(unpack_blob(*open_frame(link.digest, frame)), link)
    except IntegrityError as error:
        if isinstance(error, CorruptBlobError):
            distrust(link.digest)
        raise type(error)(f"{name[:1].upper()}{name[1:]} cannot be read. {error.message}") from error


def _sized(blob: Blob, link: Link) -> Blob:
    # A small tree could otherwise claim, by linking one blob again and again, to be of any size.
    if blob.size != link.size:
        raise _of_another_size(blob.size, link.size)
    return blob


def _of_another_size(size: int, announced: int) -> MalformedBlobError:
    return MalformedBlobError(f"A blob of {size:,} bytes was announced as {announced:,} bytes.")


def _of_another_kind(expected: Kind, kind: Kind) -> MalformedBlobError:
    return MalformedBlobError(f"A {expected.name} blob was expected, not {kind.name}.")


class _Window(NamedTuple):
    """Leaves that are read one after the other; `end` is where the next ones begin."""

    digests: list[Digest]
    end: int
    size: int
    leaves: Leaves


class Tree:
    """Fetched blobs, from which a decoder reads.

    Leaves are opened, and verified, as they are read: with each one those that will be read next, about
    half a megabyte together. For one thread.
    """

    def __init__(
        self,
        found: Mapping[Digest, Blob | bytes],
        leaves: Sequence[Link],
        origin: Mapping[Digest, str],
        distrust: Callable[..., None],
    ) -> None:
        self._found = found
        self._leaves = leaves
        self._origin = origin
        self._distrust = distrust
        self._unread = {link[0]: index for index, link in enumerate(leaves)}
        self._ahead: dict[Digest, tuple[Kind, memoryview]] = {}
        self._ahead_bytes = 0
        self._next: _Window | None = None
        self._ends = list(accumulate([link[1] for link in leaves]))

    def raw(self, links: Iterable[Link]) -> Iterator[bytes | memoryview]:
        """The bytes below the links, in order."""
        for leaf in self._below(links):
            kind, payload, _ = self._opened(leaf)
            if kind is not _RAW:
                raise _of_another_kind(_RAW, kind)
            yield payload

    def values(self, links: Iterable[Link]) -> Iterator[tuple[bytes | memoryview, tuple[Link, ...]]]:
        """The packed values below the links, in order, each with its own links."""
        for leaf in self._below(links):
            kind, payload, own = self._opened(leaf)
            if kind is not _VALUE:
                raise _of_another_kind(_VALUE, kind)
            yield payload, own

    def is_bytes(self, link: Link) -> bool:
        """Whether the first leaf below a link is bytes."""
        return self._opened(next(self._below([link])))[0] is _RAW

    def _below(self, links: Iterable[Link]) -> Iterator[Link]:
        for link in links:
            blob = self._found[link[0]]
            if isinstance(blob, bytes) or blob.kind is not _NODE:
                yield link
            else:
                # It was checked against one link to it; another may lie about its size.
                yield from self._below(_sized(blob, link).links)

    def _opened(self, link: Link) -> tuple[Kind, bytes | memoryview, tuple[Link, ...]]:
        """Kind, payload and links of what is no inner node."""
        digest, size = link
        leaf = self._ahead.pop(digest, None)
        if leaf is None:
            if digest in self._unread:
                self._look_ahead(digest)
                leaf = self._ahead.pop(digest, None)
            if leaf is None:  # it has links, or was read before, or something is wrong
                return self._opened_alone(link)
        kind, data = leaf
        payload = data if kind is _RAW else data[1:]
        self._ahead_bytes -= len(payload)
        if len(payload) != size:
            raise _of_another_size(len(payload), size)
        return kind, payload, ()

    def _opened_alone(self, link: Link) -> tuple[Kind, bytes | memoryview, tuple[Link, ...]]:
        found = self._found[link.digest]
        if isinstance(found, bytes):
            found = _open(link, found, self._origin[link.digest], self._distrust)
        kind, links, payload, _ = _sized(found, link)
        return kind, payload, links

    def _look_ahead(self, digest: Digest) -> None:
        """Open the leaves from this one on, about half a megabyte; the next ones are unpacked meanwhile."""
        if self._ahead_bytes > 2 * _WINDOW_BYTES:  # read in another order than they were found
            self._ahead.clear()
            self._ahead_bytes = 0
        window, self._next = self._next, None
        if window is None or digest not in window.digests:
            self._next, window = window, self._window(self._unread[digest], ahead=False)
        if self._next is None and window.end < len(self._leaves):
            self._next = self._window(window.end, ahead=True)
        for opened in window.digests:
            self._unread.pop(opened, None)
        leaves = window.leaves.opened()
        if leaves is not None:
            self._ahead.update(zip(window.digests, leaves, strict=True))
            self._ahead_bytes += window.size

    def _window(self, begin: int, *, ahead: bool) -> _Window:
        before = self._ends[begin - 1] if begin else 0
        end = bisect_right(self._ends, before + self._limit(before, ahead=ahead), begin) + 1
        links = [link for link in self._leaves[begin:end] if link[0] in self._unread]
        digests = [link[0] for link in links]
        sizes = [link[1] for link in links]
        frames: Any = [self._found[digest] for digest in digests]
        leaves = Leaves(digests, frames, sizes, ahead=ahead)
        return _Window(digests, min(end, len(self._ends)), sum(sizes), leaves)

    def _limit(self, before: int, *, ahead: bool) -> int:
        total = self._ends[-1]
        if ahead:
            # What would be left over goes with the last one.
            return _WINDOW_BYTES if total - before > 3 * _WINDOW_BYTES // 2 else total
        # Of a value in few leaves this thread unpacks less than a half, as it has to hash and decode them
        # all; and all of them if it is not worth it.
        return min(_WINDOW_BYTES, total * 2 // 5 if total > _SHARED_BYTES else total)


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


class RenewingStream(io.BufferedReader):
    """A `ByteStream` that has its content kept before a read, of what is in the buffer too, unless that was
    done less than `pause` seconds of the `clock` ago."""

    def __init__(
        self,
        stream: ByteStream,
        buffer_size: int,
        keep: Callable[[], None],
        clock: Callable[[], float],
        pause: float,
    ) -> None:
        super().__init__(stream, buffer_size)
        self._keep, self._clock, self._pause = keep, clock, pause
        self._due = -float("inf")

    def _renew(self) -> None:
        now = self._clock()
        if now >= self._due:
            self._keep()
            self._due = now + self._pause

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes, or all that are left."""
        self._renew()
        return super().read(size)

    def read1(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, with one look at the store at most."""
        self._renew()
        return super().read1(size)

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]
        """Fill the buffer; how many bytes there were."""
        self._renew()
        return super().readinto(buffer)

    def readinto1(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]
        """Fill the buffer, with one look at the store at most; how many bytes there were."""
        self._renew()
        return super().readinto1(buffer)

    def peek(self, size: int = 0, /) -> bytes:
        """The bytes that follow, without a move."""
        self._renew()
        return super().peek(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Up to the end of the line."""
        self._renew()
        return super().readline(size)

    def __next__(self) -> bytes:
        self._renew()
        return super().__next__()
