"""What every store of ours promises about the lives of blobs, and about what keeps them alive."""

import threading
import time

import pytest

from agentref.errors import InvalidInputError, StoreUnavailableError
from agentref.refs import Digest
from agentref.storage import FOREVER, AliasRow, RootStore
from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.memory import MemoryBlobStore

NAMES = [Digest(bytes([n]) * 32) for n in range(1, 9)]
ONE, TWO, THREE = NAMES[:3]


@pytest.fixture(params=["memory", "filesystem"])
def store(request, tmp_path):
    store = MemoryBlobStore() if request.param == "memory" else FilesystemBlobStore(tmp_path / "store")
    yield store
    store.close()


def alias(name, digest=ONE, *, expires_at=FOREVER):
    return AliasRow(name, digest, "raw", 5, 0, expires_at)


def life(store, digest):
    info = store.stat([digest])[digest]
    return info.expires_at, info.condemned_at is not None


# Blobs


def test_touch_tells_what_is_here_and_lengthens_lives(store):
    now = store.clock()
    store.store({ONE: b"1", TWO: b"2"}, expires_at=now + 10)
    assert set(store.touch([ONE, THREE], expires_at=now + 20)) == {ONE}
    assert life(store, ONE) == (now + 20, False)
    assert life(store, TWO) == (now + 10, False)


def test_touch_never_shortens_a_life(store):
    store.store({ONE: b"1"})
    assert set(store.touch([ONE], expires_at=5.0)) == {ONE}
    assert life(store, ONE) == (FOREVER, False)


def test_touch_of_what_lives_long_enough_writes_nothing(store):
    store.store({ONE: b"1"}, expires_at=10.0)
    before = store.stat([ONE])
    time.sleep(0.02)
    store.touch([ONE], expires_at=9.0)
    assert store.stat([ONE]) == before


@pytest.mark.parametrize("verb", ["touch", "store", "replace"])
def test_whoever_needs_a_blob_takes_its_condemnation_back(store, verb):
    store.store({ONE: b"1"}, expires_at=5.0)
    assert store.condemn([ONE], expires_by=5.0) == 1
    assert life(store, ONE) == (5.0, True)
    assert store.fetch([ONE]) == {ONE: b"1"}
    match verb:
        case "touch":
            store.touch([ONE], expires_at=0.0)
        case "store":
            store.store({ONE: b"1"}, expires_at=0.0)
        case "replace":
            store.replace({ONE: b"1"})
    assert life(store, ONE) == (5.0, False)
    assert store.remove([ONE], condemned_by=FOREVER) == 0


def test_condemn_spares_what_lives_and_counts_what_is_new(store):
    store.store({ONE: b"1"}, expires_at=5.0)
    store.store({TWO: b"2"}, expires_at=7.0)
    assert store.condemn([ONE, TWO, THREE], expires_by=6.0) == 1
    first = store.stat([ONE])[ONE].condemned_at
    time.sleep(0.02)
    assert store.condemn([ONE, TWO], expires_by=6.0) == 0
    assert store.stat([ONE])[ONE].condemned_at == first


def test_remove_takes_the_condemned_alone(store):
    store.store({ONE: b"1", TWO: b"2"}, expires_at=5.0)
    before = store.clock() - 1
    store.condemn([ONE], expires_by=5.0)
    assert store.remove([ONE, TWO], condemned_by=before) == 0
    assert store.remove([ONE, TWO], condemned_by=store.clock()) == 1
    assert set(store.stat([ONE, TWO])) == {TWO}


def test_scan_lists_those_whose_life_ends_by_a_time(store):
    for number, name in enumerate(NAMES):
        store.store({name: b"x"}, expires_at=float(number) if number else FOREVER)
    assert [info.digest for info in store.scan(expires_by=3.0)] == NAMES[1:4]
    assert [info.digest for info in store.scan(expires_by=7.0, after=NAMES[3], limit=2)] == NAMES[4:6]
    assert len(store.scan()) == len(NAMES)


def test_peek_tells_the_first_byte(store):
    store.store({ONE: b"\x07x", TWO: b""})
    assert store.peek([ONE, TWO, THREE]) == {ONE: 7, TWO: -1}


def test_the_clock_goes_on_and_is_that_of_the_lives(store):
    before = store.clock()
    store.store({ONE: b"1"}, expires_at=5.0)
    store.condemn([ONE], expires_by=5.0)
    info = store.stat([ONE])[ONE]
    assert before <= info.touched_at <= info.condemned_at <= store.clock()


# Aliases


def test_an_alias_stands_for_what_it_was_set_to_last(store):
    assert isinstance(store, RootStore)
    first = store.set_alias(alias("a"))
    second = store.set_alias(alias("a", TWO))
    assert second.version > first.version > 0
    assert store.alias("a") == second == alias("a", TWO)._replace(version=second.version)
    assert store.alias("b") is None


def test_no_version_comes_twice(store):
    seen = [store.set_alias(alias(name)).version for name in "abab"]
    store.delete_alias("a")
    seen.append(store.set_alias(alias("a")).version)
    assert len(set(seen)) == len(seen)


def test_an_alias_is_moved_only_from_where_it_is_expected(store):
    assert store.set_alias(alias("a"), expect=3) is None
    first = store.set_alias(alias("a"), expect=0)
    assert store.set_alias(alias("a", TWO), expect=0) is None
    assert store.alias("a") == first
    assert store.set_alias(alias("a", TWO), expect=first.version).digest == TWO
    assert not store.delete_alias("a", expect=first.version)
    assert store.delete_alias("a", expect=store.alias("a").version)
    assert not store.delete_alias("a")


def test_an_expired_alias_is_not_there(store):
    store.set_alias(alias("a", expires_at=store.clock() - 1))
    assert store.alias("a") is None
    assert not store.delete_alias("a")
    assert store.scan_aliases() == []
    assert store.set_alias(alias("a"), expect=0) is not None


def test_aliases_are_listed_in_the_order_of_their_names(store):
    names = ["a", "a%", "a_", "ab", "b", "\xe4", "\U0001f600"]
    for name in reversed(names):
        store.set_alias(alias(name))
    assert [row.name for row in store.scan_aliases()] == names
    assert [row.name for row in store.scan_aliases(prefix="a")] == names[:4]
    assert [row.name for row in store.scan_aliases(prefix="a_")] == ["a_"]
    assert [row.name for row in store.scan_aliases(prefix="a", after="a%", limit=1)] == ["a_"]


def test_of_threads_that_move_one_alias_one_wins(store):
    version = store.set_alias(alias("a")).version
    won = []
    threads = [
        threading.Thread(
            target=lambda name=name: won.append(store.set_alias(alias("a", name), expect=version))
        )
        for name in NAMES
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row for row in won if row is not None] == [store.alias("a")]


# Pins


def test_an_owner_keeps_the_union_of_what_it_pinned(store):
    store.pin("o", [ONE], expires_at=FOREVER)
    store.pin("o", [TWO, ONE], expires_at=store.clock() + 100)
    rows = store.scan_pins()
    assert [(row.owner, row.digest) for row in rows] == [("o", ONE), ("o", TWO)]
    assert rows[0].expires_at == FOREVER
    assert store.unpin(["o", "nobody"]) == 2
    assert store.scan_pins() == []


def test_pins_are_listed_by_owner_and_digest(store):
    for owner in ["b", "a", "a_1", "\xe4"]:
        store.pin(owner, [TWO, ONE])
    everything = [(row.owner, row.digest) for row in store.scan_pins()]
    assert everything == [(owner, digest) for owner in ["a", "a_1", "b", "\xe4"] for digest in (ONE, TWO)]
    assert [row.owner for row in store.scan_pins(prefix="a_")] == ["a_1", "a_1"]
    page = store.scan_pins(after=("a", ONE), limit=2)
    assert [(row.owner, row.digest) for row in page] == [("a", TWO), ("a_1", ONE)]


def test_what_has_expired_is_forgotten_and_nothing_else(store):
    past, future = store.clock() - 1, store.clock() + 100
    store.pin("o", [ONE], expires_at=past)
    store.pin("o", [TWO], expires_at=future)
    store.set_alias(alias("a", expires_at=past))
    store.set_alias(alias("b", expires_at=future))
    assert [row.digest for row in store.scan_pins()] == [TWO]
    assert store.forget(expires_by=FOREVER) == 2
    assert [row.digest for row in store.scan_pins()] == [TWO]
    assert store.alias("b") is not None


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 513, 5, None])
def test_bad_names_are_refused(store, name):
    with pytest.raises(InvalidInputError):
        store.set_alias(alias(name))
    with pytest.raises(InvalidInputError):
        store.pin(name, [ONE])
    with pytest.raises(InvalidInputError):
        store.unpin([name])
    assert store.scan_pins() == store.scan_aliases() == []


def test_a_closed_store_says_so(store):
    store.close()
    for verb in (
        lambda: store.touch([ONE], expires_at=1.0),
        lambda: store.peek([ONE]),
        lambda: store.condemn([ONE], expires_by=1.0),
        lambda: store.set_alias(alias("a")),
        lambda: store.alias("a"),
        lambda: store.delete_alias("a"),
        store.scan_aliases,
        lambda: store.pin("o", [ONE]),
        lambda: store.unpin(["o"]),
        store.scan_pins,
        lambda: store.forget(expires_by=1.0),
    ):
        with pytest.raises(StoreUnavailableError):
            verb()


def test_roots_are_there_when_a_store_is_opened_again(tmp_path):
    with_roots = FilesystemBlobStore(tmp_path)
    row = with_roots.set_alias(alias("a"))
    with_roots.pin("o", [ONE])
    other = FilesystemBlobStore(tmp_path)
    assert other.alias("a") == row
    with_roots.close()
    other.close()
    again = FilesystemBlobStore(tmp_path)
    assert again.alias("a") == row
    assert [pin.owner for pin in again.scan_pins()] == ["o"]
    assert again.set_alias(alias("a")).version > row.version
    again.close()
