"""The rules of the house that a machine can check: style, types, layers, sizes."""

import ast
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE_LINES = 400
FUNCTION_LINES = 50

PYTHON = sys.executable
CHECKS = {
    "ruff": [PYTHON, "-m", "ruff", "check", "--quiet", "."],
    "format": [PYTHON, "-m", "ruff", "format", "--check", "."],
    "layers": [f"{sysconfig.get_path('scripts')}/lint-imports", "--no-cache"],
    "mypy": [PYTHON, "-m", "mypy"],
    "pyright": [PYTHON, "-m", "pyright", "--pythonpath", PYTHON],
}


@pytest.mark.parametrize("name", CHECKS)
def test_the_tool_has_nothing_to_say(name: str) -> None:
    done = subprocess.run(
        CHECKS[name],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{name}:\n{done.stdout}", pytrace=False)


def sources() -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / "agentref").rglob("*.py")):
        yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def test_no_file_of_the_package_is_too_long() -> None:
    lengths = {str(path): len(text.splitlines()) for path, text in sources()}
    assert lengths
    assert {path: length for path, length in lengths.items() if length > FILE_LINES} == {}


def test_no_function_of_the_package_is_too_long() -> None:
    lengths = {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, text in sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > FUNCTION_LINES} == {}
