"""Connections to one database: sessions, transactions, forks, and what a message calls it."""

import os
import sqlite3
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from agentref.errors import InvalidInputError, StoreBusyError, StoreUnavailableError
from agentref.sqlite import Database, Subject, connect
from agentref.sqlite import blocks as blocks_module
from agentref.sqlite import database as database_module

MODULES = {blocks_module.__file__, database_module.__file__, threading.__file__}


@pytest.fixture(name="path")
def a_database_file(tmp_path):
    path = tmp_path / "some.db"
    with closing(connect(path, busy_timeout=0, query="mode=rwc")) as connection:
        connection.execute("CREATE TABLE item(value)")
    return path


@pytest.fixture(name="opened")
def an_opener(path):
    made = []

    def opened(**options):
        subject = Subject("coordinator", path, part="file", file=path.name)
        made.append(Database(path, **{"busy_timeout": 5.0, "subject": subject} | options))
        return made[-1]

    yield opened
    for database in made:
        database.close()


def values(database):
    with database.session(), database.read() as connection:
        return [value for (value,) in connection.execute("SELECT value FROM item ORDER BY value")]


def put(database, value):
    with database.session(), database.write() as connection:
        connection.execute("INSERT INTO item VALUES (?)", (value,))


def fork():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads are the point here
        return os.fork()


def test_a_write_that_raises_leaves_nothing(opened):
    database = opened()
    put(database, 1)

    def fail():
        with database.session(), database.write() as connection:
            connection.execute("INSERT INTO item VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert values(database) == [1]


@pytest.mark.parametrize(("synchronous", "level"), [(None, 2), ("FULL", 2), ("NORMAL", 1)])
def test_synchronous_holds_on_every_connection(opened, synchronous, level):
    database = opened(**{"synchronous": synchronous} if synchronous else {})
    with database.session(), database.read() as one, database.read() as other, database.write() as third:
        for connection in (one, other, third):
            assert connection.execute("PRAGMA synchronous").fetchall() == [(level,)]
            assert connection.execute("PRAGMA journal_mode").fetchall() == [("wal",)]


def test_a_commit_without_a_sync_is_one_like_any_other(opened):
    database = opened()
    for value in range(20):
        with database.session(), database.write_unsynced() as connection:
            assert connection.execute("PRAGMA synchronous").fetchall() == [(1,)]
            connection.execute("INSERT INTO item VALUES (?)", (value,))
        with database.session(), database.write() as connection:
            assert connection.execute("PRAGMA synchronous").fetchall() == [(2,)]
            connection.execute("INSERT INTO item VALUES (?)", (value + 100,))
    with pytest.raises(ZeroDivisionError), database.session(), database.write_unsynced() as connection:
        connection.execute("INSERT INTO item VALUES (?)", (1 // 0,))
    assert values(database) == values(opened()) == [*range(20), *range(100, 120)]


def came_through(at, work, caught=lambda _: None):
    """Whether `work` ended before Ctrl-C came, as the `at`th function of these modules began, or one that
    they call had returned: that is where Python looks for signals."""
    left = at

    def strike(frame, event, _):
        nonlocal left
        left -= frame.f_code.co_filename in MODULES and event in {"call", "c_return"}
        if left == 0:
            raise KeyboardInterrupt

    sys.setprofile(strike)
    try:
        work()
    except KeyboardInterrupt as error:
        sys.setprofile(None)
        caught(error)
        return False
    finally:
        sys.setprofile(None)
    return True


@pytest.mark.parametrize("fails", [False, True])
def test_wherever_ctrl_c_strikes_others_write_on(opened, fails):
    database, other = opened(), opened(busy_timeout=0)

    def work():
        with suppress(ZeroDivisionError), database.session(), database.write() as connection:
            connection.execute("INSERT INTO item VALUES (?)", (1 // (not fails),))

    work()
    at = 1
    while not came_through(at, work):
        thread = threading.Thread(target=put, args=(other, 7))
        thread.start()
        thread.join()
        assert values(database).count(7) == at
        thread = threading.Thread(target=put, args=(database, 8))
        thread.start()
        thread.join(20)
        assert values(database).count(8) == at
        at += 1
    assert at > 20
    assert not database._has_sessions()


def test_wherever_ctrl_c_strikes_who_caught_it_writes_on_and_so_do_others(opened):
    database = opened(busy_timeout=0)

    def work():
        with database.session(), database.write() as connection:
            connection.execute("INSERT INTO item VALUES (1)")

    def elsewhere():
        thread = threading.Thread(target=put, args=(database, 8))
        thread.start()
        thread.join()

    at = 1
    while not came_through(at, work, lambda _: (elsewhere(), put(database, 7))):
        assert (values(database).count(7), values(database).count(8)) == (at, at)
        at += 1
    assert at > 20


def test_wherever_ctrl_c_strikes_who_caught_it_closes(opened):
    def work():
        with database.session(), database.write() as connection:
            connection.execute("INSERT INTO item VALUES (1)")

    at, is_through = 1, False
    while not is_through:
        database = opened(busy_timeout=600)
        is_through = came_through(at, work, lambda _: database.close())  # noqa: B023  (called at once)
        at += 1
    assert at > 20
    assert put(opened(busy_timeout=0), 7) is None


def test_wherever_ctrl_c_strikes_a_close_the_next_one_ends(opened):
    at, is_through = 1, False
    while not is_through:
        database = opened(busy_timeout=600)
        put(database, 7)
        is_through = came_through(at, database.close)
        thread = threading.Thread(target=database.close)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        at += 1
    assert at > 10


def test_a_turn_that_ctrl_c_left_may_end_in_another_thread(opened):
    """An error in a cycle is freed by whichever thread finds it."""
    database = opened(busy_timeout=1)

    def work():
        with database.session(), database.write() as connection:
            connection.execute("INSERT INTO item VALUES (1)")

    at, errors = 1, []
    while not came_through(at, work, errors.append):
        for write in (errors.clear, lambda: put(database, 7)):
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
        assert values(database).count(7) == at
        put(database, 8)
        at += 1
    assert at > 20


def test_what_ctrl_c_left_to_a_generator_ends_without_a_word(opened):
    database = opened(busy_timeout=0)

    def writing():
        with database.write() as connection:
            connection.execute("INSERT INTO item VALUES (1)")
            yield

    with database.session():
        left = writing()
        next(left)
    put(database, 2)
    left.close()
    assert values(database) == [2]


def test_a_write_within_a_write_is_refused(opened):
    database = opened(busy_timeout=0)

    def put_both():
        with database.write() as outer:
            outer.execute("INSERT INTO item VALUES (1)")
            put(database, 2)

    with pytest.raises(RuntimeError, match="within a write"), database.session():
        put_both()
    assert values(database) == [2]
    put(database, 3)


@pytest.mark.parametrize("bad", ["OFF", "full", "FULL; DROP TABLE item", "", 1, None, []])
def test_another_synchronous_is_refused(opened, bad):
    with pytest.raises(InvalidInputError, match="synchronous must be FULL or NORMAL"):
        opened(synchronous=bad)


def test_a_reader_sees_what_was_committed_and_never_waits(opened):
    database = opened()
    with database.session(), database.write() as connection:
        connection.execute("INSERT INTO item VALUES (1)")
        assert values(database) == []
    assert values(database) == [1]


def test_a_writer_in_another_thread_makes_it_busy(opened):
    database = opened(busy_timeout=0.05)
    with (
        ThreadPoolExecutor(1) as pool,
        database.session(),
        database.write(),
        pytest.raises(StoreBusyError, match="Another thread"),
    ):
        pool.submit(put, database, 1).result()
    put(database, 2)
    assert values(database) == [2]


def test_a_writer_elsewhere_makes_it_busy(opened, path):
    database = opened(busy_timeout=0.05)
    with closing(connect(path, busy_timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            put(database, 1)
        other.execute("ROLLBACK")
    put(database, 2)
    assert values(database) == [2]


def test_a_closed_database_says_what_is_closed(opened, path):
    database = opened()
    put(database, 1)
    database.close()
    database.close()
    with pytest.raises(StoreUnavailableError, match=f"^The coordinator {path} is closed.$"):
        values(database)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("gone", ["deleted", "replaced"])
def test_a_commit_to_a_file_that_is_gone_is_refused(opened, path, gone):
    database = opened()
    put(database, 1)
    if gone == "deleted":
        path.rename(path.with_name("elsewhere"))
    else:
        path.with_name("new").write_bytes(b"")
        path.with_name("new").replace(path)
    with pytest.raises(StoreUnavailableError, match="deleted, moved or replaced"):
        put(database, 2)


def test_a_large_transaction_does_not_leave_a_large_log(opened, path, monkeypatch):
    monkeypatch.setattr("agentref.sqlite.database._SECONDS_BETWEEN_LOOKS", 0.0)
    database = opened()
    with database.session(), database.read() as reader:  # as long as it reads, the log cannot start afresh
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM item").fetchall()
        put(database, bytes(40_000_000))
        reader.execute("ROLLBACK")
    log = path.with_name(f"{path.name}-wal")
    assert log.stat().st_size > 40_000_000
    put(database, 1)
    assert log.stat().st_size < 1_000_000


def test_both_sides_of_a_fork_commit(opened):
    database = opened()
    put(database, 1)
    child = fork()
    if child == 0:
        try:
            put(database, 2)
            database.close()
            os._exit(0)
        finally:
            os._exit(1)
    put(database, 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert values(database) == [1, 2, 3]


def test_a_child_refuses_when_a_session_ran_at_the_fork(opened):
    database = opened(busy_timeout=0.05)
    entered, leave = threading.Event(), threading.Event()

    def stay():
        with database.session():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=stay)
    thread.start()
    entered.wait(30)
    child = fork()
    if child == 0:
        try:
            put(database, 1)
        except StoreUnavailableError as error:
            os._exit(3 if "forked" in str(error) else 1)
        finally:
            os._exit(1)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    put(database, 2)
    assert values(database) == [2]
