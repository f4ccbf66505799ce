# ruff: noqa: S101
"""The promises of `RootStore` as tests, one promise each: used as `BlobStoreContract` is."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from agentref.errors import InvalidDigestError, InvalidInputError, StoreUnavailableError
from agentref.storage.protocol import FOREVER, AliasRow, PinRow, RootStore
from agentref.testing._common import (
    FAR,
    NAMES,
    NO_TIMES,
    TimedRootStore,
    in_processes,
    name_of,
    run_together,
    wait,
)
from agentref.testing.pins import PinClauses

__all__ = ["PersistentRootStoreContract", "RootStoreContract"]

_NO_NAMES: Final = ("", "a\0b", "\ud800", "x" * 513, "é" * 257, None, b"bytes", 1)


def _alias(name: str = "head", number: int = 0, *, expires_at: float = FOREVER) -> AliasRow:
    return AliasRow(name, name_of(number), "codec", 10, 0, expires_at)


def _set(store: RootStore, name: str = "head", number: int = 0, *, expires_at: float = FOREVER) -> int:
    """The version that it has now."""
    row = store.set_alias(_alias(name, number, expires_at=expires_at))
    assert row is not None
    return row.version


class RootStoreContract(PinClauses):
    """What every store of roots keeps. Each test is given a new, empty store."""

    def make_store(self, path: Path) -> TimedRootStore:
        """An open store; `path` is an empty directory that it may use."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TimedRootStore]:
        """The store of one test, closed after it."""
        store = self.make_store(tmp_path)
        yield store
        store.close()

    def test_it_has_every_verb_of_a_root_store(self, store: TimedRootStore) -> None:
        assert isinstance(store, RootStore)

    # Aliases

    def test_a_name_stands_for_what_it_was_set_to(self, store: TimedRootStore) -> None:
        given = AliasRow("a name", name_of(1), "a codec", 2**60, 0, FAR)
        row = store.set_alias(given)
        assert row is not None
        assert row._replace(version=0) == given
        assert store.alias("a name") == row
        assert list(store.scan_aliases()) == [row]

    def test_a_name_that_was_not_set_is_not_there(self, store: TimedRootStore) -> None:
        _set(store, "a")
        assert store.alias("b") is None
        assert not store.delete_alias("b")
        assert not store.delete_alias("b", expect=0)

    def test_setting_again_replaces_all_of_it(self, store: TimedRootStore) -> None:
        _set(store, expires_at=FAR)
        new = AliasRow("head", name_of(1), "other", 0, 0, FAR - 1)
        assert store.set_alias(new) == store.alias("head")
        found = store.alias("head")
        assert found is not None
        assert found._replace(version=0) == new

    def test_no_version_comes_twice(self, store: TimedRootStore) -> None:
        seen = [_set(store, name) for name in ("a", "b", "a", "b")]
        assert store.delete_alias("a")
        assert store.delete_alias("b")
        seen += [_set(store, name, expires_at=store.clock() - 1) for name in ("a", "c")]
        store.forget(expires_by=FOREVER)
        seen += [_set(store, name) for name in ("a", "b", "c")]
        assert len({*seen, 0}) == len(seen) + 1

    def test_the_version_of_a_name_grows(self, store: TimedRootStore) -> None:
        seen = [_set(store) for _ in range(3)]
        store.delete_alias("head")
        seen.append(_set(store))
        assert seen == sorted(set(seen))

    def test_the_version_that_is_given_is_ignored(self, store: TimedRootStore) -> None:
        before = _set(store)
        row = store.set_alias(_alias()._replace(version=before))
        assert row is not None
        assert row.version not in {0, before}

    def test_to_expect_0_is_to_expect_that_it_is_not_there(self, store: TimedRootStore) -> None:
        first = store.set_alias(_alias(), expect=0)
        assert first is not None
        assert store.set_alias(_alias(number=1), expect=0) is None
        assert store.alias("head") == first

    def test_the_version_that_is_expected_is_replaced(self, store: TimedRootStore) -> None:
        row = store.set_alias(_alias(number=1), expect=_set(store))
        assert row is not None
        assert row == store.alias("head")
        assert row.digest == name_of(1)

    def test_a_conflict_changes_nothing(self, store: TimedRootStore) -> None:
        old = _set(store)
        _set(store, number=1)
        before = store.alias("head")
        assert store.set_alias(_alias(number=2), expect=old) is None
        assert store.alias("head") == before
        assert store.set_alias(_alias("other"), expect=old) is None
        assert store.alias("other") is None

    def test_what_is_no_version_is_not_expected(self, store: TimedRootStore) -> None:
        version = _set(store)
        for bad in (-1, True, False, float(version), str(version), name_of(0), 2**63):
            expect: Any = bad
            with pytest.raises(InvalidInputError):
                store.set_alias(_alias(number=1), expect=expect)
            with pytest.raises(InvalidInputError):
                store.delete_alias("head", expect=expect)
        found = store.alias("head")
        assert found is not None
        assert found.version == version

    def test_delete_tells_whether_the_name_was_there(self, store: TimedRootStore) -> None:
        _set(store, "a")
        _set(store, "b")
        assert store.delete_alias("a")
        assert not store.delete_alias("a")
        assert [alias.name for alias in store.scan_aliases()] == ["b"]

    def test_delete_takes_only_the_version_that_is_expected(self, store: TimedRootStore) -> None:
        old = _set(store)
        new = _set(store)
        assert not store.delete_alias("head", expect=old)
        assert not store.delete_alias("head", expect=0)
        assert store.alias("head") is not None
        assert store.delete_alias("head", expect=new)
        assert store.alias("head") is None
        assert store.set_alias(_alias(), expect=0) is not None

    def test_an_alias_that_has_expired_is_not_there(self, store: TimedRootStore) -> None:
        end = store.clock() + 0.05
        version = _set(store, expires_at=end)
        _set(store, "past", expires_at=end - 100)
        wait(store, end)
        for name in ("head", "past"):
            assert store.alias(name) is None
            assert not store.delete_alias(name)
        assert list(store.scan_aliases()) == []
        assert store.set_alias(_alias(number=1), expect=version) is None
        assert store.set_alias(_alias(number=1), expect=0) is not None
        assert store.alias("head") is not None

    def test_names_are_told_apart_and_listed_by_their_code_points(self, store: TimedRootStore) -> None:
        for number, name in enumerate(reversed(NAMES)):
            _set(store, name, number)
        listed = store.scan_aliases()
        assert [alias.name for alias in listed] == list(NAMES)
        assert [alias.digest for alias in listed] == [name_of(n) for n in reversed(range(len(NAMES)))]
        assert [store.alias(name) for name in NAMES] == list(listed)

    def test_pages_of_aliases_leave_no_gap_and_overlap_nowhere(self, store: TimedRootStore) -> None:
        for name in NAMES:
            _set(store, name)
            _set(store, name + "-past", expires_at=store.clock() - 1)
        seen: list[str] = []
        after: str | None = None
        while page := store.scan_aliases(after=after, limit=3):
            assert len(page) == 3 or page[-1].name == NAMES[-1]
            seen += [alias.name for alias in page]
            after = page[-1].name
        assert seen == list(NAMES)

    def test_the_prefix_of_a_name_is_literal(self, store: TimedRootStore) -> None:
        for name in NAMES:
            _set(store, name)
        for prefix in NAMES:
            found = [alias.name for alias in store.scan_aliases(prefix=prefix)]
            assert found == [name for name in NAMES if name.startswith(prefix)]

    def test_a_page_of_aliases_keeps_to_prefix_and_after(self, store: TimedRootStore) -> None:
        for name in ("a", "b", "b/1", "b/2", "c"):
            _set(store, name)
        for after, wanted in (("a", ["b", "b/1", "b/2"]), ("b/1", ["b/2"]), ("b/11", ["b/2"]), ("c", [])):
            assert [alias.name for alias in store.scan_aliases(prefix="b", after=after)] == wanted

    # Forgetting

    def test_forget_drops_what_has_expired_and_counts(self, store: TimedRootStore) -> None:
        end = store.clock() - 50
        for name, expires_at in (("a", end - 1), ("b", end), ("c", end + 1)):
            _set(store, name, expires_at=expires_at)
            store.pin(PinRow.each(name, [name_of(0)], expires_at=expires_at))
        assert store.forget(expires_by=end) == 4
        assert store.forget(expires_by=end) == 0
        assert store.forget(expires_by=end + 1) == 2

    def test_forget_spares_what_still_lives(self, store: TimedRootStore) -> None:
        for name, expires_at in (("a", FAR), ("b", FOREVER)):
            _set(store, name, expires_at=expires_at)
            store.pin(PinRow.each(name, [name_of(0)], expires_at=expires_at))
        for until in (FAR, FOREVER):
            assert store.forget(expires_by=until) == 0
        assert [alias.name for alias in store.scan_aliases()] == ["a", "b"]
        assert [pin.owner for pin in store.scan_pins()] == ["a", "b"]

    # What is refused

    def test_a_name_that_cannot_be_kept_is_refused(self, store: TimedRootStore) -> None:
        none: Any = None  # an empty prefix is one
        for bad in _NO_NAMES:
            name: Any = bad
            for verb in (
                lambda name=name: store.set_alias(_alias(name)),
                lambda name=name: store.set_alias(_alias()._replace(codec=name)),
                lambda name=name: store.alias(name),
                lambda name=name: store.delete_alias(name),
                lambda name=name: store.scan_aliases(after=name or ""),
                lambda name=name: store.scan_aliases(prefix=name or none),
                lambda name=name: store.pin(PinRow.each(name, [name_of(0)])),
                lambda name=name: store.unpin([name]),
                lambda name=name: store.inherit_pins(name, [name_of(0)], parent="owner"),
                lambda name=name: store.inherit_pins("owner", [name_of(0)], parent=name),
                lambda name=name: store.scan_pins(after=(name, name_of(0))),
                lambda name=name: store.scan_pins(prefix=name or none),
            ):
                with pytest.raises(InvalidInputError):
                    verb()
        assert list(store.scan_aliases()) == []

    def test_a_name_may_have_512_bytes(self, store: TimedRootStore) -> None:
        longest = "é" * 256
        store.pin(PinRow.each(longest, [name_of(0)]))
        _set(store, longest)
        assert [alias.name for alias in store.scan_aliases(prefix=longest)] == [longest]
        assert [pin.owner for pin in store.scan_pins(prefix=longest)] == [longest]

    def test_what_names_no_blob_and_no_time_is_refused(self, store: TimedRootStore) -> None:
        for bad in (b"short", "a" * 64, None):
            digest: Any = bad
            with pytest.raises(InvalidDigestError):
                store.set_alias(_alias()._replace(digest=digest))
            with pytest.raises(InvalidDigestError):
                store.pin(PinRow.each("owner", [name_of(0), digest]))
            with pytest.raises(InvalidDigestError):
                store.inherit_pins("owner", [name_of(0), digest], parent="other")
        for no_time in NO_TIMES:
            time: Any = no_time
            with pytest.raises(InvalidInputError):
                store.set_alias(_alias(expires_at=time))
            with pytest.raises(InvalidInputError):
                store.pin(PinRow.each("owner", [name_of(0)], expires_at=time))
            with pytest.raises(InvalidInputError):
                store.forget(expires_by=time)
        assert [*store.scan_aliases(), *store.scan_pins()] == []

    def test_a_closed_store_of_roots_says_so(self, store: TimedRootStore) -> None:
        store.close()
        store.close()
        for verb in (
            lambda: store.set_alias(_alias()),
            lambda: store.alias("head"),
            lambda: store.delete_alias("head"),
            store.scan_aliases,
            lambda: store.pin(PinRow.each("owner", [name_of(0)])),
            lambda: store.unpin(["owner"]),
            lambda: store.inherit_pins("owner", [name_of(0)], parent="other"),
            store.scan_pins,
            lambda: store.forget(expires_by=0),
        ):
            with pytest.raises(StoreUnavailableError):
                verb()

    # Threads

    def test_of_threads_that_expect_the_same_exactly_one_wins(self, store: TimedRootStore) -> None:
        version = 0
        for _ in range(5):
            tries = [partial(store.set_alias, _alias(number=n), expect=version) for n in range(8)]
            won = [row for row in run_together(tries) if row is not None]
            assert won == [store.alias("head")]
            version = won[0].version

    def test_threads_that_set_and_pin_lose_nothing(self, store: TimedRootStore) -> None:
        def work(number: int) -> int:
            store.pin(PinRow.each("owner", [name_of(number)]))
            return _set(store, str(number))

        versions = run_together([partial(work, n) for n in range(8)])
        assert len(set(versions)) == 8
        assert len(store.scan_aliases()) == 8
        assert len(store.scan_pins()) == 8


class PersistentRootStoreContract(RootStoreContract):
    """What a store keeps that outlives its process: `make_store` of one path always opens one store."""

    def test_roots_are_there_when_opened_again(self, store: TimedRootStore, tmp_path: Path) -> None:
        _set(store, "a", expires_at=FAR)
        _set(store, "b")
        store.pin(PinRow.each("owner", [name_of(0)], expires_at=FAR))
        store.pin(PinRow.each("owner", [name_of(1)]))
        aliases, pins = list(store.scan_aliases()), list(store.scan_pins())
        store.close()
        again = self.make_store(tmp_path)
        assert list(again.scan_aliases()) == aliases
        assert list(again.scan_pins()) == pins
        assert len(pins) == 2
        again.close()

    def test_versions_go_on_when_opened_again(self, store: TimedRootStore, tmp_path: Path) -> None:
        before = _set(store)
        store.delete_alias("head")
        store.close()
        again = self.make_store(tmp_path)
        assert _set(again) > before
        again.close()

    def test_two_openings_see_each_others_roots(self, store: TimedRootStore, tmp_path: Path) -> None:
        other = self.make_store(tmp_path)
        row = store.set_alias(_alias())
        assert other.alias("head") == row
        assert other.set_alias(_alias(), expect=0) is None
        other.pin(PinRow.each("owner", [name_of(0)]))
        assert store.unpin(["owner"]) == 1
        assert list(other.scan_pins()) == []
        other.close()

    def test_of_processes_that_expect_the_same_exactly_one_wins(
        self, store: TimedRootStore, tmp_path: Path
    ) -> None:
        def work(number: int) -> None:
            mine = self.make_store(tmp_path)
            if mine.set_alias(_alias(number=number), expect=0) is not None:
                mine.pin(PinRow.each("won", [name_of(number)]))
            mine.close()

        in_processes([partial(work, n) for n in range(4)])
        found = store.alias("head")
        assert found is not None
        assert [pin.digest for pin in store.scan_pins(prefix="won")] == [found.digest]
