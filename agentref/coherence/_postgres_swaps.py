"""Deciding on rows of PostgreSQL and carrying it out, in as few round trips as it takes."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from agentref.coherence._postgres_rows import Chosen, choose, rows_of
from agentref.coherence.rows import Row
from agentref.coherence.table import Decide
from agentref.errors import StorageError, StoreBusyError, StoreUnavailableError
from agentref.postgres import Connection, artifacts
from agentref.postgres.artifacts import Found, Swapped
from agentref.postgres.errors import is_lost

__all__ = ["Recent", "Swaps"]

_Run = Callable[[Callable[[Connection], Any]], Any]

_REMEMBERED: Final = 4096
_ATTEMPTS: Final = 16


class Recent:
    """Rows as they were seen last; what they are by now is for the database to say. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[bytes, Row] = {}

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Row] | None:
        """The rows of these keys, if all are known."""
        rows = self._rows
        try:
            return {key: rows[key] for key in keys}
        except KeyError:
            return None

    def see(self, rows: Mapping[bytes, Row]) -> None:
        """They are like that now."""
        with self._lock:
            for key, row in rows.items():
                self._rows.pop(key, None)
                self._rows[key] = row
            while len(self._rows) > _REMEMBERED:
                del self._rows[next(iter(self._rows))]

    def after_fork_in_child(self) -> None:
        """No thread of the parent is half-way through anything here."""
        self._lock = threading.Lock()


class Swaps:
    """Has it decided on rows, and swaps them.

    First on the rows that were seen last, and at the time that it should be: one round trip, if nobody came
    in between. A refusal counts only on rows as they are, and so does a decision that changes nothing. Who
    loses a race locks the rows before it is decided again: it can be lost no second time.

    Args:
        run: gives work to a connection, perhaps again after that was lost.
        clock: about the server's time.
        shown: the database, for messages.
        joined: whether the transaction is somebody else's.
    """

    def __init__(self, run: _Run, clock: Callable[[], float], shown: str, *, joined: bool) -> None:
        self.recent = Recent()
        self._run = run
        self._clock = clock
        self._shown = shown
        self._joined = joined

    def transact(
        self, keys: Sequence[bytes], decide: Decide, lost: Callable[[Sequence[bytes]], None]
    ) -> Chosen:
        """What was decided, once it is carried out. `lost` is told of a race that was."""
        chosen = self._guess(keys, decide) or self._decide(decide, self.load(keys), keys)
        if chosen.swap is None:
            return chosen
        swapped = self._swap(chosen)
        if swapped.applied:
            return self._done(chosen)
        lost(keys)
        # Perhaps there is nothing to do any more; if there is, it is decided again under a lock.
        chosen = self._decide(decide, swapped.found, keys)
        for _ in range(_ATTEMPTS + len(keys)):
            if chosen.swap is None:
                return chosen
            chosen, applied = self._swap_locked(keys, decide)
            if applied:
                return self._done(chosen)
        raise StoreBusyError(
            f"The rows in PostgreSQL ({self._shown}) change all the time. Nothing was changed; try again."
        )

    def load(self, keys: Sequence[bytes]) -> Found:
        """The rows as they are, and the time."""
        found: Found = self._run(lambda connection: artifacts.load(connection, keys))
        return found

    def _guess(self, keys: Sequence[bytes], decide: Decide) -> Chosen | None:
        rows = self.recent.get(keys)
        if rows is None:
            return None
        try:
            chosen = choose(decide, rows, self._clock(), exact=False)
        except StorageError:
            raise
        except Exception:  # noqa: BLE001  (whatever it is, it may be none on the rows as they are)
            return None
        return chosen if chosen.swap is not None else None

    def _decide(self, decide: Decide, found: Found, keys: Sequence[bytes]) -> Chosen:
        rows = rows_of(found.rows, keys)
        self.recent.see(rows)
        return choose(decide, rows, found.clock, exact=False)

    def _done(self, chosen: Chosen) -> Chosen:
        if chosen.transition is not None:
            self.recent.see(chosen.transition.rows)
        return chosen

    def _swap(self, chosen: Chosen) -> Swapped:
        wanted = chosen.swap
        assert wanted is not None  # noqa: S101
        doubt = _Doubt(self._shown)

        def work(connection: Connection) -> Swapped:
            with doubt.watch(connection):
                return artifacts.swap_now(connection, wanted)

        # The same swap twice is as good as once: it leads from a revision to one that nobody else draws.
        with doubt:
            swapped: Swapped = self._run(work)
            if not swapped.applied and doubt.is_there:
                if not chosen.is_done(rows_of(swapped.found.rows, list(chosen.rows))):
                    doubt.tell()
                return swapped._replace(applied=True)
        return swapped

    def _swap_locked(self, keys: Sequence[bytes], decide: Decide) -> tuple[Chosen, bool]:
        doubt = _Doubt(self._shown)
        tried: Chosen | None = None

        def work(connection: Connection) -> tuple[Chosen, bool]:
            nonlocal tried
            with doubt.watch(connection), artifacts.pipeline(connection) as sent, connection.transaction():
                found = artifacts.lock(connection, keys, sent, hurry=not self._joined)
                rows = rows_of(found.rows, keys)
                if tried is not None and doubt.is_there:
                    if tried.is_done(rows):
                        return tried, True
                    # Nobody has them locked but us: what was tried is over, or would wait for a new row.
                    if any(not row.revision or row != tried.rows[key] for key, row in rows.items()):
                        doubt.tell()
                tried = None
                chosen = choose(decide, rows, found.clock, exact=True)
                if chosen.swap is None:
                    return chosen, False
                tried = chosen
                cursor = artifacts.swap(connection, chosen.swap)
            return chosen, artifacts.swapped(cursor).applied

        with doubt:
            result: tuple[Chosen, bool] = self._run(work)
        return result


class _Doubt:
    """Whether a connection was lost while it is not known what became of a swap."""

    def __init__(self, shown: str) -> None:
        self.is_there = False
        self._shown = shown
        self._connection: Connection | None = None

    def watch(self, connection: Connection) -> "_Doubt":
        """Have it noted if this one is lost."""
        self._connection = connection
        return self

    def tell(self) -> None:
        """Nobody will ever know."""
        raise StoreUnavailableError(self._words())

    def _words(self) -> str:
        return (
            f"The connection to PostgreSQL ({self._shown}) was lost while rows were changed, and whether "
            f"that took effect is not known: others may have changed them since. Read again, and decide on "
            f"what stands there now."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._connection is not None and error is not None and is_lost(error, self._connection):
            self.is_there = True
        elif self.is_there and isinstance(error, StoreUnavailableError) and str(error) != self._words():
            raise StoreUnavailableError(self._words()) from error
