"""Swaps of single rows, by whichever statement they go."""

import math
import threading

import psycopg
import pytest

from agentref.coherence import PostgresCoordinator
from agentref.postgres import artifacts
from agentref.postgres.artifacts import Swap

KEY = b"key\xff"
ALWAYS = -math.inf, math.inf


def columns(revision, *, at=5.0, until=None, leases=None):
    return (revision, revision, 0, 0, bytes(32), "agr1", 7, "mem-1", "writer", at, until, leases)


def swap(expected, revision, *, entry=b"told", window=ALWAYS, **more):
    return Swap({KEY: (expected, columns(revision, **more))}, *window, entry, 5.0)


@pytest.fixture
def connect(dsn):
    with PostgresCoordinator(dsn) as coordinator:
        coordinator.head()
    opened = []

    def connect():
        opened.append(psycopg.connect(dsn, autocommit=True, prepare_threshold=None))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def told(connection):
    return connection.execute("SELECT at, entry FROM agentref_change ORDER BY id").fetchall()


def row(connection):
    return artifacts.load(connection, [KEY]).rows


def test_a_row_follows_only_the_one_that_was_expected(connect):
    connection = connect()
    assert artifacts.swap_now(connection, swap(0, 1)).applied
    for revision in range(1, 12):  # it comes to be prepared
        assert artifacts.swap_now(connection, swap(revision, revision + 1, at=float(revision))).applied
        for expected in (0, revision, 99):
            refused = artifacts.swap_now(connection, swap(expected, 77))
            assert not refused.applied
            assert (
                refused.found.rows
                == row(connection)
                == [(KEY, *columns(revision + 1, at=revision)[:10], None)]
            )
    assert told(connection) == [(5.0, b"told"), *[(float(number), b"told") for number in range(1, 12)]]


def test_what_is_not_there_is_followed_by_nothing(connect):
    connection = connect()
    refused = artifacts.swap_now(connection, swap(1, 2))
    assert not refused.applied
    assert refused.found.rows == row(connection) == []
    assert told(connection) == []


def test_a_swap_that_is_not_told_of_or_has_its_time_is_what_it_says(connect):
    connection = connect()
    artifacts.swap_now(connection, swap(0, 1))
    assert artifacts.swap_now(connection, swap(1, 2, entry=None)).applied
    assert not artifacts.swap_now(connection, swap(2, 3, window=(-math.inf, 6.0))).applied
    assert not artifacts.swap_now(connection, swap(2, 3, window=(9e9, math.inf))).applied
    assert artifacts.swap_now(connection, swap(2, 3, window=(6.0, 9e9), until=7.0, leases=b"x")).applied
    assert told(connection) == [(5.0, b"told")] * 2
    assert row(connection) == [(KEY, *columns(3)[:10], b"x")]


def test_of_those_who_expect_the_same_one_wins(connect):
    connection = connect()
    artifacts.swap_now(connection, swap(0, 1))
    rivals = [connect() for _ in range(4)]
    won = []

    def race(rival, number, start):
        for revision in range(1, 40):
            start.wait()
            if artifacts.swap_now(rival, swap(revision, revision + 1, entry=b"%d" % number)).applied:
                won.append((revision, b"%d" % number))

    start = threading.Barrier(len(rivals))
    threads = [
        threading.Thread(target=race, args=(rival, number, start)) for number, rival in enumerate(rivals)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [revision for revision, _ in sorted(won)] == list(range(1, 40))
    assert [entry for _, entry in told(connection)] == [b"told", *[entry for _, entry in sorted(won)]]


def test_in_a_transaction_of_somebody_else_it_is_part_of_that(connect):
    connection, other = connect(), connect()
    artifacts.swap_now(connection, swap(0, 1))
    with connection.transaction(force_rollback=True):
        assert artifacts.swap_now(connection, swap(1, 2)).applied
        assert row(other) == [(KEY, *columns(1)[:10], None)]
    assert row(other) == [(KEY, *columns(1)[:10], None)]
    assert len(told(other)) == 1
