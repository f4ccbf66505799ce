"""A store with a little of everything, and the command to look at it."""

from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict
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


@pytest.fixture
def dsn(databases):
    """An empty database, as a URL with a password."""
    parts = conninfo_to_dict(databases.dsn())
    port = f"&port={parts['port']}" if "port" in parts else ""
    user, password = quote(parts["user"], safe=""), quote(parts.get("password", "hush"), safe="")
    return f"postgresql://{user}:{password}@/{parts['dbname']}?host={quote(parts['host'], safe='')}{port}"
