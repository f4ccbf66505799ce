"""What the disk or SQLite says, in the words of whoever opened the database."""

import errno
import sqlite3
from contextlib import closing

import pytest

from agentref.errors import (
    InvalidInputError,
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)
from agentref.sqlite import Subject, connect, storage_errors


@pytest.fixture(name="subject")
def a_subject(tmp_path):
    return Subject("coordinator", tmp_path / "{odd}.db", part="file", file="{odd}.db")


def test_a_lock_that_is_held_is_busy(subject):
    with (
        closing(connect(subject.place, busy_timeout=0, query="mode=rwc")) as one,
        closing(connect(subject.place, busy_timeout=0)) as other,
    ):
        one.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError) as caught, storage_errors(subject):
            other.execute("BEGIN IMMEDIATE")
    assert str(caught.value).startswith(f"The coordinator {subject.place} was held by another process")


def test_no_database_is_of_no_version(subject):
    subject.place.write_bytes(b"no database" * 100)
    with (
        closing(connect(subject.place, busy_timeout=0)) as connection,
        pytest.raises(StoreVersionError) as caught,
        storage_errors(subject),
    ):
        connection.execute("SELECT * FROM sqlite_schema")
    assert str(caught.value) == (
        f"{subject.place} is no agentref coordinator: its file is no SQLite database."
    )


def test_damage_names_the_part_and_the_file_to_salvage(subject):
    with closing(connect(subject.place, busy_timeout=0, query="mode=rwc")) as connection:
        connection.execute("CREATE TABLE item(value)")
        connection.execute("INSERT INTO item VALUES (zeroblob(100000))")
    data = bytearray(subject.place.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    subject.place.write_bytes(data)
    with (
        closing(connect(subject.place, busy_timeout=0)) as connection,
        pytest.raises(StoreUnavailableError) as caught,
        storage_errors(subject),
    ):
        connection.execute("SELECT * FROM item").fetchall()
    assert str(caught.value).startswith(f"The coordinator {subject.place} cannot be used (")
    assert str(caught.value).endswith(
        "the file is damaged: restore it from a backup, or salvage what can be read "
        "with `sqlite3 {odd}.db .recover`."
    )


def test_a_file_that_is_not_there_is_unavailable(subject):
    wanted = "check that the directory exists"
    with pytest.raises(StoreUnavailableError, match=wanted), storage_errors(subject):
        connect(subject.place, busy_timeout=0)


def test_a_full_database_is_full(subject):
    with closing(connect(subject.place, busy_timeout=0, query="mode=rwc")) as connection:
        connection.execute("CREATE TABLE item(value)")
        connection.execute("PRAGMA max_page_count = 2").fetchall()
        with pytest.raises(StoreFullError, match="free space") as caught, storage_errors(subject):
            connection.execute("INSERT INTO item VALUES (zeroblob(100000))")
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


@pytest.mark.parametrize(
    ("number", "raised"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EACCES, StoreUnavailableError),
        (errno.EIO, StoreUnavailableError),
    ],
)
def test_what_the_disk_says_becomes_ours(subject, number, raised):
    error = OSError(number, "said the disk")
    with pytest.raises(raised, match="said the disk") as caught, storage_errors(subject):
        raise error
    assert caught.value.__cause__ is error
    assert ("check owner and mode" in str(caught.value)) == (number == errno.EACCES)


@pytest.mark.parametrize("error", [ValueError("theirs"), InvalidInputError("ours"), KeyboardInterrupt()])
def test_everything_else_passes(subject, error):
    with pytest.raises(type(error)) as caught, storage_errors(subject):
        raise error
    assert caught.value is error
