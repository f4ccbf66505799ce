"""A peer that keeps others from committing, so as to read without asking, never keeps itself from it."""

import pytest

from agentref.coherence import MemoryCoordinator, Strategy
from agentref.storage import InMemoryCAS

PLAN, BUDGET = ("plan",), ("budget",)
strategies = pytest.mark.parametrize(
    "strategy", [Strategy.lease(1000), Strategy.access_count(100, ttl=1000)], ids=lambda each: each.name
)


def peers(strategy, **options):
    cas = InMemoryCAS()
    coordinator = MemoryCoordinator()
    writer = coordinator.peer("writer", backend=cas)
    writer.commit_many([(PLAN, 1, None), (BUDGET, 10, None)])
    return writer, coordinator.peer("reader", backend=cas, strategy=strategy, **options)


@strategies
def test_what_it_holds_it_may_read_with_others(strategy):
    _, reader = peers(strategy)
    plan = reader.read(PLAN)
    with reader.snapshot([PLAN, BUDGET]) as cut:
        assert cut[PLAN].version == plan.version
        assert reader.commit(PLAN, 2, base=cut[PLAN], reads=cut.views()).version == 2
    assert reader.read(PLAN).version == 2


@strategies
def test_a_hold_outlives_another_look(strategy):
    _, reader = peers(strategy)
    reader.read(PLAN)
    (before,) = reader.coordinator.leases(PLAN)
    reader.read_many([PLAN])
    reader.read(PLAN)
    assert reader.coordinator.leases(PLAN) == [before]


@strategies
def test_what_it_forgets_it_gives_back(strategy):
    writer, reader = peers(strategy, cache_bytes=1)
    plan = reader.read(PLAN)
    reader.read(BUDGET)
    assert reader.coordinator.leases(PLAN) == []
    assert writer.commit(PLAN, 2, base=plan).version == 2
