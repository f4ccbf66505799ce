"""Telling which of the blobs whose own life has ended are needed all the same."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from agentref.refs import Digest
from agentref.sqlite import Scratch
from agentref.storage.protocol import BlobInfo, BlobStore, RootStore
from agentref.storage.walking import links_of

__all__ = ["Candidate", "Candidates", "mark"]

_PAGE: Final = 2000

_UNREACHED, _REACHED, _EXPANDED = range(3)


class Candidate(NamedTuple):
    """An expired blob, as it was when it was found, and whether something needs it."""

    digest: Digest
    size: int
    condemned_at: float | None
    is_needed: bool


class Candidates:
    """The expired blobs of a store, and which of them are needed. On disk if they are many: raises
    `StoreFullError` if that has no room."""

    def __init__(self) -> None:
        self._database = Scratch(f"""
            CREATE TABLE candidate(
                digest BLOB NOT NULL, size INTEGER, condemned_at REAL, place INTEGER NOT NULL,
                state INTEGER NOT NULL
            );
            CREATE INDEX frontier ON candidate(digest) WHERE state = {_REACHED};
            CREATE TABLE linking(digest BLOB NOT NULL);
        """)
        self.count = 0
        self._is_indexed = False

    def close(self) -> None:
        """Drop them."""
        self._database.close()

    def add(self, page: Sequence[BlobInfo], begun: float) -> None:
        """These have expired at that time, or link to others. Each is added once."""
        expired = [info for info in page if info.expires_at <= begun]
        self._database.executemany(
            "INSERT INTO candidate VALUES (?, ?, ?, ?, ?)",
            [
                (info.digest, info.stored_size, info.condemned_at, info.place, _UNREACHED)
                for info in expired
            ],
        )
        self._database.executemany(
            "INSERT INTO linking VALUES (?)", [(info.digest,) for info in page if info.expires_at > begun]
        )
        self.count += len(expired)

    def linking(self) -> Iterator[list[Digest]]:
        """Those which live and link to others."""
        after = 0
        while found := self._database.rows(
            "SELECT rowid, digest FROM linking WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, _PAGE)
        ):
            yield [Digest(digest) for _, digest in found]
            after = found[-1][0]

    def reach(self, digests: Iterable[Digest]) -> None:
        """These are needed; so will be what they link to. Nothing is added any more."""
        if not self._is_indexed:  # all at once, and only if it is asked
            self._database.execute("CREATE UNIQUE INDEX by_digest ON candidate(digest)")
            self._is_indexed = True
        self._database.executemany(
            "UPDATE candidate SET state = ? WHERE digest = ? AND state = ?",
            [(_REACHED, digest, _UNREACHED) for digest in digests],
        )

    def frontier(self) -> list[Digest]:
        """The next ones of which it is not known what they link to."""
        found = self._database.rows(
            "SELECT digest FROM candidate WHERE state = ? LIMIT ?", (_REACHED, _PAGE)
        )
        digests = [Digest(digest) for (digest,) in found]
        self._database.executemany(
            "UPDATE candidate SET state = ? WHERE digest = ?", [(_EXPANDED, digest) for digest in digests]
        )
        return digests

    def is_needed(self, digest: Digest) -> bool:
        """Whether something reaches this candidate, once all is marked."""
        self.reach(())
        found = self._database.rows("SELECT state FROM candidate WHERE digest = ?", (digest,))
        return bool(found) and found[0][0] != _UNREACHED

    def pages(self, size: int) -> Iterator[list["Candidate"]]:
        """All of them, once all is marked. What lies together in the store is together here."""
        self._database.execute(
            "CREATE INDEX IF NOT EXISTS places ON candidate(place, digest, size, condemned_at, state)"
        )
        after: tuple[int, bytes] = -(2**63), b""
        while found := self._database.rows(
            "SELECT digest, size, condemned_at, state != ?, place FROM candidate "
            "WHERE (place, digest) > (?, ?) ORDER BY place, digest LIMIT ?",
            (_UNREACHED, *after, size),
        ):
            yield [Candidate(*row[:4]) for row in found]
            after = found[-1][4], found[-1][0]


def survey(
    store: BlobStore,
    candidates: Candidates,
    begun: float,
    *,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Add what has expired at `begun`, and what links to others; `advance` is told how many were seen."""

    def see(page: Sequence[BlobInfo], looked_at: int) -> None:
        candidates.add(page, begun)
        advance(looked_at)

    store.survey(see, expires_by=begun)


def mark(
    store: BlobStore,
    candidates: Candidates,
    *,
    advance: Callable[[int], object] = lambda _: None,
    damaged: Callable[[Digest], object] | None = None,
) -> None:
    """Find out which candidates are needed: by a pin, by a name, or by a blob that lived at the survey.

    Raises `IntegrityError` for a blob that is needed and cannot be read, unless there is a function to be
    told of it. `advance` is told how many blobs were looked at.
    """

    def expand(digests: Sequence[Digest]) -> None:
        for _, children in links_of(store, digests, damaged=damaged):
            candidates.reach(children)
        advance(len(digests))

    if isinstance(store, RootStore):
        _reach_roots(store, candidates)
    for digests in candidates.linking():
        expand(digests)
    while frontier := candidates.frontier():
        expand(frontier)


def _reach_roots(store: RootStore, candidates: Candidates) -> None:
    pin: tuple[str, Digest] | None = None
    while pins := store.scan_pins(after=pin, limit=_PAGE):
        candidates.reach([row.digest for row in pins])
        pin = pins[-1].owner, pins[-1].digest
    name: str | None = None
    while aliases := store.scan_aliases(after=name, limit=_PAGE):
        candidates.reach([row.digest for row in aliases])
        name = aliases[-1].name
