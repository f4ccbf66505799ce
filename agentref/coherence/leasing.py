"""Leases of a coordinator."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from agentref.coherence import _arguments as arguments
from agentref.coherence import _steps as steps
from agentref.coherence import rules
from agentref.coherence._refusals import conflict
from agentref.coherence.keys import Key, decode_key, encode_key
from agentref.coherence.leases import Lease
from agentref.coherence.observer import NO_SPAN, spanned
from agentref.coherence.rows import ABSENT, Held, LeaseMode, Row
from agentref.coherence.rules import Refusal, Wanted
from agentref.coherence.transacting import Decided, Transacting, token_of
from agentref.errors import StorageError

__all__ = ["Leasing"]


class Leasing(Transacting):
    """Rights to write, for a while, each with a fence."""

    def acquire(
        self,
        key: Key,
        *,
        holder: str,
        ttl: float,
        mode: LeaseMode | str = LeaseMode.EXCLUSIVE,
        wait: float = 0.0,
    ) -> Lease:
        """A lease of `ttl` seconds. Waits up to `wait` seconds for others; who waits first is next.

        Raises `Conflict` (`held_by_other`), which names who is in the way. A holder that has a lease
        already is refused as well: two tasks of one agent are two.
        """
        return steps.run(self.acquiring(key, holder, ttl, arguments.check_mode(mode), wait))[0]

    def renew(self, lease: Lease, *, ttl: float | None = None) -> Lease:
        """The lease, which ends `ttl` seconds from now (its own length if none is given) or when it did,
        whichever is later. Raises `Conflict` (`lease_lost`) if it has ended."""
        code = arguments.own_lease(lease, self.coordinator_id)
        seconds = lease.ttl if ttl is None else arguments.check_seconds("ttl", ttl)

        def decide(rows: Mapping[bytes, Row], now: float) -> Decided:
            row, outcome = rules.renew(rows[code], token_of(lease), seconds, now)
            if isinstance(outcome, Refusal):
                raise conflict(self.coordinator_id, outcome, lease.key, None, row)
            return {code: row}, (), outcome

        return self._leased(lease.key, self.transact(lease.holder, [code], decide)[1])

    def release(self, lease: Lease) -> None:
        """End the lease. With an exclusive one goes whatever its holder read under it: a commit from a view
        of before is refused. Does nothing if the lease has ended already."""
        code = arguments.own_lease(lease, self.coordinator_id)
        self.transact(
            lease.holder,
            [code],
            lambda rows, now: ({code: rules.release(rows[code], token_of(lease), now)}, (), None),
        )

    def recover(self, agent: str) -> list[Key]:
        """End every lease of an agent, to be called when it starts again after a crash: of what it held,
        nothing that it still has in flight is accepted. Returns the keys. Costs a look at every row with a
        lease.

        Those by which the strategies `lease` and `access_count` read without asking end by themselves: the
        agent might still be reading.
        """
        arguments.check_agent("agent", agent)
        found = []
        for code in self.table.leased(math.inf):
            row = self.table.load([code]).get(code, ABSENT)
            if any(held.holder == agent and not held.promised for held in row.leases):
                self._evict(code, agent)
                found.append(decode_key(code))
        return found

    def leases(self, key: Key) -> Sequence[Lease]:
        """The leases on a key that live now."""
        rows = self.settled([encode_key(key)])
        return [self._leased(key, held) for row in rows.values() for held in row.leases if not held.waits]

    def acquiring(  # noqa: PLR0913
        self, key: Key, holder: str, ttl: float, mode: LeaseMode, wait: float, *, promised: bool = False
    ) -> steps.Steps[tuple[Lease, Row]]:
        """`acquire`, step by step; the row under the lease comes with it."""
        arguments.check_agent("holder", holder)
        code = encode_key(key)
        ttl = arguments.check_seconds("ttl", ttl)
        until = time.monotonic() + arguments.check_seconds("wait", wait, zero=True)
        with NO_SPAN if not self.spanning else spanned(self.spanning, "acquire", holder, [key]):
            while True:
                tried = time.monotonic()
                row, outcome = self._try_acquire(code, Wanted(holder, mode, ttl, until - tried, promised))
                if isinstance(outcome, Held):
                    return self._leased(key, outcome), row
                for pause in steps.pauses(until):
                    try:
                        yield pause
                    except GeneratorExit:  # who waited was cancelled, and is to be in nobody's way
                        self._withdraw(code, holder)
                        raise
                    ended = outcome.until is not None and outcome.until <= self.table.clock()
                    due = time.monotonic() - tried > rules.PLACE_SECONDS / 2
                    if ended or due or self.table.probe(code) != row.revision:
                        break
                else:
                    raise self.noted(holder, conflict(self.coordinator_id, outcome, key, None, row))

    def _try_acquire(self, code: bytes, wanted: Wanted) -> tuple[Row, Held | Refusal]:
        def decide(rows: Mapping[bytes, Row], now: float) -> Decided:
            row, outcome = rules.acquire(rows[code], wanted, now)
            return {code: row}, (), outcome

        rows, outcome = self.transact(wanted.agent, [code], decide)
        return rows[code], outcome

    def _withdraw(self, code: bytes, agent: str) -> None:
        with suppress(StorageError):  # its place in the queue ends by itself
            self.transact(
                agent, [code], lambda rows, now: ({code: rules.withdraw(rows[code], agent, now)}, (), None)
            )

    def _evict(self, code: bytes, agent: str) -> None:
        self.transact(
            agent,
            [code],
            lambda rows, now: ({code: rules.evict(rows[code], agent, now)}, (), None),
            evicts=True,
        )

    def _leased(self, key: Key, held: Held) -> Lease:
        return Lease(self.coordinator_id, key, held.holder, held.mode, held.fence, held.until, held.ttl)
