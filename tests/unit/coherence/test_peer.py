"""The verbs for event loops."""

import asyncio
import inspect
import math
import threading
import time

import pytest

from agentref.coherence import Conflict, Peer, Reason, Strategy, writer
from agentref.coherence import peer as peers
from agentref.coherence.sync_peer import SyncPeer
from agentref.errors import BlobNotFoundError, CursorTooOldError, InvalidInputError, RetriesExhaustedError
from agentref.storage import InMemoryCAS

KEY, OTHER = ("proj", "plan"), ("proj", "budget")
TASKS = 60  # more than there are threads


@pytest.fixture
def store():
    """One will do: what is tested here is not about contents."""
    with InMemoryCAS() as store:
        yield store


@pytest.fixture
def agent(peer):
    return peer("agent")


@pytest.fixture(autouse=True)
def few_threads(monkeypatch):
    """An event loop with three threads for all that waits."""
    from concurrent.futures import ThreadPoolExecutor

    original = asyncio.new_event_loop

    def loop():
        made = original()
        made.set_default_executor(ThreadPoolExecutor(3))
        return made

    monkeypatch.setattr(asyncio.runners.events, "new_event_loop", loop)
    monkeypatch.setattr(asyncio, "new_event_loop", loop)


def drive(coroutine, seconds=40):
    """Run it, and end the loop: what still waits in a thread would keep that from ending."""

    async def limited():
        async with asyncio.timeout(seconds):
            return await coroutine

    began = time.monotonic()
    result = asyncio.run(limited())
    assert time.monotonic() - began < seconds
    return result


def test_every_verb_has_a_twin():
    twins = {name for name, _ in inspect.getmembers(SyncPeer, inspect.isfunction) if name[0] != "_"} - {
        "lease",  # enters both ways
        "cached",  # waits for nothing
    }
    missing = {name for name in twins if not hasattr(Peer, f"a{name}")}
    assert twins and not missing
    for name in twins - {"close"}:
        sync, twin = inspect.signature(getattr(Peer, name)), inspect.signature(getattr(Peer, f"a{name}"))
        assert list(twin.parameters)[:2] == list(sync.parameters)[:2]


def test_all_of_them_together(agent, peer, coordinator):
    other = peer("other")

    async def run():
        assert not (await agent.aread(KEY)).exists
        view = await agent.acommit(KEY, [1], base=None)
        assert (await agent.acommit_many([(OTHER, 1, None)], reads=iter([view])))[0].version == 1
        assert await agent.avalue(KEY) == [1] == await other.avalue(KEY)
        assert {k: v.version for k, v in (await agent.aread_many(iter([KEY, OTHER]))).items()} == {
            KEY: 1,
            OTHER: 1,
        }
        await agent.agate(view)
        await agent.acommit_ref(KEY, (await agent.aread(OTHER)).ref, base=view)
        with pytest.raises(Conflict):
            await agent.acommit(KEY, [2], base=view)
        assert (await agent.adelete(KEY, base=await agent.aread(KEY))).version == 3
        assert [c.version async for c in other.achanges()] == [1, 1, 2, 3]
        lease = await coordinator.aacquire(KEY, holder="agent", ttl=1000)
        assert await agent.arecover() == [KEY]
        assert lease not in coordinator.leases(KEY)
        assert await agent.atidy() >= 0
        await agent.aclose()
        async with coordinator.peer("third", backend=agent._contents.store) as third:
            assert await third.avalue(OTHER) == 1

    drive(run())


def test_tasks_lose_no_increment(peer):
    agents = [peer(f"a{n}", strategy=s) for n, s in enumerate(["lazy", "broadcast", Strategy.lease(0.05)])]
    agents[0].commit(KEY, 0, base=None)

    async def change(value):
        await asyncio.sleep(0)
        return value + 1

    async def run():
        await asyncio.gather(
            *(agents[n % 3].aupdate(KEY, change if n % 2 else lambda v: v + 1) for n in range(TASKS))
        )

    drive(run())
    assert agents[0].value(KEY) == TASKS


def test_tasks_and_threads_lose_no_increment(agent, peer):
    other = peer("other")
    agent.commit(KEY, 0, base=None)

    def work():
        for _ in range(30):
            other.update(KEY, lambda v: v + 1)

    thread = threading.Thread(target=work)
    thread.start()

    async def run():
        await asyncio.gather(*(agent.aupdate(KEY, lambda v: v + 1) for _ in range(30)))

    drive(run())
    thread.join(30)
    assert agent.value(KEY) == 60


def test_the_errors_of_a_function_are_its_callers(agent):
    agent.commit_many([(KEY, 1, None), (OTHER, 1, None)])
    stale = agent.read(OTHER)
    agent.commit(OTHER, 2, base=stale)
    calls = []

    async def fail(value):
        calls.append(value)
        raise ValueError("no")

    async def commit_elsewhere(value):
        calls.append(value)
        await agent.acommit(OTHER, 3, base=stale)

    async def run():
        with pytest.raises(ValueError, match="no"):
            await agent.aupdate(KEY, fail)
        with pytest.raises(Conflict) as refused:
            await agent.aupdate(KEY, commit_elsewhere, timeout=5)
        assert refused.value.key == OTHER
        with pytest.raises(BlobNotFoundError):
            await agent.aupdate(("nothing",), lambda v: v)
        with pytest.raises(InvalidInputError):
            await agent.aupdate(KEY, lambda v: v, timeout=-1)
        assert (await agent.aupdate(KEY, lambda v: v + 1)).value == 2

    drive(run())
    assert len(calls) == 2


def test_a_start_is_as_good_as_new_each_time(agent, coordinator):
    initial, calls = [], []
    lease = coordinator.acquire(KEY, holder="x", ttl=1000)

    async def append(value):
        calls.append(list(value))
        if len(calls) == 1:
            asyncio.get_running_loop().call_later(0.05, coordinator.release, lease)
        value.append("me")
        return value

    assert drive(agent.aupdate(KEY, append, initial=initial)).value == ["me"]
    assert calls == [[], []] and initial == []


def test_who_never_gets_through_is_told(agent, coordinator):
    agent.commit(KEY, 0, base=None)
    coordinator.acquire(KEY, holder="x", ttl=1000)

    async def run():
        for timeout in (0, 0.1):
            with pytest.raises(RetriesExhaustedError):
                await agent.aupdate(KEY, lambda v: v + 1, timeout=timeout)

    drive(run())
    assert agent.value(KEY) == 0


def test_nested_updates(agent, monkeypatch):
    monkeypatch.setattr(peers, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(writer, "TURN_SECONDS", 0.05)
    agent.commit_many([(KEY, 0, None), (OTHER, 0, None)])

    async def both(value):
        return value + (await agent.aupdate(OTHER, lambda n: n + 1)).version * 0 + 1

    calls = []

    async def itself(value):
        calls.append(value)
        if len(calls) == 1:
            await agent.aupdate(KEY, lambda n: n + 100)
        return value + 1

    async def run():
        await agent.aupdate(KEY, both)
        return (await agent.aupdate(KEY, itself)).value

    assert drive(run()) == 102
    assert calls == [1, 101]


def test_the_value_is_encoded_before_the_first_await(agent):
    value = {"n": 1}

    async def run():
        committing = asyncio.create_task(agent.acommit(KEY, value, base=None))
        await asyncio.sleep(0)
        value["n"] = 2
        return await committing

    assert drive(run()).copy() == {"n": 1}


# Changes


def test_more_tasks_wait_for_changes_than_there_are_threads(peer):
    agent, readers = peer("agent"), [peer(f"r{n}") for n in range(TASKS)]

    async def follow(reader):
        taken = []
        async for change in reader.achanges(timeout=math.inf):
            taken.append(change.version)
            if len(taken) == 3:
                return taken
        return None

    async def run():
        following = [asyncio.create_task(follow(reader)) for reader in readers]
        await asyncio.sleep(0.05)
        await agent.acommit(KEY, 0, base=None)
        for n in (1, 2):
            await agent.acommit(KEY, n, base=await agent.aread(KEY))
        return await asyncio.gather(*following)

    assert drive(run()) == [[1, 2, 3]] * TASKS


def test_who_no_longer_waits_for_changes_keeps_no_loop_from_ending(peer, eventually):
    agent, reader = peer("agent"), peer("reader")

    async def run():
        changes = reader.achanges(timeout=math.inf)
        waiting = asyncio.create_task(anext(changes))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await agent.acommit(KEY, 1, base=None)
        assert [c.version async for c in reader.achanges()] == [1]
        forgotten = asyncio.create_task(anext(reader.achanges(timeout=3000)))
        await asyncio.sleep(0.05)
        assert not forgotten.done()

    drive(run(), seconds=15)
    agent.commit(OTHER, 1, base=None)
    eventually(lambda: "agentref-follower" not in {thread.name for thread in threading.enumerate()})
    assert [change.key for change in reader.changes()] == [OTHER]


def test_quiet_ends_them_and_what_is_late_comes_with_the_next(peer, coordinator):
    agent, reader = peer("agent"), peer("reader")

    async def run():
        assert [c async for c in reader.achanges(timeout=0.1)] == []
        asyncio.get_running_loop().call_later(0.1, lambda: agent.commit(KEY, 1, base=None))
        assert [c.version async for c in reader.achanges(timeout=0.5)] == [1]
        await agent.acommit(KEY, 2, base=await agent.aread(KEY))
        time.sleep(0.002)  # noqa: ASYNC251
        await coordinator.asweep(feed_seconds=0)
        with pytest.raises(CursorTooOldError):
            _ = [c async for c in reader.achanges()]
        assert [c async for c in reader.achanges()] == []
        with pytest.raises(InvalidInputError):
            await anext(reader.achanges(timeout=-1))

    drive(run())


# Cancellation

VERBS = {
    "aread": lambda a: a.aread(KEY),
    "avalue": lambda a: a.avalue(KEY),
    "aread_many": lambda a: a.aread_many([KEY, OTHER]),
    "acommit": lambda a: a.acommit(KEY, [7], base=a.read(KEY)),
    "acommit_many": lambda a: a.acommit_many([(KEY, [8], a.read(KEY)), (OTHER, 1, None)]),
    "adelete": lambda a: a.adelete(KEY, base=a.read(KEY)),
    "aupdate": lambda a: a.aupdate(KEY, lambda v: [*v, 1], initial=[]),
    "asnapshot": lambda a: a.asnapshot([KEY]),
    "atidy": lambda a: a.atidy(),
    "arecover": lambda a: a.arecover(),
    "achanges": lambda a: anext(a.achanges(timeout=100)),
    "lease": lambda a: a.lease(KEY, ttl=0.2, wait=10).__aenter__(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_peer_can_be_used_after_a_cancellation_anywhere(peer, watched, coordinator, verb):
    agent, other = peer("agent", backend=watched, strategy=Strategy.lease(0.2)), peer("other")
    slow = lambda _: time.sleep(0.002)  # noqa: E731
    watched.before = slow

    async def run():
        for ticks in range(12):
            if not agent.read(KEY).exists:
                await agent.acommit(KEY, [ticks], base=None)
            task = asyncio.ensure_future(VERBS[verb](agent))
            for _ in range(ticks):
                await asyncio.sleep(0 if ticks < 6 else 0.001)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            if verb == "lease" and not isinstance(result, BaseException):
                await result.__aexit__(None, None, None)
            elif not isinstance(
                result, asyncio.CancelledError | Conflict
            ):  # what was cancelled took effect
                assert not isinstance(result, BaseException), result

    drive(run())
    watched.before = lambda _: None
    # Whatever took effect of it: it can be read, and all go on, once what was held has ended.
    version = agent.read(KEY).version
    for each in (agent, other):
        each.update(KEY, lambda v: ["end"], initial=None, timeout=20)
        each.update(KEY, lambda v: ["again"], timeout=20)
        assert each.value(KEY) == ["again"]
    assert agent.read(KEY).version > version
    agent.close()
    with other.lease(KEY, ttl=5, wait=20):
        assert other.commit(KEY, ["last"], base=other.read(KEY)).value == ["last"]
    assert not agent._blocks._by_key
    assert coordinator.table.turn(b"proj\xffplan\xff", timeout=0) is not None


def test_a_cancelled_update_gives_its_turn_and_its_lease_back(agent, peer, coordinator):
    agent.commit(KEY, 0, base=None)
    reader = peer("reader", strategy=Strategy.lease(0.1))
    reader.read(KEY)
    started, alone = [], asyncio.Event()

    async def forever(value):
        started.append(value)
        if len(started) == 2:  # under a lease of its own
            alone.set()
            await asyncio.sleep(1000)
        return value + 1

    async def run():
        task = asyncio.create_task(agent.aupdate(KEY, forever))
        await asyncio.wait_for(alone.wait(), 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert coordinator.leases(KEY) == []
        return (await agent.aupdate(KEY, lambda v: v + 1)).value

    assert drive(run()) == 1


def test_a_refusal_has_what_is_needed_to_go_on(agent, peer):
    other = peer("other")

    async def run():
        base = await agent.acommit(KEY, 1, base=None)
        theirs = await other.acommit(KEY, 2, base=base)
        with pytest.raises(Conflict) as refused:
            await agent.acommit(KEY, 3, base=base)
        error = refused.value
        assert (error.reason, error.key, error.base) == (Reason.VERSION_MISMATCH, KEY, base.versioned)
        assert error.current == theirs.versioned
        return await agent.acommit(KEY, 3, base=error.current)

    assert drive(run()).version == 3
