"""Pins that are set a moment later, many in one transaction, and not forgotten while the process lives."""

import logging
import signal
import subprocess
import sys
import time

import psycopg
import pytest

from agentref.errors import StoreBusyError, StoreUnavailableError
from agentref.storage import CAS, FilesystemCAS, InMemoryCAS, PostgresCAS, _late_pins
from agentref.storage.memory import MemoryBlobStore

LATER = """
import os, signal, sys
from agentref.storage import FilesystemCAS
store = FilesystemCAS(sys.argv[1])
ref = store.dump("kept")
store.pin("first", [ref])
assert store.pin_soon(lambda: "second", [ref])
"""


class Counting(MemoryBlobStore):
    """Counts transactions; refuses them for as long as it is `busy`."""

    def __init__(self):
        super().__init__()
        self.transactions = []
        self.busy = False

    def pin(self, rows, /):
        if self.busy:
            raise StoreBusyError("busy")
        self.transactions.append(len(rows))
        super().pin(rows)


def owners(cas):
    return [pin.owner for pin in cas.iter_pins()]


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(_late_pins, "_DELAY", 0.01)
    monkeypatch.setattr(_late_pins, "_OVERDUE", 0.02)


@pytest.fixture
def never(monkeypatch):
    monkeypatch.setattr(_late_pins, "_DELAY", 3600.0)


def test_nobody_has_to_come_back_for_them(tmp_path):
    with FilesystemCAS(tmp_path) as here, FilesystemCAS(tmp_path) as there:
        ref = here.dump("kept")
        assert here.pin_soon(lambda: "me", [ref])
        wait_for(lambda: owners(there) == ["me"])


def test_every_verb_on_pins_sees_them(cas_of_each_kind, never):
    cas = cas_of_each_kind
    ref = cas.dump("kept", ttl=0.01)
    cas.pin_soon(lambda: "me", [ref])
    assert owners(cas) == ["me"]
    cas.pin_soon(lambda: "you", [ref])
    assert cas.unpin("you") == 1
    cas.pin_soon(lambda: "us", [ref])
    assert cas.unpin("me") == 1
    time.sleep(0.02)
    assert cas.prune_expired(grace=0).removed == 0
    assert cas.load(ref) == "kept"


def test_many_are_one_transaction_with_the_next_one_that_cannot_wait(never):
    store = Counting()
    cas = CAS(store)
    ref, other = cas.dump("kept"), cas.dump("as well")
    for number in range(100):
        assert cas.pin_soon(lambda number=number: f"owner {number:03}", [ref, other])
    assert store.transactions == []
    cas.pin("now", [ref])
    assert store.transactions == [201]
    assert len(owners(cas)) == 201


def test_so_many_wait_and_no_more(never):
    store = Counting()
    cas = CAS(store)
    ref = cas.dump("kept")
    taken = [cas.pin_soon(lambda number=number: f"owner {number}", [ref]) for number in range(600)]
    assert taken == [True] * 512 + [False] * 88
    cas.pin("one more", [ref])
    assert len(owners(cas)) == 513
    assert cas.pin_soon(lambda: "again", [ref])


def test_what_the_store_refused_is_tried_again(quickly, caplog):
    store = Counting()
    cas = CAS(store)
    ref = cas.dump("kept")
    store.busy = True
    with caplog.at_level(logging.WARNING, "agentref.storage"):
        cas.pin_soon(lambda: "me", [ref])
        wait_for(lambda: caplog.records)
        wait_for(lambda: not cas.pin_soon(lambda: "you", [ref]))  # by now, whoever asks has to hear of it
        with pytest.raises(StoreBusyError):
            cas.pin("you", [ref], look=False)
        store.busy = False
        wait_for(lambda: store.transactions)
    assert "me" in owners(cas)


def test_close_sets_them_and_ends_it(tmp_path, never):
    cas = FilesystemCAS(tmp_path)
    ref = cas.dump("kept")
    cas.pin_soon(lambda: "me", [ref])
    cas.close()
    assert not cas.pin_soon(lambda: "you", [ref])
    with pytest.raises(StoreUnavailableError):
        cas.pin("you", [ref], look=False)
    with FilesystemCAS(tmp_path) as again:
        assert owners(again) == ["me"]


def test_a_codec_of_ones_own_shares_them(tmp_path, never):
    with FilesystemCAS(tmp_path) as cas:
        ref = cas.dump("kept")
        cas.with_codec(cas.codec).pin_soon(lambda: "me", [ref])
        assert owners(cas) == ["me"]


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_end_of_a_process_takes_them_along(end, tmp_path):
    done = subprocess.run([sys.executable, "-c", LATER + end, str(tmp_path)], check=False)
    assert done.returncode == (-signal.SIGKILL if end else 0)
    with FilesystemCAS(tmp_path) as cas:
        assert owners(cas) == ["first"]
        assert cas.verify().ok


def test_a_name_that_is_none_keeps_nobody_waiting(never, caplog):
    cas = InMemoryCAS()
    ref = cas.dump("kept")
    cas.pin_soon(lambda: "", [ref])
    cas.pin_soon(lambda: "me", [ref])
    assert owners(cas) == ["me"]
    assert "Not pinned" in caplog.text


def test_what_waits_does_not_keep_a_store_from_closing(never):
    store = Counting()
    cas = CAS(store)
    cas.pin_soon(lambda: 1 // 0, [cas.dump("kept")])
    with pytest.raises(ZeroDivisionError):
        cas.close()
    with pytest.raises(StoreUnavailableError):
        store.pin([])


def test_a_forked_child_leaves_them_to_its_parent(tmp_path, never):
    script = """
import os, sys
from agentref.storage import FilesystemCAS, _late_pins
_late_pins._DELAY = 3600.0
store = FilesystemCAS(sys.argv[1])
ref = store.dump("kept")
parent = os.getpid()
store.pin_soon(lambda: f"of {parent}", [ref])
if os.fork() == 0:
    store.pin_soon(lambda: "the child's", [ref])
    assert [pin.owner for pin in store.iter_pins()] == ["the child's"]
    sys.exit()
assert os.wait()[1] == 0
store.close()
"""
    parent = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script, str(tmp_path)])
    assert parent.wait(60) == 0
    with FilesystemCAS(tmp_path) as cas:
        assert owners(cas) == [f"of {parent.pid}", "the child's"]


def test_not_on_a_connection_of_the_callers(databases):
    dsn = databases.dsn()
    with PostgresCAS(dsn) as cas:
        ref = cas.dump("kept")
        with psycopg.connect(dsn) as connection:
            joined = PostgresCAS(connection=connection, create=False)
            assert not joined.pin_soon(lambda: "me", [ref])
        assert owners(cas) == []
