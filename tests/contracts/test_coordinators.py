"""Every coordinator keeps every promise."""

import pytest

from agentref.coherence.memory import MemoryTable
from agentref.testing import CoordinatorContract

# One line for each backend: from a directory and a clock to an open table.
TABLES = {
    "memory": lambda path, clock: MemoryTable(clock=clock),
}


class TestCoordinators(CoordinatorContract):
    @pytest.fixture(autouse=True, params=TABLES)
    def backend(self, request):
        self.make_table = TABLES[request.param]
