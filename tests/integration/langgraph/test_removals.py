"""Checkpoints in memory do with their parents' pins for as long as nobody takes these away."""

import asyncio
import os
import threading
import time

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from agentref.adapters.langgraph import externalize, pins
from agentref.adapters.langgraph.removals import Removals, removals
from agentref.storage import InMemoryCAS

LARGE = "large " * 5000


class Thread:
    """A thread of checkpoints that carry one large value, each a step after the other."""

    def __init__(self, name="one", inner=None):
        self.name, self.step = name, 0
        self.inner, self.cas = InMemorySaver() if inner is None else inner, InMemoryCAS()
        self.saver = externalize(self.inner, backend=self.cas)
        self.last = {"configurable": {"thread_id": name, "checkpoint_ns": ""}}

    def arguments(self):
        self.step += 1
        versions = {"docs": 1, "count": self.step}
        checkpoint = {
            "v": 4,
            "ts": "2026-01-01",
            "id": f"{self.step:08}",
            "channel_values": {"docs": LARGE, "count": self.step},
            "channel_versions": versions,
            "versions_seen": {},
        }
        new = versions if self.step == 1 else {"count": self.step}
        return self.last, checkpoint, {"step": self.step, "run_id": "a run"}, new

    def put(self):
        self.last = self.saver.put(*self.arguments())
        return self.last

    async def aput(self):
        self.last = await self.saver.aput(*self.arguments())
        return self.last

    def owners(self):
        return sorted(pin.owner.rsplit(":", 1)[1] for pin in self.cas.iter_pins())


def expire(cas):
    """All that nothing keeps is gone."""
    cas._store._entries.update(
        {digest: entry._replace(expires_at=0.0) for digest, entry in cas._store._entries.items()}
    )
    cas.prune_expired(grace=0)


def loads(thread, config):
    return thread.saver.get_tuple(config).checkpoint["channel_values"]["docs"] == LARGE


def test_only_the_first_has_pins():
    thread = Thread()
    for _ in range(5):
        thread.put()
    assert thread.owners() == ["00000001"]
    expire(thread.cas)
    assert loads(thread, thread.last)


def test_who_begins_anew_after_a_removal_has_pins():
    thread, other = Thread(), Thread("other")
    thread.put()
    other.put()
    other.saver.delete_thread("other")
    thread.put()
    thread.put()
    assert thread.owners() == ["00000001", "00000002"]


def test_the_child_of_one_that_is_gone_has_pins():
    thread = Thread()
    thread.put()
    thread.put()
    thread.saver.delete_thread("one")
    assert thread.owners() == []
    thread.put()
    assert thread.owners() == ["00000003"]


@pytest.mark.parametrize("strikes", ["delete_thread", "put"])
def test_what_is_put_during_a_removal_has_pins(strikes):
    thread = Thread()
    thread.put()
    thread.put()
    real = getattr(thread.inner, strikes)

    def deletion(*arguments):
        thread.inner.delete_thread = real
        done = real(*arguments)
        thread.put()
        return done

    def put(*arguments):
        thread.inner.put = real
        thread.saver.delete_thread("one")
        return real(*arguments)

    setattr(thread.inner, strikes, deletion if strikes == "delete_thread" else put)
    thread.saver.delete_thread("one") if strikes == "delete_thread" else thread.put()
    assert thread.owners() == ["00000003"]


def test_the_async_twins_do_the_same():
    async def main(thread):
        await thread.aput()
        await thread.aput()
        assert thread.owners() == ["00000001"]
        real = thread.inner.aput

        async def aput(*arguments):
            thread.inner.aput = real
            await thread.saver.adelete_thread("one")
            return await real(*arguments)

        thread.inner.aput = aput
        await thread.aput()
        assert thread.owners() == ["00000003"]

    asyncio.run(main(Thread()))


def test_what_a_listing_saw_is_pinned_before_its_parents_lose_their_pins():
    thread = Thread()
    for _ in range(4):
        thread.put()
    thread.saver.prune(["one"])
    assert thread.owners() == ["00000004"]
    expire(thread.cas)
    assert loads(thread, thread.last)


def test_a_removal_that_fails_ends_its_era_all_the_same():
    thread = Thread()
    thread.put()
    before = removals.era
    thread.inner.delete_thread = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        thread.saver.delete_thread("one")
    assert removals.era not in {None, before}
    thread.put()
    assert loads(thread, thread.last)


def test_there_is_no_era_while_any_of_several_is_under_way():
    removals = Removals()
    first = removals.era
    with removals.under_way():
        with removals.under_way():
            assert removals.era is None
        assert removals.era is None
    assert removals.era not in {None, first}


def test_after_a_fork_each_process_pins_anew():
    thread = Thread()
    thread.put()
    before = removals.era
    pid = os.fork()
    if pid == 0:
        ok = removals.era not in {None, before}
        thread.put()
        os._exit(0 if ok and thread.owners() == ["00000001", "00000002"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert removals.era not in {None, before}
    thread.put()
    assert thread.owners() == ["00000001", "00000002"]


def test_there_is_no_era_while_the_process_forks():
    removals = Removals()
    removals.before_fork()
    with removals.under_way():
        pass
    assert removals.era is None
    with removals.under_way():
        removals.after_fork_in_parent()
        assert removals.era is None
    assert removals.era is not None


def test_a_child_of_a_removal_begins_an_era_and_its_parent_does_not():
    removals = Removals()
    with removals.under_way():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if removals.era is not None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert removals.era is None


def test_steps_beside_removals_keep_what_they_carry():
    """Of checkpoints that stay, each is kept by somebody."""
    thread, done, errors = Thread(), threading.Event(), []

    def repeat(work, pause):
        while not done.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001  (whatever it is, it must not be)
                errors.append(error)
            time.sleep(pause)

    def prune():
        thread.saver.prune(["one"])

    workers = [threading.Thread(target=repeat, args=(prune, pause)) for pause in (0.001, 0.003)]
    for worker in workers:
        worker.start()
    for _ in range(1500):
        thread.put()
    done.set()
    for worker in workers:
        worker.join()
    for _ in range(3):
        thread.put()
    assert errors == []
    expire(thread.cas)
    left = list(thread.inner.list({"configurable": {"thread_id": "one"}}))
    assert len(left) >= 3
    assert all(loads(thread, item.config) for item in left)
    thread.saver.delete_thread("one")
    expire(thread.cas)
    assert thread.cas.stats().blobs == 0


@pytest.mark.parametrize("verb", ["prune", "delete_for_runs"])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_what_came_after_the_listing_and_went_all_the_same_has_no_pins(
    memory_or_sqlite, monkeypatch, verb, colour
):
    if colour == "async" and not isinstance(memory_or_sqlite, InMemorySaver):
        pytest.skip("SqliteSaver is sync only")
    thread = Thread(inner=memory_or_sqlite)
    thread.put()
    listed, alisted = pins.listed, pins.alisted

    def late(*arguments):
        found = listed(*arguments)
        thread.put()
        thread.put()
        return found

    async def alate(*arguments):
        await alisted(*arguments)
        return late(*arguments)

    monkeypatch.setattr(pins, "listed", late)
    monkeypatch.setattr(pins, "alisted", alate)
    named = ["one"] if verb == "prune" else ["a run"]
    if colour == "sync":
        getattr(thread.saver, verb)(named)
    else:
        asyncio.run(getattr(thread.saver, f"a{verb}")(named))
    assert thread.owners() == (["00000003"] if verb == "prune" else [])
