"""README and docs are programs: every Python block runs, every make target and extra that they name exists.

The Python blocks of one document run as one script, in a process and a directory of their own, at the
lines where they stand, so that a traceback points into the document. A fence that starts with
```` ```python skip: why ```` is read, not run. The database that they name is an empty one of the tests.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SHELLS = {"bash", "console", "sh", "shell"}
MAKE = re.compile(r"\bmake ((?:[A-Z]+=\S+ )*)([a-z][a-z-]*)")
DATABASE = "postgresql://agent@db.internal/agents"
EXTRAS = re.compile(r"agentref-checkpoint\[([^\]]+)\]")

every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


class Fence(NamedTuple):
    """One fenced block; `info` is the rest of its first line, `line` is where its text begins."""

    language: str
    info: str
    line: int
    text: str


def fences(document: Path) -> Iterator[Fence]:
    for token in MarkdownIt().parse(document.read_text(encoding="utf-8")):
        if token.type == "fence" and token.map:
            language, _, info = token.info.strip().partition(" ")
            yield Fence(language, info.strip(), token.map[0] + 2, token.content)


def program(document: Path) -> str:
    lines: list[str] = []
    for fence in fences(document):
        if fence.language == "python" and not fence.info.startswith("skip:"):
            lines += [""] * (fence.line - 1 - len(lines)) + fence.text.splitlines()
    return "\n".join(lines) + "\n"


@every_document
def test_every_block_says_what_language_it_is(document: Path) -> None:
    assert [fence.line for fence in fences(document) if not fence.language] == []
    assert [fence.line for fence in fences(document) if fence.language in {"py", "python3"}] == []


@every_document
def test_every_python_block_runs(document: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = program(document)
    if DATABASE in text:
        text = text.replace(DATABASE, request.getfixturevalue("databases").dsn())
    script = tmp_path / f"{document.stem}_md.py"
    script.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", script.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{document.relative_to(ROOT)} as a script:\n{done.stdout}{done.stderr}", pytrace=False)


@every_document
def test_every_command_names_what_exists(document: Path) -> None:
    makefile, pyproject = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "pyproject.toml")
    )
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    extras = set(tomllib.loads(pyproject)["project"]["optional-dependencies"])
    for fence in fences(document):
        if fence.language in SHELLS:
            assert {target for _, target in MAKE.findall(fence.text)} <= targets, f"line {fence.line}"
            named = {extra.strip() for group in EXTRAS.findall(fence.text) for extra in group.split(",")}
            assert named <= extras, f"line {fence.line}"
