"""What can happen in the small world of coherence, and what must hold then."""

from agentref.coherence import Lease, Put, caching
from agentref.coherence.rows import LeaseMode
from agentref.errors import Conflict, FutureVersionError, Reason
from tests.machines.coherence_world import (
    CODES,
    CONTENTS,
    KEYS,
    NAMES,
    STEP_BACK,
    TTL,
    Mind,
    Seen,
    World,
    bare,
)

INVARIANTS = (
    "NoStaleShow",
    "NoLostUpdate",
    "SingleWriter",
    "LateWriterFenced",
    "NothingGoesBack",
    "AllOrNothing",
    "NoReadSkew",
    "HoldKeepsOthersOut",
    "NoOpBumpsNothing",
    "CrashedOwnerYields",
    "WaiterNotOvertaken",
    "GateAgrees",
    "NeverKeepsItselfOut",
    "RefusedForCause",
)


class ViolationError(Exception):
    """An invariant does not hold."""


def lives(held):
    """Whether a lease has not ended; written again, so that a mutant of the rule does not change it."""
    return 0 < held.until <= 2 * held.ttl


def holders(row):
    return [held for held in row.leases if lives(held) and not held.waits]


def stands(stood, seen):
    """Whether a view is of what stands there."""
    ended = sum(
        held.mode is LeaseMode.EXCLUSIVE and not held.waits and not lives(held) for held in stood.row.leases
    )
    same = seen.view.version == stood.row.version and seen.view.ref == stood.row.ref
    return same and seen.era == stood.era + ended


def shown(mind):
    """The lease that a commit shows by itself."""
    return mind.lease or (mind.entry and mind.entry.hold)


class Steps(World):
    """Each step returns the state after it, and raises `ViolationError` for what must not be."""

    def __init__(self, config, watched=INVARIANTS):
        super().__init__(config)
        self.watched = set(watched)
        self.checked = set()

    def require(self, invariant, holds):
        if not holds and invariant in self.watched:
            raise ViolationError(invariant)

    # Reads

    def read(self, state, agent, key):
        peer = self.load(state, agent)
        view = peer.read(KEYS[key])
        after = self.save(state, agent)
        self.require_shown(after, agent, key, view)
        return after

    def require_shown(self, after, agent, key, view):
        seen = self.mind(after, agent, key).entry.seen
        same = bare(view.versioned) == seen.view
        self.require("NoStaleShow", same and stands(self.stood(after, key), seen))

    def cut(self, state, agent):
        peer = self.load(state, agent)
        views = peer.read_many(KEYS)
        after = list(self.save(state, agent))
        cut = []
        for key, view in enumerate(views.values()):
            self.require_shown(after, agent, key, view)
            cut.append(Seen(bare(view.versioned), self.stood(after, key).era))
        after[agent - len(self.peers)] = self.intern((tuple(cut), self.extra(state, agent)[1]))
        return tuple(after)

    def gate(self, state, agent, key):
        peer = self.load(state, agent)
        seen, lease = self.mind(state, agent, key).entry.seen, self.mind(state, agent, key).lease
        try:
            peer.gate(seen.view)
            passes = True
        except (Conflict, FutureVersionError):
            passes = False
        stood = self.stood(state, key)
        others = self.others(stood, lease)
        lost = lease is not None and len(others) == len(holders(stood.row))
        self.require("GateAgrees", passes == (stands(stood, seen) and not others and not lost))
        return self.save(state, agent)

    @staticmethod
    def others(stood, lease):
        return [held for held in holders(stood.row) if lease is None or held.fence != lease.fence]

    def sleep(self, state, agent, key):
        """Begin something from the view, which ends in a commit much later."""
        mind = self.mind(state, agent, key)
        return self.with_mind(state, agent, key, mind._replace(slept=mind.entry.seen))

    def with_mind(self, state, agent, key, mind):
        after = list(state)
        after[self.place(agent, key)] = self.intern(mind)
        return tuple(after)

    # Commits

    def commit(self, state, agent, key, base, content, show):  # noqa: PLR0917
        peer = self.load(state, agent)
        mind = self.mind(state, agent, key)
        content = None if content is None else CONTENTS[content]
        if not show:
            peer._leases.clear()
        lease = mind.lease if show else mind.entry and mind.entry.hold
        seen = {"nothing": None, "slept": mind.slept, "cached": mind.entry and mind.entry.seen}[base]
        reason = self.tried(peer, [Put(KEYS[key], None, seen and seen.view)], [content])
        after = self.save(state, agent)
        if reason is None:
            self.accepted(state, after, agent, key, seen, content, lease)
            if show:
                self.require("LateWriterFenced", self.others(self.stood(state, key), lease) == [])
                self.require("LateWriterFenced", holders(self.stood(state, key).row) != [])
        else:
            self.refused(state, after, agent, key, seen, lease, show, reason)
        return after

    @staticmethod
    def tried(peer, puts, refs, reads=()):
        try:
            peer._commit(puts, refs, reads, ())
        except Conflict as error:
            return error.reason
        except FutureVersionError:
            return "future"
        return None

    def accepted(self, state, after, agent, key, seen, content, lease):  # noqa: PLR0917
        old, new = self.stood(state, key), self.stood(after, key).row
        row = old.row
        self.require("AllOrNothing", new.ref == content)
        if seen is None:
            self.require("NoLostUpdate", row.ref is None)
        else:
            same = seen.view.version == row.version and seen.view.ref == row.ref
            self.require("NoLostUpdate", same)
            self.require("LateWriterFenced", not same or stands(old, seen))
        self.require("SingleWriter", not self.others(old, lease))
        if row.ref == content:
            self.require("NoOpBumpsNothing", (new.version, new.fence) == (row.version, row.fence))
            settled = all(map(lives, row.leases))
            self.require("NoOpBumpsNothing", not settled or (new == row and not self.shelf.announced))
            return
        self.require("NoLostUpdate", new.version == row.version + 1)

    def refused(self, state, after, agent, key, seen, lease, show, reason):  # noqa: PLR0917
        stood, mind = self.stood(state, key), self.mind(state, agent, key)
        for each in range(self.config.keys):
            old, new = self.stood(state, each).row, self.stood(after, each).row
            self.require("AllOrNothing", (old.version, old.ref) == (new.version, new.ref))
        others = self.others(stood, lease)
        if reason is Reason.HELD_BY_OTHER:
            self.require("CrashedOwnerYields", others != [])
            own = all(held.holder == NAMES[agent] for held in others) and mind.lease is None
            self.require("NeverKeepsItselfOut", not own or mind.crashed)
        current = stood.row.ref is None if seen is None else stands(stood, seen)
        lost = show and len(others) == len(holders(stood.row))
        self.require("RefusedForCause", not current or others or lost)

    def commit_both(self, state, agent):
        peer = self.load(state, agent)
        minds = [self.mind(state, agent, key) for key in range(self.config.keys)]
        puts = [Put(key, None, mind.entry.seen.view) for key, mind in zip(KEYS, minds, strict=True)]
        reason = self.tried(peer, puts, CONTENTS)
        after = self.save(state, agent)
        for key, mind in enumerate(minds):
            old, new = self.stood(state, key).row, self.stood(after, key).row
            if reason is None:
                lease = shown(mind)
                self.accepted(state, after, agent, key, mind.entry.seen, CONTENTS[key], lease)
            else:
                self.require("AllOrNothing", (old.version, old.ref) == (new.version, new.ref))
        return after

    def commit_by_cut(self, state, agent, key, content):
        peer = self.load(state, agent)
        cut, content = self.extra(state, agent)[0], CONTENTS[content]
        views = [seen.view for seen in cut]
        reason = self.tried(peer, [Put(KEYS[key], None, views[key])], [content], views)
        after = self.save(state, agent)
        if reason is None:
            for other, seen in enumerate(cut):
                self.require("NoReadSkew", stands(self.stood(state, other), seen))
            lease = shown(self.mind(state, agent, key))
            self.accepted(state, after, agent, key, cut[key], content, lease)
        return after

    # Leases

    def acquire(self, state, agent, key, mode, wait):
        peer = self.load(state, agent)
        peer._free(KEYS[key])
        row = self.shelf.load(CODES[:1] if key == 0 else CODES[1:]).get(CODES[key])
        leases = [] if row is None else [held for held in row.leases if lives(held)]
        others = [held for held in leases if not (held.waits and held.holder == NAMES[agent])]
        _, got = self.coordinator._try_acquire(CODES[key], NAMES[agent], mode, TTL, wait)
        if not hasattr(got, "fence"):
            self.require("CrashedOwnerYields", others != [])
            return self.save(state, agent)
        self.require("WaiterNotOvertaken", not any(held.waits for held in others))
        alone = mode is LeaseMode.EXCLUSIVE
        self.require("SingleWriter", not any(alone or held.mode is LeaseMode.EXCLUSIVE for held in others))
        self.require("NothingGoesBack", got.fence > (row.fence if row else 0))
        lease = Lease("model", KEYS[key], NAMES[agent], mode, got.fence, 0.0, TTL)
        return self.save(state, agent, {key: {"lease": lease}})

    def renew(self, state, agent, key):
        self.load(state, agent)
        lease = self.mind(state, agent, key).lease
        try:
            self.coordinator.renew(lease)
            renewed = True
        except Conflict:
            renewed = False
        stood = self.stood(state, key)
        lived = len(self.others(stood, lease)) < len(holders(stood.row))
        self.require("LateWriterFenced", not renewed or lived)
        self.require("RefusedForCause", renewed or not lived)
        return self.save(state, agent)

    def release(self, state, agent, key):
        self.load(state, agent)
        self.coordinator.release(self.mind(state, agent, key).lease)
        return self.save(state, agent, {key: {"lease": None}})

    def sweep(self, state):
        self.load(state)
        self.coordinator.settled(CODES[: self.config.keys])
        return self.save(state, None)

    def crash(self, state, agent):
        after = list(state)
        for key in range(self.config.keys):
            leases = self.stood(state, key).row.leases
            left = any(held.holder == NAMES[agent] for held in leases)
            after[self.place(agent, key)] = self.intern(Mind(crashed=left))
        after[agent - len(self.peers)] = self.intern((None, self.extra(state, agent)[1]))
        return tuple(after)

    def recover(self, state, agent):
        peer = self.load(state, agent)
        peer.recover()
        rows = self.shelf.rows.values()
        self.require(
            "CrashedOwnerYields", not any(h.holder == peer.name for row in rows for h in row.leases)
        )
        return self.save(state, agent)

    def step_back(self, state, done):
        after = list(self.tick(state, -STEP_BACK))
        cut, _ = self.extra(state, 0)
        after[-len(self.peers)] = self.intern((cut, done + 1))
        return tuple(after)

    # Signals: each may be lost, doubled and late, and overtaken by others

    def fetch(self, state, agent, key, again):
        self.load(state, agent)
        self.coordinator.settled([CODES[key]])
        after = self.save(state, agent)
        stood, mind = self.stood(after, key), self.mind(after, agent, key)
        mind = mind._replace(signal=again, fetched=(stood.row, stood.era))
        return self.with_mind(after, agent, key, mind)

    def lose(self, state, agent, key):
        return self.with_mind(state, agent, key, self.mind(state, agent, key)._replace(signal=False))

    def install(self, state, agent, key):
        """What a thread of the peer has fetched reaches its cache now."""
        peer = self.load(state, agent)
        row, era = self.mind(state, agent, key).fetched
        peer._keep(KEYS[key], CODES[key], row)
        after = self.save(state, agent, {key: {"fetched": None}})
        mind = self.mind(after, agent, key)
        seen = mind.entry.seen._replace(era=era)
        return self.with_mind(after, agent, key, mind._replace(entry=mind.entry._replace(seen=seen)))

    # The coordinator's database

    def restore(self, state):
        """Back it up; or let it be as it was then, if it was backed up."""
        after = list(state)
        for key in range(self.config.keys):
            stood = self.stood(state, key)
            if stood.saved is None:
                after[key] = self.intern(stood._replace(saved=stood.row))
                continue
            after[key] = self.intern(stood._replace(row=stood.saved, saved=None))  # no signal says so
            if stood.row.revision != stood.saved.revision:
                for agent in range(len(self.peers)):
                    place = self.place(agent, key)
                    after[place] = self.outdated(after[place], stood.row.revision)
        return tuple(after)

    def check(self, state, after, agent):
        """What holds of any step."""
        for key in range(self.config.keys):
            pair = state[key], after[key]
            if pair[0] == pair[1]:
                continue
            old, new = self.stood(state, key).row, self.stood(after, key).row
            if new.version != old.version and agent is not None:
                self.check_holds(state, key, agent)
            if pair in self.checked:
                continue
            self.checked.add(pair)
            back = any(getattr(new, name) < getattr(old, name) for name in ("version", "epoch", "fence"))
            self.require("NothingGoesBack", not back or self.config.backups)
            alive = holders(new)
            exclusive = any(held.mode is LeaseMode.EXCLUSIVE for held in alive)
            self.require("SingleWriter", len(alive) <= 1 or not exclusive)

    def check_holds(self, state, key, agent):
        """Nobody else reads without asking while one commits."""
        for other in range(len(self.peers)):
            entry = self.mind(state, other, key).entry
            if other != agent and entry is not None and entry.hold is not None:
                holding = caching.still_holds(entry.hold, entry.reads, 0.0)
                self.require("HoldKeepsOthersOut", not holding)
