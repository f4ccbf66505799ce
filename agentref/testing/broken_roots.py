"""Stores of roots that break one promise each.

`BROKEN_ROOTS` names, for each test of `RootStoreContract`, a store that it must reject.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from agentref.errors import InvalidInputError
from agentref.refs import Digest
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.protocol import FOREVER, AliasRow, PinRow
from agentref.testing.broken import NeverClosed
from agentref.testing.broken_pins import BlobsOnly, LeftWithoutBlobs, OfItsBlobs, PinsFirst

__all__ = ["BROKEN_ROOTS"]


class Unforgetting(MemoryBlobStore):
    """Lacks a verb."""

    forget = None  # type: ignore[assignment]


class NarrowSize(MemoryBlobStore):
    """Has a column of 32 bits."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Loses the rest."""
        return super().set_alias(alias._replace(size=alias.size % 2**32), expect=expect)


class DeletesBlindly(MemoryBlobStore):
    """Does not count the rows that it deletes."""

    def delete_alias(self, name: str, /, *, expect: int | None = None) -> bool:
        """Gone is gone."""
        super().delete_alias(name, expect=expect)
        return True


class KeepsTheLongerLife(MemoryBlobStore):
    """Treats an alias like a blob."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Whose life only lengthens."""
        old = self.alias(alias.name) or alias
        longest = max(old.expires_at, alias.expires_at)
        return super().set_alias(alias._replace(expires_at=longest), expect=expect)


class _OwnVersions(MemoryBlobStore):
    """Counts in its own way."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """With another version."""
        old = self.alias(alias.name)
        row = super().set_alias(alias, expect=expect)
        if row is not None:
            row = row._replace(version=self._next(alias, row, old))
            self._aliases[alias.name] = row
        return row

    def _next(self, alias: AliasRow, row: AliasRow, old: AliasRow | None) -> int:
        raise NotImplementedError


class CountsByName(_OwnVersions):
    """Counts the settings of each name, from 1."""

    def _next(self, _alias: AliasRow, _row: AliasRow, old: AliasRow | None) -> int:
        return old.version + 1 if old else 1


class CountsDown(_OwnVersions):
    """Has versions that never repeat, and shrink."""

    def _next(self, _alias: AliasRow, row: AliasRow, _old: AliasRow | None) -> int:
        return 2**40 - row.version


class TakesTheVersion(_OwnVersions):
    """Believes the version that it is given."""

    def _next(self, alias: AliasRow, row: AliasRow, _old: AliasRow | None) -> int:
        return alias.version or row.version


class ZeroIsFalse(MemoryBlobStore):
    """Asks for truth instead of presence."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Nothing is expected of 0."""
        return super().set_alias(alias, expect=expect or None)


class ExpectsOnlyNothing(MemoryBlobStore):
    """Is an INSERT."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Any version is a conflict."""
        return None if expect else super().set_alias(alias, expect=expect)


class LooksAfterwards(MemoryBlobStore):
    """Finds the conflict when it is too late."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Does not roll back."""
        old = self.alias(alias.name)
        row = super().set_alias(alias)
        return row if expect in {None, old.version if old else 0} else None


class ComparesAnything(MemoryBlobStore):
    """Takes whatever is equal to a version for one."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Text as well."""
        return super().set_alias(alias, expect=int(float(expect)) if expect else None)


class DeletesAnyVersion(MemoryBlobStore):
    """Does not look at the version."""

    def delete_alias(self, name: str, /, *, expect: int | None = None) -> bool:
        """Deletes what somebody else has set."""
        return super().delete_alias(name, expect=expect and None)


class EternalAliases(MemoryBlobStore):
    """Waits for somebody to forget."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """What has ended stands."""
        return super().set_alias(alias._replace(expires_at=FOREVER), expect=expect)


class FoldsCase(MemoryBlobStore):
    """Compares names as SQLite's NOCASE does."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """A is a."""
        return super().set_alias(alias._replace(name=alias.name.lower()), expect=expect)


class FiltersAliases(MemoryBlobStore):
    """Cuts the page first, and then looks what has expired."""

    def scan_aliases(
        self, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> Sequence[AliasRow]:
        """Pages that are empty before the end."""
        rows = sorted(row for row in self._aliases.values() if row.name > (after or ""))[:limit]
        return [row for row in rows if row.expires_at > time.time() and row.name.startswith(prefix)]


class Globs(MemoryBlobStore):
    """Takes a prefix for the beginning of a pattern."""

    def scan_aliases(self, *, prefix: str = "", **paging: Any) -> Sequence[AliasRow]:
        """As GLOB does."""
        return [row for row in super().scan_aliases(**paging) if fnmatchcase(row.name, prefix + "*")]

    def scan_pins(self, *, prefix: str = "", **paging: Any) -> Sequence[PinRow]:
        """Likewise."""
        return [row for row in super().scan_pins(**paging) if fnmatchcase(row.owner, prefix + "*")]


class PrefixOrAfter(MemoryBlobStore):
    """Begins with the prefix, wherever the last page ended."""

    def scan_aliases(
        self, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> Sequence[AliasRow]:
        """The same page for ever."""
        return super().scan_aliases(prefix=prefix, after=None if prefix else after, limit=limit)


class LastPins(MemoryBlobStore):
    """Takes what an owner pins for all that it pins."""

    def pin(self, rows: Collection[PinRow], /) -> None:
        """Lets go of the rest."""
        self.unpin([row.owner for row in rows])
        super().pin(rows)


class LastLifeOfAPin(MemoryBlobStore):
    """Takes the last `expires_at` for the right one."""

    def pin(self, rows: Collection[PinRow], /) -> None:
        """Shortens lives."""
        super().pin(rows)
        for owner, digest, expires_at in rows:
            self._pins[owner][digest] = expires_at


class OrderOfDigests(MemoryBlobStore):
    """Has its index the wrong way round."""

    def scan_pins(self, **asked: Any) -> Sequence[PinRow]:
        """By digest and owner."""
        return sorted(super().scan_pins(**asked), key=lambda pin: (pin.digest, pin.owner))


class PagesOfOwners(MemoryBlobStore):
    """Goes on after an owner instead of after a pin."""

    def scan_pins(
        self, *, prefix: str = "", after: tuple[str, Digest] | None = None, limit: int = 1000
    ) -> Sequence[PinRow]:
        """Loses the rest of its pins."""
        last = (after[0], Digest(b"\xff" * 32)) if after else None
        return super().scan_pins(prefix=prefix, after=last, limit=limit)


class CountsOwners(MemoryBlobStore):
    """Counts whom it was asked for."""

    def unpin(self, owners: Collection[str], /) -> int:
        """Not what they kept."""
        super().unpin(owners)
        return len(owners)


class EternalPins(MemoryBlobStore):
    """Waits for somebody to forget."""

    def pin(self, rows: Collection[PinRow], /) -> None:
        """What has ended is kept."""
        super().pin([row._replace(expires_at=max(row.expires_at, FOREVER)) for row in rows])


class InheritsAll(MemoryBlobStore):
    """Takes the heir for another name of the parent."""

    def inherit_pins(self, heir: str, digests: Collection[Digest], /, *, parent: str) -> bool:
        """Whatever was asked for."""
        kept = [row.digest for row in self.scan_pins(prefix=parent) if row.owner == parent]
        return super().inherit_pins(heir, [*digests, *kept], parent=parent)


class InheritsFromAnybody(MemoryBlobStore):
    """Does not look whether the parent keeps it."""

    def inherit_pins(self, heir: str, digests: Collection[Digest], /, *, parent: str) -> bool:
        """Takes the caller's word."""
        super().inherit_pins(heir, digests, parent=parent)
        self.pin(PinRow.each(heir, digests))
        return True


class FirstThousandPins(MemoryBlobStore):
    """Has a limit on the parameters of a query, and keeps silent about it."""

    def pin(self, rows: Collection[PinRow], /) -> None:
        """At most 999 of them."""
        super().pin(list(rows)[:999])


class NeedsAnOwner(MemoryBlobStore):
    """Builds a query that is wrong for an empty batch."""

    def unpin(self, owners: Collection[str], /) -> int:
        """Falls over nothing."""
        next(iter(owners))
        return super().unpin(owners)


class ForgetsQuietly(MemoryBlobStore):
    """Does not count the rows that it deletes."""

    def forget(self, *, expires_by: float) -> int:
        """Says that there was nothing."""
        return super().forget(expires_by=expires_by) * 0


class ForgetsTheLiving(MemoryBlobStore):
    """Takes `expires_by` for now."""

    def forget(self, *, expires_by: float) -> int:
        """Drops what would have ended by then."""
        dead = [name for name, alias in self._aliases.items() if alias.expires_at <= expires_by]
        return sum(self.delete_alias(name) for name in dead)


class AnyText(MemoryBlobStore):
    """Looks names up without looking at them."""

    def alias(self, name: str, /) -> AliasRow | None:
        """What is no name is merely absent."""
        try:
            return super().alias(name)
        except InvalidInputError:
            return None


class ShortNames(MemoryBlobStore):
    """Has a column that is too narrow."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """At most 255 characters."""
        return super().set_alias(alias._replace(name=alias.name[:255]), expect=expect)


class AnyDigest(MemoryBlobStore):
    """Passes over what is no digest."""

    def pin(self, rows: Collection[PinRow], /) -> None:
        """And keeps the others."""
        super().pin([row for row in rows if len(row.digest or b"") == 32])


class LooksThenSets(MemoryBlobStore):
    """Compares versions without a lock."""

    def set_alias(self, alias: AliasRow, /, *, expect: int | None = None) -> AliasRow | None:
        """Decides on what it read."""
        old = self.alias(alias.name)
        time.sleep(0.02)
        return super().set_alias(alias) if expect in {None, old.version if old else 0} else None


class TakesTextApart(MemoryBlobStore):
    """Goes through whatever can be gone through."""

    def unpin(self, owners: Collection[str], /) -> int:
        """Letter by letter."""
        return super().unpin(list(owners))


class LostPins(MemoryBlobStore):
    """Reads, waits and writes the whole without a lock."""

    def pin(self, rows: Collection[PinRow], /) -> None:
        """The last of two writers undoes what the first one did."""
        before = {row.owner: dict(self._pins.get(row.owner, {})) for row in rows}
        time.sleep(0.02)
        for owner, digest, expires_at in rows:
            before[owner][digest] = expires_at
        self._pins.update(before)


BROKEN_ROOTS: Final[Mapping[str, type[MemoryBlobStore]]] = {
    "test_it_has_every_verb_of_a_root_store": Unforgetting,
    "test_a_name_stands_for_what_it_was_set_to": NarrowSize,
    "test_a_name_that_was_not_set_is_not_there": DeletesBlindly,
    "test_setting_again_replaces_all_of_it": KeepsTheLongerLife,
    "test_no_version_comes_twice": CountsByName,
    "test_the_version_of_a_name_grows": CountsDown,
    "test_the_version_that_is_given_is_ignored": TakesTheVersion,
    "test_to_expect_0_is_to_expect_that_it_is_not_there": ZeroIsFalse,
    "test_the_version_that_is_expected_is_replaced": ExpectsOnlyNothing,
    "test_a_conflict_changes_nothing": LooksAfterwards,
    "test_what_is_no_version_is_not_expected": ComparesAnything,
    "test_delete_tells_whether_the_name_was_there": DeletesBlindly,
    "test_delete_takes_only_the_version_that_is_expected": DeletesAnyVersion,
    "test_an_alias_that_has_expired_is_not_there": EternalAliases,
    "test_names_are_told_apart_and_listed_by_their_code_points": FoldsCase,
    "test_pages_of_aliases_leave_no_gap_and_overlap_nowhere": FiltersAliases,
    "test_the_prefix_of_a_name_is_literal": Globs,
    "test_a_page_of_aliases_keeps_to_prefix_and_after": PrefixOrAfter,
    "test_pins_of_an_owner_add_up": LastPins,
    "test_a_pin_only_lengthens": LastLifeOfAPin,
    "test_owners_are_told_apart_and_listed_by_their_code_points": OrderOfDigests,
    "test_pages_of_pins_leave_no_gap_and_overlap_nowhere": PagesOfOwners,
    "test_the_prefix_of_an_owner_is_literal": Globs,
    "test_unpin_takes_all_of_an_owner_and_counts": CountsOwners,
    "test_a_text_is_no_list_of_owners": TakesTextApart,
    "test_a_pin_that_has_expired_is_not_there": EternalPins,
    "test_an_owner_may_pin_thousands": FirstThousandPins,
    "test_blobs_and_pins_are_kept_together": BlobsOnly,
    "test_what_is_pinned_beside_blobs_may_be_here_already_or_not_at_all": OfItsBlobs,
    "test_pins_without_blobs_are_set": LeftWithoutBlobs,
    "test_blobs_and_pins_of_which_one_is_bad_are_refused": PinsFirst,
    "test_an_heir_keeps_what_is_asked_for_of_its_parents": InheritsAll,
    "test_what_a_parent_does_not_keep_for_ever_is_not_inherited": InheritsFromAnybody,
    "test_an_empty_batch_of_roots_is_fine": NeedsAnOwner,
    "test_forget_drops_what_has_expired_and_counts": ForgetsQuietly,
    "test_forget_spares_what_still_lives": ForgetsTheLiving,
    "test_a_name_that_cannot_be_kept_is_refused": AnyText,
    "test_a_name_may_have_512_bytes": ShortNames,
    "test_what_names_no_blob_and_no_time_is_refused": AnyDigest,
    "test_a_closed_store_of_roots_says_so": NeverClosed,
    "test_of_threads_that_expect_the_same_exactly_one_wins": LooksThenSets,
    "test_threads_that_set_and_pin_lose_nothing": LostPins,
}
