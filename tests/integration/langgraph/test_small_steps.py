"""Steps that change nothing large: their checkpoints inherit pins, or do with their parents' in memory.

All of them are kept alike.
"""

import signal
import subprocess
import sys
import time
import uuid

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agentref import AgentRefState, Externalized, Inline
from agentref.adapters.langgraph import LangGraphAdapter, collect_pins, externalize
from agentref.storage import CAS, FilesystemCAS
from agentref.storage.memory import MemoryBlobStore

STEPS = 30
LARGE = "large " * 5000


class Plain(TypedDict):
    count: int
    docs: str


class Typed(AgentRefState):
    count: Inline[int]
    docs: Externalized[str]


class Counting(MemoryBlobStore):
    """Counts the transactions that set pins; knows who inherited some."""

    def __init__(self):
        super().__init__()
        self.transactions = 0
        self.heirs = []

    def pin(self, rows, /):
        self.transactions += 1
        super().pin(rows)

    def inherit_pins(self, heir, digests, /, *, parent):
        done = super().inherit_pins(heir, digests, parent=parent)
        self.heirs += [heir] * done
        return done


def counting(cas, inner, kind):
    """A graph that counts beside something large, and its saver."""

    def work(state):
        return {"count": state["count"] + 1}

    if kind == "typed":
        adapter = LangGraphAdapter(Typed, backend=cas)
        schema, node, saver = adapter.schema(), adapter.wrap_node(work), adapter.checkpointer(inner)
    else:
        schema, node, saver = Plain, work, externalize(inner, backend=cas)
    builder = StateGraph(schema)
    builder.add_node("work", node)
    builder.add_edge(START, "work")
    builder.add_conditional_edges("work", lambda state: "work" if state["count"] % STEPS else END)
    return builder.compile(checkpointer=saver), saver


def config(**more):
    return {"configurable": {"thread_id": "one"}, "recursion_limit": 2 * STEPS, **more}


def values(app, at):
    state = app.get_state(at).values
    docs = state["docs"]
    return state["count"], docs if isinstance(docs, str) else app.checkpointer.runtime.load_many([docs])[0]


@pytest.fixture
def inner(memory_or_sqlite):
    return memory_or_sqlite


@pytest.fixture
def lease(monkeypatch):
    """What is stored to be pinned lives for a moment until then."""
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", 0.02)
    monkeypatch.setattr("agentref.adapters.langgraph.life._LEASES", 1)


@pytest.mark.parametrize("kind", ["plain", "typed"])
def test_no_step_waits_for_the_disk_and_every_checkpoint_is_kept(kind, inner):
    store = Counting()
    cas = CAS(store)
    app, saver = counting(cas, inner, kind)
    app.invoke({"count": STEPS - 1, "docs": LARGE}, config())
    before, store.heirs = store.transactions, []
    app.invoke({"count": 0}, config())
    assert store.transactions - before <= 1
    in_memory = isinstance(inner, InMemorySaver)
    assert len(store.heirs) == (0 if in_memory else STEPS + 2)
    report = collect_pins(saver, cas, grace=0)
    assert (report.unpinned >= STEPS + 2) == in_memory
    assert (report.unpinned - report.pinned, report.stale, report.surplus) == (0, 0, 0)
    assert report.checkpoints > STEPS
    assert collect_pins(saver, cas, grace=0, dry_run=True).unpinned == 0


@pytest.mark.parametrize("kind", ["plain", "typed"])
def test_a_checkpoint_outlives_those_whose_pins_did_for_it(kind, inner, lease):
    with CAS(Counting()) as cas:
        app, saver = counting(cas, inner, kind)
        app.invoke({"count": STEPS - 1, "docs": LARGE}, config())
        app.invoke({"count": 0}, config())
        saver.prune(["one"])
        time.sleep(0.05)
        cas.prune_expired(grace=0)
        assert values(app, config()) == (STEPS, LARGE)
        assert len(list(cas.iter_pins())) == 1
        saver.delete_thread("one")
        assert cas.prune_expired(grace=0).removed > 0


@pytest.mark.parametrize("kind", ["plain", "typed"])
@pytest.mark.parametrize("verb", ["prune", "delete_for_runs"])
def test_whoever_takes_parents_away_pins_what_a_power_cut_took_from_their_heirs(
    kind, verb, tmp_path, lease
):
    store = Counting()
    with CAS(store) as cas, SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as inner:
        app, saver = counting(cas, inner, kind)
        first, second = str(uuid.uuid4()), str(uuid.uuid4())
        app.invoke({"count": STEPS - 1, "docs": LARGE}, config(run_id=first))
        store.heirs = []
        app.invoke({"count": 0}, config(run_id=second))
        assert cas.unpin(*store.heirs) >= STEPS
        saver.prune(["one"]) if verb == "prune" else saver.delete_for_runs([first])
        time.sleep(0.05)
        cas.prune_expired(grace=0)
        assert values(app, config()) == (STEPS, LARGE)
        saver.delete_thread("one")
        assert list(cas.iter_pins()) == []


def test_without_its_parents_pins_a_checkpoint_gets_its_own(tmp_path, lease):
    with CAS(Counting()) as cas, SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as inner:
        app, _ = counting(cas, inner, "typed")
        app.invoke({"count": STEPS - 1, "docs": LARGE}, config())
        cas.unpin(*{pin.owner for pin in cas.iter_pins()})
        app.update_state(config(), {"count": 1})
        assert len(list(cas.iter_pins())) == 1
        time.sleep(0.05)
        cas.prune_expired(grace=0)
        assert values(app, config()) == (1, LARGE)


def test_a_change_is_pinned_before_its_checkpoint(inner):
    store = Counting()
    cas = CAS(store)
    app, _ = counting(cas, inner, "typed")
    app.invoke({"count": STEPS - 1, "docs": LARGE}, config())
    before = store.transactions
    app.update_state(config(), {"docs": LARGE + "!"})
    assert store.transactions > before


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_small_steps as here
cas = here.FilesystemCAS(sys.argv[2] + "/store")
with here.SqliteSaver.from_conn_string(sys.argv[2] + "/checkpoints.db") as inner:
    app, saver = here.counting(cas, inner, sys.argv[3])
    app.invoke({"count": here.STEPS - 1, "docs": here.LARGE}, here.config())
    app.invoke({"count": 0}, here.config())
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["plain", "typed"])
def test_what_outlives_its_process_is_pinned_before_it_is_written(kind, tmp_path):
    here = str(__file__).rsplit("/", 1)[0]
    done = subprocess.run([sys.executable, "-c", KILLED, here, str(tmp_path), kind], check=False)
    assert done.returncode == -signal.SIGKILL
    with (
        FilesystemCAS(tmp_path / "store") as cas,
        SqliteSaver.from_conn_string(str(tmp_path / "checkpoints.db")) as inner,
    ):
        app, saver = counting(cas, inner, kind)
        report = collect_pins(saver, cas, grace=0, dry_run=True)
        assert (report.unpinned, report.missing) == (0, 0)
        assert values(app, config()) == (STEPS, LARGE)
