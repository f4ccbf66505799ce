"""Leases for as long as a block runs."""

import asyncio
import threading
import time

import pytest

from agentref.coherence import Conflict, HeldLease, LeaseMode, Reason, Strategy
from agentref.errors import InvalidInputError, StoreUnavailableError
from agentref.storage import InMemoryCAS

KEY, OTHER = ("proj", "deploy"), ("proj", "budget")


@pytest.fixture
def store():
    """One will do: what is tested here is not about contents."""
    with InMemoryCAS() as store:
        yield store


@pytest.fixture
def agent(peer):
    agent = peer("agent")
    agent.commit(KEY, 0, base=None)
    return agent


def refused(call):
    with pytest.raises(Conflict) as caught:
        call()
    return caught.value


def lost(coordinator):
    """Takes away what the agent holds."""
    assert coordinator.recover("agent") == [KEY]


def test_it_keeps_others_out_and_its_holder_in(agent, peer, coordinator):
    other = peer("other")
    with agent.lease(KEY, ttl=1000) as lease:
        assert isinstance(lease, HeldLease)
        assert (lease.key, lease.fence, lease.lost) == (KEY, lease.lease.fence, False)
        assert coordinator.leases(KEY) == [lease.lease]
        assert lease.until == lease.lease.until
        lease.check()
        error = refused(lambda: other.commit(KEY, 1, base=other.read(KEY)))
        assert (error.reason, error.holder) == (Reason.HELD_BY_OTHER, "agent")
        assert refused(lambda: other.lease(KEY, ttl=1).__enter__()).reason is Reason.HELD_BY_OTHER
        other.commit(OTHER, 1, base=None)
        view = agent.commit(KEY, 1, base=agent.read(KEY))
        agent.gate(view)
        agent.commit(OTHER, 2, base=agent.read(OTHER))  # another key is not under it
        assert agent.commit(KEY, 2, base=view, lease=lease).version == 3
        assert agent.commit(KEY, 3, base=agent.read(KEY), lease=lease.lease).version == 4
    assert coordinator.leases(KEY) == []
    assert other.commit(KEY, 4, base=other.read(KEY)).version == 5


def test_what_was_read_within_is_no_base_after_it(agent):
    with agent.lease(KEY, ttl=1000):
        within = agent.commit(KEY, 1, base=agent.read(KEY))
    assert refused(lambda: agent.commit(KEY, 2, base=within)).reason is Reason.STALE_EPOCH
    assert refused(lambda: agent.gate(within)).reason is Reason.STALE_EPOCH
    assert agent.commit(KEY, 2, base=agent.read(KEY)).version == 3


def test_a_shared_one_takes_no_epoch_with_it(agent):
    with agent.lease(KEY, ttl=1000, mode="shared"):
        within = agent.read(KEY)
    assert agent.commit(KEY, 2, base=within).version == 2


def test_it_lives_for_many_times_its_length(agent, peer):
    other = peer("other")
    with agent.lease(KEY, ttl=0.3) as lease:
        first = lease.until
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert refused(lambda: other.commit(KEY, "no", base=other.read(KEY))).holder == "agent"
            time.sleep(0.02)
        assert lease.until >= first + 1
        assert agent.commit(KEY, 1, base=agent.read(KEY)).version == 2
        assert not lease.lost


def test_one_that_is_lost_is_told_wherever_it_matters(agent, peer, coordinator, eventually):
    other = peer("other")
    with agent.lease(KEY, ttl=0.3) as lease:
        view = agent.read(KEY)
        lost(coordinator)
        for call in (
            lambda: agent.commit(KEY, 1, base=view),
            lambda: agent.gate(view),
            lambda: agent.gate(agent.read(KEY)),
            lambda: agent.commit(KEY, 1, base=agent.read(KEY)),
            lease.check,
            lease.check,
        ):
            assert refused(call).reason is Reason.LEASE_LOST
        assert lease.lost
        other.commit(KEY, "theirs", base=other.read(KEY))
    assert agent.value(KEY) == "theirs"
    assert refused(lambda: agent.commit(KEY, 1, base=view)).reason is Reason.VERSION_MISMATCH
    with agent.lease(KEY, ttl=0.3) as lease:
        lost(coordinator)
        eventually(lambda: lease.lost)  # the heart notices by itself


def test_leaving_says_nothing_about_a_lease_that_was_lost(agent, coordinator):
    with agent.lease(KEY, ttl=1000):
        lost(coordinator)
    with pytest.raises(ZeroDivisionError), agent.lease(KEY, ttl=1000):  # noqa: PT012
        lost(coordinator)
        raise ZeroDivisionError
    assert coordinator.leases(KEY) == []


def test_an_error_in_the_block_ends_it(agent, coordinator):
    with pytest.raises(ZeroDivisionError), agent.lease(KEY, ttl=1000):
        raise ZeroDivisionError
    assert coordinator.leases(KEY) == []


def test_it_is_held_within_its_block_only(agent):
    held = agent.lease(KEY, ttl=1000)
    for look in (lambda: held.lease, lambda: held.fence, lambda: held.until, held.check):
        with pytest.raises(InvalidInputError, match="within its block"):
            look()
    with held:
        first = held.fence
    with pytest.raises(InvalidInputError, match="within its block"):
        agent.commit(KEY, 1, base=agent.read(KEY), lease=held)
    with held:  # again
        assert held.fence > first
        with pytest.raises(Conflict), held:
            pass
        assert agent.commit(KEY, 1, base=agent.read(KEY)).version == 2


def test_who_waits_gets_it(agent, peer, coordinator, together):
    other = peer("other")
    order = []

    def first():
        with agent.lease(KEY, ttl=1000):
            other_waits.wait(5)
            order.append("first")

    def second():
        time.sleep(0.05)
        other_waits.set()
        with other.lease(KEY, ttl=1000, wait=20):
            order.append("second")

    other_waits = threading.Event()
    together(first, second)
    assert order == ["first", "second"]
    with other.lease(KEY, ttl=1000):
        assert refused(lambda: agent.lease(KEY, ttl=1, wait=0.05).__enter__()).holder == "other"
    assert coordinator.leases(KEY) == []


def test_a_peer_may_share_with_itself(agent, coordinator):
    """Two blocks of one agent: whichever ends first, the other one goes on."""
    for number in (0, 1):
        blocks = [agent.lease(KEY, ttl=1000, mode=LeaseMode.SHARED) for _ in range(2)]
        for block in blocks:
            block.__enter__()
        assert refused(lambda: agent.commit(KEY, "no", base=agent.read(KEY))).reason is Reason.HELD_BY_OTHER
        blocks.pop(number).__exit__(None, None, None)
        view = agent.commit(KEY, f"by the other {number}", base=agent.read(KEY))
        agent.gate(view)
        blocks.pop().__exit__(None, None, None)
    assert coordinator.leases(KEY) == []


@pytest.mark.parametrize(
    "strategy", [Strategy.lease(1000), Strategy.access_count(5, ttl=1000)], ids=lambda s: s.name
)
def test_a_hold_of_ones_own_gives_way_to_a_lease_of_ones_own(peer, coordinator, strategy):
    agent = peer("agent", strategy=strategy)
    agent.commit(KEY, 0, base=None)
    agent.read(KEY)
    with agent.lease(KEY, ttl=1000) as lease:
        assert [each.fence for each in coordinator.leases(KEY)] == [lease.fence]
        for n in range(1, 4):
            assert agent.read(KEY).version == n
            agent.commit(KEY, n, base=agent.read(KEY))
    assert coordinator.leases(KEY) == []
    agent.read(KEY)
    assert [each.mode for each in coordinator.leases(KEY)] == [LeaseMode.SHARED]


def test_a_peer_that_is_closed_holds_nothing(agent, coordinator):
    held, shared = agent.lease(KEY, ttl=0.1), agent.lease(OTHER, ttl=0.1, mode="shared")
    held.__enter__()
    shared.__enter__()
    agent.close()
    assert coordinator.leases(KEY) == coordinator.leases(OTHER) == []
    time.sleep(0.2)
    assert coordinator.leases(KEY) == []
    held.__exit__(None, None, None)
    agent.close()


def test_a_coordinator_that_is_gone_is_told_on_the_way_in(store):
    from agentref.coherence import MemoryCoordinator

    coordinator = MemoryCoordinator()
    agent = coordinator.peer("agent", backend=store)
    coordinator.close()
    with pytest.raises(StoreUnavailableError):
        agent.lease(KEY, ttl=1).__enter__()
    assert KEY not in agent._blocks


# In a loop


def test_in_an_event_loop(agent, peer, coordinator):
    other = peer("other")

    async def run():
        async with agent.lease(KEY, ttl=0.3) as lease:
            view = await agent.acommit(KEY, 1, base=await agent.aread(KEY))
            waiting = asyncio.create_task(other.lease(KEY, ttl=1000, wait=20).__aenter__())
            for _ in range(20):
                await asyncio.sleep(0.05)
                assert not waiting.done()
            await agent.agate(view)
            assert not lease.lost
        theirs = await asyncio.wait_for(waiting, 20)
        with pytest.raises(Conflict, match="held by 'other'"):
            await agent.lease(KEY, ttl=1).__aenter__()
        await theirs.__aexit__(None, None, None)
        async with agent.lease(KEY, ttl=1000):
            lost(coordinator)
            with pytest.raises(Conflict, match="no longer held"):
                await agent.acommit(KEY, 2, base=await agent.aread(KEY))
            with pytest.raises(Conflict, match="no longer held"):
                await agent.aupdate(KEY, lambda n: n)

    asyncio.run(run())
    assert coordinator.leases(KEY) == []


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
def test_who_no_longer_waits_is_in_nobodys_way(agent, peer, coordinator, monkeypatch, how):
    other, third = peer("other"), peer("third")
    lease = coordinator.acquire(KEY, holder="x", ttl=1000, mode="shared")

    async def give_up():
        waiting = asyncio.create_task(other.lease(KEY, ttl=1, wait=500).__aenter__())
        await asyncio.sleep(0.02)
        with pytest.raises(Conflict), third.lease(KEY, ttl=1, mode="shared"):
            pass  # who waits comes first
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    if how == "cancelled":
        asyncio.run(give_up())
    else:

        def interrupt(_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):  # noqa: PT012
            patched.setattr(time, "sleep", interrupt)
            other.lease(KEY, ttl=1, wait=500).__enter__()
    with third.lease(KEY, ttl=1000, mode="shared"):
        pass
    coordinator.release(lease)
    with third.lease(KEY, ttl=1000):
        pass
