"""The cache of a peer, and the two decisions about what it holds."""

import sys
import threading

import pytest

from agentref.coherence import Lease, LeaseMode
from agentref.coherence.caching import Cache, Cached, may_show, still_holds
from agentref.coherence.keys import encode_key
from agentref.coherence.rows import Held, Row, versioned
from agentref.coherence.views import View
from agentref.refs import ContentRef, Digest

KEY = ("k",)


def lease(until, ttl=10):
    return Lease("o", KEY, "a", LeaseMode.SHARED, 1, until, ttl)


def entry(name, size=100, hold=None):
    row = Row(revision=1, version=1, ref=ContentRef(Digest(bytes(32)), "agr1", size))
    return Cached(encode_key((name,)), row, View(versioned("o", (name,), row), None), hold)


@pytest.mark.parametrize(
    ("reads", "left", "holds"),
    [(-1, 10, True), (-1, 1.01, True), (-1, 1, False), (-1, 0, False), (-1, -5, False), (-1, 20, True),
     (-1, 20.1, False), (0, 5, False), (1, 5, True)],
)  # fmt: skip
def test_a_hold_counts_while_it_surely_lives(reads, left, holds):
    assert still_holds(lease(until=1000.0), reads, 1000 - left) is holds


def test_what_is_under_leases_is_shown_until_one_has_ended():
    held = Held("a", LeaseMode.EXCLUSIVE, 1, 1000.0, 10)
    assert may_show((), 5.0)
    for now, shown in [(999.9, True), (1000.0, False), (1000.1, False), (980.0, True), (979.9, False)]:
        assert may_show((held,), now) is shown
        assert may_show((held._replace(until=2000.0, ttl=2000.0), held), now) is shown


def test_what_was_used_longest_ago_goes_first():
    cache = Cache(3 * 1200)
    for name in "abc":
        assert cache.put((name,), entry(name, 200)) == []
    cache.get(("a",))
    cache.put(("d",), entry("d", 200))
    assert [name for name in "abcd" if cache.find((name,))] == ["a", "c", "d"]
    cache.put(("big",), entry("big", 10**9))
    assert [cache.find((name,)) for name in "abcd"] == [None] * 4
    assert cache.get(("big",)) is not None  # one is always kept
    cache.drop(("big",))
    cache.drop(("big",))
    assert cache.get(("big",)) is None
    assert cache._size == 0


def test_the_holds_that_go_are_returned():
    cache = Cache(2500)
    first, second = lease(1), lease(2)
    assert cache.put(("a",), entry("a", hold=first)) == []
    assert cache.put(("a",), entry("a", hold=first)) == []  # the same hold goes on
    assert cache.put(("a",), entry("a", hold=second)) == [first]
    assert cache.put(("b",), entry("b")) == []
    assert cache.put(("c",), entry("c")) == [second]
    cache.put(("d",), entry("d", hold=first))
    assert [each.hold for each in cache.clear()] == [None, first]
    assert cache.clear() == []
    assert cache._size == 0


def test_threads_may_get_while_others_put():
    cache = Cache(8000)
    done = threading.Event()
    errors = []

    def get():
        try:
            while not done.is_set():
                for n in range(20):
                    cache.get((str(n),))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=get, daemon=True) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for n in range(10_000):
            cache.put((str(n % 20),), entry(str(n % 20)))
            if n % 1000 == 0:
                cache.clear()
    finally:
        done.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join(20)
    assert not errors
    assert 0 < cache._size <= 8000
    cache.clear()
    assert cache._size == 0
