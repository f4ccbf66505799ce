"""What a row went through is told from the row before and the row after."""

import pytest

from agentref.coherence.events import EventKind, of_change, transitions
from agentref.coherence.observer import RowChange
from agentref.coherence.rows import Held, LeaseMode, Row
from agentref.coherence.rules import Asked, Base, Token, Wanted, acquire, evict, release, renew, settle
from agentref.refs import ContentRef, Digest

NOW = 1000.0
REF = ContentRef(Digest(b"r" * 32), "agentref-1", 10)
MINE = Held("a", LeaseMode.EXCLUSIVE, 1, NOW + 10, 10.0)
SHARED = Held("b", LeaseMode.SHARED, 2, NOW + 10, 10.0)
HELD = Row(7, 3, 0, 1, REF, "a", NOW, (MINE,))
FREE = Row(7, 3, 0, 1, REF, "a", NOW)
BOTH = FREE._replace(fence=2, leases=(MINE._replace(mode=LeaseMode.SHARED), SHARED))


def asks(row, agent, mode=LeaseMode.EXCLUSIVE, wait=0.0, now=NOW):
    return acquire(row, Wanted(agent, mode, 10.0, wait), now)[0]


CASES = {
    "commit": (FREE, FREE._replace(version=4, writer="b"), NOW, ["commit"]),
    "delete": (FREE, FREE._replace(version=4, ref=None), NOW, ["delete"]),
    "grant": (FREE, asks(FREE, "a"), NOW, ["grant"]),
    "renew": (HELD, renew(HELD, Token("a", 1), 20.0, NOW + 1)[0], NOW + 1, ["renew"]),
    "release": (HELD, release(HELD, Token("a", 1), NOW), NOW, ["release"]),
    "expire": (HELD, settle(HELD, NOW + 10), NOW + 10, ["expire"]),
    "the clock was set back": (HELD, settle(HELD, NOW - 11), NOW - 11, ["expire"]),
    "expire, then grant": (HELD, asks(HELD, "b", now=NOW + 11), NOW + 11, ["expire", "grant"]),
    "one of two is given back": (BOTH, release(BOTH, Token("b", 2), NOW), NOW, ["release"]),
    "queue": (HELD, asks(HELD, "b", wait=5.0), NOW, ["queue"]),
    "nothing": (HELD, HELD._replace(revision=8), NOW, ["touch"]),
}


@pytest.mark.parametrize("name", CASES)
def test_transitions(name):
    old, new, now, kinds = CASES[name]
    assert [happened.kind for happened in transitions(old, new, now)] == kinds


def test_what_is_taken_away_is_told_from_what_is_given_back_only_by_who_did_it():
    gone = evict(HELD, "a", NOW)
    assert gone == release(HELD, Token("a", 1), NOW)
    assert transitions(HELD, gone, NOW, evicts=True) == [(EventKind.EVICT, MINE)]
    late = evict(HELD, "a", NOW + 10)
    assert transitions(HELD, late, NOW + 10, evicts=True) == [(EventKind.EXPIRE, MINE)]


def test_who_waited_leaves_the_queue_when_he_gets_the_lease():
    waiting = asks(HELD, "b", wait=60.0)
    later = NOW + 11
    found = transitions(waiting, asks(waiting, "b", now=later), later)
    assert [happened.kind for happened in found] == ["expire", "leave", "grant"]


def test_an_event_tells_the_row_after_the_view_before_and_the_lease_that_was_shown():
    asked = Asked("b", None, Base(3, REF, 0), Token("a", 1))
    new = HELD._replace(revision=8, version=4, ref=None, writer="b")
    ((kind, now, *rest),) = of_change(RowChange("o", ("k",), "b", HELD, new, NOW, asked))
    assert (kind, now) == (EventKind.DELETE, NOW)
    row = ["o", "b", ("k",), 4, 0, None, "b", 1, "", 0, 7, 8, 1, 1]
    assert rest == [*row, 1, "a", "", 0.0, (3, 0, REF.hash), ""]
