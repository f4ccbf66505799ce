"""`agentref history check` says what the check says, and ends as other commands do."""

import json

import pytest

from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.history import History
from agentref.coherence.memory import MemoryTable
from agentref.errors import Conflict
from agentref.refs import ContentRef, Digest

KEY = ("proj", "pl\x1ban")


def ref(n):
    return ContentRef(Digest(n.to_bytes(32, "big")), "agentref-1", n)


@pytest.fixture
def logs(tmp_path):
    """Two processes' logs."""
    paths = [tmp_path / "planner.jsonl", tmp_path / "writer.jsonl"]
    table = MemoryTable()
    view = None
    for n, path in enumerate(paths, 1):
        with History(path) as history:
            coordinator = Coordinator(table, observers=[history])
            view = coordinator.commit([Write(KEY, ref(n), view)], agent=f"agent{n}")[KEY]
            history.delivered("reader", view, "fetch", history.began())
            with pytest.raises(Conflict):
                coordinator.commit([Write(KEY, ref(3))], agent="late")
    return paths


def test_what_was_kept_is_confirmed(run, logs):
    result = run("history", "check", *map(str, logs))
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["guarantee", "verdict", "checked", "why"]
    assert [row[1] for row in rows[1:-1]] == ["confirmed"] * 9
    assert result.stdout.endswith("6 events of 2 histories, 1 keys.\n")


def test_one_json_document(run, logs):
    result = run("history", "check", "--json", *map(str, logs))
    assert result.exit_code == 0 and result.stderr == ""
    found = json.loads(result.stdout)
    assert (found["ok"], found["events"], found["instances"], found["keys"]) == (True, 6, 2, 1)
    kept = {"verdict": "confirmed", "checked": 4, "fault_count": 0, "faults": [], "doubts": {}}
    assert found["guarantees"]["no_lost_update"] == kept


def test_a_broken_guarantee_ends_with_1_and_is_shown(run, logs):
    text = logs[1].read_text()
    logs[1].write_text(text.replace('"base":[1,0,', '"base":[0,0,', 1))
    result = run("history", "check", *map(str, logs))
    assert result.exit_code == 1 and result.stderr == ""
    row = next(line for line in result.stdout.splitlines() if line.startswith("no_lost_update "))
    assert "refuted" in row and "1 faults" in row
    assert r"commit proj/pl\x1ban version 2" in result.stdout
    result = run("history", "check", "--json", *map(str, logs))
    assert result.exit_code == 1
    (fault,) = json.loads(result.stdout)["guarantees"]["no_lost_update"]["faults"]
    assert [event["version"] for event in fault["events"]] == [1, 2]


def test_a_log_that_lacks_its_end_leaves_it_undecided(run, logs):
    result = run("history", "check", str(logs[1]), "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)["guarantees"]
    assert {finding["verdict"] for finding in found.values()} == {"confirmed"}
    logs[1].write_bytes(logs[1].read_bytes()[:-5])
    result = run("history", "check", *map(str, logs))
    assert result.exit_code == 0
    assert result.stdout.count(" undecided ") == 9 and "died while it wrote (1)" in result.stdout


def test_what_is_no_log(run, logs, tmp_path):
    assert run("history", "check").exit_code == 2
    missing = run("history", "check", str(tmp_path / "none"))
    assert missing.exit_code == 2 and "cannot be used" in missing.stderr
    with logs[0].open("ab") as file:
        file.write(b"{}\n")
    damaged = run("history", "check", str(logs[0]))
    assert damaged.exit_code == 1
    assert damaged.stderr.startswith("error: Line ") and damaged.stderr.count("\n") == 1
    assert damaged.stdout == ""
