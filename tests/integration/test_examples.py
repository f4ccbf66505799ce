"""Every example runs, and what the documents show was measured. (The demo has tests of its own.)"""

import importlib.util
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from agentref.storage import FilesystemCAS

ROOT = Path(__file__).parents[2]


def run(example: str, directory: Path) -> str:
    """Run an example as a user would, in a directory of its own; what it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{example}:\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


def test_langgraph_rag_answers_and_keeps_its_documents_out_of_the_checkpoints(tmp_path: Path) -> None:
    said = run("langgraph_rag.py", tmp_path)
    assert "Read 3 document(s)." in said
    assert "In the store: 3 documents" in said
    with closing(sqlite3.connect(tmp_path / "checkpoints.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM checkpoints").fetchone()[0] >= 3
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("checkpoints.sqlite*"))
    assert b"What do the documents say?" in kept
    assert b"large retrieved text" not in kept
    with FilesystemCAS(tmp_path / "state_blobs") as store:
        assert store.verify().ok


def test_llamaindex_research_workflow_keeps_its_documents_out_of_the_context(tmp_path: Path) -> None:
    for _ in range(2):  # the second run goes on from the context of the first one
        without, with_agentref, cell = run("llamaindex_research_workflow.py", tmp_path).splitlines()
        assert "Read 3 document(s), 144,000 bytes." in without
        assert "Read 3 document(s), 144,000 bytes." in with_agentref
        assert "The context has 144," in without
        assert "__agentref__" in cell
    saved = (tmp_path / "context.json").read_text(encoding="utf-8")
    assert len(saved) < 1_000
    assert "large retrieved text" not in saved
    with FilesystemCAS(tmp_path / "state_blobs") as store:
        assert store.verify().ok


def test_autogen_multi_agent_resumes_from_a_state_without_its_payload(tmp_path: Path) -> None:
    said = run("autogen_multi_agent.py", tmp_path)
    assert "The critic has read 977,4" in said
    sizes = re.search(r"State of the team: ([0-9,]+) bytes without agentref, ([0-9,]+) with it", said)
    assert sizes is not None
    without, small = (int(size.replace(",", "")) for size in sizes.groups())
    assert small <= 4096
    assert without > 4_000_000
    assert (tmp_path / "team_state.json").stat().st_size == small
    assert "Measurement" not in (tmp_path / "team_state.json").read_text(encoding="utf-8")
    assert "Resumed: The reader has read 977," in said
    with FilesystemCAS(tmp_path / "state_blobs") as store:
        assert store.verify().ok


@pytest.mark.parametrize("example", ["autogen_multi_agent", "llamaindex_research_workflow"])
def test_an_example_imports_without_its_framework(example: str, tmp_path: Path) -> None:
    blocked = "autogen_core", "autogen_agentchat", "ag2", "llama_index", "workflows"
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import examples.{example}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


IN_A_DATABASE = """
import sys
from pathlib import Path
from examples import demo
from examples._demo.corpus import write_texts
from examples._demo.places import postgres
directory = Path(sys.argv[1])
(directory / "texts").mkdir()
write_texts(directory / "texts", "test")
with postgres() as place:
    done = demo._finish(place, directory, "with", lambda nodes: None, "--agentref")
    again = demo._finish(place, directory, "with", lambda nodes: None, "--read", "--agentref")
    print(done["nodes"], done["hash"] == again["hash"], *place.sizes("with"))
"""


def test_the_demo_runs_in_a_database(tmp_path: Path, postgres_server: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_DATABASE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "AGENTREF_TEST_DSN": postgres_server.dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    nodes, same, checkpoints, store = done.stdout.split()
    assert (nodes, same) == ("114", "True")
    assert 0 < int(checkpoints) < 2_000_000 < int(store)
    assert not list((tmp_path / "with").iterdir())
    with psycopg.connect(postgres_server.dsn) as connection:
        left = connection.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'agentref_demo%'")
        assert left.fetchone() == (0,)


def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_saving", ROOT / "docs" / "draw_saving.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_and_the_table_show_the_numbers_that_were_measured() -> None:
    script = drawing()
    rows = script.measured()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    redraw = "run python docs/draw_saving.py"
    assert (ROOT / "docs" / "saving.svg").read_text(encoding="utf-8") == script.picture(rows), redraw
    assert script.filled(readme, rows) == readme, redraw
    assert "docs/saving.svg" in readme
