"""What is needed stays and what is not goes, whatever several clients of one store do in whatever order."""

import shutil
import tempfile
import time
from functools import partial

import psycopg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from agentref.errors import AliasConflictError, AliasNotFoundError, BlobNotFoundError
from agentref.refs import ContentRef, parse_digest
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS, PostgresCAS
from agentref.storage.cas import RAW_CODEC
from agentref.storage.memory import MemoryBlobStore

SHORT = 0.001
CLIENTS = 3
# Each is a blob of its own: bytes have the name that they have as a part of a list, too.
TEXTS = [f"{number}: " + f"{number} and on " * 900 for number in range(4)]

VALUES = {
    "none": [],
    "0": TEXTS[:1],
    "01": TEXTS[:2],
    "12": TEXTS[1:3],
    "20": [TEXTS[2], TEXTS[0]],
    "all": TEXTS,
    "tree": TEXTS * 20,
    "deep": [TEXTS[:2] * 20, TEXTS[1:]],
    "bytes of 1": TEXTS[1].encode(),
    "bytes of 3": TEXTS[3].encode(),
}
values = st.sampled_from(sorted(VALUES))
clients = st.integers(0, CLIENTS - 1)
ttls = st.sampled_from([SHORT, SHORT, SHORT, None])
root_ttls = st.sampled_from([None, None, None, SHORT])
expectations = st.sampled_from(["right", "wrong", "anything"])
NAMES = ("a", "b", "b/c")
names = st.sampled_from(NAMES)


def put(cas, value, ttl=None):
    if isinstance(VALUES[value], bytes):
        digest, size = parse_digest(cas.put(VALUES[value], ttl=ttl)), len(VALUES[value])
        return ContentRef(digest, RAW_CODEC, size, cas.backend_id)
    return cas.dump(VALUES[value], ttl=ttl)


REFS = {value: put(InMemoryCAS(), value) for value in VALUES}


class Lifetimes(RuleBasedStateMachine):
    """The model knows which values must be here, and which roots there are.

    What need not be here may be here, or a part of it, until both prunes have passed.
    """

    def make_clients(self):
        raise NotImplementedError

    def now(self):
        """By the clock that roots expire by."""
        return time.time()

    @initialize()
    def begin(self):
        self.clients = self.make_clients()
        self.immortal = set()
        self.aliases = {}  # of each name the value, and whether it has no end
        self.pins = {}  # of each owner the values, and of each whether it has no end

    def teardown(self):
        if hasattr(self, "clients"):
            self.expire_and_prune_twice(0)
            for client in self.clients:
                client.close()

    @property
    def living(self):
        """The values that must be here."""
        named = {value for value, endless in self.aliases.values() if endless}
        pinned = {value for pins in self.pins.values() for value, endless in pins.items() if endless}
        return sorted(self.immortal | named | pinned)

    def wait(self):
        """Until all that has an end has come to it, for every client."""
        until = max(self.now(), *[client._store.clock() for client in self.clients]) + 2 * SHORT
        while min(self.now(), *[client._store.clock() for client in self.clients]) <= until:
            time.sleep(SHORT)
        self.aliases = {name: alias for name, alias in self.aliases.items() if alias[1]}
        self.pins = {
            owner: {value: True for value, endless in pins.items() if endless}
            for owner, pins in self.pins.items()
        }

    def is_here(self, value, call):
        """Whether a call finds the value; only one that need not be here may be missing."""
        try:
            call()
        except BlobNotFoundError:
            assert value not in self.living
            return False
        return True

    @rule(client=clients, value=values, ttl=ttls)
    def put(self, client, value, ttl):
        assert put(self.clients[client], value, ttl) == REFS[value]
        if ttl is None:
            self.immortal.add(value)

    @rule(client=clients, value=values)
    def get(self, client, value):
        found = []
        if self.is_here(value, lambda: found.append(self.clients[client].load(REFS[value]))):
            assert found == [VALUES[value]]

    @rule(client=clients, value=values, ttl=ttls)
    def touch(self, client, value, ttl):
        if self.is_here(value, lambda: self.clients[client].touch([REFS[value]], ttl=ttl)) and ttl is None:
            self.immortal.add(value)

    @rule(client=clients, owner=names, value=values, ttl=root_ttls, put_first=st.booleans())
    def pin(self, client, owner, value, ttl, put_first):
        if put_first:
            put(self.clients[client], value, SHORT)
        if self.is_here(value, lambda: self.clients[client].pin(owner, [REFS[value]], ttl=ttl)):
            pins = self.pins.setdefault(owner, {})
            pins[value] = pins.get(value, False) or ttl is None

    @rule(client=clients, owner=names)
    def unpin(self, client, owner):
        pins = self.pins.pop(owner, {})
        assert sum(pins.values()) <= self.clients[client].unpin(owner) <= len(pins)

    @rule(
        client=clients,
        name=names,
        value=values,
        ttl=root_ttls,
        expect=expectations,
        other=values,
        put_first=st.booleans(),
    )
    def set_alias(self, client, name, value, ttl, expect, other, put_first):  # noqa: PLR0917
        self.wait()
        standing = self.aliases[name][0] if name in self.aliases else None
        wrong = expect == "wrong" and other != standing
        expected = {
            "right": REFS[standing] if standing else "absent",
            "wrong": REFS[other],
            "anything": None,
        }[expect]
        if put_first:
            put(self.clients[client], value, SHORT)
        setting = partial(self.clients[client].set_alias, name, REFS[value], ttl=ttl, expect=expected)
        if wrong:
            with pytest.raises(AliasConflictError) as caught:
                setting()
            assert caught.value.current == REFS.get(standing)
        elif self.is_here(value, setting):
            self.aliases[name] = value, ttl is None

    @rule(client=clients, name=names, expect=expectations, other=values)
    def delete_alias(self, client, name, expect, other):
        self.wait()
        standing = self.aliases[name][0] if name in self.aliases else None
        wrong = expect == "wrong" and other != standing
        expected = {"right": REFS.get(standing), "wrong": REFS[other], "anything": None}[expect]
        deletion = partial(self.clients[client].delete_alias, name, expect=expected)
        if wrong:
            with pytest.raises(AliasConflictError) as caught:
                deletion()
            assert caught.value.current == REFS.get(standing)
        else:
            assert deletion() == (self.aliases.pop(name, None) is not None)

    @rule()
    def expire(self):
        self.wait()

    @rule(client=clients, limit=st.none() | st.integers(1, 3), wait=st.booleans())
    def prune(self, client, limit, wait):
        if wait:
            self.wait()
        report = self.clients[client].prune_expired(grace=0, limit=limit)
        assert limit is None or report.removed <= limit

    @rule(client=clients)
    def expire_and_prune_twice(self, client):
        self.wait()
        cas = self.clients[client]
        for _ in range(2):
            cas.prune_expired(grace=0)
        fresh = InMemoryCAS()
        for value in self.living:
            put(fresh, value)
        assert list(cas.iter_hashes()) == list(fresh.iter_hashes())
        assert cas.verify().ok

    @invariant()
    def what_must_be_here_is_here(self):
        if not hasattr(self, "clients"):
            return
        wanted = [VALUES[value] for value in self.living]
        for cas in self.clients:
            assert cas.load_many([REFS[value] for value in self.living]) == wanted
            for name in NAMES:
                value, endless = self.aliases.get(name, (None, True))
                if value is None:
                    with pytest.raises(AliasNotFoundError):
                        cas.resolve_alias(name)
                elif endless:
                    assert cas.resolve_alias(name) == REFS[value]


class InMemory(Lifetimes):
    def make_clients(self):
        store = MemoryBlobStore()
        return [CAS(store) for _ in range(CLIENTS)]


class InFiles(Lifetimes):
    def make_clients(self):
        self.root = tempfile.mkdtemp(prefix="agentref-machine-")
        return [FilesystemCAS(self.root) for _ in range(CLIENTS)]

    def teardown(self):
        super().teardown()
        if hasattr(self, "root"):
            shutil.rmtree(self.root)


class InPostgres(Lifetimes):
    def __init__(self, observer):
        super().__init__()
        self.observer = observer

    def now(self):
        return float(self.observer.execute("SELECT extract(epoch FROM clock_timestamp())").fetchone()[0])

    def make_clients(self):
        made = [PostgresCAS(self.observer.info.dsn) for _ in range(CLIENTS)]
        self.observer.execute("TRUNCATE agentref_blob, agentref_alias, agentref_pin")
        return made


@pytest.fixture(autouse=True)
def short_leases(monkeypatch):
    """So that what is no longer named does expire."""
    for module in ("lifetimes", "walking"):
        monkeypatch.setattr(f"agentref.storage.{module}.LEASE_SECONDS", SHORT)


def run(machine, examples):
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40))


def test_lives_in_memory():
    run(InMemory, 60)


def test_lives_in_files():
    run(InFiles, 40)


def test_lives_in_postgres(databases):
    with psycopg.connect(databases.dsn(), autocommit=True) as observer:
        run(lambda: InPostgres(observer), 30)
