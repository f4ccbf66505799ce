"""Blob stores whose surveys break one promise each, as for `BROKEN_LIVES`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

from agentref.refs import Digest
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.protocol import BlobInfo

__all__ = ["BROKEN_SURVEYS"]


class SurveysTheDead(MemoryBlobStore):
    """Does not look what links to others."""

    def survey(self, see: Callable[[Sequence[BlobInfo], int], object], /, *, expires_by: float) -> None:
        """What has ended, and no more."""

        def see_ended(page: Sequence[BlobInfo], looked_at: int) -> None:
            see([info for info in page if info.expires_at <= expires_by], looked_at)

        super().survey(see_ended, expires_by=expires_by)


class SurveysAPage(MemoryBlobStore):
    """Takes a page for all there is."""

    def survey(self, see: Callable[[Sequence[BlobInfo], int], object], /, *, expires_by: float) -> None:
        """The first one."""
        shown: list[Sequence[BlobInfo]] = []
        super().survey(lambda page, _: shown.append(page), expires_by=expires_by)
        see(shown[0], len(shown[0]))


class SurveysAlone(MemoryBlobStore):
    """Has one connection, and is busy with it."""

    surveying = False

    def survey(self, see: Callable[[Sequence[BlobInfo], int], object], /, *, expires_by: float) -> None:
        """Nobody else may."""
        self.surveying = True
        super().survey(see, expires_by=expires_by)
        self.surveying = False

    def stat(self, digests: Collection[Digest], /) -> Mapping[Digest, BlobInfo]:
        """Nothing, for now."""
        return {} if self.surveying else super().stat(digests)


class SwallowsErrors(MemoryBlobStore):
    """Shows what it can."""

    def survey(self, see: Callable[[Sequence[BlobInfo], int], object], /, *, expires_by: float) -> None:
        """And never fails."""
        with suppress(Exception):
            super().survey(see, expires_by=expires_by)


BROKEN_SURVEYS: Final[Mapping[str, type[MemoryBlobStore]]] = {
    "test_a_survey_shows_what_has_ended_and_what_links": SurveysTheDead,
    "test_a_survey_of_what_has_ended_shows_each_of_thousands_once": SurveysAPage,
    "test_who_is_shown_blobs_may_use_the_store": SurveysAlone,
    "test_what_is_raised_on_seeing_blobs_ends_a_survey": SwallowsErrors,
}
