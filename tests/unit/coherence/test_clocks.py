"""A clock that is set."""

import pytest

from agentref.coherence import Coordinator, LeaseMode
from agentref.coherence.memory import MemoryTable
from agentref.storage import InMemoryCAS

PLAN = ("plan",)
START = 10_000.0


@pytest.mark.parametrize("step", [-1000, -11, -9, 9, 10, 1000])
@pytest.mark.parametrize("mode", LeaseMode)
def test_a_view_from_under_a_lease_is_shown_only_while_it_is_a_base(step, mode):
    now = [START]
    coordinator = Coordinator(MemoryTable(clock=lambda: now[0]))
    reader = coordinator.peer("reader", backend=InMemoryCAS())
    reader.commit(PLAN, 1, base=None)
    coordinator.acquire(PLAN, holder="other", ttl=10, mode=mode)
    reader.read(PLAN)
    now[0] += step
    shown = reader.read(PLAN)
    assert shown.epoch == coordinator.read([PLAN])[PLAN].epoch
    now[0] += 1000
    if mode is LeaseMode.SHARED:
        reader.commit(PLAN, 2, base=shown)


@pytest.mark.parametrize("strategy", ["lease", "access_count"])
def test_a_hold_does_not_come_to_life_again_after_the_clock_was_set_back(strategy):
    now = [START]
    coordinator = Coordinator(MemoryTable(clock=lambda: now[0]))
    store = InMemoryCAS()
    holder = coordinator.peer("holder", backend=store, strategy=strategy)
    other = coordinator.peer("other", backend=store)
    other.commit(PLAN, 1, base=None)
    assert holder.value(PLAN) == 1
    now[0] -= 31  # by more than the 30 s of its lease, of which 61 s seem to be left
    other.commit(PLAN, 2, base=other.read(PLAN))
    now[0] += 20
    assert holder.value(PLAN) == 2
