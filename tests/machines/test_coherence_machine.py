"""Peers of all strategies beside each other show and accept what a plain model says, whatever they do."""

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentref.coherence import Conflict, Coordinator, Reason, Strategy
from agentref.coherence.memory import MemoryTable
from agentref.storage import InMemoryCAS

TTL = 3000.0  # so long that no heartbeat renews a lease while a test runs
RETAIN = 0.001
COORDINATORS = {"memory": lambda clock: Coordinator(MemoryTable(clock=clock))}
STRATEGIES = {
    "lazy": Strategy.lazy(),
    "eager": Strategy.eager(),
    "broadcast": Strategy.broadcast(),
    "lease": Strategy.lease(TTL),
    "count": Strategy.access_count(2, ttl=TTL),
}
KEYS = (("proj", "plan"), ("proj",))
names = st.sampled_from(sorted(STRATEGIES))
keys = st.sampled_from(KEYS)
values = st.sampled_from([0, "one", [1, 2], {"text": "word " * 400}])


class Coherence(RuleBasedStateMachine):
    """The model: of each key a value (None: nothing), a version, how many exclusive leases have ended, and
    which block holds one until when. Shared leases that strategies take are asked for, not modelled."""

    views = Bundle("views")

    def __init__(self, make):
        super().__init__()
        self.make = make

    @initialize()
    def begin(self):
        self.now = 1_000_000.0
        self.coordinator = self.make(lambda: self.now)
        self.cas = InMemoryCAS()
        self.peers = {
            name: self.coordinator.peer(name, backend=self.cas, strategy=strategy, retain_seconds=RETAIN)
            for name, strategy in STRATEGIES.items()
        }
        self.value = dict.fromkeys(KEYS)
        self.version = dict.fromkeys(KEYS, 0)
        self.ended = dict.fromkeys(KEYS, 0)
        self.held = {}  # of a key: the agent in whose block it is, and until when
        self.blocks = {}  # of an agent and a key: the block, whose lease may be lost
        self.cuts = []

    def teardown(self):
        if hasattr(self, "peers"):
            self.look()
            for cut, _, _ in self.cuts:
                cut.close()
            for block in self.blocks.values():
                block.__exit__(None, None, None)
            for peer in self.peers.values():
                peer.close()
            self.coordinator.close()

    def others(self, name, key):
        """The leases of others."""
        return [lease for lease in self.coordinator.leases(key) if lease.holder != name]

    def lost(self, name, key):
        """Whether the agent's commits are made under a lease that has ended."""
        return (name, key) in self.blocks and self.held.get(key, ("", 0))[0] != name

    def may_commit(self, name, key, seen):
        """`seen` is a version, and how many exclusive leases had ended; None if nothing was seen."""
        stands = self.value[key] is None if seen is None else seen == (self.version[key], self.ended[key])
        return stands and not self.lost(name, key) and not self.others(name, key)

    def seen(self, key, view):
        """What is remembered of a view, to be used later by anybody."""
        return key, view, (self.version[key], self.ended[key])

    def write(self, key, value):
        if value != self.value[key] or type(value) is not type(self.value[key]):
            self.value[key] = value
            self.version[key] += 1

    def end(self, key):
        if self.held.pop(key, None):
            self.ended[key] += 1

    def expect(self, allowed, call):
        """The result of a call that is refused exactly when the model says so."""
        if allowed:
            return call()
        with pytest.raises(Conflict) as caught:
            call()
        key = caught.value.key
        assert caught.value.current.version == self.version[key]
        assert (caught.value.reason is Reason.LEASE_LOST) <= any(
            self.lost(name, key) for name in STRATEGIES
        )
        return None

    @rule(target=views, name=names, key=keys)
    def read(self, name, key):
        view = self.peers[name].read(key)
        assert (view.version, view.epoch) == (self.version[key], self.ended[key])
        assert view.exists == (self.value[key] is not None)
        assert not view.exists or view.value == self.value[key]
        return self.seen(key, view)

    @rule(target=views, name=names, seen=views, value=values | st.none())
    def commit(self, name, seen, value):
        key, view, at = seen
        peer = self.peers[name]
        if value is None:
            done = self.expect(self.may_commit(name, key, at), lambda: peer.delete(key, base=view))
        else:
            done = self.expect(self.may_commit(name, key, at), lambda: peer.commit(key, value, base=view))
        if done is None:
            return multiple()
        self.write(key, value)
        assert done.version == self.version[key]
        return self.seen(key, done)

    @rule(target=views, name=names, key=keys, value=values)
    def create(self, name, key, value):
        allowed = self.may_commit(name, key, None)
        done = self.expect(allowed, lambda: self.peers[name].commit(key, value, base=None))
        if done is None:
            return multiple()
        self.write(key, value)
        return self.seen(key, done)

    @rule(name=names, one=views, other=views, value=values)
    def commit_both(self, name, one, other, value):
        if one[0] == other[0]:
            return
        allowed = all(self.may_commit(name, key, at) for key, _, at in (one, other))
        puts = [(key, [value, key[-1]], view) for key, view, _ in (one, other)]
        if self.expect(allowed, lambda: self.peers[name].commit_many(puts)) is not None:
            for key, new, _ in puts:
                self.write(key, new)

    @rule(name=names, key=keys)
    def update(self, name, key):
        if self.others(name, key) or self.lost(name, key):
            return  # it would wait
        new = [self.version[key]]
        assert self.peers[name].update(key, lambda value: new, initial=None, timeout=0).value == new
        self.write(key, new)

    @rule(name=names, seen=views)
    def gate(self, name, seen):
        key, view, at = seen
        block = (name, key) in self.blocks
        own = [] if block else [lease for lease in self.coordinator.leases(key) if lease.holder == name]
        allowed = self.may_commit(name, key, at) and not own
        self.expect(allowed, lambda: self.peers[name].gate(view))

    @rule(name=names, key=keys)
    def enter(self, name, key):
        if (name, key) in self.blocks:
            return
        block = self.peers[name].lease(key, ttl=TTL)
        if self.expect(not self.others(name, key), block.__enter__) is not None:
            self.blocks[name, key] = block
            self.held[key] = name, self.now + TTL

    @rule(name=names, key=keys)
    def check(self, name, key):
        if (name, key) in self.blocks:
            if self.expect(not self.lost(name, key), lambda: self.blocks[name, key].check() or True):
                self.held[key] = name, self.now + TTL
            assert self.blocks[name, key].lost == self.lost(name, key)

    @rule(name=names, key=keys)
    def leave(self, name, key):
        block = self.blocks.pop((name, key), None)
        if block is not None:
            block.__exit__(None, None, None)
            if self.held.get(key, ("", 0))[0] == name:
                self.end(key)

    @rule(seconds=st.sampled_from([1.0, TTL / 2, TTL, 4 * TTL]))
    def time_passes(self, seconds):
        self.now += seconds
        for key, (_, until) in list(self.held.items()):
            if until <= self.now:
                self.end(key)

    @rule(name=names)
    def recover(self, name):
        self.peers[name].recover()
        assert [key for key in KEYS for lease in self.coordinator.leases(key) if lease.holder == name] == []
        for key, (holder, _) in list(self.held.items()):
            if holder == name:
                self.end(key)

    @rule(name=names)
    def cut(self, name):
        cut = self.peers[name].snapshot(KEYS)
        for key, view in cut.items():
            assert view.version == self.version[key]
        moment = {key: (self.version[key], self.ended[key]) for key in KEYS}
        self.cuts.append((cut, dict(self.value), moment))

    @precondition(lambda self: self.cuts)
    @rule(name=names, key=keys, value=values, close=st.booleans())
    def commit_by_a_cut(self, name, key, value, close):
        cut, known, moment = self.cuts[-1]
        for each, view in cut.items():
            assert known[each] is None or view.copy() == known[each]
        stands = all(moment[each] == (self.version[each], self.ended[each]) for each in KEYS)
        allowed = stands and self.may_commit(name, key, moment[key])
        peer = self.peers[name]
        if self.expect(allowed, lambda: peer.commit(key, value, base=cut[key], reads=cut.views())):
            self.write(key, value)
        if close:
            self.cuts.pop()[0].close()

    @rule(name=names)
    def prune(self, name):
        self.peers[name].tidy()
        time.sleep(2 * RETAIN)  # what nobody needs may go now
        self.cas.prune_expired(grace=0)
        for cut, known, _ in self.cuts:
            assert [cut[key].copy() for key in KEYS if cut[key].exists] == [
                known[key] for key in KEYS if known[key] is not None
            ]

    @rule()
    def sweep(self):
        self.coordinator.sweep()

    @rule()
    def look(self):
        """A rule, no invariant: a look takes back what has ended, before the peers come across it."""
        for key, view in self.coordinator.read(KEYS).items():
            assert (view.version, view.epoch) == (self.version[key], self.ended[key])
            assert view.exists == (self.value[key] is not None)
            assert not view.exists or self.cas.load(view.ref) == self.value[key]
            if key in self.held:
                assert [(lease.holder, lease.until) for lease in self.coordinator.leases(key)] == [
                    self.held[key]
                ]


@pytest.mark.parametrize("make", COORDINATORS.values(), ids=COORDINATORS)
def test_peers_do_what_the_model_says(make):
    run_state_machine_as_test(
        lambda: Coherence(make), settings=settings(max_examples=100, stateful_step_count=50)
    )
