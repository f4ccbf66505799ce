"""What a coordinator in PostgreSQL decides without a server."""

import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentref.coherence._postgres_feed import Place, read_place
from agentref.coherence._postgres_rows import choose
from agentref.coherence._postgres_swaps import Recent
from agentref.coherence._private_files import private_file
from agentref.coherence.postgres import PostgresCoordinator
from agentref.coherence.rows import ABSENT, Held, LeaseMode, Row
from agentref.coherence.rules import settle
from agentref.coherence.table import Decision, Transition
from agentref.errors import InvalidInputError
from agentref.postgres.feed import Snapshot, Stand

NUMBERS = st.integers(0, 2**59)
NOW = 1000.0


@st.composite
def below(draw):
    end = draw(NUMBERS)
    return end, tuple(draw(st.lists(st.integers(0, end), max_size=5)))


@given(below(), st.none() | below(), NUMBERS, NUMBERS)
def test_a_place_comes_back_from_its_text(stand, window, after, top):
    place = Place("0123abcd", Stand(*stand))
    if window is not None:
        place = Place("0123abcd", Stand(*stand), Snapshot(*window), after, top)
    assert read_place(place.text()) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "0123abcd",
        "0123abcd.",
        "0123abcd.1-2",
        "0123abcd.g",
        "0123abcd.1.2",
        "0123abcd." + "f" * 16,
        "0123abcd.1\n",
    ],
)
def test_what_is_no_place_is_refused(text):
    with pytest.raises(InvalidInputError):
        read_place(text)


def test_what_was_seen_never_goes_back():
    place = Place("0123abcd", Stand(10, (3, 7)), top=4).settled(Snapshot(12, (7, 11)))
    assert place == Place("0123abcd", Stand(10, (7,)))
    assert place._replace(top=11).settled(Snapshot(20, (7, 15))).stand == Stand(12, (7,))


def held(until, ttl=10.0, *, waits=False):
    return Held("a", LeaseMode.EXCLUSIVE, 1, until, ttl, waits)


@given(st.lists(st.tuples(st.floats(900, 1100), st.floats(0.1, 60)), max_size=4), st.floats(900, 1100))
def test_while_a_decision_holds_the_same_leases_are_alive(leases, later):
    row = Row(revision=1, leases=tuple(held(*each) for each in leases))
    wanted = choose(
        lambda rows, _: Decision(Transition({b"k": row}), None), {b"k": row}, NOW, exact=True
    ).swap
    if wanted.not_before <= later < wanted.deadline:
        # But for what is rounded in the sum and not in the difference.
        assert settle(row, later).leases == settle(row, NOW).leases or any(
            abs(each.until - 2 * each.ttl - later) < 1e-9 for each in row.leases
        )


def test_a_lease_is_not_granted_at_a_time_that_is_far_off():
    def grant(rows, now):
        return Decision(Transition({b"k": Row(revision=2, leases=(held(now + 8, 8.0),))}), None)

    def swap(*, exact):
        return choose(grant, {b"k": ABSENT}, NOW, exact=exact).swap

    assert (swap(exact=True).not_before, swap(exact=True).deadline) == (-math.inf, math.inf)
    assert (swap(exact=False).not_before, swap(exact=False).deadline) == (NOW - 1, NOW + 1)


def test_what_is_only_looked_at_has_to_stand_there():
    there = Row(revision=5, version=1, writer="a", at=1.0)
    rows = {b"new": ABSENT, b"absent": ABSENT, b"there": there}
    made = Row(revision=9, version=1, writer="a", at=2.0)
    wanted = choose(
        lambda *_: Decision(Transition({b"new": made}, b"entry"), 1), rows, NOW, exact=True
    ).swap
    assert list(wanted.rows) == sorted(rows)
    assert wanted.rows[b"there"] == (5, None)
    assert wanted.rows[b"new"][1][:2] == (9, 1)
    expected, placed = wanted.rows[b"absent"]
    assert (expected, placed[1:4]) == (0, (0, 0, 0))
    assert placed[0] > 0


def test_only_so_many_rows_are_remembered():
    recent = Recent()
    for number in range(5000):
        recent.see({str(number).encode(): Row(revision=number + 1)})
    assert recent.get([b"4999", b"4000"]) is not None
    assert recent.get([b"4999", b"1"]) is None


def test_a_folder_of_somebody_else_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = private_file("turns")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.chmod(0o777)
    assert private_file("turns") is None
    path.parent.rmdir()
    path.parent.symlink_to(os.curdir)
    assert private_file("turns") is None


@pytest.mark.parametrize("given", [{}, {"dsn": "host=a", "connection": 1}, {"connection": 1}, {"dsn": ""}])
def test_an_address_or_a_connection_is_needed(given):
    with pytest.raises(InvalidInputError):
        PostgresCoordinator(**given)
