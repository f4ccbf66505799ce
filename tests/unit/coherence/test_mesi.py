"""States follow from rows, leases and caches; a small exhaustive search looks for two owners."""

from itertools import product

import pytest

from agentref.coherence.mesi import State, state_of
from agentref.coherence.rows import ABSENT, Held, LeaseMode, Row, versioned
from agentref.errors import FutureVersionError
from agentref.refs import ContentRef, Digest

NOW = 1000.0
KEY = ("k",)
REF = ContentRef(Digest(b"r" * 32), "agentref-1", 10)
ROW = Row(7, 3, 2, 5, REF, "a", NOW)


def lease(holder, mode=LeaseMode.EXCLUSIVE, until=NOW + 10, *, waits=False):
    return Held(holder, mode, 0 if waits else 5, until, 10.0, waits)


def cached(row):
    return versioned("o", KEY, row)


CASES = {
    "no copy": (ROW, None, "invalid"),
    "a lease, and no copy": (ROW._replace(leases=(lease("a"),)), None, "invalid"),
    "a copy": (ROW, ROW, "shared"),
    "a copy of what was never there": (ABSENT, ABSENT, "shared"),
    "an older version": (ROW, ROW._replace(version=2), "invalid"),
    "an older epoch": (ROW, ROW._replace(epoch=1), "invalid"),
    "of another history": (ROW, ROW._replace(ref=ContentRef(Digest(b"x" * 32), "c", 1)), "invalid"),
    "deleted since": (ROW._replace(version=4, ref=None), ROW, "invalid"),
    "owner and writer": (ROW._replace(leases=(lease("a"),)), ROW, "modified"),
    "owner of another's": (ROW._replace(leases=(lease("a"),), writer="b"), ROW, "exclusive"),
    "owner of nothing yet": (ABSENT._replace(leases=(lease("a"),)), ABSENT, "exclusive"),
    "another owns it": (ROW._replace(leases=(lease("b"),)), ROW, "shared"),
    "a shared lease": (ROW._replace(leases=(lease("a", LeaseMode.SHARED),)), ROW, "shared"),
    "it waits": (ROW._replace(leases=(lease("b"), lease("a", waits=True))), ROW, "shared"),
    "its time is over": (ROW._replace(leases=(lease("a", until=NOW),)), ROW, "invalid"),
    "another's time is over": (ROW._replace(leases=(lease("b", until=NOW),)), ROW, "invalid"),
}


@pytest.mark.parametrize("name", CASES)
def test_states(name):
    row, view, expected = CASES[name]
    assert state_of("a", row, view and cached(view), NOW) is State(expected)


def test_a_view_from_the_future_is_no_state():
    with pytest.raises(FutureVersionError):
        state_of("a", ROW, cached(ROW._replace(version=4)), NOW)


def test_there_is_one_owner_at_most():
    owners = (State.MODIFIED, State.EXCLUSIVE)
    modes, untils = list(LeaseMode), (NOW - 1, NOW + 1)
    seen = set()
    for holder, mode, until, writer in product("ab", modes, untils, "ab"):
        row = ROW._replace(leases=(lease(holder, mode, until),), writer=writer)
        states = [state_of(agent, row, cached(ROW._replace(writer=writer)), NOW) for agent in "ab"]
        assert sum(state in owners for state in states) <= 1
        seen.update(states)
    assert seen == set(State)
