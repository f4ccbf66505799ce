"""Places in the feed of PostgreSQL as text, and what comes after one."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from agentref.coherence.cursors import written
from agentref.errors import ConfigurationError, CursorTooOldError, InvalidInputError, StoreUnavailableError
from agentref.postgres import Connection, feed
from agentref.postgres.feed import Change, Head, Snapshot, Stand

__all__ = ["Place", "Unnoted", "entries", "head", "read_place"]

_NUMBER: Final = "[0-9a-f]{1,15}"
_PLACE: Final = re.compile(
    rf"([0-9a-f-]{{8}})\.({_NUMBER})((?:-{_NUMBER})*)"
    rf"(?:\.({_NUMBER})\.({_NUMBER})\.({_NUMBER})((?:-{_NUMBER})*))?"
)


class Unnoted(Exception):  # noqa: N818  (never seen outside)
    """The server's history is not the one that was noted: it has to be noted first."""


class Place(NamedTuple):
    """Where a reader stands in one history of the feed, and how far into a window that was too large for a
    page: the changes up to number `after`, of transactions up to `top`, of those visible in `window`."""

    life: str
    stand: Stand
    window: Snapshot | None = None
    after: int = 0
    top: int = 0

    def text(self) -> str:
        """As `read_place` reads it. Transactions are written by their distance to a greater number."""
        text = f"{self.life}.{_distances(*self.stand)}"
        if self.window is not None:
            text += f".{self.after:x}.{self.top:x}.{_distances(*self.window)}"
        return text

    def settled(self, window: Snapshot) -> "Place":
        """Where one stands when all is seen that was visible then."""
        following = max(self.stand.next, self.top + 1)
        return Place(self.life, Stand(following, tuple(xid for xid in window.running if xid < following)))


def read_place(text: str) -> Place:
    """The place. Raises `InvalidInputError`."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"{text!r:.80} is no place in a feed. Take the cursor from head().")
    life, following, unseen, after, top, end, running = match.groups()
    stand = Stand(int(following, 16), _from(following, unseen))
    if after is None:
        return Place(life, stand)
    return Place(life, stand, Snapshot(int(end, 16), _from(end, running)), int(after, 16), int(top, 16))


def head(connection: Connection) -> str:
    """The cursor of the feed as of now."""
    now, top = feed.head(connection)
    _check_reader(now)
    stand = Stand(max(now.floor.next, 1), ())
    return written(now.table_id, Place(now.life, stand, top=top).settled(now.now).text())


def entries(
    connection: Connection, table_id: str, place: Place, limit: int
) -> tuple[Sequence[tuple[bytes, str]], str]:
    """The next entries with the cursors after them. Empty only if there is nothing as of now."""
    page: list[tuple[bytes, Place]] = []
    if place.window is not None:
        now, found = feed.further(connection, place.stand, place.window, place.after, limit + 1)
        _check(now, table_id, place)
        place = _take(page, place, place.window, found, limit)
    if place.window is None and len(page) < limit:
        now, found = feed.first(connection, place.stand, limit - len(page) + 1)
        _check(now, table_id, place)
        place = _take(page, place, now.now, found, limit - len(page))
    return [(entry, written(table_id, at.text())) for entry, at in page], written(table_id, place.text())


def _take(
    page: list[tuple[bytes, Place]], place: Place, window: Snapshot, found: Sequence[Change], limit: int
) -> Place:
    for change in found[:limit]:
        top = max(place.top, change.xid)
        place = place._replace(window=window, after=change.id, top=top)
        page.append((change.entry, place))
    if len(found) <= limit:
        place = place.settled(window)
        if found:
            page[-1] = page[-1][0], place
    return place


def _check(now: Head, table_id: str, place: Place) -> None:
    _check_reader(now)
    if (now.table_id, now.life) != (table_id, place.life):
        raise CursorTooOldError(
            "The cursor is of another history of the feed: the database is a copy, was restored, or a "
            "replica took over since. Read everything anew, and begin from head()."
        )
    unseen, floor = place.stand.open, now.floor
    if place.stand.next < floor.next or any(xid < floor.next and xid not in floor.open for xid in unseen):
        raise CursorTooOldError(
            "What comes after the cursor was compacted. Read everything anew, and begin from head()."
        )
    if max(place.stand.next, place.top) > now.now.end:
        raise CursorTooOldError(
            "The cursor is ahead of the feed: the database is an older copy. Read everything anew, and "
            "begin from head()."
        )


def _check_reader(now: Head) -> None:
    if now.same is None:
        raise StoreUnavailableError("The feed is read from the primary server, and this is a replica.")
    if not now.same:
        raise Unnoted
    if now.writes:
        raise ConfigurationError(
            "The transaction of the connection has written, so the feed cannot tell what comes after it. "
            "Read the feed before, or by a coordinator of its own: PostgresCoordinator(dsn)."
        )


def _distances(end: int, below: Sequence[int]) -> str:
    return f"{end:x}" + "".join([f"-{end - xid:x}" for xid in below])


def _from(end: str, distances: str) -> tuple[int, ...]:
    number = int(end, 16)
    numbers = tuple(number - int(distance, 16) for distance in distances.split("-")[1:])
    if any(xid < 0 for xid in numbers):
        raise InvalidInputError("That is no place in a feed. Take the cursor from head().")
    return numbers
