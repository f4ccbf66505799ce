"""LlamaIndex's own suites, with agentref in place: what passes there without it passes with it.

    AGENTREF_LLAMA_AGENTS=../llama-agents make test ARGS=tests/peers

The variable names a clone of https://github.com/run-llama/llama-agents, bare or not; without it these tests
are skipped. Where the clone is of another release than what is installed, some fail either way, and must be
the same. Their suites need pytest-asyncio, pytest-timeout, time-machine, testcontainers and asyncpg beside
what
ours need: AGENTREF_LLAMA_AGENTS_PYTHON may name an interpreter that has all of it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
CLONE = os.environ.get("AGENTREF_LLAMA_AGENTS", "")
PYTHON = os.environ.get("AGENTREF_LLAMA_AGENTS_PYTHON", sys.executable)

pytestmark = pytest.mark.skipif(not CLONE, reason="AGENTREF_LLAMA_AGENTS names no clone of llama-agents")

HELPERS = "packages/llama-agents-integration-tests/src"
SUITES = {
    "workflows": (
        "packages/llama-index-workflows",
        ["tests/context", "tests/test_state_manager.py", "tests/runtime/test_tick_serialization.py",
         "tests/runtime/test_state.py"],
    ),
    "state stores": ("packages/llama-agents-integration-tests", ["tests/test_state_store_matrix.py"]),
    "server": (
        "packages/llama-agents-server",
        [f"tests/server/test_{name}.py" for name in (
            "durable_runtime", "handler_serialization", "in_process_runtime", "server_endpoints",
            "server_live_http", "sqlite_state_store", "sqlite_workflow_store", "workflow_service",
            "workflow_store_events")],
    ),
    "server stores": ("packages/llama-agents-integration-tests", ["tests/test_server_store_matrix.py"]),
}  # fmt: skip


class Outcome(NamedTuple):
    """What pytest said at the end."""

    passed: int
    failed: set[str]
    puts: int
    gets: int
    text: str


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the clone's newest commit, in a directory of their own."""
    files = tmp_path_factory.mktemp("llama-agents")
    archive = files / "files.tar"
    subprocess.run(
        ["git", "-C", CLONE, "archive", "--output", str(archive), "HEAD", "packages"], check=True
    )
    subprocess.run(["tar", "-xf", str(archive), "-C", str(files)], check=True)
    return files


def outcome(clone: Path, suite: str, peer: str | None) -> Outcome:
    directory, tests = SUITES[suite]
    plugin = ["-p", "llama_agents_with_refs"] if peer else []
    done = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-p", "no:xdist", *plugin, "-o", "addopts=", "-rf",
         "-m", "not docker and not llamacloud", *tests],
        cwd=clone / directory,
        env={
            **os.environ,
            # The helpers of the integration tests are in the clone; the packages under test are installed.
            "PYTHONPATH": os.pathsep.join(
                [str(clone / HELPERS), str(ROOT), str(ROOT / "tests" / "peers")]
            ),
            "AGENTREF_PEER": peer or "",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", said)
    counted = re.search(r"agentref: (\d+) puts, (\d+) gets", said)
    return Outcome(
        passed=int(passed[1]) if passed else 0,
        failed=set(re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)),
        puts=int(counted[1]) if counted else 0,
        gets=int(counted[2]) if counted else 0,
        text=said,
    )


@pytest.fixture(scope="module")
def stock(clone: Path) -> dict[str, Outcome]:
    return {suite: outcome(clone, suite, None) for suite in SUITES}


@pytest.mark.parametrize(
    ("suite", "peer"),
    [
        ("workflows", "serializer"),
        ("state stores", "serializer"),
        ("state stores", "stores"),
        ("server", "stores"),
        ("server stores", "server"),
        ("server stores", "stores"),
    ],
)
def test_what_passes_without_agentref_passes_with_it(
    clone: Path, stock: dict[str, Outcome], suite: str, peer: str
) -> None:
    before, after = stock[suite], outcome(clone, suite, peer)
    print(f"{suite}: stock {before.passed} passed, {len(before.failed)} failed; with {peer} {after.passed} "
          f"passed, {len(after.failed)} failed, {after.puts} puts, {after.gets} gets")  # fmt: skip
    assert before.passed > 0, before.text
    assert (after.passed, after.failed) == (before.passed, before.failed), after.text
    assert after.puts > 0
    assert after.gets > 0
