"""Blob stores that break one promise about lives each.

`BROKEN_LIVES` names, for each test of `LifetimeClauses`, a store that it must reject.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from agentref.refs import Digest
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.protocol import FOREVER, BlobInfo
from agentref.testing.broken_surveys import BROKEN_SURVEYS

__all__ = ["BROKEN_LIVES"]

_SOON: Final = 4_000_000_000.0


class Timeless(MemoryBlobStore):
    """Counts its time from its own start."""

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """Touched in 1970."""
        return {d: info._replace(touched_at=1.0) for d, info in super().stat(digests).items()}


class Mortal(MemoryBlobStore):
    """Gives everything an end."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Nothing is for ever."""
        super().store(blobs, expires_at=min(expires_at, time.time() + 9e9))


class FirstLife(MemoryBlobStore):
    """Stores a blob once and never looks at it again."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Neither lengthens nor touches."""
        new = {digest: data for digest, data in blobs.items() if digest not in self.stat([digest])}
        super().store(new, expires_at=expires_at)


class LastLife(MemoryBlobStore):
    """Takes the last `expires_at` for the right one."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Removes first, so that lives can shorten."""
        super().remove(blobs.keys())
        super().store(blobs, expires_at=expires_at)


class NullIsForever(MemoryBlobStore):
    """Compares lives as SQL's GREATEST does, which passes over a NULL that stands for no end."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """A blob without an end gets one."""
        endless = [d for d, info in self.stat(blobs.keys()).items() if info.expires_at == FOREVER]
        super().remove(endless)
        super().store(blobs, expires_at=expires_at)


class ReadingIsTouching(MemoryBlobStore):
    """Keeps alive what is only read."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """Reading writes."""
        found = super().fetch(digests)
        super().store(found)
        return found


class RemovesAll(MemoryBlobStore):
    """Does not look when a life ends."""

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """Removes the living."""
        return super().remove(digests, condemned_by=asked.get("condemned_by"))


class ReplacesLives(MemoryBlobStore):
    """Starts a new, short life with the new bytes."""

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Removes first."""
        self.remove(blobs.keys())
        self.store(blobs, expires_at=_SOON)


class Uptime(MemoryBlobStore):
    """Has a clock that begins with the machine."""

    def clock(self) -> float:
        """No seconds since the epoch."""
        return time.perf_counter()


class TwoClocks(MemoryBlobStore):
    """Measures lives by the client's clock and tells the server's."""

    def clock(self) -> float:
        """A minute ahead."""
        return super().clock() + 60


class TellsWhatItWrote(MemoryBlobStore):
    """Is an UPDATE that returns its rows."""

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Leaves out what lives long enough."""
        known = self.stat(super().touch(digests, expires_at=-FOREVER))
        short = [d for d, info in known.items() if info.expires_at < expires_at]
        return super().touch(short, expires_at=expires_at)


class TellsWhatItWasAsked(MemoryBlobStore):
    """Takes what it was asked for for what is here."""

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Also what is absent."""
        super().touch(digests, expires_at=expires_at)
        return list(digests)


class TouchesNothing(MemoryBlobStore):
    """Only looks."""

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Lets lives end as they would."""
        return super().touch(digests, expires_at=min(expires_at, -FOREVER))


class TouchSets(MemoryBlobStore):
    """Takes the last `expires_at` for the right one."""

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Shortens lives."""
        here = super().touch(digests, expires_at=expires_at)
        self._entries |= {d: self._entries[d]._replace(expires_at=expires_at) for d in here}
        return here


class TouchStores(MemoryBlobStore):
    """Writes whenever it is asked."""

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Stores again."""
        self.store(found := self.fetch(digests), expires_at=expires_at)
        return list(found)


class TouchesTheShortLived(MemoryBlobStore):
    """Passes over what lives long enough, and is condemned."""

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """An UPDATE with `expires_at < ?` alone."""
        known = self.stat(digests)
        super().touch([d for d, i in known.items() if i.expires_at < expires_at], expires_at=expires_at)
        return list(known)


class ListsAll(MemoryBlobStore):
    """Does not look when lives end."""

    def scan(self, *, after: Digest | None = None, limit: int = 1000, **_: Any) -> Sequence[BlobInfo]:
        """Everything."""
        return super().scan(after=after, limit=limit)


class FiltersPages(MemoryBlobStore):
    """Cuts the page first, and then looks when lives end."""

    def scan(
        self, *, after: Digest | None = None, limit: int = 1000, expires_by: float = FOREVER
    ) -> Sequence[BlobInfo]:
        """Pages that are empty before the end."""
        page = super().scan(after=after, limit=limit)
        return [info for info in page if info.expires_at <= expires_by]


class CondemnsByItself(MemoryBlobStore):
    """Takes what has ended for condemned."""

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """As of the end."""
        return {d: i._replace(condemned_at=i.expires_at) for d, i in super().stat(digests).items()}


class CountsSentences(MemoryBlobStore):
    """Counts what it was asked to condemn."""

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """Also what was condemned or is absent."""
        super().condemn(digests, expires_by=expires_by)
        return len(digests)


class CondemnsTheLiving(MemoryBlobStore):
    """Does not look when lives end."""

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """Whatever it is given."""
        return super().condemn(digests, expires_by=max(expires_by, FOREVER))


class HidesTheCondemned(MemoryBlobStore):
    """Takes condemned for gone."""

    def fetch(self, digests: Collection[Digest], /) -> Mapping[Digest, bytes]:
        """Breaks who reads what is about to go."""
        known = self.stat(digests)
        return super().fetch([d for d, info in known.items() if info.condemned_at is None])


class CondemningIsTouching(MemoryBlobStore):
    """Takes every write for a touch."""

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """Keeps alive what it condemns."""
        count = super().condemn(digests, expires_by=expires_by)
        self._entries |= {d: e._replace(touched_at=time.time()) for d, e in self._entries.items()}
        return count


class CondemnsAnew(MemoryBlobStore):
    """Forgets the first time for the second."""

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """A prune that runs often enough never removes anything."""
        self._entries |= {d: e._replace(condemned_at=None) for d, e in self._entries.items()}
        return super().condemn(digests, expires_by=expires_by)


class NeverTakesBack(MemoryBlobStore):
    """Condemns for good."""

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """An UPDATE without `condemned_at`."""
        known = self.stat(blobs.keys())
        super().store(blobs, expires_at=expires_at)
        self._condemn_again(known)

    def replace(self, blobs: Mapping[Digest, bytes], /) -> None:
        """Likewise."""
        known = self.stat(blobs.keys())
        super().replace(blobs)
        self._condemn_again(known)

    def _condemn_again(self, known: Mapping[Digest, BlobInfo]) -> None:
        for digest, info in known.items():
            self._entries[digest] = self._entries[digest]._replace(condemned_at=info.condemned_at)


class MarksOutlive(MemoryBlobStore):
    """Keeps what is condemned in a table of its own, and does not tidy it up."""

    def __init__(self) -> None:
        super().__init__()
        self._marks: dict[Digest, float | None] = {}

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """Leaves the mark."""
        self._marks |= {d: info.condemned_at for d, info in self.stat(digests).items()}
        return super().remove(digests, **asked)

    def store(self, blobs: Mapping[Digest, bytes], /, *, expires_at: float = FOREVER) -> None:
        """Finds it again."""
        super().store(blobs, expires_at=expires_at)
        for digest in blobs.keys() & self._marks.keys():
            self._entries[digest] = self._entries[digest]._replace(condemned_at=self._marks[digest])


class RemovesUncondemned(MemoryBlobStore):
    """Does not look whether a blob is condemned."""

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """Removes what somebody needs."""
        return super().remove(digests, **asked | {"condemned_by": None})


class CondemnedAtAnyTime(MemoryBlobStore):
    """Does not look when a blob was condemned."""

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """Gives no grace."""
        return super().remove(digests, **dict.fromkeys(asked, FOREVER))


class OneTime(MemoryBlobStore):
    """Looks at one time of two."""

    def remove(self, digests: Collection[Digest], /, **asked: Any) -> int:
        """The last one wins."""
        return super().remove(digests, **dict(list(asked.items())[-1:]))


class AnyTime(MemoryBlobStore):
    """Takes for a time whatever `float` takes for a number."""

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """True is a second after the epoch."""
        return super().touch(digests, expires_at=float(expires_at))


class CountsBeforehand(MemoryBlobStore):
    """Counts, and condemns later."""

    def condemn(self, digests: Collection[Digest], /, *, expires_by: float) -> int:
        """Counts what another thread condemns meanwhile."""
        count = sum(info.condemned_at is None for info in self.stat(digests).values())
        time.sleep(0.02)
        super().condemn(digests, expires_by=expires_by)
        return count


class TouchBlind(MemoryBlobStore):
    """Compares lives without a lock."""

    def touch(self, digests: Collection[Digest], /, *, expires_at: float) -> Collection[Digest]:
        """Decides on what it read, then writes over what somebody else has lengthened since."""
        known = self.stat(digests)
        time.sleep(0.02 * (10 - expires_at % 10))  # who read the shortest life writes last
        for digest, info in known.items():
            longest = max(info.expires_at, expires_at)
            self._entries[digest] = self._entries[digest]._replace(expires_at=longest)
        return list(known)


BROKEN_LIVES: Final[Mapping[str, type[MemoryBlobStore]]] = {
    "test_stat_tells_name_size_and_times": Timeless,
    "test_a_life_has_no_end_unless_one_is_given": Mortal,
    "test_storing_again_lengthens_a_life": FirstLife,
    "test_storing_again_never_shortens_a_life": LastLife,
    "test_what_lives_for_ever_never_becomes_mortal": NullIsForever,
    "test_storing_again_touches": FirstLife,
    "test_asking_and_reading_do_not_touch": ReadingIsTouching,
    "test_remove_spares_what_lives_longer": RemovesAll,
    "test_replace_never_shortens_a_life_and_touches": ReplacesLives,
    "test_the_clock_goes_on": Uptime,
    "test_what_is_written_is_touched_at_the_time_of_the_clock": TwoClocks,
    "test_what_is_condemned_is_so_at_the_time_of_the_clock": TwoClocks,
    "test_touch_tells_what_is_here": TellsWhatItWrote,
    "test_touch_leaves_out_what_is_absent": TellsWhatItWasAsked,
    "test_touch_lengthens_a_life": TouchesNothing,
    "test_touch_never_shortens_a_life": TouchSets,
    "test_a_touch_that_lengthens_nothing_writes_nothing": TouchStores,
    "test_touch_takes_back_a_condemnation": TouchesTheShortLived,
    "test_a_scan_of_what_has_ended_lists_only_that": ListsAll,
    "test_pages_of_a_scan_of_what_has_ended_are_full": FiltersPages,
    **BROKEN_SURVEYS,
    "test_nothing_is_condemned_by_itself": CondemnsByItself,
    "test_condemn_counts_what_was_not_condemned_before": CountsSentences,
    "test_condemn_leaves_alone_what_lives_longer": CondemnsTheLiving,
    "test_a_condemned_blob_stays_readable": HidesTheCondemned,
    "test_condemning_changes_nothing_else": CondemningIsTouching,
    "test_condemning_again_does_not_move_the_time": CondemnsAnew,
    "test_storing_again_takes_back_a_condemnation": NeverTakesBack,
    "test_replacing_takes_back_a_condemnation": NeverTakesBack,
    "test_a_blob_that_is_stored_anew_is_not_condemned": MarksOutlive,
    "test_remove_takes_only_the_condemned_if_so_asked": RemovesUncondemned,
    "test_remove_spares_what_was_condemned_later": CondemnedAtAnyTime,
    "test_remove_spares_what_was_touched_since_it_was_condemned": TouchesTheShortLived,
    "test_remove_keeps_to_both_times_if_given_both": OneTime,
    "test_a_time_that_is_none_is_refused": AnyTime,
    "test_threads_that_condemn_the_same_blobs_count_each_once": CountsBeforehand,
    "test_threads_that_touch_the_same_blobs_agree": TouchBlind,
}
