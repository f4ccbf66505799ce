"""The command on a store in PostgreSQL."""

import json
import time

import pytest

from agentref.storage import PostgresCAS


def said(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_tables_are_made_by_upgrade_and_by_nothing_else(run, dsn):
    before = said(run("db", "status", "--json", store=dsn))
    assert before["applied"] == []
    assert [step["number"] for step in before["pending"]][:2] == [1, 2]
    result = run("stats", store=dsn)
    assert result.exit_code == 2 and "agentref db upgrade" in result.stderr
    assert said(run("db", "upgrade", "--dry-run", "--json", store=dsn))["applied"] == before["pending"]
    assert said(run("db", "status", "--json", store=dsn)) == before
    assert said(run("db", "upgrade", "--json", store=dsn))["applied"] == before["pending"]
    assert said(run("db", "status", "--json", store=dsn)) == {"applied": before["pending"], "pending": []}
    assert "up to date" in run("db", "upgrade", store=dsn).output
    assert said(run("stats", "--json", store=dsn))["blobs"] == 0


def test_every_command_works_on_a_database(run, dsn):
    with PostgresCAS(dsn) as cas:
        ref = cas.dump(["x" * 5000, "y" * 5000])
        cas.set_alias("plan", ref)
        cas.pin("run-1", [ref])
        cas.dump("soon gone", ttl=0.01)
    time.sleep(0.05)
    assert said(run("stats", "--json", store=dsn))["expired"] == 1
    assert len(said(run("ls", "--json", store=dsn))["blobs"]) == cas_blobs(dsn)
    assert said(run("show", "@plan", "--json", store=dsn))["hash"] == ref.hash
    assert said(run("verify", "--json", store=dsn))["ok"]
    assert said(run("prune", "--grace", "0", "--json", store=dsn))["removed"] == 1
    assert said(run("alias", "list", "--json", store=dsn))["aliases"][0]["name"] == "plan"
    assert said(run("pins", "list", "--json", store=dsn))["pins"][0]["owner"] == "run-1"
    assert said(run("pins", "rm", "run-1", "--json", store=dsn))["pins"] == 1
    for command in (["stats"], ["ls"], ["verify"], ["db", "status"], ["alias", "list"]):
        assert "hush" not in run(*command, store=dsn).output


def cas_blobs(dsn):
    with PostgresCAS(dsn) as cas:
        return cas.stats().blobs


@pytest.mark.parametrize("command", [["db", "status"], ["db", "upgrade"]])
def test_a_directory_has_no_tables(run, command):
    result = run(*command)
    assert result.exit_code == 2 and "postgresql://" in result.stderr


def test_a_directory_moves_to_a_database(run, cas, path, dsn):
    ref = cas.dump(["x" * 5000, "y" * 5000])
    cas.set_alias("plan", ref)
    cas.pin("run-1", [ref])
    result = run("migrate", str(path), dsn)
    assert result.exit_code == 2 and "agentref db upgrade" in result.stderr
    assert run("migrate", str(path), dsn, "--create", "--dry-run").exit_code == 2
    assert run("migrate", str(path / "typo"), dsn, "--create").exit_code == 2
    assert said(run("db", "status", "--json", store=dsn))["applied"] == []
    run("db", "upgrade", store=dsn)
    planned = said(run("migrate", str(path), dsn, "--dry-run", "--json"))
    done = said(run("migrate", str(path), dsn, "--json"))
    assert done["ok"] and done["copied"] == planned["copied"] == cas.stats().blobs
    assert said(run("migrate", str(path), dsn, "--json"))["copied"] == 0
    result = run("migrate", str(path), dsn)
    assert result.exit_code == 0 and cas.backend_id in result.output and "hush" not in result.output
    with PostgresCAS(dsn, backend_aliases=[cas.backend_id]) as other:
        other.set_alias("plan", other.dump("something else"))
    result = run("migrate", str(path), dsn)
    assert result.exit_code == 1 and "conflict: plan" in result.output
    result = run("migrate", str(path), str(path))
    assert result.exit_code == 2
    result = run("migrate", str(path), str(path.parent / "nowhere"))
    assert result.exit_code == 2 and not (path.parent / "nowhere").exists()
