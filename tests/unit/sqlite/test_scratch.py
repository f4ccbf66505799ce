"""A database that nobody else sees."""

from contextlib import closing

import pytest

from agentref.errors import StoreFullError
from agentref.sqlite import Scratch

TABLE = "CREATE TABLE item(value);"


def test_it_keeps_what_it_is_given():
    with closing(Scratch(TABLE)) as scratch:
        scratch.executemany("INSERT INTO item VALUES (?)", ((n,) for n in range(1000)))
        assert scratch.execute("DELETE FROM item WHERE value % 2").rowcount == 500
        assert scratch.execute("SELECT sum(value) FROM item").fetchone() == (249_500,)


@pytest.mark.parametrize("verb", ["execute", "executemany"])
def test_one_that_cannot_grow_says_what_to_do(verb):
    rows = [1] if verb == "execute" else [[1]]
    with (
        closing(Scratch("PRAGMA max_page_count = 20;" + TABLE)) as scratch,
        pytest.raises(StoreFullError, match="SQLITE_TMPDIR"),
    ):
        getattr(scratch, verb)("INSERT INTO item VALUES (zeroblob(100000 * ?))", rows)
