"""A database that nobody else sees."""

import os
import signal
import subprocess
import sys
import warnings
from contextlib import closing

import pytest

from agentref.errors import StoreFullError, StoreUnavailableError
from agentref.sqlite import Scratch

TABLE = "CREATE TABLE item(value);"


def test_it_keeps_what_it_is_given():
    with closing(Scratch(TABLE)) as scratch:
        scratch.executemany("INSERT INTO item VALUES (?)", ((n,) for n in range(1000)))
        assert scratch.execute("DELETE FROM item WHERE value % 2") == 500
        assert scratch.rows("SELECT sum(value) FROM item") == [(249_500,)]
        pages = list(scratch.pages("SELECT value FROM item ORDER BY value", size=300))
        assert [len(page) for page in pages] == [300, 200]
        assert [value for page in pages for (value,) in page] == list(range(0, 1000, 2))


@pytest.mark.parametrize("verb", ["execute", "executemany", "rows"])
def test_one_that_cannot_grow_says_what_to_do(verb):
    rows = [[1]] if verb == "executemany" else [1]
    with (
        closing(Scratch("PRAGMA max_page_count = 20;" + TABLE)) as scratch,
        pytest.raises(StoreFullError, match="SQLITE_TMPDIR"),
    ):
        getattr(scratch, verb)("INSERT INTO item VALUES (zeroblob(100000 * ?))", rows)


FORKING = """
import os, sqlite3, sys, threading, time
from agentref.sqlite import Scratch
scratch, stop = Scratch("CREATE TABLE item(value);"), threading.Event()

def work():
    mine = Scratch("CREATE TABLE item(value);")
    while not stop.is_set():
        mine.executemany("INSERT INTO item VALUES (randomblob(?))", [(1000,)] * 200)
        mine.rows("SELECT sum(length(value)) FROM item")
        for _ in mine.pages("SELECT value FROM item"):
            pass
        mine.execute("DELETE FROM item")
    mine.close()

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(int(sys.argv[1])):
    if not (child := os.fork()):
        sqlite3.connect(":memory:").execute("SELECT zeroblob(100000)").fetchall()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
"""


def test_a_fork_waits_for_the_statements_of_others():
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING, "200"], check=True, timeout=100)


def test_a_forked_child_cannot_use_it_and_the_parent_can():
    with closing(Scratch(TABLE)) as scratch:
        scratch.execute("INSERT INTO item VALUES (1)")
        pages = scratch.pages("SELECT value FROM item", size=1)
        next(pages)
        if not (child := fork()):
            refused = 0
            for verb in (
                lambda: scratch.execute("DELETE FROM item"),
                lambda: scratch.executemany("DELETE FROM item", [()]),
                lambda: scratch.rows("SELECT 1"),
                lambda: next(pages),
            ):
                try:
                    verb()
                except StoreUnavailableError:
                    refused += 1
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        assert scratch.rows("SELECT value FROM item") == [(1,)]


def fork():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def test_who_was_interrupted_before_a_fork_lets_go_of_no_lock_of_others():
    def strike(*_):
        raise KeyboardInterrupt

    with closing(Scratch(TABLE)) as scratch:
        scratch.before_fork()
        scratch.after_fork_in_parent()
        before = signal.signal(signal.SIGALRM, strike)
        try:
            with scratch._lock:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(KeyboardInterrupt):
                    scratch.before_fork()
                scratch.after_fork_in_parent()
                assert scratch._lock.locked()
        finally:
            signal.signal(signal.SIGALRM, before)
