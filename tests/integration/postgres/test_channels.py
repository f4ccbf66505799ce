"""Whoever tells knows whether anybody listens."""

import time

import psycopg
import pytest

from agentref.postgres.channels import listen, notify, notify_listeners

TIMES = 8  # by then it is prepared


@pytest.fixture(name="connection")
def a_connection(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def heard(connection):
    return [told.channel for told in connection.notifies(timeout=0.5)]


def test_nobody_is_told_where_nobody_listens(connection, dsn):
    with psycopg.connect(dsn, autocommit=True) as elsewhere:
        listen(elsewhere, "other")
        for _ in range(TIMES):
            assert not notify_listeners(connection, "ours")
        assert heard(elsewhere) == []
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    assert connection.execute(held).fetchone() == (0,)


def test_all_who_listen_are_told_until_they_leave(connection, dsn):
    with psycopg.connect(dsn, autocommit=True) as one:
        with psycopg.connect(dsn, autocommit=True) as another:
            for each in (one, another):
                listen(each, "ours")
            for _ in range(TIMES):
                assert notify_listeners(connection, "ours")
            assert heard(one) == heard(another) == ["ours"] * TIMES
        assert notify_listeners(connection, "ours")
        assert heard(one) == ["ours"]
        notify(connection, "ours")
        assert heard(one) == ["ours"]
    deadline = time.monotonic() + 20
    while notify_listeners(connection, "ours"):  # until the server knows that they are gone
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_whoever_tells_within_a_transaction_is_heard_once_it_is_committed(connection, dsn):
    with psycopg.connect(dsn, autocommit=True) as one:
        listen(one, "ours")
        with connection.transaction():
            assert notify_listeners(connection, "ours")
            assert heard(one) == []
        assert heard(one) == ["ours"]
