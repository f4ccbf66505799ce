"""What every verb of a coordinator is made of: rows that are settled, and transitions that are told."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from agentref.coherence import rules
from agentref.coherence.feed import Change, pack_entry
from agentref.coherence.keys import decode_key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.observer import Observer, RowChange, Spanning
from agentref.coherence.rows import ABSENT, Row, Versioned, versioned
from agentref.coherence.rules import Asked, Base, Token
from agentref.coherence.table import Decision, Table, Transition
from agentref.errors import Conflict

__all__ = ["Decided", "Transacting", "base_of", "token_of"]

NOTHING_ASKED: Final[Mapping[bytes, Asked]] = {}

Decided = tuple[Mapping[bytes, Row], Sequence[Change], Any]
Deciding = Callable[[Mapping[bytes, Row], float], Decided]
"""From rows and the time to the rows as they are to be, what to announce, and a result."""


class Transacting:
    """A table, and those who watch what happens to it."""

    def __init__(self, table: Table, *, observers: Iterable[Observer] = ()) -> None:
        self.table = table
        self.observers = tuple(observers)
        self.spanning = tuple(each for each in self.observers if isinstance(each, Spanning))
        self._id: str | None = None

    @property
    def coordinator_id(self) -> str:
        """The name of this coordinator's data, the same wherever and whenever it is opened."""
        if self._id is None:
            self._id = self.table.table_id
        return self._id

    def settled(self, codes: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows as of one moment. A lease among them that has expired is taken back first, so that
        nobody sees a row as it will be and another as it was."""
        rows = self.table.load(codes)
        if any(row.leases for row in rows.values()):
            now = self.table.clock()
            if any(rules.settle(row, now) is not row for row in rows.values()):
                return self.transact(
                    "", codes, lambda rows, now: ({c: rules.settle(rows[c], now) for c in codes}, (), None)
                )[0]
        return {code: rows.get(code, ABSENT) for code in codes}

    def transact(
        self,
        agent: str,
        codes: Sequence[bytes],
        decide: Deciding,
        *,
        asked: Mapping[bytes, Asked] = NOTHING_ASKED,
        evicts: bool = False,
    ) -> tuple[dict[bytes, Row], Any]:
        """Decide on rows and carry it out; the rows as they are then, and what was decided. `asked` and
        `evicts` are for those who watch."""
        revision = int.from_bytes(os.urandom(8)) >> 1 or 1
        seen: tuple[Mapping[bytes, Row], float] = {}, 0.0

        def stamped(rows: Mapping[bytes, Row], now: float) -> Decision:
            nonlocal seen
            seen = rows, now
            new, changes, result = decide(rows, now)
            moved = {c: row._replace(revision=revision) for c, row in new.items() if row is not rows[c]}
            transition = Transition(moved, pack_entry(changes) if changes else None) if moved else None
            return Decision(transition, ({**rows, **moved}, result))

        try:
            rows, result = self.table.transact(codes, stamped)
        except Conflict as error:
            self._repair(error, seen[0])
            raise self.noted(agent, error) from None
        if self.observers:
            old, now = seen
            for code, row in rows.items():
                if row is not old[code]:
                    told = decode_key(code), agent, old[code], row, now, asked.get(code), evicts
                    for observer in self.observers:
                        observer.changed(RowChange(self.coordinator_id, *told))
        return rows, result

    def _repair(self, error: Conflict, seen: Mapping[bytes, Row]) -> None:
        """Let `current` be what can be a base: not a row with a lease that is about to be taken back."""
        code = encode_key(error.key)
        if seen[code].leases:
            error.current = versioned(self.coordinator_id, error.key, self.settled([code])[code])

    def noted(self, agent: str, error: Conflict) -> Conflict:
        """The error, of which the observers have been told."""
        for observer in self.observers:
            observer.refused(agent, error)
        return error


def base_of(view: Versioned) -> Base:
    return Base(view.version, view.ref, view.epoch)


def token_of(lease: Lease) -> Token:
    return Token(lease.holder, lease.fence)
