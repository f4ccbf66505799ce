"""`agentref migrate` between directories; a database is the target in `test_database`."""

import json

import pytest
from typer.testing import CliRunner

from agentref.cli.app import app
from agentref.refs import Digest
from agentref.storage import FilesystemCAS


@pytest.fixture
def target(tmp_path):
    with FilesystemCAS(tmp_path / "target") as store:
        yield store


def migrate(source, target, *options):
    return CliRunner().invoke(app, ["migrate", str(source), str(target), *options])


def test_all_comes_and_what_is_there_is_told(cas, path, target, tmp_path):
    ref = cas.dump(["x" * 5000, "y" * 5000])
    cas.set_alias("plan", ref)
    cas.pin("run", [ref])
    planned = migrate(path, tmp_path / "target", "--dry-run")
    assert planned.exit_code == 0
    assert "would be copied" in planned.stdout
    assert target.stats().blobs == 0
    done = migrate(path, tmp_path / "target", "--workers", "4")
    assert done.exit_code == 0, done.stderr
    assert repr(cas.backend_id) in done.stdout
    assert target.load(target.resolve_alias("plan")) == ["x" * 5000, "y" * 5000]
    report = json.loads(migrate(path, tmp_path / "target", "--json").stdout)
    assert report == {
        "dry_run": False, "ok": True, "blobs": cas.stats().blobs, "copied": 0, "copied_bytes": 0,
        "corrupt": [], "missing": [], "pins": 1, "aliases": 1, "conflicts": [], "skipped": [],
    }  # fmt: skip


def test_damage_and_conflicts_are_told_and_are_a_failure(cas, path, target, tmp_path):
    damaged = cas.dump("a value that is damaged then " * 40)
    cas._store.replace({Digest(damaged.digest): b"\x10damaged"})
    cas.set_alias("plan", cas.dump("ours"))
    target.set_alias("plan", target.dump("theirs"))
    result = migrate(path, tmp_path / "target")
    assert result.exit_code == 1
    assert f"damaged: {damaged.hash}" in result.stdout
    assert "conflict: plan" in result.stdout
    cas.repair("a value that is damaged then " * 40)
    assert migrate(path, tmp_path / "target").exit_code == 1
    assert target.load(target.resolve_alias("plan")) == "theirs"
    assert migrate(path, tmp_path / "target", "--overwrite-aliases").exit_code == 0
    assert target.load(target.resolve_alias("plan")) == "ours"


def test_names_with_typing_errors_make_no_store(cas, path, target, tmp_path):
    cas.dump("x")
    for source, goal in ((tmp_path / "typo", tmp_path / "target"), (path, tmp_path / "typo")):
        result = migrate(source, goal)
        assert result.exit_code == 2
        assert "There is no store at" in result.stderr
        assert not (tmp_path / "typo").exists()
    assert target.stats().blobs == 0


def test_a_target_is_made_if_that_is_asked_for(cas, path, tmp_path):
    ref = cas.dump("x" * 5000)
    new = tmp_path / "new"
    for source, options in ((path, ["--create", "--dry-run"]), (tmp_path / "typo", ["--create"])):
        assert migrate(source, new, *options).exit_code == 2
        assert not new.exists()
    assert migrate(path, new, "--create").exit_code == 0
    with FilesystemCAS(new) as target:
        assert target.load(ref) == "x" * 5000


def test_a_store_and_itself_are_bad_usage(cas, path, tmp_path):
    cas.dump("x")
    (tmp_path / "link").symlink_to(path)
    result = migrate(path, tmp_path / "link")
    assert result.exit_code == 2
    assert "one store" in result.stderr


def test_a_password_is_not_printed(cas, path):
    dsn = "postgresql://app:hush-hush@/nowhere?host=/nonexistent"
    for result in (migrate(path, dsn), migrate(dsn, path), migrate(path, dsn, "--workers", "many")):
        assert result.exit_code == 2
        assert "hush" not in result.output
