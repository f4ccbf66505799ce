"""One coordinator's file, many processes: at once, killed, stopped and forked."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from agentref.coherence.coordinator import Write
from agentref.coherence.feed import unpack_entry
from agentref.coherence.keys import encode_key
from agentref.coherence.sqlite import SqliteCoordinator
from agentref.errors import Conflict, StoreBusyError, StoreUnavailableError
from agentref.refs import ContentRef, Digest
from tests.forking import fork, statuses

KEY = ("proj", "counter")
CODE = encode_key(KEY)

WORKER = """
import sys
from agentref.coherence.coordinator import Write
from agentref.coherence.sqlite import SqliteCoordinator
from agentref.refs import ContentRef, Digest

coordinator = SqliteCoordinator(sys.argv[1], synchronous=sys.argv[2])
n = 0
while True:
    # Several keys and one entry at a time, which must come to be together.
    views = coordinator.read([("k", str(i)) for i in range(5)])
    new = views["k", "0"].version + 1
    coordinator.commit(
        [
            Write(key, ContentRef(Digest(new.to_bytes(32, "big")), "agr1", new), view if new > 1 else None)
            for key, view in views.items()
        ],
        agent="worker",
    )
    n += 1
    print(n, flush=True)
"""


def ref(number):
    return ContentRef(Digest(number.to_bytes(32, "big")), "agr1", number)


def opened(path, **options):
    return closing(SqliteCoordinator(path, **{"synchronous": "NORMAL"} | options))


def add_one(coordinator):
    """By compare-and-swap, as often as it takes; how often it was refused."""
    refused = 0
    while True:
        leave = coordinator.table.turn(CODE, timeout=30)
        try:
            view = coordinator.read([KEY])[KEY]
            number = view.ref.size + 1 if view.exists else 1
            coordinator.commit([Write(KEY, ref(number), view if view.exists else None)], agent="adder")
        except Conflict:
            refused += 1
        else:
            return refused
        finally:
            if leave is not None:
                leave()


def counted(coordinator):
    view = coordinator.read([KEY])[KEY]
    return view.version, view.ref.size


def test_sixteen_processes_that_make_one_file_at_once_all_use_it(tmp_path):
    path = tmp_path / "deep" / "below" / "coordinator.db"
    reading, writing = os.pipe()
    telling, told = os.pipe()

    def work():
        os.close(writing)
        os.read(reading, 1)  # returns when the parent lets go of its end
        with opened(path) as coordinator:
            os.write(told, coordinator.coordinator_id.encode())
            add_one(coordinator)

    children = [fork(work) for _ in range(16)]
    os.close(writing)
    os.close(reading)
    assert statuses(children) == [0] * 16
    ids = os.read(telling, 4096).decode()
    os.close(telling)
    os.close(told)
    with opened(path, create=False) as coordinator:
        assert counted(coordinator) == (16, 16)
        assert ids == coordinator.coordinator_id * 16
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "coordinator.db",
        "coordinator.db-turns",
    ]


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_no_increment_of_any_process_or_thread_is_lost(tmp_path, synchronous):
    path = tmp_path / "coordinator.db"

    def work():
        with opened(path, synchronous=synchronous) as coordinator:
            threads = [
                threading.Thread(target=lambda: [add_one(coordinator) for _ in range(20)]) for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    assert statuses([fork(work) for _ in range(4)]) == [0] * 4
    with opened(path) as coordinator:
        assert counted(coordinator) == (240, 240)


def test_the_feed_shows_every_commit_of_every_process_once_and_in_order(tmp_path):
    path = tmp_path / "coordinator.db"
    with opened(path) as coordinator:
        cursor = coordinator.head()
        children = [fork(lambda: add_all(path, 50)) for _ in range(4)]
        versions = []
        while len(versions) < 200:
            coordinator.wait(cursor, timeout=10)
            page = coordinator.changes(since=cursor, limit=7)
            versions += [change.version for change in page.changes]
            cursor = page.cursor
        assert versions == list(range(1, 201))
        assert statuses(children) == [0] * 4
        assert coordinator.changes(since=cursor).changes == []


def add_all(path, number):
    with opened(path) as coordinator:
        for _ in range(number):
            add_one(coordinator)


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL"])
def test_rows_and_feed_agree_after_any_number_of_kills(tmp_path, synchronous):
    path = tmp_path / "coordinator.db"
    with opened(path) as coordinator:
        start = coordinator.head()
    committed = 0
    for round_ in range(8):
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, path, synchronous], stdout=subprocess.PIPE, text=True
        )
        worker.stdout.readline()
        time.sleep(0.01 * round_)
        worker.send_signal(signal.SIGKILL)
        said = worker.stdout.read().split()
        worker.stdout.close()
        worker.wait()
        with opened(path) as coordinator:
            views = coordinator.read([("k", str(i)) for i in range(5)])
            (version,) = {view.version for view in views.values()}
            assert version - committed in ({int(said[-1]), int(said[-1]) + 1} if said else {1, 2})
            committed = version
            entries, _ = coordinator.table.entries(start, limit=10**6)
            assert len(entries) == version
            for number, (entry, cursor) in enumerate(entries, 1):
                assert [change.version for change in unpack_entry(entry, cursor)] == [number] * 5
            assert {view.ref for view in views.values()} == {
                change.ref for change in unpack_entry(*entries[-1])
            }


def test_a_writer_that_is_stopped_keeps_others_for_as_long_as_they_have_patience(tmp_path):
    path = tmp_path / "coordinator.db"
    reading, writing = os.pipe()
    with opened(path, busy_timeout=0.3) as coordinator:
        add_one(coordinator)

        def stop_inside():
            with opened(path) as other:
                other.table.transact([CODE], lambda rows, now: (os.write(writing, b"x"), time.sleep(60)))

        child = fork(stop_inside)
        os.read(reading, 1)
        os.kill(child, signal.SIGSTOP)
        with pytest.raises(StoreBusyError, match="busy_timeout"):
            add_one(coordinator)
        assert counted(coordinator) == (1, 1)
        assert coordinator.table.probe(CODE)
        os.kill(child, signal.SIGKILL)
        assert statuses([child]) == [-signal.SIGKILL]
        add_one(coordinator)
        assert counted(coordinator) == (2, 2)
    os.close(reading)
    os.close(writing)


def test_who_is_killed_in_his_turn_has_it_no_longer(tmp_path):
    path = tmp_path / "coordinator.db"
    reading, writing = os.pipe()

    def keep_turn():
        with opened(path) as other:
            other.table.turn(CODE, timeout=30)
            os.write(writing, b"x")
            time.sleep(60)

    child = fork(keep_turn)
    os.read(reading, 1)
    with opened(path) as coordinator:
        log = []

        def kill():
            log.append("killed")
            os.kill(child, signal.SIGKILL)

        killer = threading.Timer(0.2, kill)
        killer.start()
        leave = coordinator.table.turn(CODE, timeout=600)
        log.append("my turn")
        leave()
        killer.join()
        assert log == ["killed", "my turn"]
    assert statuses([child]) == [-signal.SIGKILL]
    os.close(reading)
    os.close(writing)


def test_a_turn_at_a_fork_stays_the_parents(tmp_path):
    with opened(tmp_path / "coordinator.db") as coordinator:
        leave = coordinator.table.turn(CODE, timeout=30)
        reading, writing = os.pipe()

        def wait_in_vain_then_well():
            os.close(writing)
            assert coordinator.table.turn(CODE, timeout=0.05) is None
            os.read(reading, 1)
            coordinator.table.turn(CODE, timeout=600)()

        child = fork(wait_in_vain_then_well)
        time.sleep(0.3)
        leave()
        os.close(writing)
        assert statuses([child]) == [0]
        os.close(reading)


def test_both_sides_of_a_fork_go_on(tmp_path):
    with opened(tmp_path / "coordinator.db") as coordinator:
        add_one(coordinator)
        coordinator.table.probe(CODE)
        cursor = coordinator.head()

        def go_on():
            assert counted(coordinator)[0] >= 1
            for _ in range(30):
                add_one(coordinator)
                coordinator.table.probe(CODE)
            coordinator.wait(cursor, timeout=30)
            coordinator.close()

        children = [fork(go_on) for _ in range(3)]
        for _ in range(30):
            add_one(coordinator)
        assert statuses(children) == [0] * 3
        assert counted(coordinator) == (121, 121)
        assert coordinator.table.probe(CODE) == coordinator.table.load([CODE])[CODE].revision


def test_a_fork_while_threads_are_at_work_breaks_neither_side(tmp_path):
    with opened(tmp_path / "coordinator.db") as coordinator:
        stop = threading.Event()
        done = []

        def work():
            while not stop.is_set():
                add_one(coordinator)
                coordinator.table.probe(CODE)
                done.append(1)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        children = [fork(lambda: [add_one(coordinator) for _ in range(5)]) for _ in range(6)]
        outcome = statuses(children)
        stop.set()
        for thread in threads:
            thread.join()
        assert outcome == [0] * 6
        assert counted(coordinator) == (len(done) + 30, len(done) + 30)


def test_a_child_refuses_what_was_in_use_for_too_long_when_it_was_forked(tmp_path):
    with opened(tmp_path / "coordinator.db", busy_timeout=0.05) as coordinator:
        deciding, decide = threading.Event(), threading.Event()

        def slow(rows, now):
            deciding.set()
            decide.wait(30)
            return None, None

        thread = threading.Thread(target=coordinator.table.transact, args=([CODE], slow))
        thread.start()
        deciding.wait(30)

        def refuse():
            with pytest.raises(StoreUnavailableError, match="while this process was forked"):
                add_one(coordinator)

        child = fork(refuse)
        decide.set()
        thread.join()
        assert statuses([child]) == [0]
        add_one(coordinator)
        assert counted(coordinator) == (1, 1)


def test_who_waits_is_woken_by_another_process(tmp_path):
    path = tmp_path / "coordinator.db"
    with opened(path) as coordinator:
        cursor = coordinator.head()
        child = fork(lambda: (time.sleep(0.2), add_all(path, 1)))
        coordinator.wait(cursor, timeout=float("inf"))
        assert len(coordinator.changes(since=cursor).changes) == 1
        assert statuses([child]) == [0]
