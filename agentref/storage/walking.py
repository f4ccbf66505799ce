"""From blobs to the blobs that they link to, in whatever store they are."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from agentref.chunks import unpack_blob
from agentref.errors import BlobNotFoundError, IntegrityError
from agentref.refs import Digest
from agentref.storage._lives import LEASE_SECONDS, end_of_life
from agentref.storage.frames import links_by_head, open_frame
from agentref.storage.protocol import BlobStore

__all__ = ["in_groups", "keep_alive", "links_of", "look_through", "which_need"]

_FETCHED_AT_ONCE: Final = 64
_TOUCHED_AT_ONCE: Final = 4096


def in_groups(digests: Sequence[Digest], size: int) -> Iterator[Sequence[Digest]]:
    """The digests, `size` at a time."""
    for begin in range(0, len(digests), size):
        yield digests[begin : begin + size]


def links_of(
    store: BlobStore,
    digests: Collection[Digest],
    *,
    damaged: Callable[[Digest], object] | None = None,
) -> Iterator[tuple[Digest, list[Digest]]]:
    """Each of the blobs that links to others, with those. Blobs that are absent are left out.

    Reads only the bytes of those that link, 64 at a time. Raises `IntegrityError` for one that is damaged,
    unless there is a function to be told of it.
    """
    linking = [digest for digest, head in store.peek(digests).items() if links_by_head(head)]
    for few in in_groups(linking, _FETCHED_AT_ONCE):
        for digest, frame in store.fetch(few).items():
            try:
                links = unpack_blob(*open_frame(digest, frame)).links
            except IntegrityError:
                if damaged is None:
                    raise
                damaged(digest)
            else:
                yield digest, [link.digest for link in links]


def keep_alive(store: BlobStore, roots: Collection[Digest], expires_at: float, *, called: str) -> int:
    """Let all that the roots need live until `expires_at` at least; returns how many blobs that is.

    Raises `BlobNotFoundError` if any of it is not here; the rest lives an hour longer then, not for good.
    Memory: 100 bytes a blob; one look at each blob, and a second one if that is later than an hour.
    """
    lease = min(expires_at, end_of_life(store.clock(), LEASE_SECONDS))

    def leased(few: Collection[Digest]) -> Collection[Digest]:
        return store.touch(few, expires_at=lease)

    seen = _walk(store, roots, leased, called)
    if lease < expires_at:
        for few in in_groups(list(seen), _TOUCHED_AT_ONCE):
            _check_all_here(store, few, store.touch(few, expires_at=expires_at), called)
    return len(seen)


def look_through(store: BlobStore, roots: Collection[Digest], *, called: str) -> int:
    """How many blobs the roots need, themselves among them. Changes nothing; raises and costs as
    `keep_alive` does."""
    return len(_walk(store, roots, store.stat, called))


def which_need(
    roots: Collection[Digest],
    wanted: Collection[Digest],
    links: Callable[[Sequence[Digest]], Iterable[tuple[Digest, list[Digest]]]],
) -> set[Digest]:
    """Those of the roots that are among the `wanted`, or lead to one of them.

    `links` gives each of the blobs that links to others, with those. Memory: 200 bytes a blob.
    """
    above: dict[Digest, list[Digest]] = {}
    seen = set(roots)
    level = list(seen)
    while level:
        below: dict[Digest, None] = {}
        for few in in_groups(level, _TOUCHED_AT_ONCE):
            for parent, children in links(few):
                for child in children:
                    above.setdefault(child, []).append(parent)
                    below[child] = None
        level = [digest for digest in below if digest not in seen]
        seen.update(level)
    found: set[Digest] = set()
    reached = list(seen.intersection(wanted))
    while reached:
        found.update(reached)
        reached = [up for digest in reached for up in above.pop(digest, ()) if up not in found]
    return found.intersection(roots)


def _walk(
    store: BlobStore,
    roots: Collection[Digest],
    which_are_here: Callable[[Collection[Digest]], Collection[Digest]],
    called: str,
) -> set[Digest]:
    seen = set(roots)
    level = list(seen)
    while level:
        below: dict[Digest, None] = {}
        for few in in_groups(level, _TOUCHED_AT_ONCE):
            _check_all_here(store, few, which_are_here(few), called)
            below.update(dict.fromkeys(child for _, children in links_of(store, few) for child in children))
        level = [digest for digest in below if digest not in seen]
        seen.update(level)
    return seen


def _check_all_here(
    store: BlobStore, wanted: Sequence[Digest], here: Collection[Digest], called: str
) -> None:
    missing = set(wanted).difference(here)
    if missing:
        raise BlobNotFoundError(
            f"{called} needs {len(missing):,} blob(s) that are not in the store {store.store_id}, "
            f"{min(missing).hex()} among them. Store the value again."
        )
