"""The schema is what its migrations make of it, whoever applies them, and however many at once.

After a new step: `AGENTREF_WRITE_GOLDEN=1 python -m pytest tests/integration/postgres/test_migrations.py`.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from agentref.coherence import Write
from agentref.coherence.postgres import PostgresCoordinator
from agentref.errors import StoreUnavailableError, StoreVersionError
from agentref.postgres import Migration, migrations, status, upgrade
from agentref.refs import ContentRef, Digest
from agentref.storage import FOREVER, PostgresCAS
from agentref.storage.postgres import PostgresBlobStore
from agentref.storage.protocol import AliasRow, PinRow

GOLDEN = Path(__file__).parents[2] / "golden" / "postgres_schema.txt"
ONE = Digest(bytes(32))
STARTED_AT_ONCE = 100

LATIN = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")

# Of a table, what PostgreSQL 15 and later tell alike.
SCHEMA = """
SELECT 'column ' || table_name || '.' || column_name || ': ' || data_type || ' ' || is_nullable || ' '
    || coalesce(column_default, '-') || ' ' || coalesce(collation_name, '-')
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT 'storage ' || relname || '.' || attname || ': ' || attstorage::text FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
UNION ALL
SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'constraint ' || conrelid::regclass || ' ' || conname || ': ' || pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
UNION ALL
SELECT 'sequence ' || sequence_name || ': ' || data_type
FROM information_schema.sequences WHERE sequence_schema = 'public'
UNION ALL
SELECT 'function ' || proname || '(' || pg_get_function_arguments(oid) || '): ' || md5(prosrc)
FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


def schema(dsn):
    with psycopg.connect(dsn) as connection:
        return sorted(line for (line,) in connection.execute(SCHEMA).fetchall())


def extra(number, name, sql="SELECT 1"):
    return Migration(number, name, sql)


def record(observer, number, name, checksum="0" * 64):
    observer.execute(
        "INSERT INTO agentref_migration(number, name, checksum) VALUES (%s, %s, %s)",
        [number, name, checksum],
    )


def test_the_schema_is_the_golden_one_at_once_or_one_by_one(databases):
    at_once, one_by_one, by_use = map(databases.dsn, ("at once", "one by one", "by use"))
    assert upgrade(at_once) == migrations()
    for count in range(1, len(migrations()) + 1):
        upgrade(one_by_one, steps=migrations()[:count])
    store = PostgresBlobStore(by_use)
    assert store.fetch([ONE]) == {}
    store.close()
    assert schema(at_once) == schema(one_by_one) == schema(by_use)
    if "AGENTREF_WRITE_GOLDEN" in os.environ:
        GOLDEN.write_text("\n".join(schema(at_once)) + "\n", encoding="utf-8")
    assert schema(at_once) == GOLDEN.read_text(encoding="utf-8").splitlines()


def test_status_tells_what_was_applied_and_what_was_not(dsn):
    assert status(dsn) == ((), migrations())
    upgrade(dsn, steps=migrations()[:1])
    assert status(dsn) == (((1, "pre_objects"),), migrations()[1:])
    assert upgrade(dsn) == migrations()[1:]
    assert upgrade(dsn) == ()
    assert status(dsn).pending == ()


def test_a_step_that_fails_takes_all_of_them_back(dsn):
    with pytest.raises(OSError, match="syntax error"):
        upgrade(dsn, steps=[*migrations(), extra(4, "pre_wrong", "CREATE NONSENSE")])
    assert schema(dsn) == []


def test_a_step_that_was_edited_is_refused(dsn):
    upgrade(dsn)
    edited = [migrations()[0]._replace(sql="SELECT 2"), *migrations()[1:]]
    for verb in (status, upgrade):
        with pytest.raises(StoreVersionError, match=r"Migration 1 \(pre_objects\)"):
            verb(dsn, steps=edited)


@pytest.mark.parametrize("name", ["post_drop_heads", "whatever"])
def test_a_database_of_a_newer_version_is_refused(dsn, observer, name):
    upgrade(dsn)
    record(observer, 4, name)
    store = PostgresBlobStore(dsn)
    with pytest.raises(StoreVersionError, match="migration 4"):
        store.fetch([ONE])
    with pytest.raises(StoreVersionError):
        status(dsn)
    store.close()


def test_a_newer_version_that_only_added_is_served(dsn, observer):
    upgrade(dsn)
    record(observer, 4, "pre_more")
    store = PostgresBlobStore(dsn)
    store.store({ONE: b"one"})
    assert store.fetch([ONE]) == {ONE: b"one"}
    assert [number for number, _ in status(dsn).applied] == [1, 2, 3, 4]
    store.close()


def test_what_takes_away_waits_for_an_upgrade(dsn, monkeypatch):
    steps = (*migrations(), extra(4, "pre_more"), extra(5, "post_less"))
    upgrade(dsn)
    monkeypatch.setattr("agentref.postgres.migrate.migrations", lambda folder=None: steps)
    store = PostgresBlobStore(dsn)
    assert store.fetch([ONE]) == {}
    assert status(dsn).pending == (steps[4],)
    assert upgrade(dsn) == (steps[4],)
    store.close()


def test_what_is_needed_but_comes_after_it_asks_for_an_upgrade(dsn, monkeypatch):
    steps = (*migrations(), extra(4, "post_less"), extra(5, "pre_more"))
    upgrade(dsn)
    monkeypatch.setattr("agentref.postgres.migrate.migrations", lambda folder=None: steps)
    store = PostgresBlobStore(dsn)
    with pytest.raises(StoreVersionError, match="agentref db upgrade"):
        store.fetch([ONE])
    upgrade(dsn)
    assert store.fetch([ONE]) == {}
    store.close()


def test_nothing_is_made_unless_asked_for(dsn):
    store = PostgresBlobStore(dsn, create=False)
    with pytest.raises(StoreVersionError, match="agentref db upgrade"):
        store.fetch([ONE])
    assert schema(dsn) == []
    upgrade(dsn)
    assert store.fetch([ONE]) == {}
    store.close()


def test_many_processes_may_begin_on_an_empty_database(dsn):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        children = [begin(dsn, number) for number in range(STARTED_AT_ONCE)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * STARTED_AT_ONCE
    store = PostgresBlobStore(dsn)
    assert len(store.scan()) == STARTED_AT_ONCE + 1
    store.close()


def begin(dsn, number):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        store = PostgresBlobStore(dsn)
        store.store({ONE: b"shared", Digest((number + 1).to_bytes(32, "big")): b"own"})
        code = 0
    finally:
        os._exit(code)


@pytest.fixture
def role(databases, observer, dsn):
    """A role that may do what docs/postgres.md grants, and the address to come in as it."""
    name = "agent_" + os.urandom(6).hex()
    upgrade(dsn)
    document = (Path(__file__).parents[3] / "docs" / "postgres.md").read_text(encoding="utf-8")
    grants = document.partition("```sql\n")[2].partition("```")[0]
    observer.execute(f"CREATE ROLE {name} LOGIN")
    observer.execute(grants.replace("TO agent;", f"TO {name};"))
    yield name
    observer.execute(f"DROP OWNED BY {name}")
    observer.execute(f"DROP ROLE {name}")


def test_a_role_with_the_documented_grants_can_do_everything(databases, role):
    store = PostgresBlobStore(databases.dsn(user=role))
    store.store({ONE: b"one"}, expires_at=1.0)
    store.replace({ONE: b"uno"})
    assert store.touch([ONE], expires_at=5e9) == [ONE]
    assert store.condemn([ONE], expires_by=6e9) == 1
    row = store.set_alias(AliasRow("name", ONE, "raw", 3, 0, FOREVER), expect=0)
    assert store.set_alias(row, expect=row.version)
    assert store.delete_alias("name")
    store.pin(PinRow.each("me", [ONE], expires_at=1.0))
    assert store.forget(expires_by=FOREVER) == 1
    store.pin(PinRow.each("me", [ONE]))
    assert store.unpin(["me"]) == 1
    assert store.remove([ONE]) == 1
    assert store.epoch() == 1
    store.close()


def test_a_role_with_the_documented_grants_can_coordinate(databases, role):
    with PostgresCoordinator(databases.dsn(user=role)) as coordinator:
        since = coordinator.head()
        ref = ContentRef(ONE, "raw", 3)
        view = coordinator.commit([Write(("one",), ref)], agent="a")["one",]
        coordinator.commit([Write(("two",), ref), Write(("one",), None, view)], agent="a")
        coordinator.release(coordinator.acquire(("two",), holder="a", ttl=60))
        assert [change.key for change in coordinator.changes(since=since).changes] == [
            ("one",),
            ("two",),
            ("one",),
        ]
        coordinator.wait(since, timeout=60)
        assert coordinator.table.compact(FOREVER) == 2


def test_a_grant_that_is_missing_is_named(databases, role, observer):
    store = PostgresBlobStore(databases.dsn(user=role))
    observer.execute(f"REVOKE INSERT ON agentref_blob FROM {role}")
    with pytest.raises(
        StoreUnavailableError, match="GRANT SELECT, INSERT, UPDATE, DELETE ON agentref_blob TO"
    ):
        store.store({ONE: b"one"})
    observer.execute(f"REVOKE USAGE ON SEQUENCE agentref_alias_version FROM {role}")
    with pytest.raises(StoreUnavailableError, match="GRANT USAGE ON SEQUENCE agentref_alias_version TO"):
        store.set_alias(AliasRow("name", ONE, "raw", 3, 0, FOREVER))
    store.close()


def test_a_database_in_another_encoding_is_refused(databases, dsn):
    name = "agentref_test_latin_" + os.urandom(6).hex()
    databases.admin(LATIN, name)
    databases.made.add(name)
    store = PostgresBlobStore(databases.dsn(dbname=name))
    with pytest.raises(StoreUnavailableError, match="LATIN1"):
        store.fetch([ONE])
    store.close()


@pytest.mark.parametrize("path", ["nowhere", '""'])
@pytest.mark.parametrize("do", [upgrade, PostgresCAS, lambda dsn: PostgresCAS(dsn, create=False)])
def test_a_search_path_without_a_schema_says_so(databases, do, path):
    with pytest.raises(StoreUnavailableError, match="CREATE SCHEMA"):
        do(databases.dsn(options=f"-csearch_path={path}"))


@pytest.mark.parametrize("loss", ["DROP TABLE agentref_migration", "DELETE FROM agentref_migration"])
def test_tables_of_which_nothing_is_noted_are_left_alone(dsn, store, observer, loss):
    store.store({ONE: b"one"})
    observer.execute(loss)
    for do in (upgrade, PostgresCAS):
        with pytest.raises(StoreVersionError, match=r"already exists.* restore its agentref_migration"):
            do(dsn)
    assert store.fetch([ONE]) == {ONE: b"one"}


def test_a_table_that_is_only_called_so_is_told(dsn, observer):
    observer.execute("CREATE TABLE agentref_migration (other text)")
    for do in (upgrade, PostgresCAS):
        with pytest.raises(StoreVersionError, match=r"not one of agentref.*search_path"):
            do(dsn)


@pytest.mark.parametrize(
    ("table", "rights"),
    [
        ("agentref_migration", "SELECT"),
        ("agentref_meta", "SELECT, UPDATE"),
        ("agentref_blob", "SELECT, INSERT, UPDATE, DELETE"),
    ],
)
def test_no_more_is_asked_for_than_is_needed(databases, role, observer, table, rights):
    observer.execute(f"REVOKE SELECT ON {table} FROM {role}")
    with pytest.raises(StoreUnavailableError, match=f"GRANT {rights} ON {table} TO"):
        PostgresCAS(databases.dsn(user=role)).get(ONE.hex())


def test_nobody_needs_psycopg_who_keeps_blobs_elsewhere(tmp_path):
    for name in ("psycopg", "psycopg_pool"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    script = (
        "import agentref.storage, sys; assert 'psycopg' not in sys.modules\n"
        "try: agentref.storage.PostgresCAS\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
    )
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("MissingExtraError")
    assert "pip install 'agentref-checkpoint[postgres]'" in done.stdout


@pytest.mark.parametrize(
    ("gone", "statement", "remedy"),
    [
        ("psycopg", "from agentref.storage import *; FilesystemCAS; PostgresCAS", "NameError"),
        ("langchain_core", "import agentref.adapters.langgraph", "agentref-checkpoint[langgraph]'"),
        (
            "langgraph",
            "from agentref.adapters.langgraph import externalize",
            "agentref-checkpoint[langgraph]'",
        ),
        ("pytest", "import agentref.testing", "pip install pytest"),
    ],
)
def test_what_is_not_installed_is_named_with_its_command(gone, statement, remedy):
    script = (
        f"import sys; sys.modules[{gone!r}] = None\n"
        f"try:\n exec({statement!r})\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(("MissingExtraError", "NameError"))
    assert remedy in done.stdout


def test_the_tables_are_those_of_the_first_schema_that_has_them(databases, observer):
    def store_id(path):
        with PostgresCAS(databases.dsn(options=f"-csearch_path={path}")) as cas:
            return cas.backend_id

    observer.execute("CREATE SCHEMA tenant1")
    shared = store_id("nowhere,public,tenant1")
    assert store_id("public") == shared
    assert store_id("tenant1,public") == shared
    own = store_id("tenant1")
    assert own != shared
    assert store_id("tenant1,public") == own
