"""What a command does where something is wrong: no store, no driver, no reader, a hostile name."""

import json
import os
import signal
import subprocess
import sys
from types import ModuleType

import pytest

from agentref.cli.output import one_line, show_size, show_time
from agentref.cli.secrets import scrub
from agentref.errors import StoreUnavailableError

SECRET = "s3cr3t%2Fwörd"
DSN = f"postgresql://me:{SECRET}@localhost:1/db"


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "agentref.cli", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "command",
    [["stats"], ["ls"], ["show", "0" * 64], ["verify"], ["prune"], ["alias", "list"], ["pins", "rm", "o"]],
)
def test_a_mistyped_path_makes_nothing(run, tmp_path, command):
    before = sorted(tmp_path.rglob("*"))
    result = run(*command, store=tmp_path / "stroe" / "deeper")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: There is no store at ") and result.stderr.count("\n") == 1
    (tmp_path / "empty").mkdir()
    assert run(*command, store=tmp_path / "empty").exit_code == 2
    assert list((tmp_path / "empty").iterdir()) == []
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "empty"])


@pytest.mark.parametrize("store", ["x" * 5000, "sqlite:///x", "postgress://u:hush@h/db"])
def test_what_names_no_store(run, store):
    result = run("stats", store=store)
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and "hush" not in result.stderr


def test_a_store_has_to_be_named(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "AGENTREF_STORE"}
    result = process("stats", env=env, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "--store" in result.stderr and "AGENTREF_STORE" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_option_goes_before_the_variable(cas, path, run, tmp_path):
    assert run("stats", "--store", str(path), store=tmp_path / "nowhere").exit_code == 0


def test_without_the_driver_of_postgres(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "agentref.storage.postgres", None)
    result = run("stats", store=DSN)
    assert result.exit_code == 2
    assert "pip install 'agentref-checkpoint[postgres]'" in result.stderr


@pytest.mark.parametrize("failure", [StoreUnavailableError, "psycopg"])
def test_a_password_is_never_printed(run, monkeypatch, failure):
    if failure == "psycopg":
        failure = type("OperationalError", (Exception,), {"__module__": "psycopg.errors"})
    asked = []

    def fail(dsn, **options):
        asked.append((dsn, options["create"]))
        raise failure(f"cannot reach {dsn}: user=me password={SECRET}\nor s3cr3t/wörd")

    module = ModuleType("agentref.storage.postgres")
    module.PostgresCAS = fail
    monkeypatch.setitem(sys.modules, module.__name__, module)
    result = run("stats", store=DSN)
    assert asked == [(DSN, False)]
    assert result.exit_code == 2 and result.stdout == ""
    assert "s3cr3t" not in result.stderr and "***" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_store_of_postgres_is_named_without_its_password(run, cas, monkeypatch, form):
    module = ModuleType("agentref.storage.postgres")
    module.PostgresCAS = lambda dsn, **options: cas
    monkeypatch.setitem(sys.modules, module.__name__, module)
    result = run("stats", *form, store=DSN)
    assert result.exit_code == 0
    assert "s3cr3t" not in result.stdout and "postgresql://me:***@localhost:1/db" in result.stdout


@pytest.mark.parametrize("command", [["stats", DSN], [DSN], ["show", DSN, "more", DSN], ["show", DSN]])
def test_a_dsn_in_the_wrong_place_keeps_its_secret(run, command):
    result = run(*command)
    assert result.exit_code == 2
    assert "s3cr3t" not in result.output


def test_scrub():
    assert scrub("at postgres://u:a%40@h/db?host=/run: no") == "at postgres://u:***@h/db?host=/run: no"
    assert scrub("postgres://u:a@b:c@h/db?x=1") == "postgres://***"
    assert scrub("host=h password='a b' user=u") == "host=h password=*** user=u"
    assert (
        scrub("postgresql://h/db?user=u&password=zz&x=1") == "postgresql://h/db?user=u&password=***&x=***"
    )
    assert scrub("(postgresql://...), or sqlite:///x.") == "(postgresql://...), or sqlite:///x."
    assert scrub("nothing: to see @ all") == "nothing: to see @ all"


def test_names_are_not_acted_upon(cas, run):
    name = "[red]x[/red]:smile:\x1b[2J\nnext\u202e"
    shown = "[red]x[/red]:smile:\\x1b[2J\\nnext\\u202e"
    ref = cas.dump("a value")
    cas.set_alias(name, ref)
    cas.pin(name, [ref])
    for command in (
        ["alias", "list"],
        ["alias", "get", name],
        ["pins", "list"],
        ["show", ref.hash],
        ["alias", "rm", name, "--dry-run"],
        ["pins", "rm", name],
    ):
        result = run(*command)
        assert result.exit_code == 0
        assert shown in result.stdout and "\x1b" not in result.stdout and "\u202e" not in result.stdout
    found = json.loads(run("alias", "list", "--json").stdout)
    assert found["aliases"][0]["name"] == name
    missing = run("alias", "get", "gone\x1b[2J\n")
    assert missing.exit_code == 1 and "\x1b" not in missing.stderr and missing.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(cas, path):
    cas.put_many([str(n).encode() for n in range(100)])
    for command in (["ls"], ["ls", "--json"], ["stats"], ["show", cas.put(b"x" * 100_000), "--content"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "agentref.cli", *command, "--store", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full disk here")  # noqa: PTH110
@pytest.mark.parametrize(
    "command", [["ls"], ["ls", "--json"], ["stats"], ["--help"], ["ls", "--help"], ["pins", "rm", "nobody"]]
)
def test_an_output_that_is_full_is_an_error(cas, path, command):
    cas.put_many([str(n).encode() for n in range(100)])
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "agentref.cli", *command],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "AGENTREF_STORE": str(path)},
            check=False,
        )
    assert done.returncode == 2
    assert "No space left" in done.stderr and done.stderr.count("\n") == 1


def test_an_output_that_lacks_letters_has_them_spelled_out(cas, path):
    cas.set_alias("\u03a9mega", cas.dump("a value"))
    for encoding in ("latin-1", "ascii"):
        env = {**os.environ, "PYTHONIOENCODING": encoding, "AGENTREF_STORE": str(path)}
        for command in (["alias", "list"], ["alias", "rm", "\u03a9mega", "--dry-run"]):
            done = process(*command, env=env)
            assert (done.returncode, done.stderr) == (0, "")
            assert "\\u03a9mega" in done.stdout


def test_a_limit_that_nobody_reaches(cas, run):
    cas.dump("a value")
    for limit in (2**63 - 1, 2**63, 10**20):
        result = run("ls", "--json", "--limit", str(limit))
        assert result.exit_code == 0 and len(json.loads(result.stdout)["blobs"]) == 1


@pytest.mark.parametrize("module", ["typer", "agentref.cli.gc", "rich"])
def test_an_interrupt_during_imports_ends_it_quietly(module):
    script = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]:\n"
        "            import os, signal\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "from agentref.cli import main\n"
        "sys.meta_path.insert(0, Finder())\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, module],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_an_empty_name_is_no_advice_to_name_one(run, path):
    result = run("migrate", str(path), "")
    assert result.exit_code == 2 and "is empty" in result.stderr and "--store" not in result.stderr


def test_an_interrupt_ends_it_quietly(cas, path):
    cas.dump("a value")
    script = (
        "import sys, time\n"
        "from agentref.cli import main\n"
        "from agentref.storage import CAS\n"
        "def verify(self, **_):\n    print('begun', flush=True)\n    time.sleep(60)\n"
        "CAS.verify = verify\n"
        "sys.argv = ['agentref', 'verify', '--store', sys.argv[1]]\n"
        "main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with child:
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGINT)
        assert child.wait() == 130
        assert b"Traceback" not in child.stderr.read()


def test_as_a_process(cas, path):
    cas.dump("a value")
    result = process("verify", "--json", "--store", str(path))
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["checked"] == 1
    assert process("no-such-command").returncode == 2


@pytest.mark.parametrize("absent", ["typer", "rich"])
def test_without_the_extra(absent):
    script = f"import sys; sys.modules[{absent!r}] = None; from agentref.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "pip install 'agentref-checkpoint[cli]'" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_bar_moves_on_a_terminal_only(cas, path):
    cas.put_many([str(n).encode() for n in range(3000)])
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agentref.cli", "verify", "--json", "--store", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            check=False,
        )
        drawn = os.read(ours, 65536)
    finally:
        os.close(theirs)
        os.close(ours)
    assert b"verify" in drawn
    assert json.loads(done.stdout)["checked"] == 3000


def test_how_things_are_shown():
    assert [show_size(n) for n in (0, 1023, 1024, 1536 * 1024, 2**62)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "4,096.0 PiB",
    ]
    assert show_time(float("inf")) == show_time(None) == "never"
    assert show_time(0) == "1970-01-01 00:00:00" and show_time(1e30)
    assert one_line("a\tb\ud800") == "a\\tb\\ud800"
