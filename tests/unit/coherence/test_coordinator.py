"""What a coordinator refuses by itself, whatever its table is: nothing is touched then."""

import asyncio
import math

import pytest

from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.memory import MemoryTable
from agentref.errors import Conflict, InvalidInputError, InvalidKeyError, Reason
from agentref.refs import ContentRef

KEY = ("a",)
OTHER = ("b",)
REF = ContentRef(b"x" * 32, "json", 1)
NO_SECONDS = (-1, -0.001, math.nan, math.inf, -math.inf, 10**400, "1", None, True)


@pytest.fixture
def coordinator():
    with Coordinator(MemoryTable()) as made:
        yield made


@pytest.fixture
def untouched(coordinator):
    """Whatever the test does, no row changes."""
    before = dict(coordinator.table._rows)
    since = coordinator.head()
    yield coordinator
    assert coordinator.table._rows == before
    assert coordinator.head() == since


@pytest.mark.parametrize("bad", [*NO_SECONDS, 0])
def test_a_lease_has_a_length(untouched, bad):
    with pytest.raises(InvalidInputError):
        untouched.acquire(KEY, holder="a", ttl=bad)
    with pytest.raises(InvalidInputError):
        asyncio.run(untouched.aacquire(KEY, holder="a", ttl=bad))


@pytest.mark.parametrize("bad", [each for each in (*NO_SECONDS, 0) if each is not None])
def test_a_lease_is_renewed_for_some_time(coordinator, bad):
    lease = coordinator.acquire(KEY, holder="a", ttl=10)
    with pytest.raises(InvalidInputError):
        coordinator.renew(lease, ttl=bad)
    assert coordinator.leases(KEY) == [lease]


@pytest.mark.parametrize("bad", NO_SECONDS)
def test_a_wait_has_an_end(untouched, bad):
    with pytest.raises(InvalidInputError):
        untouched.acquire(KEY, holder="a", ttl=10, wait=bad)
    with pytest.raises(InvalidInputError):
        untouched.sweep(feed_seconds=bad)
    if bad != math.inf:
        with pytest.raises(InvalidInputError):
            untouched.wait(untouched.head(), timeout=bad)


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800", "x" * 257, "é" * 129, None, b"a", 1])
def test_an_agent_has_a_name(untouched, bad):
    for verb in (
        lambda: untouched.commit([Write(KEY, REF)], agent=bad),
        lambda: untouched.acquire(KEY, holder=bad, ttl=10),
        lambda: untouched.recover(bad),
    ):
        with pytest.raises(InvalidInputError):
            verb()


@pytest.mark.parametrize("bad", ["a", (), ("",), ["a"], None, ("\ud800",), ("a", 1)])
def test_a_key_is_a_key(untouched, bad):
    for verb in (
        lambda: untouched.read([bad]),
        lambda: untouched.commit([Write(KEY, REF), Write(bad, REF)], agent="a"),
        lambda: untouched.acquire(bad, holder="a", ttl=10),
        lambda: untouched.leases(bad),
    ):
        with pytest.raises(InvalidKeyError):
            verb()


def test_what_is_no_write_no_view_and_no_lease_is_refused(untouched):
    for writes in (
        [KEY],
        [(KEY, REF)],
        [Write(KEY, "ref")],
        [Write(KEY, REF, base=1)],
        [Write(KEY, REF, None, 1)],
    ):
        with pytest.raises(InvalidInputError):
            untouched.commit(writes, agent="a")
    for verb in (
        lambda: untouched.commit([], agent="a", reads=[KEY]),
        lambda: untouched.gate(KEY),
        lambda: untouched.renew(KEY),
        lambda: untouched.release(None),
        lambda: untouched.acquire(KEY, holder="a", ttl=10, mode="both"),
    ):
        with pytest.raises(InvalidInputError):
            verb()


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "1", None, 2**31])
def test_a_page_has_a_size(untouched, limit):
    with pytest.raises(InvalidInputError):
        untouched.changes(since=untouched.head(), limit=limit)


def test_a_key_is_written_once_in_a_commit(untouched):
    with pytest.raises(InvalidInputError):
        untouched.commit([Write(KEY, REF), Write(KEY, None)], agent="a")


def test_a_view_and_a_lease_are_of_the_key_that_is_written(coordinator):
    view = coordinator.read([KEY])[KEY]
    lease = coordinator.acquire(KEY, holder="a", ttl=10)
    for write in (Write(OTHER, REF, view), Write(OTHER, REF, None, lease)):
        with pytest.raises(InvalidInputError):
            coordinator.commit([write], agent="a")
    with pytest.raises(InvalidInputError):
        coordinator.gate(coordinator.read([OTHER])[OTHER], lease=lease)


def test_of_two_views_that_a_commit_rests_on_the_stale_one_counts(coordinator):
    """In whatever order they come."""
    stale = coordinator.read([KEY])[KEY]
    fresh = coordinator.commit([Write(KEY, REF)], agent="a")[KEY]
    for reads in ([stale, fresh], [fresh, stale]):
        with pytest.raises(Conflict) as caught:
            coordinator.commit([Write(OTHER, REF)], agent="a", reads=reads)
        assert caught.value.base == stale


def test_what_a_gate_tells_of_can_be_the_next_base():
    now = [1000.0]
    with Coordinator(MemoryTable(clock=lambda: now[0])) as coordinator:
        view = coordinator.commit([Write(KEY, REF)], agent="a")[KEY]
        coordinator.acquire(KEY, holder="a", ttl=10)
        now[0] += 20
        with pytest.raises(Conflict) as caught:
            coordinator.gate(view)
        assert caught.value.reason is Reason.STALE_EPOCH
        assert coordinator.commit([Write(KEY, None, caught.value.current)], agent="a")[KEY].version == 2
