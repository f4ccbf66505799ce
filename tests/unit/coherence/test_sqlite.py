"""A coordinator in an SQLite file: what it makes of files, of damage, and of older copies."""

import math
import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from agentref.coherence.coordinator import Write
from agentref.coherence.keys import encode_key
from agentref.coherence.rows import LeaseMode
from agentref.coherence.sqlite import SqliteCoordinator, SqliteTable
from agentref.errors import (
    Conflict,
    CursorTooOldError,
    FutureVersionError,
    InvalidInputError,
    MalformedBlobError,
    Reason,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)
from agentref.refs import ContentRef, Digest

KEY = ("proj", "plan")
CODE = encode_key(KEY)


def ref(number):
    return ContentRef(Digest(number.to_bytes(32, "big")), "agr1", 100, "fs-0123456789ab")


def write(coordinator, number, key=KEY, base=None):
    return coordinator.commit([Write(key, ref(number), base)], agent="planner")[key]


def alter(path, statement, *parameters):
    """What another program, or a damaged disk, did to the file."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, parameters)


@pytest.fixture(name="path")
def a_path(tmp_path):
    return tmp_path / "deep" / "below" / "coordinator.db"


@pytest.fixture(name="opened")
def an_opener(path):
    made = []

    def opened(where=path, **options):
        made.append(SqliteCoordinator(where, **{"synchronous": "NORMAL", "busy_timeout": 5.0} | options))
        return made[-1]

    yield opened
    for coordinator in made:
        coordinator.close()


# Files


def test_what_was_committed_is_there_when_the_file_is_opened_again(opened, path):
    with opened() as first:
        cursor = first.head()
        seen = write(first, 1)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    with opened(create=False, synchronous="FULL") as second:
        assert second.coordinator_id == first.coordinator_id
        assert second.read([KEY]) == {KEY: seen}
        assert [change.version for change in second.changes(since=cursor).changes] == [1]
        assert write(second, 2, base=seen).version == 2


def test_the_id_says_what_kind_it_is_and_is_drawn_for_each_file(opened, tmp_path):
    one, other = opened(tmp_path / "one.db"), opened(str(tmp_path / "other.db"))
    assert one.coordinator_id != other.coordinator_id
    assert one.coordinator_id.startswith("sq-") and len(one.coordinator_id) == 15


def test_without_create_nothing_is_made(opened, path, tmp_path):
    with pytest.raises(StoreUnavailableError, match="create=True would make one"):
        opened(create=False)
    assert not path.parent.exists()
    (tmp_path / "empty").touch()
    with pytest.raises(StoreUnavailableError, match="create=True would make one"):
        opened(tmp_path / "empty", create=False)
    assert not (tmp_path / "empty").stat().st_size


def test_an_empty_file_becomes_a_coordinator(opened, tmp_path):
    (tmp_path / "empty").touch()
    assert write(opened(tmp_path / "empty"), 1).version == 1


def test_a_foreign_file_is_left_alone(opened, tmp_path):
    text, database = tmp_path / "text", tmp_path / "database"
    text.write_text("no database, but rather long for a text of its kind\n" * 100)
    alter(database, "CREATE TABLE theirs(value)")
    for foreign in (text, database):
        before = foreign.read_bytes()
        with pytest.raises(StoreVersionError, match="left alone"):
            opened(foreign)
        assert foreign.read_bytes() == before


def test_a_newer_format_is_refused(opened, path):
    opened().close()
    alter(path, "PRAGMA user_version = 2")
    with pytest.raises(StoreVersionError, match="has format 2"):
        opened()


def test_a_file_without_its_id_is_refused(opened, path):
    opened().close()
    alter(path, "DELETE FROM meta")
    with pytest.raises(StoreUnavailableError, match="lost the coordinator's id"):
        opened()


def test_a_directory_is_no_file_for_a_coordinator(opened, tmp_path):
    with pytest.raises(StoreUnavailableError, match="is a directory"):
        opened(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        opened(tmp_path / "file" / "below.db")


@pytest.mark.parametrize("bad", [None, 7, "", b"bytes.db", "nul\0.db"])
def test_what_is_no_path_is_refused(bad):
    with pytest.raises(InvalidInputError, match="path must name the file"):
        SqliteTable(bad)


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        *(("busy_timeout", bad) for bad in (-1, math.nan, math.inf, "1", None, True, 10**400)),
        *(("synchronous", bad) for bad in ("OFF", "full", None, 1)),
    ],
)
def test_other_options_are_refused_before_anything_is_made(path, option, bad):
    with pytest.raises(InvalidInputError, match=f"{option} must be"):
        SqliteTable(path, **{option: bad})
    assert not path.exists()


@pytest.mark.parametrize("gone", ["deleted", "replaced"])
def test_a_file_that_is_gone_is_noticed_before_a_commit_and_soon_by_a_probe(opened, path, gone):
    coordinator = opened()
    seen = write(coordinator, 1)
    coordinator.table.probe(CODE)
    if gone == "deleted":
        path.unlink()
    else:
        shutil.copy(path, path.with_name("copy"))
        path.with_name("copy").replace(path)
    with pytest.raises(StoreUnavailableError, match="deleted, moved or replaced"):
        write(coordinator, 2, base=seen)
    with pytest.raises(StoreUnavailableError, match="deleted, moved or replaced"):  # noqa: PT012
        for _ in range(100):
            coordinator.table.probe(CODE)
            time.sleep(0.05)


def test_a_closed_one_says_so(opened, path):
    coordinator = opened()
    cursor = coordinator.head()
    write(coordinator, 1)
    coordinator.close()
    coordinator.close()
    for verb in (
        lambda: write(coordinator, 2),
        lambda: coordinator.read([KEY]),
        lambda: coordinator.table.probe(CODE),
        lambda: coordinator.changes(since=cursor),
        lambda: coordinator.wait(cursor, timeout=5),
        coordinator.head,
        lambda: list(coordinator.keys()),
        lambda: coordinator.recover("planner"),
    ):
        with pytest.raises(StoreUnavailableError, match=f"^The coordinator {path} is closed.$"):
            verb()


def test_an_open_one_that_is_forgotten_closes_its_file(path):
    SqliteTable(path).transact([CODE], lambda rows, now: (None, None))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


# Rows


def test_a_row_is_read_as_it_was_written(opened):
    coordinator = opened()
    write(coordinator, 1)
    coordinator.acquire(KEY, holder="r\N{LATIN SMALL LETTER E WITH ACUTE}ader", ttl=60, mode="shared")
    row = coordinator.table.load([CODE])[CODE]
    assert (row.version, row.epoch, row.fence, row.ref, row.writer) == (1, 0, 1, ref(1), "planner")
    assert row.ref.backend_id == "fs-0123456789ab"
    (held,) = row.leases
    assert (held.holder, held.mode, held.fence, held.ttl) == ("réader", LeaseMode.SHARED, 1, 60.0)
    assert coordinator.table.probe(CODE) == row.revision > 0


@pytest.mark.parametrize("number", [0, 1, 2, 3, 511, 512, 513, 1100])
def test_any_number_of_rows_is_loaded_at_once(opened, number):
    coordinator = opened()
    keys = [("k", str(n)) for n in range(number)]
    coordinator.commit([Write(key, ref(n)) for n, key in enumerate(keys)], agent="planner")
    views = coordinator.read([*keys, KEY])
    assert [views[key].ref for key in keys] == [ref(n) for n in range(number)]
    assert not views[KEY].exists
    again = coordinator.commit(
        [Write(key, ref(7 + n), views[key]) for n, key in enumerate(keys)], agent="planner"
    )
    assert {view.version for view in again.values()} <= {2}


def test_a_refusal_changes_nothing_and_the_next_commit_goes_on(opened):
    coordinator = opened()
    seen = write(coordinator, 1)
    cursor = coordinator.head()
    with pytest.raises(Conflict) as caught:
        coordinator.commit([Write(("new",), ref(5)), Write(KEY, ref(2))], agent="other")
    assert caught.value.reason is Reason.EXISTS
    with pytest.raises(ZeroDivisionError):
        coordinator.table.transact([CODE], lambda rows, now: 1 / 0)
    assert coordinator.head() == cursor
    assert coordinator.table.load([encode_key(("new",))]) == {}
    assert write(coordinator, 2, base=seen).version == 2


def test_keys_with_leases_are_found_by_their_index_alone(opened, path):
    coordinator = opened()
    for n in range(3):
        coordinator.acquire(("held", str(n)), holder="planner", ttl=60 - n)
    write(coordinator, 1)
    assert coordinator.table.leased(math.inf) == [encode_key(("held", n)) for n in "210"]
    assert coordinator.table.leased(math.inf, limit=1) == [encode_key(("held", "2"))]
    assert coordinator.table.leased(time.time()) == []
    with closing(sqlite3.connect(path)) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT key FROM artifact WHERE until <= 1 ORDER BY until LIMIT 1"
        ).fetchall()
    assert len(plan) == 1 and "USING COVERING INDEX artifact_leased" in plan[0][3]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("revision", "text"),
        ("revision", 0),
        ("version", -1),
        ("version", 1.5),
        ("epoch", b"1"),
        ("fence", "many"),
        ("digest", b"short"),
        ("digest", "text"),
        ("digest", 7),
        ("codec", None),
        ("codec", "No Codec"),
        ("size", -1),
        ("size", None),
        ("backend_id", b"bytes"),
        ("writer", b"bytes"),
        ("at", "noon"),
        ("leases", b"\xc1"),
        ("leases", "text"),
        ("leases", 7),
        ("leases", b"\x91\xc0"),
        ("leases", b"\x91\x96\xa1a\xa9exclusive\xcb\x7f\xf0" + bytes(6) + b"\x01\x01\xc2"),
        ("leases", b"\x91" * 5000),
    ],
)
def test_a_damaged_row_is_neither_shown_nor_built_upon(opened, path, column, value):
    coordinator = opened()
    seen = write(coordinator, 1)
    alter(path, f"UPDATE artifact SET {column} = ?", value)
    with pytest.raises(MalformedBlobError):
        coordinator.read([KEY])
    with pytest.raises(MalformedBlobError):
        write(coordinator, 2, base=seen)
    with pytest.raises(MalformedBlobError):
        list(coordinator.keys())
    assert write(coordinator, 1, key=("other",)).version == 1


def test_a_damaged_revision_or_key_is_no_answer(opened, path):
    coordinator = opened()
    write(coordinator, 1)
    alter(path, "UPDATE artifact SET revision = 'text'")
    with pytest.raises(MalformedBlobError, match="revision"):
        coordinator.table.probe(CODE)
    alter(path, "UPDATE artifact SET revision = 1, key = 'text', until = 1.0")
    with pytest.raises(MalformedBlobError, match="key"):
        coordinator.table.scan(b"", b"\xff", limit=10) or coordinator.table.leased(math.inf)


def test_a_damaged_file_is_a_typed_error(opened, path):
    coordinator = opened()
    for n in range(200):
        write(coordinator, 1, key=("k", str(n)))
    coordinator.close()
    damaged = bytearray(path.read_bytes())
    damaged[2048 * 2 :] = b"\xaa" * (len(damaged) - 2048 * 2)
    path.write_bytes(damaged)
    with pytest.raises(StoreUnavailableError, match="damaged"):  # noqa: PT012
        again = opened()
        list(again.keys())


# Probes


def test_a_probe_sees_every_commit_of_every_connection(opened):
    one, other = opened(), opened()
    assert one.table.probe(CODE) == one.table.probe(CODE) == 0
    seen, revisions = None, {0}
    for n in range(200):
        seen = write((one, other)[n % 2], n, base=seen)
        revision = one.table.probe(CODE)
        assert revision == other.table.probe(CODE) == one.table.probe(CODE)
        assert revision not in revisions
        revisions.add(revision)


def test_probes_of_many_threads_agree(opened):
    one, other = opened(), opened()
    stop, wrong = threading.Event(), []

    def look():
        least = 0
        while not stop.is_set():
            version = one.read([KEY])[KEY].version
            one.table.probe(CODE)
            if version < least:
                wrong.append((version, least))
            least = version

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = None
    for n in range(300):
        seen = write(other, n, base=seen)
        assert one.table.probe(CODE) == other.table.load([CODE])[CODE].revision
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


# The feed


def test_a_cursor_from_before_what_was_dropped_is_too_old(opened, path):
    coordinator = opened()
    start = coordinator.head()
    write(coordinator, 1, key=("a",))
    middle = coordinator.head()
    write(coordinator, 1, key=("b",))
    alter(path, "UPDATE feed SET at = 5.0 WHERE position = 1")
    aged = coordinator.table.entries(start, limit=1)[1]
    assert aged != middle
    assert coordinator.table.compact(6.0) == 1
    assert coordinator.table.compact(6.0) == 0
    with pytest.raises(CursorTooOldError, match="from 1 to 2"):
        coordinator.changes(since=start)
    assert [change.key for change in coordinator.changes(since=aged).changes] == [("b",)]
    assert coordinator.table.compact(math.inf) == 1
    end = coordinator.head()
    assert coordinator.changes(since=end).changes == []
    with closing(opened()) as again:
        assert again.head() == end
        write(again, 1, key=("c",))
        assert [change.key for change in again.changes(since=end).changes] == [("c",)]


def test_more_than_one_group_of_entries_is_dropped(opened, monkeypatch):
    monkeypatch.setattr("agentref.coherence.sqlite._DROPPED_AT_ONCE", 3)
    coordinator = opened()
    for n in range(10):
        write(coordinator, 1, key=(str(n),))
    assert coordinator.table.compact(math.inf) == 10


def test_an_older_copy_is_noticed_even_after_it_went_on(opened, path, tmp_path):
    coordinator = opened()
    seen = write(coordinator, 1)
    early = coordinator.head()
    coordinator.close()
    shutil.copy(path, tmp_path / "copy")
    with opened() as coordinator:
        late = write(coordinator, 2, base=seen)
        ahead = coordinator.head()
    shutil.copy(tmp_path / "copy", path)
    coordinator = opened()
    with pytest.raises(FutureVersionError):
        write(coordinator, 3, base=late)
    with pytest.raises(CursorTooOldError, match="older copy"):
        coordinator.changes(since=ahead)
    other = write(coordinator, 3, base=coordinator.read([KEY])[KEY])
    with pytest.raises(CursorTooOldError, match="something else at 2"):
        coordinator.changes(since=ahead)
    assert [change.ref for change in coordinator.changes(since=early).changes] == [other.ref]


@pytest.mark.parametrize("place", ["", "x", "1", "-", "1-zz", "-1", "9" * 30, "²", "1-" + "A" * 16])
def test_what_no_feed_ever_said_is_no_cursor(opened, place):
    coordinator = opened()
    write(coordinator, 1)
    with pytest.raises(InvalidInputError, match="Take the cursor from head"):
        coordinator.changes(since=f"{coordinator.coordinator_id}/{place}")
    for number in ("1", "9" * 18):
        with pytest.raises(CursorTooOldError):
            coordinator.changes(since=f"{coordinator.coordinator_id}/{number}-{'0' * 16}")


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM feed WHERE position = 2",
        "UPDATE feed SET entry = NULL WHERE position = 2",
        "UPDATE feed SET entry = 'text' WHERE position = 2",
        "UPDATE feed SET entry = x'93' WHERE position = 2",
        "UPDATE feed SET entry = x'9199' WHERE position = 2",
        "UPDATE feed SET at = 'noon' WHERE position = 2",
    ],
)
def test_a_damaged_feed_is_not_followed(opened, path, damage):
    coordinator = opened()
    cursor = coordinator.head()
    for n in range(3):
        write(coordinator, 1, key=(str(n),))
    alter(path, damage)
    with pytest.raises(MalformedBlobError):
        coordinator.changes(since=cursor)


def test_a_feed_that_is_lost_is_noticed(opened, path):
    coordinator = opened()
    cursor = coordinator.head()
    alter(path, "DELETE FROM feed")
    with pytest.raises(MalformedBlobError, match="is lost"):
        coordinator.head()
    with pytest.raises(CursorTooOldError):
        coordinator.changes(since=cursor)


@pytest.mark.parametrize("same", [True, False])
def test_who_waits_is_woken_by_a_commit(opened, same):
    coordinator = opened()
    cursor = coordinator.head()
    writer = coordinator if same else opened()
    timer = threading.Timer(0.1, lambda: write(writer, 1))
    timer.start()
    coordinator.wait(cursor, timeout=math.inf)
    timer.join()
    coordinator.wait(cursor, timeout=math.inf)
    assert len(coordinator.changes(since=cursor).changes) == 1
    coordinator.wait(coordinator.head(), timeout=0.01)


# Turns


def test_turns_of_two_tables_at_one_file_follow_each_other(opened):
    tables = [opened().table, opened().table]
    log = []

    def work(table):
        for _ in range(20):
            leave = table.turn(CODE, timeout=30)
            log.append("in")
            time.sleep(0.001)
            log.append("out")
            leave()

    threads = [threading.Thread(target=work, args=[table]) for table in tables for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == ["in", "out"] * 80


def test_who_gets_no_turn_goes_on_without_one(opened, monkeypatch):
    one, other = opened().table, opened().table
    leave = one.turn(CODE, timeout=1)
    assert other.turn(CODE, timeout=0.01) is None
    assert other.turn(CODE, timeout=0) is None
    assert one.turn(CODE, timeout=0) is None
    other.turn(encode_key(("else",)), timeout=0)()
    leave()
    monkeypatch.setattr("agentref.coherence._file_turns._SET_LOCK", None)
    opened().table.turn(CODE, timeout=1)()


def test_a_turn_may_end_after_the_table_is_closed(opened):
    table = opened().table
    leave = table.turn(CODE, timeout=1)
    table.close()
    descriptor = os.open(os.devnull, os.O_RDONLY)  # likely with the number of the file of turns
    leave()
    os.close(descriptor)
    table.turn(CODE, timeout=1)()


# Trouble


def test_another_writer_makes_it_busy_and_readers_go_on(opened, path):
    coordinator = opened(busy_timeout=0.05)
    seen = write(coordinator, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError, match="busy_timeout"):
            write(coordinator, 2, base=seen)
        assert coordinator.read([KEY]) == {KEY: seen}
        other.execute("ROLLBACK")
    assert write(coordinator, 2, base=seen).version == 2


def test_another_thread_that_decides_for_too_long_makes_it_busy(opened):
    coordinator = opened(busy_timeout=0.05)
    deciding, decide = threading.Event(), threading.Event()

    def slow(rows, now):
        deciding.set()
        decide.wait(30)
        return None, None

    thread = threading.Thread(target=coordinator.table.transact, args=([CODE], slow))
    thread.start()
    deciding.wait(30)
    with pytest.raises(StoreBusyError, match="Another thread"):
        write(coordinator, 1)
    decide.set()
    thread.join()
    assert write(coordinator, 1).version == 1


def test_a_full_database_takes_nothing_half(opened, path):
    coordinator = opened()
    seen = write(coordinator, 1)
    with coordinator.table._writer as cursor:
        cursor.execute(f"PRAGMA max_page_count = {cursor.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(StoreFullError):
        coordinator.commit([Write(("k" * 500, str(n)), ref(n)) for n in range(50)], agent="planner")
    assert [view.key for view in coordinator.keys(())] == [KEY]
    assert write(coordinator, 2, base=seen).version == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_may_only_be_read_is_unavailable(opened, path):
    opened().close()
    path.chmod(0o400)
    Path(path.parent).chmod(0o500)
    try:
        with pytest.raises(StoreUnavailableError):
            write(opened(), 1)
    finally:
        Path(path.parent).chmod(0o700)
