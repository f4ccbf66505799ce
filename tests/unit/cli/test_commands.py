"""Each command does what it says, prints one JSON document if asked to, and has the exit code that fits."""

import json
import sqlite3
import time
from contextlib import closing

import pytest

from agentref.cli.app import app
from agentref.cli.options import parse_seconds
from agentref.errors import InvalidInputError
from agentref.refs import ContentRef
from agentref.storage.filesystem import FilesystemBlobStore


def document(result):
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def expired(cas, value):
    ref = cas.dump(value, ttl=0.001)
    time.sleep(0.01)
    return ref


def damage(cas, path, ref):
    cas.close()
    blobs = FilesystemBlobStore(path)
    blobs.replace({ref.digest: b"not what it was"})
    blobs.close()


def test_stats_counts(cas, run):
    cas.dump("lives")
    ref = expired(cas, "expired")
    cas.set_alias("a", cas.dump("named"))
    cas.pin("o", [cas.dump("pinned")])
    found = document(run("stats", "--json"))
    assert found["store"] == str(run.path)
    assert found["store_id"] == ref.backend_id
    assert (found["blobs"], found["expired"], found["aliases"], found["pins"]) == (4, 1, 1, 1)
    assert found["stored_bytes"] == cas.stats().stored_bytes
    assert "blobs" in run("stats").stdout


def test_ls_pages_through_all_hashes(cas, run):
    cas.put_many([bytes([n]) for n in range(25)])
    every = list(cas.iter_hashes())
    assert [blob["hash"] for blob in document(run("ls", "--json"))["blobs"]] == every
    first = document(run("ls", "--json", "--limit", "10"))
    assert first["more"] and [blob["hash"] for blob in first["blobs"]] == every[:10]
    rest = document(run("ls", "--json", "--limit", "0", "--after", every[9]))
    assert not rest["more"] and [blob["hash"] for blob in rest["blobs"]] == every[10:]
    table = run("ls", "--limit", "3").stdout
    assert [line.split()[0] for line in table.splitlines()[1:4]] == every[:3]
    assert f"--after {every[2]}" in table


def test_ls_by_prefix(cas, run):
    cas.put_many([str(n).encode() for n in range(600)])
    every = list(cas.iter_hashes())
    for prefix in (every[0][:2], every[300][:3], every[-1], "ff", "00"):
        found = document(run("ls", "--json", "--limit", "0", "--prefix", prefix))["blobs"]
        assert [blob["hash"] for blob in found] == [name for name in every if name.startswith(prefix)]
    assert run("ls", "--prefix", "XY").exit_code == 2


def test_ls_of_what_has_expired(cas, run):
    cas.dump("lives")
    gone = expired(cas, "expired")
    [blob] = document(run("ls", "--json", "--expired"))["blobs"]
    assert blob["hash"] == gone.hash
    assert blob["expires_at"] < time.time() and blob["condemned_at"] is None
    document(run("prune", "--json"))
    [blob] = document(run("ls", "--json", "--expired"))["blobs"]
    assert blob["condemned_at"] <= time.time()


def test_show_takes_a_hash_an_alias_and_a_ref(cas, run):
    ref = cas.dump([{"text": f"{n} " * 4000} for n in range(200)])
    cas.set_alias("big", ref)
    cas.pin("run-1", [ref], ttl=60)
    cas.pin("run-2", [cas.dump("other")])
    found = document(run("show", ref.hash, "--json"))
    assert found == document(run("show", "@big", "--json"))
    assert found == document(run("show", json.dumps(ref.to_dict()), "--json"))
    assert ContentRef.from_dict(found["ref"]) == ref
    assert found["size"] == ref.size and found["kind"] == "value" and found["codec"] == ref.codec
    assert found["blobs_below"] == len(list(cas.iter_hashes())) - 2 > 0
    assert found["blobs_missing"] == 0 and found["expires_at"] is None
    assert [pin["owner"] for pin in found["pins"]] == ["run-1"]
    assert found["aliases"] == ["big"]
    shown = run("show", "@big").stdout
    assert ref.hash in shown and "run-1" in shown and "big" in shown


def test_show_tells_what_is_missing_below(cas, run):
    ref = cas.dump(["x" * 5000 + str(n) for n in range(2000)])
    below = [name for name in cas.iter_hashes() if name != ref.hash]
    cas.delete(below[0])
    assert document(run("show", ref.hash, "--json"))["blobs_missing"] >= 1
    assert "MISSING" in run("show", ref.hash).stdout


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_show_content_of_bytes(cas, run, size):
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    result = run("show", cas.put(data), "--content")
    assert result.exit_code == 0 and result.stdout_bytes == data


def test_show_content_of_a_value(cas, run):
    assert run("show", cas.dump({"a": [1, "\x1b[31m"]}).hash, "--content").stdout == (
        "{'a': [1, '\\x1b[31m']}\n"
    )
    shown = run("show", cas.dump([["y" * 3000] * 60] * 60).hash, "--content")
    assert shown.exit_code == 0 and len(shown.stdout) < 10_100


@pytest.mark.parametrize("digits", [4000, 5000, 100_000])
def test_show_content_of_a_long_number(cas, run, digits):
    for number in (10**digits, -(10**digits)):
        for value in (number, {"a": [number], number: 1}):
            result = run("show", cas.dump(value).hash, "--content")
            assert result.exit_code == 0, result.output
            assert hex(number)[:1000] in result.stdout
            assert len(result.stdout) < 5000


def test_show_content_constructs_no_stored_class(cas, run):
    from langchain_core import messages

    result = run("show", cas.dump(messages.HumanMessage("hello")).hash, "--content")
    assert result.exit_code == 1
    assert result.stdout == "" and result.stderr.startswith("error: ") and "HumanMessage" in result.stderr


def test_show_of_what_is_not_here(cas, run):
    assert run("show", "0" * 64).exit_code == 1
    assert run("show", "@nobody").exit_code == 1
    for text in ("0" * 63, "{", '{"a": 1}', "[" * 5000, "{" + "[" * 100_000):
        result = run("show", text)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert run("show", cas.put(b"a"), "--content", "--json").exit_code == 2


def test_verify_tells_of_an_alias_that_makes_no_sense(cas, path, run):
    cas.set_alias("broken", cas.dump("a value"))
    cas.set_alias("sound", cas.dump("another"))
    with closing(sqlite3.connect(path / "index.sqlite3")) as connection, connection:
        connection.execute("UPDATE alias SET codec = 'no such codec' WHERE name = 'broken'")
    said = run("verify", "--json")
    assert said.exit_code == 1 and json.loads(said.stdout)["damaged_aliases"] == ["broken"]
    table = run("verify")
    assert table.exit_code == 1 and "broken" in table.stdout and "1 aliases damaged" in table.stdout
    assert "sound" in run("alias", "list").stdout


def test_verify(cas, path, run):
    ref = cas.dump("a value")
    assert document(run("verify", "--json")) == {
        "ok": True,
        "checked": 1,
        "checked_bytes": cas.stats().stored_bytes,
        "corrupt": [],
        "missing": [],
        "damaged_aliases": [],
    }
    assert "all sound" in run("verify").stdout
    damage(cas, path, ref)
    bad = run("verify", "--json")
    assert bad.exit_code == 1 and json.loads(bad.stdout)["corrupt"] == [ref.hash]
    table = run("verify")
    assert table.exit_code == 1 and ref.hash in table.stdout and "1 corrupt" in table.stdout
    assert run("show", ref.hash).exit_code == 1


def test_prune(cas, run):
    kept = cas.dump("lives")
    gone = expired(cas, "expired")
    dry = document(run("prune", "--json", "--dry-run", "--grace", "0"))
    assert dry["dry_run"] and dry["removed"] == 1 and cas.exists(gone.hash)
    waits = document(run("prune", "--json", "--grace", "7d"))
    assert (waits["condemned"], waits["removed"]) == (1, 0) and cas.exists(gone.hash)
    done = document(run("prune", "--json", "--grace", "0"))
    assert done["removed"] == 1 and done["removed_bytes"] > 0
    assert not cas.exists(gone.hash) and cas.exists(kept.hash)
    assert "removed" in run("prune").stdout


def test_prune_removes_no_more_than_its_limit(cas, run):
    for n in range(5):
        expired(cas, f"expired {n}")
    assert document(run("prune", "--json", "--grace", "0", "--limit", "2"))["removed"] == 2
    assert run("prune", "--limit", "0").exit_code == 2


def test_prune_of_a_damaged_store(cas, path, run):
    expired(cas, "expired")
    ref = cas.dump(["x" * 5000 + str(n) for n in range(2000)])
    cas.close()
    blobs = FilesystemBlobStore(path)
    # The first byte still says that it links to others.
    blobs.replace({ref.digest: blobs.fetch([ref.digest])[ref.digest][:1] + b"damaged"})
    blobs.close()
    result = run("prune", "--grace", "0")
    assert result.exit_code == 1 and "Nothing was pruned" in result.stderr


def test_spans():
    spans = {"3600": 3600, "90s": 90, "30m": 1800, "1h": 3600, "7d": 604800, "2w": 1209600, "0.5h": 1800}
    assert {text: parse_seconds("--grace", text) for text in spans} == spans
    for text in ("", "h", "-1", "1y", "1h30m", "nan", "inf", "\u0661"):
        with pytest.raises(InvalidInputError):
            parse_seconds("--grace", text)


def test_alias(cas, run):
    first, second = cas.dump("first"), cas.dump("second")
    dry = document(run("alias", "set", "plan", first.hash, "--json", "--dry-run"))
    assert dry["version"] is None and list(cas.iter_aliases()) == []
    done = document(run("alias", "set", "plan", first.hash, "--expect", "absent", "--json"))
    assert ContentRef.from_dict(done["ref"]) == first and done["version"] > 0
    assert cas.resolve_alias("plan") == first
    for dry_run in ([], ["--dry-run"]):
        conflict = run("alias", "set", "plan", second.hash, "--expect", "absent", *dry_run)
        assert conflict.exit_code == 1 and first.hash in conflict.stderr
        assert run("alias", "rm", "plan", "--expect", second.hash, *dry_run).exit_code == 1
    assert run("alias", "set", "plan", second.hash, "--expect", "@plan", "--ttl", "1h").exit_code == 0
    found = document(run("alias", "get", "plan", "--json"))
    assert ContentRef.from_dict(found["ref"]) == second
    assert 3500 < found["expires_at"] - time.time() < 3700
    cas.set_alias("other", first)
    assert document(run("alias", "list", "pl", "--json"))["aliases"] == [found]
    assert [a["name"] for a in document(run("alias", "list", "--json"))["aliases"]] == ["other", "plan"]
    assert second.hash in run("alias", "list").stdout and second.hash in run("alias", "get", "plan").stdout
    assert document(run("alias", "rm", "plan", "--dry-run", "--json"))["removed"] is False
    assert cas.resolve_alias("plan") == second
    assert document(run("alias", "rm", "plan", "--json"))["removed"] is True
    for dry_run in ([], ["--dry-run"]):
        assert run("alias", "rm", "plan", *dry_run).exit_code == 1
    assert run("alias", "get", "plan").exit_code == 1


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_what_an_alias_is_compared_with_may_be_gone(cas, run, dry_run):
    gone, here = cas.dump("gone"), cas.dump("here")
    cas.set_alias("moved", here)
    cas.set_alias("dangling", gone)
    cas.set_alias("other", gone)
    cas.delete(gone.hash)
    for command in (["set", "moved", here.hash], ["rm", "moved"]):
        conflict = run("alias", *command, "--expect", gone.hash, *dry_run)
        assert conflict.exit_code == 1 and f"stands for {here.hash}" in conflict.stderr
    assert run("alias", "rm", "other", "--expect", here.hash, *dry_run).exit_code == 1
    assert run("alias", "rm", "other", "--expect", gone.hash, *dry_run).exit_code == 0
    assert run("alias", "set", "dangling", here.hash, "--expect", gone.hash, *dry_run).exit_code == 0
    assert cas.resolve_alias("dangling") == (gone if dry_run else here)


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_an_alias_is_not_set_to_what_is_not_whole(cas, run, dry_run):
    ref = cas.dump(["x" * 5000 + str(n) for n in range(2000)])
    cas.delete(next(name for name in cas.iter_hashes() if name != ref.hash))
    assert run("alias", "set", "plan", ref.hash, *dry_run).exit_code == 1
    assert list(cas.iter_aliases()) == []


def test_pins(cas, run):
    refs = [cas.dump("first"), cas.dump("second")]
    cas.pin("run-1", refs)
    cas.pin("run-10", refs[:1], ttl=60)
    found = document(run("pins", "list", "run-1", "--json"))["pins"]
    assert [pin["owner"] for pin in found] == ["run-1", "run-1", "run-10"]
    assert [pin["expires_at"] is None for pin in found] == [True, True, False]
    assert refs[0].hash in run("pins", "list").stdout
    assert document(run("pins", "rm", "run-1", "--dry-run", "--json"))["pins"] == 2
    assert len(list(cas.iter_pins())) == 3
    assert document(run("pins", "rm", "run-1", "--json"))["pins"] == 2
    assert [pin.owner for pin in cas.iter_pins()] == ["run-10"]
    assert run("pins", "rm", "run-1").exit_code == 1


COMMANDS = [
    [],
    ["stats"],
    ["ls"],
    ["show"],
    ["verify"],
    ["prune"],
    ["alias"],
    *(["alias", verb] for verb in ("list", "get", "set", "rm")),
    ["pins"],
    *(["pins", verb] for verb in ("list", "rm")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_the_exit_codes(run, command):
    shown = run(*command, "--help")
    assert shown.exit_code == 0
    assert "Example" in shown.stdout and f"  agentref {' '.join(command)}".rstrip() in shown.stdout
    assert "Exit codes:" in shown.stdout and "  130  interrupted\n" in shown.stdout


def test_every_command_is_in_the_table_above(run):
    names = {group.name for group in app.registered_groups}
    names |= {command.callback.__name__ for command in app.registered_commands}
    assert {command[0] for command in COMMANDS if command} <= names
