"""Pins that are set together with blobs: under one sync, and what crashes leave of them."""

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentref.errors import InvalidInputError, StoreBusyError
from agentref.refs import Digest
from agentref.storage import FilesystemCAS, InMemoryCAS
from agentref.storage._arguments import unique_pins
from agentref.storage._batches import batch_parts, pins_in, read_batches
from agentref.storage._index import INDEX
from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.protocol import FOREVER, PinRow

LOG = f"{INDEX}-wal"
A, B, C = (Digest(letter * 32) for letter in (b"a", b"b", b"c"))
HEADER = 24  # of a frame in the log: https://www.sqlite.org/fileformat2.html#wal_file_format


def owners(store):
    return [pin.owner for pin in store.scan_pins()]


def packs(root):
    return {path.name: path.stat().st_size for path in (root / "packs").iterdir()}


@pytest.fixture
def asked(monkeypatch):
    """Each sync of a pack, and at which `synchronous` each transaction of an index began."""
    from agentref.sqlite import Database
    from agentref.storage import _packs

    seen, begin, sync = [], Database.begin, _packs._sync

    def begun(self, connection):
        seen.append(connection.execute("PRAGMA synchronous").fetchone()[0])
        begin(self, connection)

    monkeypatch.setattr(Database, "begin", begun)
    monkeypatch.setattr(_packs, "_sync", lambda descriptor: (seen.append("pack"), sync(descriptor)))
    return seen


def test_content_and_its_pin_wait_for_one_sync(tmp_path, asked):
    with FilesystemCAS(tmp_path) as cas:
        cas.put(b"the first makes the pack")
        encoded = cas.encode(["kept"])
        asked.clear()
        cas.store(encoded, ttl=0.01, pins={"owner": encoded.refs})
        assert asked == ["pack", 1]
        asked.clear()
        cas.store(encoded, pins={"another": encoded.refs})  # it is here
        assert asked == [2, 2]  # its life is lengthened, then it is pinned
        cas.prune_expired(grace=0)
        assert cas.load(encoded.refs[0]) == "kept"


@pytest.mark.parametrize("marks", ["kept", "older", "gone"])
def test_a_power_cut_takes_no_pin_away_and_brings_none_back(tmp_path, marks):
    """All that was synced stays: the packs, and the log up to the last commit that was. What comes behind
    that in the log may be there up to any frame."""
    root, after = tmp_path / "store", tmp_path / "after"
    expected, moments = [], []
    with closing(FilesystemBlobStore(root)) as store:
        store.store({Digest(bytes(32)): b"the first makes the pack"})
        synced = (root / LOG).stat().st_size
        for number in range(6):
            name = Digest(bytes([number + 1]) * 32)
            store.store_pinned(
                {name: b"%d" % number}, PinRow.each(f"owner {number}", [name]), expires_at=1.0
            )
            expected.append(f"owner {number}")
            if number % 3 == 1:
                store.store({Digest(bytes([100 + number]) * 32): b"without a pin"})
            if number % 3 == 2:
                store.unpin([expected.pop(0)])
                synced = (root / LOG).stat().st_size
            moments.append((shutil.copytree(root, tmp_path / str(number)), synced, list(expected)))
    tried = 0
    for moment, durable, pinned in moments:
        log = (moment / LOG).read_bytes()
        frame = HEADER + int.from_bytes(log[8:12], "big")
        for end in range(durable, len(log) + 1, frame):
            shutil.copytree(moment, after)
            (after / f"{INDEX}-shm").unlink()
            (after / LOG).write_bytes(log[:end])
            if marks != "kept":
                (after / "marks").unlink()
            if marks == "older":
                shutil.copy(moments[0][0] / "marks", after)
            for _ in range(2):
                with closing(FilesystemBlobStore(after)) as store:
                    assert owners(store) == pinned
                    assert len(store.fetch([pin.digest for pin in store.scan_pins()])) == len(pinned)
            shutil.rmtree(after)
            tried += 1
    assert tried > 15


@pytest.fixture
def after_a_power_cut(tmp_path):
    """A store that has lost the end of its index's log: three pins lie in the pack alone."""
    root, after = tmp_path / "store", tmp_path / "after"
    with closing(FilesystemBlobStore(root)) as store:
        store.store({Digest(bytes(32)): b"the first makes the pack"})
        synced = (root / LOG).stat().st_size
        for name in (A, B, C):
            store.store_pinned({name: bytes(name)}, PinRow.each(name.decode(), [name]), expires_at=1.0)
        shutil.copytree(root, after)
    os.truncate(after / LOG, synced)
    (after / f"{INDEX}-shm").unlink()
    return after


def test_who_opens_a_store_while_another_recovers_it_knows_all_pins(after_a_power_cut):
    (pack,) = (after_a_power_cut / "packs").iterdir()
    with pack.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # he has got no further
        with closing(FilesystemBlobStore(after_a_power_cut)) as store:
            assert owners(store) == [A.decode(), B.decode(), C.decode()]
            store.unpin([B.decode()])
    with closing(FilesystemBlobStore(after_a_power_cut)) as store:
        assert C.decode() in owners(store)


def test_pins_of_a_damaged_pack_are_recovered(after_a_power_cut):
    (pack,) = (after_a_power_cut / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1  # a bit of the last blob
    pack.write_bytes(data)
    for _ in range(2):
        with closing(FilesystemBlobStore(after_a_power_cut)) as store:
            assert owners(store) == [A.decode(), B.decode(), C.decode()]
            assert store.fetch([A, B]) == {A: bytes(A), B: bytes(B)}


def test_an_older_index_learns_of_pins_from_the_packs(tmp_path):
    with closing(FilesystemBlobStore(tmp_path)):
        pass
    shutil.copy(tmp_path / INDEX, tmp_path.parent / "older")
    with closing(FilesystemBlobStore(tmp_path)) as store:
        store.store_pinned({A: b"kept"}, PinRow.each("owner", [A], expires_at=4e9))
    shutil.copy(tmp_path.parent / "older", tmp_path / INDEX)
    with closing(FilesystemBlobStore(tmp_path)) as store:
        assert list(store.scan_pins()) == [PinRow("owner", A, 4e9)]
        assert store.fetch([A]) == {A: b"kept"}


def test_what_cannot_be_pinned_is_not_stored(tmp_path, asked):
    with closing(FilesystemBlobStore(tmp_path, busy_timeout=0.05)) as store:
        store.store_pinned({A: b"here"}, PinRow.each("owner", [A]))
        before = packs(tmp_path)
        with closing(sqlite3.connect(tmp_path / INDEX, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            asked.clear()
            with pytest.raises(StoreBusyError):
                store.store_pinned({B: b"not here"}, PinRow.each("other", [B]))
            assert asked.count("pack") == 2  # when it was there, and when it no longer was
        assert packs(tmp_path) == before
        assert store.fetch([A, B]) == {A: b"here"}
        assert owners(store) == ["owner"]
        store.store_pinned({B: b"now it is"}, PinRow.each("other", [B]))
        assert owners(store) == ["other", "owner"]
        assert store.fetch([B]) == {B: b"now it is"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_around_the_commit_leaves_both_or_neither(tmp_path, monkeypatch, when):
    with closing(FilesystemBlobStore(tmp_path)) as store:
        store.store({A: b"the first makes the pack"})
        end = store._database.end

        def interrupted(connection, *, commit):
            monkeypatch.undo()
            end(connection, commit=commit and when == "after")
            raise KeyboardInterrupt

        monkeypatch.setattr(store._database, "end", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.store_pinned({B: b"data"}, PinRow.each("owner", [B]))
        for number in range(3):  # what comes later lies where it should
            name = Digest(bytes([number]) * 32)
            store.store_pinned({name: b"%d" % number}, PinRow.each(str(number), [name]))
    with closing(FilesystemBlobStore(tmp_path)) as store:
        is_there = when == "after"
        assert owners(store) == ["0", "1", "2", *["owner"] * is_there]
        assert store.fetch([B]) == ({B: b"data"} if is_there else {})
        assert len(store.scan()) == 4 + is_there


KILLED = """
import os, signal, sys
from agentref.refs import Digest
from agentref.storage import _pinning
from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.protocol import PinRow

store = FilesystemBlobStore(sys.argv[1])
store.store({Digest(bytes(32)): b"the first makes the pack"})
{patch}
name = Digest(b"a" * 32)
store.store_pinned({name: b"data"}, PinRow.each("owner", [name]))
"""


DIES_FIRST = "_pinning.set_pins = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(
    "patch",
    [
        DIES_FIRST,
        "store._journal._marks.set_durable = lambda *_: os.kill(os.getpid(), signal.SIGKILL)",
    ],
    ids=["before the transaction", "after it"],
)
def test_who_is_killed_between_the_sync_and_the_end_leaves_both(tmp_path, patch):
    code = KILLED.replace("{patch}", textwrap.dedent(patch))
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -9
    with closing(FilesystemBlobStore(tmp_path)) as store:
        assert owners(store) == ["owner"]
        assert store.fetch([A]) == {A: b"data"}
        store.unpin(["owner"])
    with closing(FilesystemBlobStore(tmp_path)) as store:
        assert owners(store) == []


def test_what_a_writer_who_just_died_has_pinned_can_be_let_go_of(tmp_path):
    with closing(FilesystemBlobStore(tmp_path)) as living:
        code = KILLED.replace(
            "{patch}", "_pinning.set_pins = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
        assert owners(living) == []
        assert living.unpin(["owner"]) == 1
        living.sweep()
        assert owners(living) == []
    with closing(FilesystemBlobStore(tmp_path)) as store:
        assert owners(store) == []


def test_a_pack_that_somebody_else_goes_on_with_keeps_its_pins(tmp_path):
    with closing(FilesystemBlobStore(tmp_path)) as one, closing(FilesystemBlobStore(tmp_path)) as two:
        one.store_pinned({A: b"one"}, PinRow.each("one", [A]))
        one._journal.packs.close()  # as the kernel does for a killed process
        two.unpin(["one"])
        two.store_pinned({B: b"two"}, PinRow.each("two", [B]))
        assert len(packs(tmp_path)) == 1
        assert owners(two) == ["two"]


NAMES = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
_PINS = st.lists(
    st.builds(
        PinRow,
        st.text(NAMES, min_size=1, max_size=128),
        st.binary(min_size=32, max_size=32).map(Digest),
        st.floats(0, 1e12) | st.just(FOREVER),
    ),
    max_size=5,
)


@given(st.lists(st.tuples(st.binary(max_size=9000), _PINS), min_size=1, max_size=6))
def test_pins_lie_in_the_batches_of_their_blobs(tmp_path_factory, batches):
    path = tmp_path_factory.mktemp("packs") / "pack"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        written, at = [], 0
        for number, (data, pins) in enumerate(batches):
            blobs = {Digest(number.to_bytes(32, "big")): data}
            batch, parts = batch_parts(blobs, "name", at, stored_at=1.0, expires_at=2.0, pins=pins)
            os.pwrite(descriptor, b"".join(parts), at)
            at = batch.end
            written.append(batch)
        read = list(read_batches(descriptor, "name", 0, at))
        assert [tuple(map(tuple, batch[2:5])) for batch in read] == [
            tuple(map(tuple, batch[2:5])) for batch in written
        ]
        assert [pins_in(batch) for batch in read] == [unique_pins(pins) for _, pins in batches]
        for end in range(max(at - 40, 0), at):
            assert len(list(read_batches(descriptor, "name", 0, end))) == len(batches) - 1
    finally:
        os.close(descriptor)


GOOD = b"\0\5owner" + bytes(32) + bytes(8)


@pytest.mark.parametrize(
    "pins",
    [
        b"\0",
        b"\xff\xff" + GOOD,
        GOOD[:-1],
        GOOD + b"\0\5owner" + bytes(31),
        b"\0\2\xff\xfe" + GOOD[7:],
        b"\0\0" + GOOD[7:],
        b"\0\5a\0b\0c" + GOOD[7:],
        GOOD[:-8] + b"\x7f\xf8" + bytes(6),
    ],
)
def test_pins_that_nobody_writes_are_none(pins):
    batch, _ = batch_parts({A: b""}, "name", 0, stored_at=1.0, expires_at=2.0)
    assert pins_in(batch._replace(pins=GOOD)) == [PinRow("owner", Digest(bytes(32)), 0.0)]
    assert pins_in(batch._replace(pins=pins)) == []


@pytest.mark.parametrize("pins", [[("owner", [])], "owner", {"": []}, {"o": None}, {"o": ["ref"]}, {1: []}])
def test_what_are_no_pins_are_refused_before_anything_is_stored(pins):
    cas = InMemoryCAS()
    with pytest.raises(InvalidInputError):
        cas.store(cas.encode(["value"]), pins=pins)
    assert list(cas.iter_hashes()) == []


def test_a_large_content_is_pinned_when_all_of_it_is_there(cas_of_each_kind):
    cas = cas_of_each_kind
    encoded = cas.encode([os.urandom(20_000_000)])  # three batches
    cas.store(encoded, ttl=0.01, pins={"one": encoded.refs, "two": encoded.refs})
    assert [pin.owner for pin in cas.iter_pins()] == ["one", "two"]
    cas.prune_expired(grace=0)
    assert len(cas.load(encoded.refs[0])) == 20_000_000
