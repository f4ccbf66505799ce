"""All that can happen in the small world of coherence, breadth first."""

from collections import deque
from itertools import product

from agentref.coherence import caching
from tests.machines.coherence_steps import INVARIANTS, Steps, ViolationError
from tests.machines.coherence_world import KEYS, NAMES, WAIT


class Search(Steps):
    """Every state that can be reached, each once."""

    def __init__(self, config, watched=INVARIANTS):
        super().__init__(config, watched)
        self.count = 0
        self.done = {}

    def run(self, limit=None):
        """The number of states. Raises `ViolationError`, with the shortest way there."""
        first = self.first()
        came = {first: None}
        queue = deque([first])
        step = None
        while queue and (limit is None or len(came) < limit):
            state = queue.popleft()
            try:
                for step, after in self.steps_from(state):
                    self.check(state, after, step[1])
                    if after not in came:
                        came[after] = state, step
                        queue.append(after)
            except ViolationError as error:
                last = getattr(error, "step", step)
                error.add_note("\n".join(map(said, [last, *self.way(came, state)])))
                raise
        return len(came)

    @staticmethod
    def way(came, state):
        while came[state] is not None:
            state, step = came[state]
            yield step

    def steps_from(self, state):
        """Steps, each a function, the agent that takes it, the keys that it is about, and arguments; and
        the states that they lead to."""
        keys = tuple(range(self.config.keys))
        for agent in range(len(self.peers)):
            for key in keys:
                yield from self.taken(state, agent, (key,), self.at)
            if self.config.crashes or self.config.together:
                yield from self.taken(state, agent, keys, self.at_once)
        for action, *args in self.by_itself(state):
            self.count += 1
            yield (action, None, keys, args), action(state, *args)

    def taken(self, state, agent, keys, actions):
        """The steps of an agent. What they lead to depends on what it has in mind and what stands there, so
        they are tried once for each of these, whatever others have in mind."""
        places = [self.place(agent, key) for key in keys]
        last = agent - len(self.peers)
        before = *[state[key] for key in keys], *[state[place] for place in places], state[last]
        found = self.done.get((agent, keys, actions.__name__, before))
        if found is None:
            found = self.try_all(state, agent, keys, places, actions(state, agent, *keys))
            self.done[agent, keys, actions.__name__, before] = found
        self.count += found[0]
        for (stood, minds, cut), step in found[1]:
            after = list(state)
            for key, place, number, mind in zip(keys, places, stood, minds, strict=True):
                if number is not None:
                    self.spread(after, key, number)
                after[place] = mind
            after[last] = cut
            yield step, tuple(after)

    def try_all(self, state, agent, keys, places, actions):
        """How many steps there are, and those that lead to something, by where they lead."""
        last = agent - len(self.peers)
        found = {}
        number = 0
        for number, (action, *args) in enumerate(actions, 1):  # noqa: B007
            step = action, agent, keys, args
            self.moved.clear()
            try:
                after = action(state, agent, *(keys if actions.__name__ == "at" else ()), *args)
            except ViolationError as error:
                error.step = step
                raise
            stood = tuple(after[key] if key in self.moved else None for key in keys)
            found.setdefault((stood, tuple(after[place] for place in places), after[last]), step)
        found.pop(((None,) * len(keys), tuple(state[place] for place in places), state[last]), None)
        return number, list(found.items())

    def by_itself(self, state):
        """What no agent does."""
        config = self.config
        if config.modes or any(strategy.ttl for strategy in config.strategies):
            yield (self.tick,)
            yield (self.sweep,)
        if (done := self.extra(state, 0)[1]) < config.steps_back:
            yield self.step_back, done
        if config.backups:
            yield (self.restore,)

    def at(self, state, agent, key):
        """What an agent can do with a key."""
        config, row = self.config, self.stood(state, key).row
        mind = self.mind(state, agent, key)
        may_lease = row.fence < config.fences
        entry = mind.entry
        holds = entry and entry.hold and caching.still_holds(entry.hold, entry.reads, 0.0)
        if may_lease or holds or config.strategies[agent].ttl is None:
            yield (self.read,)
        if row.version < config.versions:
            yield from self.commits(mind)
        if mind.entry is not None:
            yield (self.gate,)
            if config.sleepers and mind.slept != mind.entry.seen:
                yield (self.sleep,)
        if mind.lease is not None:
            yield (self.renew,)
            yield (self.release,)
        elif may_lease:
            for mode, wait in product(config.modes, (0.0, WAIT) if config.waits else (0.0,)):
                yield self.acquire, mode, wait
        if mind.signal:
            yield self.fetch, True
            yield self.fetch, False
            yield (self.lose,)
        if mind.fetched is not None:
            yield (self.install,)

    def commits(self, mind):
        shown = (True, False) if mind.lease is not None else (False,)
        bases = ["nothing"]
        if mind.entry is not None:
            bases.append("cached")
        if mind.slept is not None:
            bases.append("slept")
        for base, content, show in product(bases, (0, 1, None), shown):
            if base != "nothing" or content is not None:
                yield self.commit, base, content, show

    def at_once(self, state, agent, *keys):
        """What an agent can do with all keys at once."""
        if self.config.crashes:
            yield (self.crash,)
            if any(self.mind(state, agent, key).crashed for key in keys):
                yield (self.recover,)
        if self.config.together:
            yield (self.cut,)
            yield from self.commits_at_once(state, agent, keys)

    def commits_at_once(self, state, agent, keys):
        may_commit = [self.stood(state, key).row.version < self.config.versions for key in keys]
        if all(may_commit) and all(self.mind(state, agent, key).entry is not None for key in keys):
            yield (self.commit_both,)
        if self.extra(state, agent)[0] is not None:
            for key, content in product(keys, (0, 1)):
                if may_commit[key]:
                    yield self.commit_by_cut, key, content


def said(step):
    """A step, to be read."""
    action, agent, keys, args = step
    who = "" if agent is None else NAMES[agent]
    return " ".join([who, action.__name__, *[KEYS[key][0] for key in keys], *map(str, args)])
