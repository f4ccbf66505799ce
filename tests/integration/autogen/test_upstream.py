"""AutoGen's own suites, as they are and with our part in place: nothing else may fail.

Runs if AGENTREF_AUTOGEN names a checkout of github.com/microsoft/autogen. The suites need more packages
than ours, so AGENTREF_AUTOGEN_PYTHON may name an interpreter of an environment of their own:

    python -m venv /tmp/suites
    /tmp/suites/bin/pip install -e . autogen-agentchat==0.7.5 \
        'autogen-ext[anthropic,mcp,ollama,openai]==0.7.5' 'mcp<2' \
        opentelemetry-sdk pytest pytest-asyncio pytest-mock
    AGENTREF_AUTOGEN=/tmp/autogen AGENTREF_AUTOGEN_PYTHON=/tmp/suites/bin/python \
        python -m pytest tests/integration/autogen/test_upstream.py -s
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

CHECKOUT = os.environ.get("AGENTREF_AUTOGEN", "")
PYTHON = os.environ.get("AGENTREF_AUTOGEN_PYTHON", sys.executable)
HERE = Path(__file__).parent
SUITES = {
    "autogen-agentchat": [
        "test_assistant_agent.py",
        "test_code_executor_agent.py",
        "test_declarative_components.py",
        "test_group_chat.py",
        "test_group_chat_graph.py",
        "test_group_chat_nested.py",
        "test_group_chat_pause_resume.py",
        "test_magentic_one_group_chat.py",
        "test_society_of_mind_agent.py",
        "test_task_runner_tool.py",
    ],
    "autogen-core": ["test_memory.py", "test_model_context.py", "test_runtime.py", "test_state.py"],
}
# These ask for the name of AutoGen's own class in a dump, where ours stands.
NAMES = {
    "test_declarative_components::test_chat_completion_context_declarative",
    "test_memory::test_memory_component_dump_config_to_base_model",
}
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = ignore
"""

pytestmark = pytest.mark.skipif(not CHECKOUT, reason="AGENTREF_AUTOGEN names no checkout of AutoGen")


def outcomes(package, directory, *options):
    """{test: whether it passed} of a run."""
    settings, report = directory / "pytest.ini", directory / "report.xml"
    settings.write_text(SETTINGS, encoding="utf-8")
    packages = Path(CHECKOUT) / "python" / "packages"
    subprocess.run(
        [
            *(PYTHON, "-m", "pytest", "-q", "-c", settings, "--rootdir", ".", "-p", "no:cacheprovider"),
            *(f"--junitxml={report}", *options),
            *(f"tests/{name}" for name in SUITES[package]),
        ],
        cwd=packages / package,
        env={
            **os.environ,
            "AGENTREF_INJECTED": str(directory / "counts.json"),
            "PYTHONPATH": os.pathsep.join(
                map(str, (HERE.parents[2], HERE, packages / "autogen-test-utils" / "src"))
            ),
        },
        stdout=subprocess.DEVNULL,
        check=False,
    )
    return {
        f"{case.get('classname').removeprefix('tests.')}::{case.get('name')}": not {"failure", "error"}
        & {child.tag for child in case}
        for case in ET.parse(report).getroot().iter("testcase")
        if case.find("skipped") is None
    }


@pytest.mark.parametrize("package", SUITES)
def test_the_suites_of_autogen_pass_as_without_us(package, tmp_path):
    stock, injected = outcomes(package, tmp_path), outcomes(package, tmp_path, "-p", "injected")
    counts = json.loads((tmp_path / "counts.json").read_text(encoding="utf-8"))
    for name, run in (("stock", stock), ("injected", injected)):
        print(f"\n{package}, {name}: {sum(run.values())} pass, {len(run) - sum(run.values())} fail", end="")
    print(f"\n{counts}")
    assert injected.keys() == stock.keys() and sum(stock.values()) >= 20
    assert {name for name, passed in injected.items() if stock[name] and not passed} <= NAMES
    assert min(counts["puts"], counts["gets"], counts["contexts"]) > 0
