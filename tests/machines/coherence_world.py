"""A small world for the model of coherence: real peers and a real coordinator over rows that can be set.

A state is a tuple of numbers, each of which names a part that was met before: a row, or what one agent has
in mind of one key. Time is what is left of leases, so the clock always shows 0. A revision that is drawn
by chance is equal to no other: rows have 1 (or 2, if a backup has 1), and a cache whose revision nothing
has any more has -1.
"""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from agentref.coherence import Lease, Strategy, Versioned, View
from agentref.coherence.caching import Cached
from agentref.coherence.coordinator import Coordinator
from agentref.coherence.keys import encode_key
from agentref.coherence.rows import ABSENT, Held, LeaseMode, Row
from agentref.coherence.strategies import Strategies
from agentref.refs import ContentRef

KEYS = (("x",), ("y",))
CODES = tuple(encode_key(key) for key in KEYS)
NAMES = ("a", "b", "c")
CONTENTS = tuple(ContentRef(bytes([number]) * 32, "agr1", 1) for number in (1, 2))
TTL = 2.0
WAIT = 1.0
STEP_BACK = 2 * TTL + 1  # more than any lease can have left


class Shelf:
    """A `Table` whose rows are set from outside, and whose clock stands still."""

    is_local = True
    is_joined = False
    table_id = "model"

    def __init__(self):
        self.rows = {}
        self.announced = 0

    def clock(self):
        return 0.0

    def probe(self, key):
        return self.rows.get(key, ABSENT).revision

    def load(self, keys):
        return {key: self.rows[key] for key in keys if key in self.rows}

    def transact(self, keys, decide):
        transition, result = decide({key: self.rows.get(key, ABSENT) for key in keys}, 0.0)
        if transition is not None:
            self.rows.update(transition.rows)
            self.announced += transition.entry is not None
        return result

    def leased(self, until, *, limit=None):
        return [key for key, row in self.rows.items() if row.until is not None and row.until <= until]

    def head(self):
        return ""


class Nowhere:
    """A store that every content is in."""

    def encode(self, values):
        raise NotImplementedError

    store = load = encode

    def touch(self, refs, *, ttl=None):
        pass

    def pin(self, owner, refs, *, ttl=None, look=True):
        pass

    def unpin(self, *owners):
        return 0

    def iter_pins(self, prefix=""):
        return ()


class Blocks(dict):
    """The blocks of a peer: of each key, the lease that it believes to have."""

    lease_on = dict.get


class Stood(NamedTuple):
    """A row, how many exclusive leases on it have ended by now, and what a backup holds of it."""

    row: Row = ABSENT
    era: int = 0
    saved: Row | None = None


class Seen(NamedTuple):
    """A view, and how many exclusive leases had ended when it was of what stood there."""

    view: Versioned
    era: int


class Entry(NamedTuple):
    """What a peer's cache has of a key."""

    seen: Seen
    revision: int
    leases: tuple[Held, ...]
    hold: Lease | None
    reads: int


class Mind(NamedTuple):
    """All that an agent has of a key: what is cached; a view that it may still write from, though it has
    read again since; the lease of its block; an invalidation on its way; a row that it is about to cache;
    whether it crashed, and left leases behind."""

    entry: Entry | None = None
    slept: Seen | None = None
    lease: Lease | None = None
    signal: bool = False
    fetched: tuple[Row, int] | None = None
    crashed: bool = False


class Config(NamedTuple):
    """What there is, and what can happen. The bounds are on one key."""

    strategies: tuple[Strategy, ...]
    keys: int = 1
    versions: int = 2
    fences: int = 2
    sleepers: bool = False
    modes: tuple[LeaseMode, ...] = ()
    waits: bool = False
    crashes: bool = False
    together: bool = False
    steps_back: int = 0
    backups: bool = False


class World:
    """Turns states into peers and rows, and back."""

    def __init__(self, config):
        self.config = config
        self.shelf = Shelf()
        self.coordinator = Coordinator(self.shelf)
        self.peers = [
            self.coordinator.peer(name, backend=Nowhere())
            for name, _ in zip(NAMES, config.strategies, strict=False)
        ]
        for peer, strategy in zip(self.peers, config.strategies, strict=True):
            peer._strategies = Strategies(strategy, None)  # without a thread that follows the feed
            peer._may_hold = strategy.ttl is not None
            peer._blocks = Blocks()
        self.parts = []
        self.numbers = {}
        self.made = {}
        self.moved = set()
        self.loaded = {}
        self.eager = [strategy.name in {"eager", "broadcast"} for strategy in config.strategies]
        # What has ended stays ended, so it need not be known for how long, unless the clock can go back.
        floor = -config.steps_back * STEP_BACK - 1.0 if config.steps_back else 0.0
        self.later = cache(lambda number, ticks: self.intern(_shifted(self.parts[number], ticks, floor)))
        self.outdated = cache(lambda number, kept: self.intern(_outdated(self.parts[number], kept)))
        self.warned = cache(lambda number: self.intern(self.parts[number]._replace(signal=True)))

    def intern(self, part):
        number = self.numbers.get(part)
        if number is None:
            number = self.numbers[part] = len(self.parts)
            self.parts.append(part)
        return number

    def first(self):
        """Nothing was ever written, and nobody knows anything."""
        stood, mind = self.intern(Stood()), self.intern(Mind())
        keys = self.config.keys
        return (
            (stood,) * keys + (mind,) * keys * len(self.peers) + (self.intern((None, 0)),) * len(self.peers)
        )

    def stood(self, state, key):
        return self.parts[state[key]]

    def place(self, agent, key):
        return self.config.keys * (1 + agent) + key

    def mind(self, state, agent, key):
        return self.parts[state[self.place(agent, key)]]

    def extra(self, state, agent):
        """The cut that an agent has taken, and (of the first) how often the clock was set back."""
        return self.parts[state[agent - len(self.peers)]]

    def load(self, state, agent=None):
        """Set the rows, and an agent's peer, as they are in a state."""
        self.shelf.announced = 0
        self.shelf.rows = {
            CODES[key]: row
            for key in range(self.config.keys)
            if (row := self.stood(state, key).row) is not ABSENT and row != ABSENT
        }
        if agent is None:
            return None
        peer = self.peers[agent]
        entries = peer._cache._entries
        entries.clear()
        peer._blocks.clear()
        self.loaded.clear()
        for key in range(self.config.keys):
            mind = self.mind(state, agent, key)
            if mind.entry is not None:
                number = state[self.place(agent, key)]
                entries[KEYS[key]] = self.loaded[key] = self._cached(CODES[key], number, mind.entry)
            if mind.lease is not None:
                peer._blocks[KEYS[key]] = mind.lease
        return peer

    def _cached(self, code, number, entry):
        made = self.made.get(number)
        if made is None:
            row = Row(revision=entry.revision, leases=entry.leases)
            made = self.made[number] = row, View(entry.seen.view, self.peers[0]._contents)
        return Cached(code, *made, entry.hold, entry.reads)

    def save(self, state, agent, changes: Mapping[int, dict] | None = None):
        """The state after an action of that agent, given what it changed of its mind besides its cache."""
        after = list(state)
        for key in range(self.config.keys):
            self._save_row(after, key)
        if agent is not None:
            for key in range(self.config.keys):
                self._save_mind(state, after, agent, key, (changes or {}).get(key, {}))
        return tuple(after)

    def _save_row(self, after, key):
        stood = self.parts[after[key]]
        row = self.shelf.rows.get(CODES[key], ABSENT)
        if row == stood.row:
            return
        kept = None if stood.saved is None else stood.saved.revision
        revision = 2 if kept == 1 else 1
        ended = _exclusive(stood.row.leases) - _exclusive(row.leases)
        era = stood.era + len(ended)
        new = row._replace(revision=revision, writer="", at=0.0)
        self.spread(after, key, self.intern(stood._replace(row=new, era=era)))

    def spread(self, after, key, number):
        """Let that stand there; whoever has cached what stood there has something outdated."""
        old, new = self.parts[after[key]], self.parts[number]
        after[key] = number
        self.moved.add(key)
        known = old.saved is None or old.saved.revision != old.row.revision
        for agent in range(len(self.peers)):
            place = self.place(agent, key)
            if known:
                after[place] = self.outdated(after[place], old.row.revision)
            if new.row.version != old.row.version and self.eager[agent]:
                after[place] = self.warned(after[place])

    def _save_mind(self, state, after, agent, key, changes):
        place = self.place(agent, key)
        old, mind = self.mind(state, agent, key), self.parts[after[place]]
        stood = self.parts[after[key]]
        raw = self.shelf.rows.get(CODES[key], ABSENT).revision
        cached = self.peers[agent]._cache._entries.get(KEYS[key])
        entry = None
        if cached is not None:
            revision = stood.row.revision if cached.revision == raw else -1
            if cached is self.loaded.get(key):
                seen = old.entry.seen
                if cached.revision == old.entry.revision:
                    revision = mind.entry.revision
            else:
                seen = Seen(bare(cached.view.versioned), stood.era)
            reads = max(cached.reads, -1)  # less than 0 is as many as there will be
            entry = Entry(seen, revision, cached.leases, cached.hold, reads)
        mind = mind._replace(entry=entry, **changes)
        if mind.crashed and not any(held.holder == NAMES[agent] for held in stood.row.leases):
            mind = mind._replace(crashed=False)
        after[place] = self.intern(mind)

    def tick(self, state, ticks=1):
        """The state some time later; earlier, if the clock is set back."""
        return tuple(self.later(number, ticks) for number in state)


def bare(view):
    return view._replace(writer="", at=0.0)


def _exclusive(leases):
    return {held.fence for held in leases if held.mode is LeaseMode.EXCLUSIVE and not held.waits}


def _outdated(mind, revision):
    entry, fetched = mind.entry, mind.fetched
    if entry is not None and entry.revision == revision:
        mind = mind._replace(entry=entry._replace(revision=-1))
    if fetched is not None and fetched[0].revision == revision:
        mind = mind._replace(fetched=(fetched[0]._replace(revision=-1), fetched[1]))
    return mind


def _shifted(part, ticks, floor):
    """A part when so much time has passed."""
    if isinstance(part, Stood):
        return part._replace(row=part.row._replace(leases=_left(part.row.leases, ticks, floor)))
    if not isinstance(part, Mind):
        return part
    entry, fetched = part.entry, part.fetched
    if entry is not None:
        hold = entry.hold and entry.hold._replace(until=max(entry.hold.until - ticks, floor))
        entry = entry._replace(leases=_left(entry.leases, ticks, floor), hold=hold)
    if fetched is not None:
        fetched = fetched[0]._replace(leases=_left(fetched[0].leases, ticks, floor)), fetched[1]
    return part._replace(entry=entry, fetched=fetched)


def _left(leases, ticks, floor):
    if not leases:
        return leases
    return tuple(held._replace(until=max(held.until - ticks, floor)) for held in leases)
