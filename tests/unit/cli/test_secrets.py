"""No part of a password is printed: in a DSN, in one that is mistyped, or where none belongs."""

import pytest
from typer.testing import CliRunner

from agentref.cli.app import app

SECRET = "s3cr3t"
# As libpq reads them, or nearly.
DSNS = [
    f"postgresql://app:{SECRET}@127.0.0.1:1/db",
    f"postgresql://app:{SECRET}@127.0.0.1:port/db",
    f"postgresql://app:{SECRET}@/db?host=/nonexistent",
    f"postgresql://app:{SECRET}%@127.0.0.1/db",
    f"postgresql://app:{SECRET}@[::1/db",
    f"postgresql://app:x{SECRET}/y@127.0.0.1:1/db",
    f"postgresql://app:x@{SECRET}@127.0.0.1:1/db",
    f"postgresql://app:a#{SECRET}@127.0.0.1:1/db",
    f"postgresql://app:a?{SECRET}@127.0.0.1:1/db",
    f"postgresql://app:{SECRET}/db",
    f"postgresql://app:pw {SECRET}@127.0.0.1:1/db",
    f"postgresql://app:{SECRET} @127.0.0.1:1/d b",
    f"postgresql://app:s%33cr3t@127.0.0.1:1/db?sslpassword={SECRET}",
    f"postgresql://app@127.0.0.1:1/db?oauth_client_secret={SECRET}",
    f"postgresql://app@127.0.0.1:1/db?scram_client_key={SECRET}",
    f"postgresql://app@127.0.0.1:1/db?options=-c%20app.password%3D{SECRET}",
    f"postgresql://127.0.0.1:1/db?user=a&password={SECRET}&bogus=1",
    f"postgresql://127.0.0.1:1/db?password=a@{SECRET}",
    f"postgresql://app{SECRET}@127.0.0.1:1/db",
    f"postgresql://app:{SECRET}@127.0..1:1/db",
]
MISTYPED = [
    f"postgresql:/app:{SECRET}@h/db",
    f"postgresql:app:{SECRET}@h",
    f"postgresql//app:{SECRET}@h/db",
    f"postgersql://app:{SECRET}@h/db",
    f"POSTGRESQL://app:{SECRET}@h/db",
    f" postgresql://app:{SECRET}@h/db",
    f"'postgresql://app:{SECRET}@h/db'",
    f"postgresql+psycopg://app:{SECRET}@h/db",
    f"mysql://app:{SECRET}@h/db",
    f"app:{SECRET}@h/db",
    f"app:\n{SECRET}@h/db",
    f"host=12\\7 port=1 pass]word={SECRET}",
    f"app:'\"\\{SECRET}@h/db",
    f"host=h password='{SECRET}",
    f"host=h password='a {SECRET}",
    f"host=h passwd={SECRET}",
    f"password = '{SECRET}' host=h",
    f"options='-c app.secret={SECRET}'",
]


@pytest.fixture
def quiet(path, tmp_path, monkeypatch):
    """Runs the command, and shows that the secret is not printed and nothing was made."""
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    def quiet(*arguments, store=path, code=2):
        result = CliRunner().invoke(app, arguments, env={"AGENTREF_STORE": str(store)})
        assert SECRET not in result.output, (arguments, result.output)
        assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)
        assert result.exit_code == code
        assert sorted(tmp_path.rglob("*")) == before
        return result

    return quiet


@pytest.mark.parametrize("dsn", DSNS + MISTYPED)
def test_as_a_store(cas, path, quiet, dsn):
    quiet("stats", "-s", dsn)
    quiet("stats", f"-s{dsn}")
    quiet("ls", "--json", store=dsn)
    quiet("migrate", dsn, str(path))
    quiet("migrate", str(path), dsn, "--create")
    quiet("db", "status", "-s", dsn)
    pytest.importorskip("langgraph.checkpoint.sqlite")
    pytest.importorskip("langgraph.checkpoint.postgres")
    quiet("gc", "--checkpoints", dsn)
    quiet("gc", "--checkpoints", "x.db", store=dsn)


@pytest.mark.parametrize("dsn", DSNS + MISTYPED)
def test_where_none_belongs(cas, quiet, dsn):
    quiet(dsn)
    quiet("alias", dsn)
    quiet("stats", dsn)
    quiet("stats", "--limit", dsn)
    quiet(f"--bogus={dsn}")
    quiet("show", dsn)
    quiet("show", f"@{dsn}", code=1)
    quiet("ls", "--limit", dsn)
    quiet("ls", "--after", dsn)
    quiet("ls", "--prefix", dsn)
    quiet("prune", "--grace", dsn)
    quiet("alias", "get", dsn, code=1)
    quiet("alias", "set", "a", dsn)
    quiet("pins", "rm", dsn, code=1)
    quiet("pins", "rm", dsn, "--json", code=1)


@pytest.mark.parametrize(
    "words",
    [
        ["postgresql://app:pw", f"{SECRET}@h/db"],
        ["postgresql://app:pw", SECRET, "more@h/db"],
        ["postgresql://app:12", f"{SECRET}@h/db"],
        ["host=h", f"password={SECRET}"],
        ["host=h", "password", "=", SECRET],
        ["port=1", f"paswrd={SECRET}", "dbname=d"],
        ["postgresql:/app:pw", f"{SECRET}@h/db"],
    ],
)
def test_an_address_that_a_shell_took_apart(cas, quiet, words):
    quiet("stats", *words)
    quiet("stats", "-s", *words)
    quiet(*words)


def test_a_password_of_digits_that_is_cut_short(cas, quiet):
    result = quiet("prune", "--grace", f"postgresql://app:{'97531' * 20}@127.0.0.1/db")
    assert "975" not in result.output


def test_what_looks_like_a_dsn_is_told_what_to_write(cas, quiet):
    for dsn in MISTYPED:
        assert "Write postgresql://" in quiet("stats", store=dsn).stderr
    assert "There is no store at ./app: no such" in quiet("stats", store="./app").stderr
