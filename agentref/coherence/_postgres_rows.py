"""Rows as columns of PostgreSQL, and how long a decision on them holds."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from agentref.coherence.rows import ABSENT, Held, Row, columns_of, row_of
from agentref.coherence.table import Decide, Transition
from agentref.postgres.artifacts import Swap

__all__ = ["Chosen", "choose", "rows_of"]

_SLACK: Final = 8
_ALWAYS: Final = -math.inf, math.inf


class Chosen(NamedTuple):
    """What was decided on these rows; `swap` carries it out, and is None if nothing changes."""

    rows: Mapping[bytes, Row]
    transition: Transition | None
    result: Any
    swap: Swap | None

    def is_done(self, rows: Mapping[bytes, Row]) -> bool:
        """Whether these are the rows that it leads to: nobody else draws the same revision."""
        moved = self.transition.rows if self.transition else {}
        return all(rows[key].revision == row.revision for key, row in moved.items())


def choose(decide: Decide, rows: Mapping[bytes, Row], now: float, *, exact: bool) -> Chosen:
    """Have it decided. With a time that is not `exact`, a lease is not granted if that was far off."""
    transition, result = decide(rows, now)
    if transition is None:
        return Chosen(rows, None, result, None)
    moved = transition.rows
    not_before, deadline = _window(rows.values(), now)
    if not exact and (granted := [ttl for key in moved for ttl in _granted(rows[key], moved[key])]):
        slack = min(granted) / _SLACK
        not_before, deadline = max(not_before, now - slack), min(deadline, now + slack)
    wanted = {key: (rows[key].revision, _to_write(rows[key], moved.get(key))) for key in sorted(rows)}
    return Chosen(rows, transition, result, Swap(wanted, not_before, deadline, transition.entry, now))


def rows_of(found: Iterable[tuple[Any, ...]], keys: Sequence[bytes]) -> dict[bytes, Row]:
    """The rows of all these keys. Raises `MalformedBlobError` for columns that are none."""
    rows = dict.fromkeys(keys, ABSENT)
    rows.update((columns[0], row_of(columns)) for columns in found)
    return rows


def _to_write(old: Row, new: Row | None) -> tuple[Any, ...] | None:
    if new is None:
        if old is not ABSENT:
            return None
        # What is not there cannot be locked, so it is made: an artifact that was never written.
        new = Row(revision=int.from_bytes(os.urandom(8)) >> 1 or 1)
    return columns_of(new)


def _granted(old: Row, new: Row) -> list[float]:
    return [held.ttl for held in new.leases if not held.waits and held not in old.leases]


def _window(rows: Iterable[Row], now: float) -> tuple[float, float]:
    """Between which times each of the leases is alive, or has ended, as it is now."""
    not_before, deadline = _ALWAYS
    for held in (held for row in rows for held in row.leases):
        begun = _begun(held)
        if held.until <= now:
            not_before = max(not_before, held.until)
        elif begun > now:
            deadline = min(deadline, begun)
        else:
            not_before, deadline = max(not_before, begun), min(deadline, held.until)
    return not_before, deadline


def _begun(held: Held) -> float:
    """Before that, more is left of the lease than twice its length: it has ended, as the rules have it."""
    return held.until - 2 * held.ttl
