"""Being told of what is committed."""

import functools
import gc
import threading
import time

import pytest

from agentref.coherence import MemoryCoordinator, Write
from agentref.coherence.following import Follower
from agentref.errors import InvalidInputError, StoreUnavailableError
from agentref.refs import ContentRef, Digest


def ref(n):
    return ContentRef(Digest(n.to_bytes(32)), "agr1", 5)


class Writer:
    def __init__(self, coordinator):
        self.coordinator = coordinator
        self.n = 0

    def __call__(self, times=1, *keys):
        """Commits of these keys, each of all of them."""
        for _ in range(times):
            self.n += 1
            now = self.coordinator.read(keys or [("k",)])
            self.coordinator.commit([Write(k, ref(self.n), v) for k, v in now.items()], agent="w")


@pytest.fixture
def write(coordinator):
    return Writer(coordinator)


def versions(pages):
    return [change.version for page in pages for change in page.changes]


def followers():
    return [thread for thread in threading.enumerate() if thread.name == "agentref-follower"]


@pytest.fixture(autouse=True)
def no_thread_stays(eventually):
    eventually(lambda: not followers())
    yield
    eventually(lambda: not followers())


def test_all_are_told_of_everything_once_and_in_order(coordinator, write, eventually):
    told = [[] for _ in range(20)]
    for pages in told:
        coordinator.subscribe(pages.append)
    write(300)
    for pages in told:
        eventually(lambda pages=pages: len(versions(pages)) >= 300)
        assert versions(pages) == list(range(1, 301))
    assert len(followers()) == 1


def test_who_comes_later_is_told_of_what_comes_later(coordinator, write, eventually):
    """While somebody writes all the time; a subscription begins exactly where it was made."""
    told = []
    done = threading.Event()

    def keep_writing():
        while not done.is_set():
            write()

    thread = threading.Thread(target=keep_writing, daemon=True)
    coordinator.subscribe(lambda page: None)
    thread.start()
    try:
        for _ in range(20):
            pages = []
            before = coordinator.read([("k",)])["k",].version
            coordinator.subscribe(pages.append)
            after = coordinator.read([("k",)])["k",].version
            told.append((before, pages, after))
    finally:
        done.set()
        thread.join(20)
    last = coordinator.read([("k",)])["k",].version
    for before, pages, after in told:
        eventually(
            lambda pages=pages, after=after: after == last or (pages and versions(pages)[-1] == last)
        )
        seen = versions(pages)
        if seen:
            assert before < seen[0] <= after + 1
            assert seen == list(range(seen[0], last + 1))


def test_who_ends_is_told_of_nothing_more(coordinator, write, eventually):
    kept, ended = [], []
    coordinator.subscribe(kept.append)
    subscription = coordinator.subscribe(ended.append)
    write()
    eventually(lambda: kept and ended)
    subscription.close()
    subscription.close()
    write(5)
    eventually(lambda: versions(kept) == [1, 2, 3, 4, 5, 6])
    assert versions(ended) == [1]


def test_one_that_fails_is_told_of_the_next_and_keeps_nobody_from_it(
    coordinator, write, eventually, caplog
):
    told, others = [], []

    def fail(page):
        told.append(page)
        raise RuntimeError("a bug of the user's")

    coordinator.subscribe(fail)
    coordinator.subscribe(others.append)
    for n in range(1, 4):
        write()
        eventually(lambda n=n: versions(told) == versions(others) == list(range(1, n + 1)))
    assert "a bug of the user's" in caplog.text


def test_any_callable_will_do(coordinator, write, eventually, capsys):
    class Slotted:
        __slots__ = ("pages",)

        def __init__(self):
            self.pages = []

        def note(self, page):
            self.pages.append(page)

        __call__ = note

    slotted, called, by_list, partial = Slotted(), Slotted(), [], []
    for call in (slotted.note, called, by_list.append, functools.partial(partial.append), print):
        coordinator.subscribe(call)
    write()
    eventually(lambda: all(map(versions, (slotted.pages, called.pages, by_list, partial))))
    eventually(lambda: "Page(" in capsys.readouterr().out)
    for bad in (None, "print", 5):
        with pytest.raises(InvalidInputError, match="function"):
            coordinator.subscribe(bad)


def test_a_method_is_forgotten_with_its_object(coordinator, write, eventually):
    class Agent:
        pages = []  # noqa: RUF012  (outlives the object)

        def note(self, page):
            self.pages.append(page)

    agent = Agent()
    coordinator.subscribe(agent.note)
    write()
    eventually(lambda: Agent.pages)
    del agent
    gc.collect()
    write()
    eventually(lambda: not followers())
    assert versions(Agent.pages) == [1]


def test_a_peer_that_is_forgotten_is_not_kept_by_what_it_follows(coordinator, store, write, eventually):
    import weakref

    peer = coordinator.peer("p", backend=store, strategy="broadcast")
    alive = weakref.ref(peer)
    del peer
    gc.collect()
    assert alive() is None
    write()


def test_one_may_subscribe_another_and_end_itself_while_it_is_told(coordinator, write, eventually):
    first, second, third = [], [], []

    def once(page):
        first.append(page)
        coordinator.subscribe(second.append)
        subscription.close()

    subscription = coordinator.subscribe(once)
    coordinator.subscribe(third.append)
    write()
    eventually(lambda: first and third)
    write(2)
    eventually(lambda: versions(third) == [1, 2, 3])
    eventually(lambda: versions(second) == [2, 3])
    assert versions(first) == [1]


def test_one_may_wait_for_a_thread_that_subscribes(coordinator, write, eventually, together):
    """No lock is held while somebody is told."""
    told, inner = [], []
    entered, go_on = threading.Event(), threading.Event()

    def slow(page):
        entered.set()
        assert go_on.wait(20)
        told.append(page)

    coordinator.subscribe(slow)
    write()
    assert entered.wait(20)
    together(lambda: coordinator.subscribe(inner.append).close())
    coordinator.subscribe(inner.append)
    write()
    go_on.set()
    eventually(lambda: versions(told) == [1, 2])
    eventually(lambda: versions(inner) == [2])


def test_one_may_commit_while_it_is_told(coordinator, write, eventually):
    pages = []

    def answer(page):
        pages.append(page)
        if len(versions(pages)) < 5:
            write()

    coordinator.subscribe(answer)
    write()
    eventually(lambda: versions(pages) == [1, 2, 3, 4, 5])


def test_a_commit_of_many_comes_whole(coordinator, write, eventually):
    pages = []
    coordinator.subscribe(pages.append)
    write(3, ("a",), ("b",))
    eventually(lambda: len(versions(pages)) == 6)
    assert [(c.key, c.version) for p in pages for c in p.changes] == [
        ((key,), n) for n in (1, 2, 3) for key in "ab"
    ]


def test_a_gap_is_told(coordinator, write, eventually):
    """The feed is compacted before it was read."""
    pages = []
    follower = Follower(coordinator)
    held = threading.Event()

    def hold(page):
        pages.append(page)
        held.wait(20)

    follower.add(hold)
    write()
    eventually(lambda: pages)
    write(5)
    coordinator.sweep(feed_seconds=0)
    time.sleep(0.01)
    coordinator.sweep(feed_seconds=0)
    write()
    held.set()
    eventually(lambda: pages[-1].gap)
    write()
    eventually(lambda: versions(pages)[-1:] == [8])
    assert [page.gap for page in pages].count(True) == 1
    follower.stop()


def test_closing_the_coordinator_ends_the_thread(store, eventually):
    coordinator = MemoryCoordinator()
    peers = [coordinator.peer(f"p{n}", backend=store, strategy="eager") for n in range(3)]
    pages = []
    coordinator.subscribe(pages.append)
    assert len(followers()) == 1
    Writer(coordinator)()
    eventually(lambda: pages)
    coordinator.close()
    coordinator.close()
    eventually(lambda: not followers())
    with pytest.raises(StoreUnavailableError):
        coordinator.subscribe(pages.append)
    for peer in peers:
        peer.close()


def test_the_thread_ends_with_the_last_and_starts_with_the_next(coordinator, write, eventually):
    for _ in range(2):
        pages = []
        subscription = coordinator.subscribe(pages.append)
        write()
        eventually(lambda pages=pages: len(versions(pages)) == 1)
        subscription.close()
        eventually(lambda: not followers())


def test_a_feed_that_cannot_be_read_for_a_while_is_read_later(coordinator, write, eventually, monkeypatch):
    pages = []
    coordinator.subscribe(pages.append)
    with monkeypatch.context() as patched:

        def fail(*_, **__):
            raise StoreUnavailableError("away")

        patched.setattr(coordinator.table, "entries", fail)
        write(2)
        time.sleep(0.1)
        assert not pages
    eventually(lambda: versions(pages) == [1, 2])
