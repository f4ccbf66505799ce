"""Cursors of a feed as text: whose feed, and where in it. Opaque to all but the table that they are of."""

from typing import Final

from agentref.errors import CursorTooOldError, InvalidInputError

__all__ = ["check_position", "place_in", "written"]

_MAX_LENGTH: Final = 64 * 1024  # some characters for each transaction that is open in a database


def written(table_id: str, place: object) -> str:
    """The cursor for a place in the feed of a table."""
    return f"{table_id}/{place}"


def place_in(cursor: object, table_id: str) -> str:
    """The place that a cursor names. Raises `InvalidInputError` for what is no cursor, and
    `CursorTooOldError` for that of another table."""
    if not isinstance(cursor, str) or "/" not in cursor or len(cursor) > _MAX_LENGTH:
        raise InvalidInputError(
            f"{cursor!r:.80} is no cursor. Take it from head(), or from the page that was read last."
        )
    owner, _, place = cursor.partition("/")
    if owner != table_id:
        raise CursorTooOldError(
            f"The cursor is of the feed {owner!r:.80}, not of {table_id!r}: read everything anew, and "
            f"begin from head()."
        )
    return place


def check_position(place: str, *, first: int, last: int) -> int:
    """The number that a place is, if the feed knows what comes after it. Raises as `place_in` does."""
    if not (place.isascii() and place.isdecimal() and len(place) < 20):
        raise InvalidInputError(f"{place!r:.80} is no place in a feed. Take the cursor from head().")
    position = int(place)
    if not first <= position <= last:
        raise CursorTooOldError(
            f"The feed goes from {first} to {last}, and the cursor stands at {position}: what is in "
            f"between was compacted, or the database is an older copy. Read everything anew, and begin "
            f"from head()."
        )
    return position
