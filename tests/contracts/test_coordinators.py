"""Every coordinator keeps every promise, and every promise rejects a table that breaks it."""

import inspect

import pytest

from agentref.coherence.coordinator import Coordinator
from agentref.coherence.memory import MemoryTable
from agentref.errors import AgentRefError
from agentref.testing import (
    CoordinatorContract,
    PersistentCoordinatorContract,
    broken_feeds,
    broken_leases,
    broken_rows,
)
from agentref.testing._coherence import SettableClock
from agentref.testing.broken_tables import BROKEN_TABLES

REJECTED = (AssertionError, pytest.fail.Exception, KeyError, StopIteration, TimeoutError, AgentRefError)

# From the test, which has a directory, to what makes a table from a directory and a clock.
TABLES = {
    "memory": lambda _: lambda path, clock: MemoryTable(clock=clock),
}
DURABLE = {}


class TestCoordinators(CoordinatorContract):
    @pytest.fixture(autouse=True, params=TABLES)
    def backend(self, request):
        self.make_table = TABLES[request.param](request)


class TestDurableCoordinators(PersistentCoordinatorContract):
    @pytest.fixture(autouse=True, params=DURABLE)
    def backend(self, request):
        self.make_table = DURABLE[request.param](request)


def clauses(contract):
    return {name for name in dir(contract) if name.startswith("test_")}


class OneTable(PersistentCoordinatorContract):
    """Claims to be persistent and is not."""

    patience = 15.0

    def __init__(self, table, patience):
        self.table = table
        self.patience = patience

    def make_table(self, path, clock):
        return self.table(clock=clock)


def hold_against(name, table, path, patience=15.0):
    """Run one clause outside of pytest."""
    contract, clock = OneTable(table, patience), SettableClock()
    clause = getattr(contract, name)
    path.mkdir()
    with Coordinator(contract.make_table(path, clock)) as coordinator:
        given = {"coordinator": coordinator, "clock": clock, "tmp_path": path}
        clause(**{key: given[key] for key in inspect.signature(clause).parameters})


def test_every_clause_has_a_table_that_breaks_it():
    assert clauses(CoordinatorContract) == set(BROKEN_TABLES)


def test_every_broken_table_is_rejected_by_some_clause():
    made = {
        kind
        for module in (broken_rows, broken_leases, broken_feeds)
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, MemoryTable) and not name.startswith("_")
    }
    bases = {MemoryTable, broken_rows.Altering, broken_rows.Placing}
    assert made - bases == {kind for kinds in BROKEN_TABLES.values() for kind in kinds}


@pytest.mark.parametrize("name", sorted(BROKEN_TABLES))
def test_a_clause_rejects_the_table_that_breaks_it(name, tmp_path):
    hold_against(name, MemoryTable, tmp_path / "good")
    for kind in BROKEN_TABLES[name]:
        with pytest.raises(REJECTED):
            hold_against(name, kind, tmp_path / kind.__name__, patience=0.3)


@pytest.mark.parametrize(
    "name", sorted(clauses(PersistentCoordinatorContract) - clauses(CoordinatorContract))
)
def test_the_clauses_on_persistence_reject_a_table_in_memory(name, tmp_path):
    with pytest.raises(REJECTED):
        hold_against(name, MemoryTable, tmp_path / "memory", patience=0.3)
