"""Coordinators, stores and peers; a clock that can be set; a store whose verbs can be watched and fail."""

import threading
import time

import pytest

from agentref.coherence import Coordinator, MemoryCoordinator, SqliteCoordinator
from agentref.coherence.memory import MemoryTable
from agentref.storage import FilesystemCAS, InMemoryCAS

PATIENCE = 20  # seconds, for what comes at once unless something is broken

COORDINATORS = {
    "memory": lambda request: MemoryCoordinator(),
    "sqlite": lambda request: SqliteCoordinator(request.getfixturevalue("tmp_path") / "coherence.db"),
}
STORES = {
    "ram": lambda request: InMemoryCAS(),
    "files": lambda request: FilesystemCAS(request.getfixturevalue("tmp_path") / "store"),
}


@pytest.fixture(params=COORDINATORS)
def coordinator(request):
    with COORDINATORS[request.param](request) as coordinator:
        yield coordinator


@pytest.fixture(params=STORES)
def store(request):
    with STORES[request.param](request) as store:
        yield store


@pytest.fixture
def peer(coordinator, store):
    """Makes peers, which are closed in the end."""
    peers = []

    def make(name="agent", *, at=None, backend=None, **options):
        made = (at or coordinator).peer(name, backend=backend or store, **options)
        peers.append(made)
        return made

    yield make
    for each in peers:
        each.close()


class Clock:
    """Stands still unless it is set."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def clocked(clock):
    """A coordinator that goes by that clock."""
    with Coordinator(MemoryTable(clock=clock)) as coordinator:
        yield coordinator


class Watched:
    """A store that says what is asked of it: `before` and `after` each verb, which may raise."""

    def __init__(self, store):
        self.inner = store
        self.calls = []
        self.pinned = []
        self.before = lambda verb: None
        self.after = lambda verb: None

    def _do(self, verb, *args, **kwargs):
        self.calls.append(verb)
        self.before(verb)
        result = getattr(self.inner, verb)(*args, **kwargs)
        self.after(verb)
        return result

    def encode(self, values):
        return self.inner.encode(values)

    def store(self, encoded, *, ttl=None, pins=None):
        self.pinned += pins or ()
        return self._do("store", encoded, ttl=ttl, pins=pins)

    def load(self, ref):
        return self._do("load", ref)

    def pin(self, owner, refs, *, ttl=None, look=True):
        return self._do("pin", owner, refs, ttl=ttl, look=look)

    def unpin(self, *owners):
        return self._do("unpin", *owners)

    def iter_pins(self, prefix=""):
        return self._do("iter_pins", prefix)

    def prune_expired(self, **options):
        return self.inner.prune_expired(**options)


@pytest.fixture
def watched(store):
    return Watched(store)


@pytest.fixture
def eventually():
    """Waits until something is so."""

    def wait(condition, seconds=PATIENCE):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it never came"
            time.sleep(0.005)

    return wait


@pytest.fixture
def together():
    """Runs functions in threads that start together; their results, or the first error."""

    def run(*functions):
        start = threading.Barrier(len(functions))
        outcomes = [None] * len(functions)

        def work(number, function):
            start.wait(PATIENCE)
            try:
                outcomes[number] = True, function()
            except BaseException as error:  # noqa: BLE001
                outcomes[number] = False, error

        threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(functions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive(), "a thread hangs"
        for fine, outcome in outcomes:
            if not fine:
                raise outcome
        return [outcome for _, outcome in outcomes]

    return run


@pytest.fixture
def versions_pinned(coordinator):
    """Which versions are pinned in a store, of all artifacts of the coordinator."""

    def look(store, origin=None):
        prefix = f"agentref.coherence/{origin or coordinator.coordinator_id}/"
        owners = {pin.owner.removeprefix(prefix) for pin in store.iter_pins(prefix)}
        return sorted(int(v) for name, _, v in (owner.partition("/") for owner in owners) if v.isdecimal())

    return look
