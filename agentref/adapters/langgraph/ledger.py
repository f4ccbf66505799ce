# ruff: noqa: S608  (every part of a statement is a constant of this file; values travel beside it)
"""What was seen of pins and of checkpoints, and how the two differ; on disk if it is much.

Whatever differs is looked at twice, since graphs may run meanwhile: first the pins are noted, then all
checkpoints are listed, and, where the two do not agree, listed again. What is noted of a difference at the
first look counts if the second one, and the pins of that time, say the same.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from agentref.adapters.langgraph.listing import Carrier
from agentref.refs import Digest
from agentref.sqlite import Scratch
from agentref.storage import PinRow

__all__ = ["IdlePin", "Ledger", "Suspect"]

# How much of a pin was seen: nothing of its owner, the owner's checkpoint, that checkpoint with that ref.
_UNLISTED, _LISTED, _CARRIED = range(3)

_SCHEMA: Final = f"""
CREATE TABLE pin(
    store INTEGER, owner TEXT, digest BLOB, state INTEGER NOT NULL, is_there INTEGER NOT NULL,
    PRIMARY KEY (store, owner, digest)
) WITHOUT ROWID;
CREATE INDEX idle ON pin(store, owner, digest) WHERE state < {_CARRIED};
CREATE TABLE suspect(
    owner TEXT, store INTEGER, backend TEXT, digest BLOB, kind TEXT NOT NULL, looks INTEGER NOT NULL,
    thread_id TEXT NOT NULL, checkpoint_ns TEXT NOT NULL, checkpoint_id TEXT NOT NULL,
    PRIMARY KEY (owner, store, digest, backend)
) WITHOUT ROWID;
CREATE TABLE here(store INTEGER, digest BLOB, PRIMARY KEY (store, digest)) WITHOUT ROWID;
"""


class Suspect(NamedTuple):
    """A ref in a checkpoint that something may be wrong with. `store` is a number, -1 for one that is not
    configured; `backend` is what the ref calls it."""

    owner: str
    store: int
    backend: str
    digest: Digest
    kind: str
    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str


class IdlePin(NamedTuple):
    """A pin to what no checkpoint carries; `is_stale` if its owner's checkpoint is not there at all."""

    store: int
    owner: str
    digest: Digest
    is_stale: bool


class Ledger:
    """Of pins in so many stores, which are numbers here. For one thread. Raises as `Scratch` does."""

    def __init__(self, stores: int) -> None:
        self._stores = range(stores)
        self._database = Scratch(_SCHEMA)

    def close(self) -> None:
        """Forget all of it."""
        self._database.close()

    # The first look

    def add_pins(self, store: int, page: Sequence[PinRow]) -> None:
        """These pins were there before the checkpoints were listed."""
        self._database.executemany(
            "INSERT OR IGNORE INTO pin VALUES (?, ?, ?, ?, 1)",
            [(store, row.owner, row.digest, _UNLISTED) for row in page],
        )

    def mark(self, carrier: Carrier, refs: Collection[tuple[int, Digest]]) -> set[tuple[int, Digest]]:
        """This checkpoint is there, with these refs, each to a store. Returns those that were pinned."""
        self._database.executemany(
            "UPDATE pin SET state = ? WHERE store = ? AND owner = ? AND state = ?",
            [(_LISTED, store, carrier.owner, _UNLISTED) for store in self._stores],
        )
        mark = "UPDATE pin SET state = ? WHERE store = ? AND owner = ? AND digest = ?"
        return {
            (store, digest)
            for store, digest in refs
            if self._database.execute(mark, (_CARRIED, store, carrier.owner, digest))
        }

    def unknown(self, refs: Iterable[tuple[int, Digest]]) -> list[tuple[int, Digest]]:
        """Those of which it is not known that they are in their store."""
        ask = "SELECT 1 FROM here WHERE store = ? AND digest = ?"
        return [ref for ref in refs if not self._database.rows(ask, ref)]

    def add_here(self, store: int, digests: Iterable[Digest]) -> None:
        """They are in that store."""
        self._database.executemany(
            "INSERT OR IGNORE INTO here VALUES (?, ?)", [(store, digest) for digest in digests]
        )

    def suspect(self, found: Suspect) -> None:
        """Note what may be a difference."""
        owner, store, backend, digest, kind, *place = found
        self._database.execute(
            "INSERT OR IGNORE INTO suspect VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?)",
            (owner, store, backend, digest, kind, *place),
        )

    # The second one

    def has_idle_pins(self) -> bool:
        """Whether there is a pin to what no checkpoint was seen to carry."""
        return self._any(f"SELECT 1 FROM pin WHERE state < {_CARRIED}")

    def has_stale_pins(self) -> bool:
        """Whether there is a pin of a checkpoint that was not seen."""
        return self._any(f"SELECT 1 FROM pin WHERE state = {_UNLISTED} AND is_there")

    def needs_second_look(self) -> bool:
        """Whether anything differs that may look otherwise soon."""
        return self.has_idle_pins() or self._any("SELECT 1 FROM suspect WHERE kind != 'foreign'")

    def begin_second_look(self) -> None:
        """From now on nothing is suspected that was not before; what is `mark`ed again is confirmed."""
        self._database.execute(f"UPDATE pin SET is_there = 0 WHERE state < {_CARRIED}")

    def confirm(self, carrier: Carrier, refs: Iterable[tuple[int, Digest]]) -> None:
        """What was suspected of a checkpoint holds at the second look as well, if it carries that still."""
        self._database.executemany(
            "UPDATE suspect SET looks = 2 WHERE owner = ? AND store = ? AND digest = ?",
            [(carrier.owner, store, digest) for store, digest in refs],
        )

    def note_pins_again(self, store: int, page: Sequence[PinRow]) -> None:
        """These pins are there after the second look."""
        found = [(store, row.owner, row.digest) for row in page]
        self._database.executemany(
            f"UPDATE pin SET is_there = 1 WHERE store = ? AND owner = ? AND digest = ? "
            f"AND state < {_CARRIED}",
            found,
        )
        self._database.executemany(
            "DELETE FROM suspect WHERE store = ? AND owner = ? AND digest = ? AND kind = 'unpinned'", found
        )

    # What came of it

    def suspects(self, kind: str) -> Iterator[Suspect]:
        """What was confirmed, in the order of owners."""
        looks = 1 if kind == "foreign" else 2
        found = self._database.pages(
            "SELECT owner, store, backend, digest, kind, thread_id, checkpoint_ns, checkpoint_id "
            "FROM suspect WHERE kind = ? AND looks >= ? ORDER BY owner, store, digest, backend",
            (kind, looks),
        )
        for page in found:
            yield from map(Suspect._make, page)

    def idle_pins(self) -> Iterator[IdlePin]:
        """The pins that are there and that no look found a use for, in the order of stores and owners."""
        found = self._database.pages(
            f"SELECT store, owner, digest, state FROM pin WHERE state < {_CARRIED} AND is_there "
            f"ORDER BY store, owner, digest"
        )
        for page in found:
            for store, owner, digest, state in page:
                yield IdlePin(store, owner, Digest(digest), state == _UNLISTED)

    def _any(self, query: str) -> bool:
        return bool(self._database.rows(query + " LIMIT 1"))
