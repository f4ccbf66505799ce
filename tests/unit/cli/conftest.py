"""A store with a little of everything, and the command to look at it."""

import pytest
from typer.testing import CliRunner

from agentref.cli.app import app
from agentref.storage import FilesystemCAS


class Shell:
    """Runs the command on one store."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *arguments, store=None):
        runner = CliRunner()
        return runner.invoke(app, [*arguments], env={"AGENTREF_STORE": str(store or self.path)})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def cas(path):
    with FilesystemCAS(path) as store:
        yield store


@pytest.fixture
def run(cas, path):
    return Shell(path)
