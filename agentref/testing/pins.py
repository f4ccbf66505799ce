# ruff: noqa: S101
"""The promises of `RootStore` about pins."""

from typing import Any

import pytest

from agentref.errors import InvalidInputError
from agentref.refs import Digest
from agentref.storage.protocol import FOREVER, PinRow
from agentref.testing._common import FAR, NAMES, TimedRootStore, blobs_of, name_of, wait

__all__ = ["PinClauses"]


class PinClauses:
    """The clauses of `RootStoreContract` about pins, which gives each of them its store."""

    def test_pins_of_an_owner_add_up(self, store: TimedRootStore) -> None:
        store.pin(PinRow.each("owner", [name_of(0), name_of(1), name_of(0)], expires_at=FAR))
        store.pin(PinRow.each("owner", [name_of(2)]))
        lives = {name_of(0): FAR, name_of(1): FAR, name_of(2): FOREVER}
        assert list(store.scan_pins()) == [PinRow("owner", d, lives[d]) for d in sorted(lives)]

    def test_a_pin_only_lengthens(self, store: TimedRootStore) -> None:
        for expires_at, longest in ((FAR, FAR), (FAR - 1, FAR), (FAR + 1, FAR + 1), (FOREVER, FOREVER)):
            store.pin(PinRow.each("owner", [name_of(0)], expires_at=expires_at))
            assert list(store.scan_pins()) == [PinRow("owner", name_of(0), longest)]
        store.pin(PinRow.each("owner", [name_of(0)], expires_at=FAR))
        assert list(store.scan_pins()) == [PinRow("owner", name_of(0), FOREVER)]

    def test_owners_are_told_apart_and_listed_by_their_code_points(self, store: TimedRootStore) -> None:
        for owner in reversed(NAMES):
            store.pin(PinRow.each(owner, [name_of(1), name_of(2)]))
        wanted = [(owner, digest) for owner in NAMES for digest in sorted([name_of(1), name_of(2)])]
        assert [(pin.owner, pin.digest) for pin in store.scan_pins()] == wanted

    def test_pages_of_pins_leave_no_gap_and_overlap_nowhere(self, store: TimedRootStore) -> None:
        for owner in ("a", "b", "é"):
            store.pin(PinRow.each(owner, [name_of(n) for n in range(5)]))
            store.pin(PinRow.each(owner, [name_of(n) for n in range(5, 9)], expires_at=store.clock() - 1))
        seen: list[tuple[str, Digest]] = []
        after: tuple[str, Digest] | None = None
        while page := store.scan_pins(after=after, limit=4):
            assert len(page) == 4 or page[-1].owner == "é"
            seen += [(pin.owner, pin.digest) for pin in page]
            after = seen[-1]
        assert seen == [(owner, d) for owner in ("a", "b", "é") for d in sorted(map(name_of, range(5)))]

    def test_the_prefix_of_an_owner_is_literal(self, store: TimedRootStore) -> None:
        for owner in NAMES:
            store.pin(PinRow.each(owner, [name_of(0)]))
        for prefix in NAMES:
            wanted = [owner for owner in NAMES if owner.startswith(prefix)]
            assert [pin.owner for pin in store.scan_pins(prefix=prefix)] == wanted
            after = (wanted[0], name_of(0))
            assert [pin.owner for pin in store.scan_pins(prefix=prefix, after=after)] == wanted[1:]

    def test_unpin_takes_all_of_an_owner_and_counts(self, store: TimedRootStore) -> None:
        store.pin(PinRow.each("a", [name_of(0), name_of(1)]))
        store.pin(PinRow.each("ab", [name_of(0)]))
        store.pin(PinRow.each("c", [name_of(0)]))
        assert store.unpin(["a", "c", "a", "absent"]) == 3
        assert [pin.owner for pin in store.scan_pins()] == ["ab"]
        assert store.unpin(["a"]) == 0

    def test_a_text_is_no_list_of_owners(self, store: TimedRootStore) -> None:
        store.pin(PinRow.each("o", [name_of(0)]))
        for bad in ("o", "owner", "", b"o", None, 1):
            owners: Any = bad
            with pytest.raises(InvalidInputError):
                store.unpin(owners)
        assert [pin.owner for pin in store.scan_pins()] == ["o"]

    def test_a_pin_that_has_expired_is_not_there(self, store: TimedRootStore) -> None:
        end = store.clock() + 0.05
        store.pin(PinRow.each("owner", [name_of(0)], expires_at=end))
        store.pin(PinRow.each("owner", [name_of(1)], expires_at=end - 100))
        wait(store, end)
        assert list(store.scan_pins()) == []

    # Together with blobs

    def test_blobs_and_pins_are_kept_together(self, store: TimedRootStore) -> None:
        blobs = blobs_of(3)
        store.store_pinned(blobs, PinRow.each("owner", [name_of(0)], expires_at=FAR))
        assert store.fetch(list(blobs)) == blobs
        assert list(store.scan_pins()) == [PinRow("owner", name_of(0), FAR)]

    def test_what_is_pinned_beside_blobs_may_be_here_already_or_not_at_all(
        self, store: TimedRootStore
    ) -> None:
        store.store_pinned(blobs_of(2), [])
        store.store_pinned(blobs_of(2, first=1), PinRow.each("owner", map(name_of, range(4))))
        assert store.fetch(list(map(name_of, range(4)))) == blobs_of(3)
        assert sorted(pin.digest for pin in store.scan_pins()) == sorted(map(name_of, range(4)))

    def test_pins_without_blobs_are_set(self, store: TimedRootStore) -> None:
        for expires_at in (FAR, FOREVER, FAR):
            store.store_pinned({}, PinRow.each("owner", [name_of(0)], expires_at=expires_at))
        assert list(store.scan_pins()) == [PinRow("owner", name_of(0), FOREVER)]
        store.store_pinned({}, [])

    def test_blobs_and_pins_of_which_one_is_bad_are_refused(self, store: TimedRootStore) -> None:
        good = PinRow.each("owner", [name_of(0)])
        no_name: Any = "no digest"
        for blobs, pins in (
            (blobs_of(1), [*good, PinRow("", name_of(0), FAR)]),
            (blobs_of(1), [*good, PinRow("owner", no_name, FAR)]),
            ({**blobs_of(1), no_name: b""}, good),
        ):
            with pytest.raises(InvalidInputError):
                store.store_pinned(blobs, pins)
        with pytest.raises(InvalidInputError):
            store.store_pinned(blobs_of(1), good, expires_at=float("nan"))
        assert store.fetch([name_of(0)]) == {}
        assert list(store.scan_pins()) == []
        assert store.unpin(["owner"]) == 0
        store.pin(PinRow.each("owner", [name_of(0)]))
        assert list(store.scan_pins()) == [PinRow("owner", name_of(0), FOREVER)]

    def test_an_owner_may_pin_thousands(self, store: TimedRootStore) -> None:
        names = [name_of(n) for n in range(5000)]
        store.pin(PinRow.each("owner", names))
        assert [pin.digest for pin in store.scan_pins(limit=6000)] == sorted(names)
        assert store.inherit_pins("heir", names, parent="owner")
        assert store.unpin(["owner", *map(str, range(5000))]) == 5000
        assert store.unpin(["heir"]) == 5000

    def test_an_heir_keeps_what_is_asked_for_of_its_parents(self, store: TimedRootStore) -> None:
        store.pin(PinRow.each("parent", [name_of(n) for n in range(3)]))
        store.pin(PinRow.each("heir", [name_of(1)], expires_at=FAR))
        for _ in range(2):
            assert store.inherit_pins("heir", [name_of(0), name_of(1), name_of(0)], parent="parent")
            assert store.unpin(["nobody"]) == 0
            wanted = PinRow.each("heir", sorted([name_of(0), name_of(1)]))
            assert list(store.scan_pins(prefix="heir")) == wanted
        assert store.unpin(["parent"]) == 3
        assert list(store.scan_pins()) == wanted

    def test_what_a_parent_does_not_keep_for_ever_is_not_inherited(self, store: TimedRootStore) -> None:
        store.pin(PinRow.each("parent", [name_of(0)]))
        store.pin(PinRow.each("parent", [name_of(1)], expires_at=FAR))
        store.pin(PinRow.each("other", [name_of(2)]))
        before = [pin for pin in store.scan_pins() if pin.owner != "heir"]
        for number in (1, 2, 3):
            assert not store.inherit_pins("heir", [name_of(0), name_of(number)], parent="parent")
        assert not store.inherit_pins("heir", [name_of(0)], parent="absent")
        assert {pin.digest for pin in store.scan_pins(prefix="heir")} <= {name_of(0)}
        assert [pin for pin in store.scan_pins() if pin.owner != "heir"] == before

    def test_an_empty_batch_of_roots_is_fine(self, store: TimedRootStore) -> None:
        store.pin(PinRow.each("owner", []))
        assert store.inherit_pins("owner", [], parent="absent")
        assert store.unpin([]) == 0
        assert list(store.scan_pins()) == []
