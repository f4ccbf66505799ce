"""One writer a thread: whoever saves holds a lease on the thread, and who has lost it saves nothing more.

A run reads a checkpoint and saves others after it. It forks the thread if somebody else saves in between.
So the epoch of the thread, which goes up whenever a writer's lease ends, is noted at each read, before it,
and at each save; and a save is refused unless its parent was read or saved in an epoch since which nobody
else has held the thread. A lease that merely expired, in a long step, is taken anew if nobody had one
meanwhile.
"""

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.runnables import RunnableConfig

from agentref.adapters.langgraph.naming import thread_key
from agentref.adapters.langgraph.refusals import held_by_other, lost, stale
from agentref.adapters.langgraph.worker import Worker
from agentref.coherence import Coordinator, HeldLease, Key, Lease, LeaseMode, Versioned
from agentref.coherence import _steps as steps
from agentref.coherence._arguments import check_seconds
from agentref.coherence.heartbeat import Heartbeat
from agentref.coherence.held import Blocks
from agentref.coherence.keys import encode_key
from agentref.coherence.rows import Row, versioned
from agentref.errors import AgentRefError, Conflict

__all__ = ["Fences"]

_RENEWED_AFTER: Final = 1 / 3  # of a lease
_UNKNOWN: Final = -1
_MAX_THREADS: Final = 4096
_MAX_CHECKPOINTS: Final = 65_536

_Checkpoint = tuple[str, str, str | None]


@dataclass(slots=True)
class _Thread:
    """What this worker has of a thread: `view` as it is under `lease`, and `since`, the epoch since which
    nobody else had one."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    lease: Lease | None = None
    block: HeldLease | None = None
    view: Versioned | None = None
    since: int = 0
    evicted: bool = False


class Fences:
    """The leases of one worker on the threads that it writes. Thread-safe; a forked child has none."""

    def __init__(self, coordinator: Coordinator, worker: Worker, ttl: object) -> None:
        self.coordinator = coordinator
        self._worker = worker
        self.ttl = check_seconds("writer_lease", ttl)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._threads: OrderedDict[str, _Thread] = OrderedDict()
        self._epochs: OrderedDict[_Checkpoint, int] = OrderedDict()
        self._heartbeat = Heartbeat("agentref-writer")

    # Reading

    def look(self, config: RunnableConfig) -> int:
        """The epoch of a thread, to be noted with what is read after this. If nobody can say, it is one
        that nothing follows: reading goes on, saving after it does not."""
        try:
            return self._view(_thread_of(config)).epoch
        except AgentRefError:
            return _UNKNOWN

    def note(self, config: RunnableConfig, checkpoint_id: str | None, epoch: int) -> None:
        """A checkpoint, or that there is none, was read or saved in that epoch."""
        self._check_process()
        place = _place(config, checkpoint_id)
        with self._lock:
            self._epochs[place] = epoch
            self._epochs.move_to_end(place)
            if len(self._epochs) > _MAX_CHECKPOINTS:
                self._epochs.popitem(last=False)

    # Writing

    def admit(self, config: RunnableConfig, checkpoint_id: str | None = None) -> Versioned:
        """Return if this worker may save what follows the checkpoint of a config: it holds the thread, or
        does so from now on. Then `checkpoint_id`, the one that is about to be saved, may be followed, too.

        Returns the thread as it stands under the lease: a commit that reads it is refused after that.
        Raises `Conflict`: `held_by_other`, `lease_lost`, or `stale_epoch` for a run that others overtook.
        """
        thread_id = _thread_of(config)
        thread = self._thread(thread_id)
        with thread.lock:
            with self._lock:
                seen = self._epochs.get(_place(config, config["configurable"].get("checkpoint_id")))
            if thread.lease is None or not self._lives(thread, thread.lease):
                self._take(thread_id, thread, seen)
            view = thread.view
            if view is None:  # the first save in a block
                view = thread.view = self._view(thread_id)
                thread.since = view.epoch
            if seen is not None and not thread.since <= seen <= view.epoch:
                raise stale(view)
        if checkpoint_id is not None:
            self.note(config, checkpoint_id, view.epoch)
        return view

    def _lives(self, thread: _Thread, lease: Lease) -> bool:
        """Whether the lease is held still; renewed, if it is time to."""
        now = self.coordinator.table.clock()
        try:
            if thread.block is None and lease.until - now < lease.ttl * (1 - _RENEWED_AFTER):
                thread.lease = self.coordinator.renew(lease)
            else:
                view = thread.view or self.coordinator.read([lease.key])[lease.key]
                self.coordinator.gate(view, lease=lease, agent=lease.holder)
        except Conflict as error:
            if thread.block is not None:
                raise lost(error.current, lease) from None
            # Before its time nobody ends a lease but `recover`, and that is final.
            thread.evicted = thread.evicted or now < lease.until
            return False
        return True

    def _take(self, thread_id: str, thread: _Thread, seen: int | None) -> None:
        """Hold the thread, for the first time or again."""
        key = thread_key(thread_id)
        row = self._row(key)
        if not row.leases and not self._may_follow(thread, seen, row.fence + 1, row.epoch):
            raise self._refusal(thread, seen, key, row)  # without a lease that others would run into
        acquiring = self.coordinator.acquiring(key, self._worker.name, self.ttl, LeaseMode.EXCLUSIVE, 0.0)
        try:
            lease, row = steps.run(acquiring)
        except Conflict as error:
            if thread.lease is not None and self._is_of(thread, seen):
                raise lost(error.current, thread.lease, error) from None
            raise held_by_other(error, self._worker.name) from None
        if not self._may_follow(thread, seen, lease.fence, row.epoch):
            self.coordinator.release(lease)
            raise self._refusal(thread, seen, key, row)
        if not self._is_unbroken(thread, lease.fence):
            thread.since = row.epoch
        thread.lease, thread.evicted = lease, False
        thread.view = versioned(self.coordinator.coordinator_id, key, row)

    @staticmethod
    def _is_unbroken(thread: _Thread, fence: int) -> bool:
        """Whether a lease with this fence comes right after the one that expired."""
        return thread.lease is not None and not thread.evicted and fence == thread.lease.fence + 1

    @staticmethod
    def _is_of(thread: _Thread, seen: int | None) -> bool:
        """Whether it was seen under the lease that this worker has, or had."""
        return seen is None or (thread.view is not None and thread.since <= seen <= thread.view.epoch)

    def _may_follow(self, thread: _Thread, seen: int | None, fence: int, epoch: int) -> bool:
        if self._is_unbroken(thread, fence):
            return seen is None or thread.since <= seen <= epoch
        return thread.lease is None if seen is None else seen == epoch

    def _refusal(self, thread: _Thread, seen: int | None, key: Key, row: Row) -> Conflict:
        now = versioned(self.coordinator.coordinator_id, key, row)
        if thread.lease is not None and self._is_of(thread, seen):
            return lost(now, thread.lease)
        return stale(now)

    # Letting go

    def writing(self, thread_id: object, wait: float) -> HeldLease:
        """A block within which this worker holds the thread, whatever time it takes."""
        thread = self._thread(str(thread_id))
        return _Writing(
            thread,
            self.coordinator,
            self._heartbeat,
            thread_key(thread_id),
            holder=self._worker.name,
            ttl=self.ttl,
            mode=LeaseMode.EXCLUSIVE,
            wait=check_seconds("wait", wait, zero=True),
            free=lambda _: None if thread.block else self._let_go(thread),
            blocks=Blocks(),
        )

    def release(self, thread_id: object) -> None:
        """Let others write the thread. What this worker still has in flight for it is refused."""
        self._check_process()
        with self._lock:
            thread = self._threads.get(str(thread_id))
        if thread is not None:
            self._let_go(thread)

    def forget(self, thread_id: object) -> None:
        """`release` after the thread was deleted; a block goes on, and writes it anew."""
        with self._lock:
            thread = self._threads.get(str(thread_id))
        if thread is None or thread.block is None:
            self.release(thread_id)

    def release_all(self) -> None:
        """`release` for every thread."""
        self._check_process()
        with self._lock:
            threads = list(self._threads.values())
        for thread in threads:
            self._let_go(thread)

    def _let_go(self, thread: _Thread) -> None:
        with thread.lock:
            lease = thread.lease
            thread.lease = thread.block = thread.view = None
            if lease is not None:
                self.coordinator.release(lease)

    # What is known

    def _thread(self, thread_id: str) -> _Thread:
        self._check_process()
        with self._lock:
            thread = self._threads.setdefault(thread_id, _Thread())
            self._threads.move_to_end(thread_id)
            if len(self._threads) > _MAX_THREADS:
                self._forget_one()
        return thread

    def _forget_one(self) -> None:
        name, thread = next(iter(self._threads.items()))
        if thread.lease is None or (thread.block is None and thread.lease.until < time.time()):
            del self._threads[name]
        else:
            self._threads.move_to_end(name)

    def _check_process(self) -> None:
        if self._pid != os.getpid():  # the parent's leases are the parent's
            self._start_afresh()

    def _view(self, thread_id: str) -> Versioned:
        key = thread_key(thread_id)
        return self.coordinator.read([key])[key]

    def _row(self, key: Key) -> Row:
        code = encode_key(key)
        return self.coordinator.settled([code])[code]


class _Writing(HeldLease):
    """A block within which a thread is held."""

    def __init__(self, thread: _Thread, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._thread = thread

    def _begin(self, lease: Lease) -> None:
        super()._begin(lease)
        thread = self._thread
        thread.lease, thread.block, thread.view, thread.evicted = lease, self, None, False

    def _end(self) -> Lease | None:
        thread = self._thread
        if thread.block is self:
            thread.lease = thread.block = thread.view = None
        return super()._end()


def _thread_of(config: RunnableConfig) -> str:
    return str(config["configurable"].get("thread_id"))


def _place(config: RunnableConfig, checkpoint_id: str | None) -> _Checkpoint:
    configurable: dict[str, Any] = config["configurable"]
    return _thread_of(config), str(configurable.get("checkpoint_ns", "")), checkpoint_id
