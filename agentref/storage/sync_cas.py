"""Bytes and values over any blob store: the calls that wait."""

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import BinaryIO, Final, Self

from agentref.chunks import Link, Memo, TreeBuilder, cut_stream, unpack_blob
from agentref.codecs import CODEC_ID, ValueCodec, too_deep
from agentref.errors import (
    BlobNotFoundError,
    CorruptBlobError,
    InvalidInputError,
    InvalidRefError,
    MalformedBlobError,
    ValueTooLargeError,
)
from agentref.refs import ContentRef, Digest, parse_digest
from agentref.storage import _arguments as arguments
from agentref.storage._lives import check_ttl
from agentref.storage._room import with_room
from agentref.storage.ahead import Ahead
from agentref.storage.audit import pages, store_stats
from agentref.storage.frames import open_frame
from agentref.storage.lifetimes import Lifetimes
from agentref.storage.protocol import BlobStore
from agentref.storage.reading import BlobReader, ByteStream, RenewingStream
from agentref.storage.reports import Counters, StoreStats, VerifyReport
from agentref.storage.verifying import verify_store
from agentref.storage.walking import keep_alive
from agentref.storage.writing import BlobWriter, Encoded

__all__ = ["RAW_CODEC", "SyncCAS"]

RAW_CODEC: Final = "raw"
"""The codec id of a ref to plain bytes."""

_ATTEMPTS: Final = 8
_STREAM_BATCH: Final = 4 * 1024 * 1024
_STREAM_BUFFER: Final = 128 * 1024


class SyncCAS(Lifetimes):
    """A content-addressed store with a byte face and a value face.

    Everything is cut into chunks by its content, hashed with BLAKE3, compressed with zstd and kept
    once; every byte that is read is verified first. Safe for many threads; for many processes as
    its blob store is. Each call that stores is durable on return, as far as the store is.

    Args:
        store: where blobs are kept.
        backend_id: the name that refs carry as a routing hint; the store's own id if not given.
        codec: how values are encoded.
        compression_level: zstd's, from 1 (fast) to 19. Without one, 3 for long text and bytes, and 1 for
            structured values and what is short.
        max_value_bytes: larger values are refused on the way in and on the way out (logical size).
        backend_aliases: more names that it answers to, such as those of stores that were migrated here.
        default_ttl_seconds: the life of what is stored without a `ttl`; without it, that has no end.
        refresh_on_read: let what is read live for `default_ttl_seconds` from then on, at the cost of
            a walk over it.
    """

    def __init__(  # noqa: PLR0913  (settings, by name)
        self,
        store: BlobStore,
        *,
        backend_id: str | None = None,
        codec: ValueCodec | None = None,
        compression_level: int | None = None,
        max_value_bytes: int = 1024**3,
        backend_aliases: Sequence[str] = (),
        default_ttl_seconds: float | None = None,
        refresh_on_read: bool = False,
    ) -> None:
        arguments.check_store(store)
        arguments.check_max_value_bytes(max_value_bytes)
        arguments.check_level(compression_level)
        self._store = store
        self.backend_id: str = store.store_id if backend_id is None else backend_id
        self.backend_aliases = tuple(arguments.each_of("backend_aliases", backend_aliases))
        for name in (self.backend_id, *self.backend_aliases):
            ContentRef(Digest(bytes(32)), RAW_CODEC, 0, name)  # refuses an id that no ref can carry
        check_ttl("default_ttl_seconds", default_ttl_seconds)
        self.default_ttl_seconds = default_ttl_seconds
        self._refreshes = refresh_on_read and default_ttl_seconds is not None
        self.codec = codec if codec is not None else ValueCodec()
        arguments.check_codec(self.codec)
        self.max_value_bytes = max_value_bytes
        self.counters = Counters()
        self._memo = Memo()
        self._writer = BlobWriter(store, self.counters, compression_level)
        self._reader = BlobReader(store, self.counters, self._writer.distrust)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.backend_id}>"

    def with_codec(self, codec: ValueCodec) -> Self:
        """The same store and counters under another codec; closing either closes both."""
        arguments.check_codec(codec)
        clone = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone.codec = codec
        return clone

    # Byte face

    def put(self, data: bytes, *, ttl: float | None = None) -> str:
        """Store bytes and return their name, 64 hex digits.

        Up to 256 KiB the name is the plain BLAKE3 of the data. `ttl` is in seconds; a life is only
        ever lengthened. Content that is here already costs a look-up and writes nothing.
        """
        return self.put_many([data], ttl=ttl)[0]

    def put_many(self, items: Iterable[bytes], *, ttl: float | None = None) -> list[str]:
        """Store many at once, under one sync to disk: the names, in order."""
        builder = TreeBuilder()
        links = [self._bytes_link(builder, data) for data in arguments.each_of("put_many()", items)]
        self._writer.write(builder.blobs, self._life(ttl))
        return [link.digest.hex() for link in links]

    def get(self, hash: str) -> bytes:  # noqa: A002  (the name in the published API)
        """The bytes of that name. Raises `BlobNotFoundError` (a `KeyError`) or `IntegrityError`."""
        return self.get_many([hash])[0]

    def get_many(self, hashes: Iterable[str]) -> list[bytes]:
        """The bytes of each name, in order, fetched level by level in batches."""
        links = self._stat_links([parse_digest(name) for name in arguments.each_of("get_many()", hashes)])
        tree = self._reader.trees(links, [f"content {link.digest.hex()}" for link in links])
        for link in links:
            if not tree.is_bytes(link):
                raise InvalidInputError(
                    f"Content {link.digest.hex()} is a part of a value, not bytes: load() it."
                )
        self._read(links)
        return [b"".join(tree.raw([link])) for link in links]

    def exists(self, hash: str) -> bool:  # noqa: A002
        """Whether a blob of that name is here; of a large content, its root. Reads no payload."""
        return bool(self._store.stat([parse_digest(hash)]))

    def delete(self, hash: str) -> bool:  # noqa: A002
        """Remove the one blob of that name, at once and whoever needs it; whether it was here.

        Chunks below it stay, since others may share them.
        """
        return bool(self._store.remove([parse_digest(hash)]))

    def iter_hashes(self) -> Iterator[str]:
        """Every blob's name in order, chunks and inner nodes included; in pages, without a lock."""
        for page in pages(self._store):
            for info in page:
                yield info.digest.hex()

    def put_stream(self, file: BinaryIO, *, ttl: float | None = None) -> ContentRef:
        """Store all that `file` yields, in bounded memory (about 30 MB), and return its ref.

        The ref's hash is what `put` of the same bytes would return.
        """
        if not callable(getattr(file, "read", None)):
            raise InvalidInputError(
                f"put_stream() takes a file opened for bytes, not {type(file).__name__}."
            )
        links: list[Link] = []
        builder, waiting, total = TreeBuilder(), 0, 0
        for chunk in cut_stream(file):
            links.extend(builder.raw(chunk))
            waiting += len(chunk)
            total += len(chunk)
            self._check_size(total, "The stream")
            if waiting >= _STREAM_BATCH:
                self._writer.write(builder.blobs, self._life(ttl))
                builder, waiting = TreeBuilder(), 0
        root = _root(builder, links)
        self._writer.write(builder.blobs, self._life(ttl))
        return ContentRef(root.digest, RAW_CODEC, root.size, self.backend_id)

    def open(self, ref: ContentRef) -> BinaryIO:
        """A seekable file over the bytes of a ref that `put_stream` gave. Fetches as it is read.

        With `refresh_on_read` it lengthens the life of all of it, not only of what is read, at the first
        read and from then on at reads an eighth of `default_ttl_seconds` apart.
        """
        self._check_ref(ref)
        if ref.codec != RAW_CODEC:
            raise InvalidRefError(f"Ref {ref} is to a value, not to bytes: load() it.")
        stream = ByteStream(self._reader, Link(ref.digest, ref.size), f"ref {ref.hash}")
        if not self._refreshes:
            return io.BufferedReader(stream, _STREAM_BUFFER)
        pause = (self.default_ttl_seconds or 0) / 8

        def keep() -> None:  # so much longer as it is not looked at again
            self._keep_alive([ref.digest], self._end_of_life(None) + pause)

        return RenewingStream(stream, _STREAM_BUFFER, keep, self._store.clock, pause)

    # Value face

    def dump(self, value: object, *, ttl: float | None = None) -> ContentRef:
        """Store a value and return its ref. Equal values of equal types have equal refs.

        Raises `UnsupportedTypeError` or `ValueTooLargeError` before anything is stored.
        """
        return self.dump_many([value], ttl=ttl)[0]

    def dump_many(self, values: Iterable[object], *, ttl: float | None = None) -> list[ContentRef]:
        """Store many values in one batch: their refs, in order."""
        encoded = self._encode(values, self._writer.ahead())
        self.store(encoded, ttl=ttl)
        return encoded.refs

    def load(self, ref: ContentRef) -> object:
        """The value of a ref, new at each call. Raises `BlobNotFoundError`, `IntegrityError` or
        `UnknownBackendError`; never returns wrong data."""
        return self.load_many([ref])[0]

    def load_many(self, refs: Iterable[ContentRef], *, names: Sequence[str] = ()) -> list[object]:
        """The value of each ref, in order: one batch a level, however many refs. No value or part of
        one is shared between two results. `names` are what errors call the refs, beside their hash."""
        wanted = list(arguments.each_of("load_many()", refs))
        called = [
            self._check_ref(ref, name)
            for ref, name in zip(wanted, names or [""] * len(wanted), strict=True)
        ]
        links = [Link(ref.digest, ref.size) for ref in wanted]
        tree = self._reader.trees(links, called)
        self.counters.values_loaded += len(wanted)
        self._read(links)
        return [
            b"".join(tree.raw([link]))
            if ref.codec == RAW_CODEC
            else with_room(partial(self.codec.decode, link, tree), _nested_too_deeply)
            for ref, link in zip(wanted, links, strict=True)
        ]

    def encode(self, values: Iterable[object]) -> Encoded:
        """The first half of `dump_many`: CPU only. What it returns no longer depends on the values,
        so that they may be mutated before `store` runs."""
        return self._encode(values)

    def _encode(self, values: Iterable[object], ahead: Ahead | None = None) -> Encoded:
        builder = TreeBuilder(self._memo, on_new=ahead.add if ahead else None)
        refs, values = [], list(arguments.each_of("dump_many()", values))
        for index, value in enumerate(values):
            try:
                link = with_room(partial(self._encode_one, value, builder), too_deep)
                self._check_size(link.size, "The value")
            except InvalidInputError as error:
                self.codec.place(error, values, index)
                raise
            refs.append(ContentRef(link.digest, self.codec.id, link.size, self.backend_id))
        return Encoded(refs, builder.blobs, ahead)

    def store(
        self,
        encoded: Encoded,
        *,
        ttl: float | None = None,
        pins: Mapping[str, Collection[ContentRef]] | None = None,
    ) -> None:
        """The second half of `dump_many`: ask what is missing, compress only that, write it; then do what
        `pin_each(pins)` does, under the same sync where that can be. When it raises, nothing was pinned.
        """
        if not isinstance(encoded, Encoded):
            raise InvalidInputError(f"store() takes what encode() returned, not {type(encoded).__name__}.")
        rows = self._pin_rows(pins) if pins is not None else ()
        self._writer.write(encoded.blobs, self._life(ttl), ahead=encoded.ahead, pins=rows)
        self.counters.values_dumped += len(encoded.refs)

    def size_of(self, value: object) -> int:
        """The logical size in bytes that `dump` would give the value's ref. Stores nothing."""
        try:
            return with_room(partial(self._encode_one, value, TreeBuilder()), too_deep).size
        except InvalidInputError as error:
            self.codec.place(error, [value], 0)
            raise

    def _encode_one(self, value: object, builder: TreeBuilder) -> Link:
        for _ in range(_ATTEMPTS):
            try:
                link: Link = self.codec.encode(value, builder)
            except RuntimeError as error:
                if "during iteration" not in str(error):
                    raise
            else:
                return link
        raise InvalidInputError(
            "The value is being changed by another thread without a pause. Store a copy of it."
        )

    # The store as a whole

    def epoch(self) -> int:
        """A number that moves whenever something is removed from the store, by whomever."""
        return self._store.epoch()

    def stats(self) -> StoreStats:
        """How much is here, by a scan of the index; reads no payload."""
        return store_stats(self._store, self.counters)

    def verify(self, *, progress: Callable[[int], None] | None = None) -> VerifyReport:
        """Read and re-hash every blob, and look for every blob that an intact one links to, and at aliases.

        What an expired blob links to may be gone before it, by a prune that was cut short: it is missing
        only if something needs the one that links. To tell costs a walk over all that is needed, if
        anything is gone. `progress` is called with the number of blobs checked so far. Writes nothing.
        """
        if progress is not None and not callable(progress):
            raise InvalidInputError(f"progress must be a function of one int, not {progress!r:.80}.")
        return verify_store(self._store, progress)

    def repair(self, value: object) -> ContentRef:
        """Store a value and overwrite whatever is kept of it: mends damaged chunks."""
        encoded = self.encode([value])
        self._overwrite(encoded)
        return encoded.refs[0]

    def _overwrite(self, encoded: Encoded) -> None:
        self._writer.write(encoded.blobs, None, replace=True)

    def close(self) -> None:
        """Release what the store holds open. Idempotent."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _life(self, ttl: float | None) -> float | None:
        check_ttl("ttl", ttl)
        return self.default_ttl_seconds if ttl is None else ttl

    def _read(self, links: Sequence[Link]) -> None:
        if self._refreshes and links:
            self._keep_alive([link.digest for link in links], self._end_of_life(None))

    def _keep_alive(self, digests: Sequence[Digest], end: float) -> None:
        keep_alive(self._store, digests, end, called="A value")

    def _bytes_link(self, builder: TreeBuilder, data: bytes) -> Link:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidInputError(f"put() takes bytes, not {type(data).__name__}; dump() takes values.")
        self._check_size(memoryview(data).nbytes, "The data")
        data = bytes(data)
        return builder.whole(data) or _root(builder, builder.raw(data))

    def _stat_links(self, digests: Sequence[Digest]) -> list[Link]:
        """Links to contents of which only the name is known: their roots tell the size."""
        frames = self._store.fetch(digests)
        links = []
        for digest in digests:
            if digest not in frames:
                self._writer.distrust(digest, is_here=False)
                raise BlobNotFoundError(
                    f"Content {digest.hex()} is not in the store {self._store.store_id}."
                )
            try:
                size = unpack_blob(*open_frame(digest, frames[digest])).size
            except CorruptBlobError:
                self._writer.distrust(digest)
                raise
            self._check_size(size, f"Content {digest.hex()}")
            links.append(Link(digest, size))
        return links

    def _check_size(self, size: int, what: str) -> None:
        if size > self.max_value_bytes:
            raise ValueTooLargeError(
                f"{what} is {size:,} bytes or more, over the limit of {self.max_value_bytes:,}. "
                f"Split it, or raise max_value_bytes."
            )

    def _check_ref(self, ref: ContentRef, name: str = "") -> str:
        """What errors call a ref that may be loaded here."""
        if not isinstance(ref, ContentRef):
            raise InvalidRefError(f"A ContentRef is needed, not {type(ref).__name__}.")
        if ref.codec not in {RAW_CODEC, CODEC_ID}:
            raise InvalidRefError(
                f"{name or 'A value'} needs the codec {ref.codec!r}, unknown here; update agentref. {ref}"
            )
        called = f"{name} (ref {ref.hash})" if name else f"ref {ref.hash}"
        self._check_size(ref.size, called)
        return called


def _nested_too_deeply() -> MalformedBlobError:
    return MalformedBlobError("A stored value is nested more deeply than any that is written.")


def _root(builder: TreeBuilder, links: Sequence[Link]) -> Link:
    if not links:
        return builder.empty()
    links = builder.top(list(links))
    return links[0] if len(links) == 1 else builder.node(links)
