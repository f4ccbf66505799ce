"""Every event is noted once, under its number, in memory and in a file that nobody has to trust."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import traceback
from itertools import pairwise

import pytest

from agentref.coherence.checking import check_history
from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.events import Event, EventKind
from agentref.coherence.history import History, read_history
from agentref.coherence.memory import MemoryTable
from agentref.errors import (
    Conflict,
    InvalidInputError,
    MalformedBlobError,
    StoreFullError,
    StoreUnavailableError,
    StoreVersionError,
)
from agentref.refs import ContentRef, Digest

KEY = ("proj", "pl\u00e4n\n")
HEAD = b'{"agentref_history":1,"instance":"i"}\n'
LINE = b'{"sequence":1,"instance":"i","kind":"delivery","agent":"a","key":["k"]}\n'


def ref(n):
    return ContentRef(Digest(n.to_bytes(32, "big")), "agentref-1", n)


def put(coordinator, n, base=None, agent="a"):
    return coordinator.commit([Write(KEY, ref(n), base)], agent=agent)[KEY]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.jsonl"


def test_a_file_says_what_memory_says(path):
    with History(path) as history:
        coordinator = Coordinator(MemoryTable(), observers=[history])
        view = put(coordinator, 1)
        history.delivered("b", view, "fetch", history.began())
        lease = coordinator.acquire(KEY, holder="a", ttl=60)
        with pytest.raises(Conflict):
            put(coordinator, 2, agent="b")
        coordinator.renew(lease, ttl=90)
        coordinator.recover("a")
        coordinator.commit([Write(KEY, None, coordinator.read([KEY])[KEY])], agent="b")
    events = history.events()
    kinds = ["commit", "delivery", "grant", "refusal", "renew", "evict", "delete"]
    assert [event.kind for event in events] == kinds
    assert [event.sequence for event in events] == list(range(1, 8))
    assert events[3].reason == "exists" and events[3].version == 1
    assert list(read_history(path)) == events
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert check_history(events, read_history(path)).ok


def test_threads_leave_no_gap_and_no_half_line(path):
    history = History(path, capacity=50)
    coordinator = Coordinator(MemoryTable(), observers=[history])

    def work(name):
        for n in range(100):
            coordinator.commit([Write((name,), ref(n), coordinator.read([(name,)])[name,])], agent=name)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = list(read_history(path))
    assert [event.sequence for event in read] == list(range(1, 401))
    assert history.events() == read[-50:]
    assert history.dropped == 350


def test_two_histories_share_a_file(path):
    for agent in ("a", "b"):
        with History(path) as history:
            put(Coordinator(MemoryTable(), observers=[history]), 1, agent=agent)
    one, two = read_history(path)
    assert (one.agent, two.agent) == ("a", "b")
    assert one.instance != two.instance and one.sequence == two.sequence == 1


def test_a_forked_child_has_a_history_of_its_own(path):
    history = History(path)
    coordinator = Coordinator(MemoryTable(), observers=[history])
    view = put(coordinator, 1)
    child = os.fork()
    if not child:
        try:
            put(coordinator, 2, view, agent="child")
            os._exit(0 if len(history.events()) == 1 else 1)
        finally:
            traceback.print_exc()
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    put(coordinator, 3, view)
    events = list(read_history(path))
    assert [(e.sequence, e.agent) for e in events] == [(1, "a"), (1, "child"), (2, "a")]
    assert events[0].instance == events[2].instance != events[1].instance
    assert [event for event in history.events() if event.agent == "child"] == []


KILLED = """
import os, sys
from agentref.coherence.coordinator import Coordinator, Write
from agentref.coherence.history import History
from agentref.coherence.memory import MemoryTable
from agentref.refs import ContentRef, Digest
coordinator = Coordinator(MemoryTable(), observers=[History(sys.argv[1])])
view, n = None, 0
while True:
    n += 1
    ref = ContentRef(Digest(n.to_bytes(32)), "c", n)
    view = coordinator.commit([Write(("k",), ref, view)], agent="a")["k",]
    os.write(1, b"%d\\n" % n)
"""


def test_what_was_noted_survives_a_kill(path):
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as process:
        for _ in range(200):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        done = 200 + len([line for line in process.stdout.read().split(b"\n")[:-1] if line])
    events = [event for event in read_history(path) if event.kind is not EventKind.TORN]
    assert len(events) >= done
    assert all(after.sequence == before.sequence + 1 for before, after in pairwise(events))
    assert check_history(read_history(path)).ok


def test_a_torn_line_is_told_of(path):
    with History(path) as history:
        coordinator = Coordinator(MemoryTable(), observers=[history])
        put(coordinator, 2, put(coordinator, 1))
    torn = path.read_bytes()[:-9]
    path.write_bytes(torn)
    kinds = [event.kind for event in read_history(path)]
    assert kinds == ["commit", "torn"]
    with History(path) as history:
        put(Coordinator(MemoryTable(), observers=[history]), 1)
    assert path.read_bytes().startswith(torn)
    assert [event.kind for event in read_history(path)] == ["commit", "torn", "commit"]
    report = check_history(read_history(path))
    assert report.ok
    assert {finding.verdict for finding in report.guarantees.values()} == {"undecided"}


def line(**fields):
    return json.dumps({**json.loads(LINE), **fields}).encode() + b"\n"


DAMAGED = {
    "no head": LINE,
    "no JSON": HEAD + b"hello\n" + LINE,
    "no JSON at the end": HEAD + b"hello\n",
    "two torn lines": HEAD + b"{\n{\n" + HEAD,
    "a list": HEAD + b"[]\n",
    "deep": HEAD + b"[" * 60_000 + b"\n",
    "long": HEAD + b'{"agent":"' + b"x" * 70_000,
    "a huge number": HEAD + b'{"sequence":' + b"9" * 6000 + b"}\n",
    "nothing": HEAD + b"{}\n",
    "unknown field": HEAD + line(payload="x"),
    "number 0": HEAD + line(sequence=0),
    "a bool": HEAD + line(version=True),
    "negative": HEAD + line(version=-1),
    "over 63 bits": HEAD + line(revision=2**63),
    "not finite": HEAD + LINE[:-2] + b',"time":1e999}\n',
    "NaN": HEAD + LINE[:-2] + b',"until":NaN}\n',
    "no time": HEAD + line(time="now"),
    "no kind": HEAD + line(kind="boom"),
    "noted as torn": HEAD + line(kind="torn"),
    "no text": HEAD + line(agent=1),
    "half a character": HEAD + line(agent="\ud800"),
    "no key": HEAD + line(key=[]),
    "a key of numbers": HEAD + line(key=[1]),
    "half a base": HEAD + line(base=[1, 2]),
    "no format": b'{"agentref_history":"1"}\n',
    "bytes": b"\xff\xfe\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_is_refused(path, name):
    path.write_bytes(DAMAGED[name])
    with pytest.raises(MalformedBlobError, match="history"):
        list(read_history(path))


def test_a_good_line_by_hand_is_read(path):
    path.write_bytes(HEAD + LINE)
    assert list(read_history(path)) == [Event(1, "i", EventKind.DELIVERY, agent="a", key=("k",))]


def test_what_a_newer_agentref_wrote_is_left_to_it(path):
    path.write_bytes(HEAD.replace(b"1", b"2", 1))
    with pytest.raises(StoreVersionError, match="format 2"):
        list(read_history(path))


def test_a_file_that_is_not_there_or_cannot_be_made(path, tmp_path):
    with pytest.raises(StoreUnavailableError, match="cannot be used"):
        list(read_history(path))
    with pytest.raises(StoreUnavailableError):
        list(read_history(tmp_path))
    with pytest.raises(StoreUnavailableError):
        History(tmp_path / "none" / "x")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailableError):
        History(path)
    for capacity in (0, -1, True, 1.5):
        with pytest.raises(InvalidInputError):
            History(capacity=capacity)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full is Linux's")  # noqa: PTH110
def test_a_full_disk_is_an_error_of_the_verb_that_has_taken_effect():
    history = History("/dev/full")
    coordinator = Coordinator(MemoryTable(), observers=[history])
    with pytest.raises(StoreFullError):
        put(coordinator, 1)
    assert coordinator.read([KEY])[KEY].version == 1
    assert len(history.events()) == 1


def test_a_closed_history_refuses_and_keeps_what_it_has(path):
    history = History(path)
    coordinator = Coordinator(MemoryTable(), observers=[history])
    view = put(coordinator, 1)
    history.close()
    history.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        put(coordinator, 2, view)
    assert len(list(read_history(path))) == 1
