"""What checkpoints carry against what is pinned for them: every difference, and its remedy.

Pins are set before the checkpoint that needs them is written, and taken away after it is gone, so a process
that dies leaves a pin too many. Too few there are where a checkpoint was written without pins, or a power
cut took some that it had inherited; and one in memory may do with its parent's. All are found while graphs
run: a pin counts as stale if it was there before all checkpoints were listed, and no checkpoint of its
owner was, neither then nor at a second listing that began `grace` seconds later. So whoever needs less than
that from the pin to the checkpoint is never robbed of it.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, Final

from langgraph.checkpoint.base import BaseCheckpointSaver

from agentref.adapters.langgraph.differences import GcReport, Kind, PinDifference
from agentref.adapters.langgraph.ledger import IdlePin, Ledger, Suspect
from agentref.adapters.langgraph.listing import Carrier, apages_of, bridged, pages_of
from agentref.adapters.langgraph.pins import PREFIX
from agentref.adapters.langgraph.removals import removals
from agentref.adapters.langgraph.saver import ExternalizingSaver
from agentref.errors import BlobNotFoundError, ConfigurationError, IntegrityError, InvalidInputError
from agentref.refs import Digest
from agentref.runtime import Runtime
from agentref.storage import CAS, FOREVER, LEASE_SECONDS, PinRow
from agentref.storage.pruning import PrunableStore
from agentref.storage.walking import keep_alive, look_through

__all__ = ["acollect_pins", "collect_pins"]

_PAGE: Final = 1000
_AT_ONCE: Final = 256
_MAX_GRACE: Final = 24 * 3600.0

_Saver = BaseCheckpointSaver[Any]
_Savers = _Saver | Iterable[_Saver]
_Source = Callable[[], Iterator[list[Carrier]]]
_OF_STORE: Final = attrgetter("store")
_OF_OWNER: Final = attrgetter("owner")


def collect_pins(  # noqa: PLR0913
    saver: _Savers,
    backend: CAS,
    *,
    also: Iterable[CAS] = (),
    remove_stale: bool = False,
    dry_run: bool = False,
    grace: float = 60.0,
    on_difference: Callable[[PinDifference], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> GcReport:
    """Compare the refs that checkpoints carry with the pins of checkpoints, and mend what differs.

    What a checkpoint carries without a pin is pinned, with all that it needs. Pins of checkpoints that are
    gone are reported, and taken away if asked. Nothing is changed before all has been listed. Safe while
    graphs run and others prune; run it again at will.

    Several databases of checkpoints may share a store, and the pins of one that is not named here look
    stale. WITH `remove_stale` NAME THEM ALL: what is taken away wrongly is lost with the next prune.

    Args:
        saver: a sync checkpointer, wrapped by `externalize` or not, or a list of them: all that the stores
            are used with. Its `list(None)` has to give every checkpoint. A listing may hold a saver's lock:
            give it one with a connection of its own.
        backend: the store that the checkpoints were externalized to.
        also: more stores that refs name.
        remove_stale: take stale pins away. What nothing else needs goes with a later prune.
        dry_run: change nothing; the report tells what differs.
        grace: in seconds, up to a day: longer than any save takes from its pins to its checkpoint. Waited
            for once, and only if a pin looks idle.
        on_difference: called with each difference, when all has been listed.
        progress: called with the number of pins and checkpoints looked at so far.

    Costs a listing of all checkpoints and of all pins, and another one of both if they differ; a look at
    each payload. Memory is bounded (16 MiB, and what the saver's own listing needs); a temporary file grows
    with the number of pins. Raises `InvalidInputError`, `StorageError`, and `ConfigurationError` for a
    store that keeps no pins, and for `remove_stale` with a saver that has no checkpoint at all; what a
    saver raises comes as it is.
    """
    savers = _savers(saver)
    run = _Run(_runtime(backend, also), dry_run=dry_run, on_difference=on_difference, progress=progress)
    sources: list[_Source] = [partial(pages_of, each) for each in savers]
    return run.collect(sources, remove_stale=remove_stale, grace=_checked(grace))


async def acollect_pins(saver: _Savers, backend: CAS, **options: Any) -> GcReport:
    """`collect_pins` for async checkpointers, with its options.

    They are listed on the event loop; all else, `on_difference` and `progress` too, runs in a thread.
    """
    savers = _savers(saver)
    loop = asyncio.get_running_loop()
    remove_stale, grace = options.pop("remove_stale", False), _checked(options.pop("grace", 60.0))
    run = _Run(_runtime(backend, options.pop("also", ())), **options)
    sources: list[_Source] = [partial(_bridged, each, loop) for each in savers]
    try:
        return await asyncio.to_thread(run.collect, sources, remove_stale=remove_stale, grace=grace)
    finally:
        run.stopped.set()


def _bridged(saver: _Saver, loop: asyncio.AbstractEventLoop) -> Iterator[list[Carrier]]:
    return bridged(apages_of(saver), loop)


def _savers(given: _Savers) -> list[_Saver]:
    savers = [given] if isinstance(given, BaseCheckpointSaver) or not isinstance(given, Iterable) else given
    found: list[_Saver] = []
    for saver in savers:
        if not isinstance(saver, BaseCheckpointSaver):
            raise InvalidInputError(
                f"saver must be a checkpointer of LangGraph or several, not {type(saver).__qualname__}. "
                f"If from_conn_string() returned it: `with ... as saver:`, and give that saver."
            )
        inner = saver
        while isinstance(inner, ExternalizingSaver):
            inner = inner.inner
        found.append(inner)
    if not found:
        raise InvalidInputError(
            "saver is an empty list: give all checkpointers that the store is used with."
        )
    return found


def _runtime(backend: CAS, also: Iterable[CAS]) -> Runtime:
    runtime = Runtime(backend, also=also, inline_threshold_bytes=0)
    for store in runtime.stores:
        _rows(store)
    return runtime


def _rows(store: CAS) -> PrunableStore:
    """The rows of a store's pins and blobs. Raises `ConfigurationError` if it keeps no pins."""
    return store._prunable()  # noqa: SLF001  (rows are nothing that users of a CAS should rely on)


def _checked(grace: object) -> float:
    if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not 0 <= grace <= _MAX_GRACE:
        raise InvalidInputError(
            f"grace must be a number of seconds from 0 to {_MAX_GRACE:,.0f}, not {grace!r:.40}."
        )
    return float(grace)


class _Stopped(Exception):  # noqa: N818
    """Whoever asked does not wait any longer."""


class _Run:
    """One collection. For one thread but for `stopped`."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        dry_run: bool = False,
        on_difference: Callable[[PinDifference], None] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        for name, function in (("on_difference", on_difference), ("progress", progress)):
            if function is not None and not callable(function):
                raise InvalidInputError(f"{name} must be a function of one argument, not {function!r:.80}.")
        self.stopped = threading.Event()
        self._runtime = runtime
        self._stores = runtime.stores
        self._numbers = {store.backend_id: number for number, store in enumerate(self._stores)}
        self._dry_run = dry_run
        self._on_difference = on_difference or (lambda _: None)
        self._progress = progress or (lambda _: None)
        self._looked_at = self._checkpoints = self._pins = self._pinned = self._removed = 0
        self._counts = dict.fromkeys(("unpinned", "missing", "damaged", "foreign", "stale", "surplus"), 0)

    def collect(self, sources: list[_Source], *, remove_stale: bool, grace: float) -> GcReport:
        with removals.under_way(), closing(Ledger(len(self._stores))) as ledger:
            for store, page in self._pages_of_pins():
                ledger.add_pins(store, page)
                self._pins += len(page)
            begun = time.monotonic()
            empty: list[int] = []
            for number, source in enumerate(sources, 1):
                before = self._checkpoints
                self._look(ledger, source)
                if self._checkpoints == before:
                    empty.append(number)
            if ledger.needs_second_look():
                if ledger.has_idle_pins() and self.stopped.wait(max(begun + grace - time.monotonic(), 0.0)):
                    raise _Stopped
                ledger.begin_second_look()
                for source in sources:
                    self._look_again(ledger, source)
                for store, page in self._pages_of_pins():
                    ledger.note_pins_again(store, page)
            if remove_stale and empty and ledger.has_stale_pins():
                raise ConfigurationError(
                    f"Saver {', '.join(map(str, empty))} of the {len(sources)} given holds no checkpoint "
                    f"at all, and pins look stale: if it is the wrong database, what they keep would be "
                    f"lost. Nothing was changed. Leave it out; or, if it was emptied on purpose and is the "
                    f"only one, take the pins away with unpin()."
                )
            self._mend(ledger)
            self._settle_idle(ledger, remove=remove_stale and not self._dry_run)
        return self._report()

    # Looking

    def _pages_of_pins(self) -> Iterator[tuple[int, list[PinRow]]]:
        for number, store in enumerate(self._stores):
            after: tuple[str, Digest] | None = None
            while page := list(_rows(store).scan_pins(prefix=PREFIX, after=after, limit=_PAGE)):
                after = page[-1].owner, page[-1].digest
                yield number, page
                self._advance(len(page))

    def _look(self, ledger: Ledger, source: _Source) -> None:
        for page in source():
            refs = [self._placed(carrier) for carrier in page]
            absent = self._absent(ledger, {ref for each in refs for ref in each if ref[0] >= 0})
            for carrier, each in zip(page, refs, strict=True):
                pinned = ledger.mark(carrier, {**self._elsewhere(carrier), **each})
                for (store, digest), backend in each.items():
                    if store < 0:
                        kind = "foreign"
                    elif (store, digest) in absent:
                        kind = "missing"
                    elif (store, digest) not in pinned:
                        kind = "unpinned"
                    else:
                        continue
                    ledger.suspect(Suspect(carrier.owner, store, backend, digest, kind, *carrier[1:4]))
            self._checkpoints += len(page)
            self._advance(len(page))

    def _look_again(self, ledger: Ledger, source: _Source) -> None:
        for page in source():
            for carrier in page:
                refs = self._placed(carrier)
                ledger.mark(carrier, {**self._elsewhere(carrier), **refs})
                ledger.confirm(carrier, refs)
            self._advance(len(page))

    def _placed(self, carrier: Carrier) -> dict[tuple[int, Digest], str]:
        """The number of the store and the digest of each ref, and what the ref calls the store."""
        placed = {}
        for ref in carrier.refs:
            store = self._runtime.store_for(ref)
            number = -1 if store is None else self._numbers[store.backend_id]
            placed[number, ref.digest] = ref.backend_id or ""
        return placed

    def _elsewhere(self, carrier: Carrier) -> dict[tuple[int, Digest], str]:
        """Where refs are pinned besides: in stores that answer to a name which is not their own."""
        return {
            (self._numbers[store.backend_id], ref.digest): ref.backend_id or ""
            for ref in carrier.refs
            for store in self._runtime.stores_for(ref)
        }

    def _absent(self, ledger: Ledger, refs: Iterable[tuple[int, Digest]]) -> set[tuple[int, Digest]]:
        unknown = sorted(ledger.unknown(refs))
        absent = set(unknown)
        for number, few in groupby(unknown, lambda ref: ref[0]):
            here = _rows(self._stores[number]).stat([digest for _, digest in few])
            ledger.add_here(number, here)
            absent.difference_update((number, digest) for digest in here)
        return absent

    def _advance(self, count: int) -> None:
        if self.stopped.is_set():
            raise _Stopped
        self._looked_at += count
        self._progress(self._looked_at)

    # Mending

    def _mend(self, ledger: Ledger) -> None:
        for suspect in ledger.suspects("foreign"):
            self._tell("foreign", suspect)
        for suspect in ledger.suspects("missing"):
            if not _rows(self._stores[suspect.store]).stat([suspect.digest]):
                self._tell("missing", suspect)
        unpinned = ledger.suspects("unpinned")
        while batch := list(islice(unpinned, _AT_ONCE)):
            self._pin(batch)

    def _pin(self, batch: list[Suspect]) -> None:
        """Pin what is whole, and tell of the rest."""
        by_store: dict[int, set[Digest]] = {}
        for suspect in batch:
            by_store.setdefault(suspect.store, set()).add(suspect.digest)
        broken = {
            (store, digest): kind
            for store, digests in by_store.items()
            for digest, kind in self._broken(store, digests).items()
        }
        whole = []
        for suspect in batch:
            kind = broken.get((suspect.store, suspect.digest), "unpinned")
            self._tell(kind, suspect)
            if kind == "unpinned":
                whole.append(suspect)
        if self._dry_run:
            return
        for store, few in groupby(sorted(whole, key=_OF_STORE), _OF_STORE):
            rows = [PinRow(suspect.owner, suspect.digest, FOREVER) for suspect in few]
            _rows(self._stores[store]).pin(rows)
            self._pinned += len(rows)

    def _broken(self, store: int, digests: set[Digest]) -> dict[Digest, Kind]:
        """What of it is not whole, and why; what is whole has time to be pinned."""
        if self._keep(store, digests) is None:
            return {}
        found = {digest: self._keep(store, {digest}) for digest in digests}
        return {digest: kind for digest, kind in found.items() if kind is not None}

    def _keep(self, store: int, digests: set[Digest]) -> Kind | None:
        blobs = _rows(self._stores[store])
        try:
            if self._dry_run:
                look_through(blobs, digests, called="A checkpoint")
            else:
                keep_alive(blobs, digests, blobs.clock() + LEASE_SECONDS, called="A checkpoint")
        except BlobNotFoundError:
            return "missing"
        except IntegrityError:
            return "damaged"
        return None

    # Pins that nothing needs

    def _settle_idle(self, ledger: Ledger, *, remove: bool) -> None:
        for store, pins in groupby(ledger.idle_pins(), _OF_STORE):
            stale = groupby(self._told(pins), _OF_OWNER)
            while owners := [owner for owner, _ in islice(stale, _AT_ONCE)]:
                if remove:
                    self._removed += _rows(self._stores[store]).unpin(owners)

    def _told(self, pins: Iterable[IdlePin]) -> Iterator[IdlePin]:
        """Tell of each, and go on with those that are stale."""
        for pin in pins:
            kind: Kind = "stale" if pin.is_stale else "surplus"
            self._counts[kind] += 1
            name = self._stores[pin.store].backend_id
            self._on_difference(PinDifference(kind, pin.owner, pin.digest.hex(), name))
            if pin.is_stale:
                yield pin

    def _tell(self, kind: Kind, suspect: Suspect) -> None:
        self._counts[kind] += 1
        name = suspect.backend if suspect.store < 0 else self._stores[suspect.store].backend_id
        self._on_difference(PinDifference(kind, suspect.owner, suspect.digest.hex(), name, *suspect[5:8]))

    def _report(self) -> GcReport:
        return GcReport(
            dry_run=self._dry_run,
            checkpoints=self._checkpoints,
            pins=self._pins,
            pinned=self._pinned,
            removed=self._removed,
            **self._counts,
        )
