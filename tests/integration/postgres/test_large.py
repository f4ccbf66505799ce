"""What is large, in bytes or in number: it works, and memory is bounded where that is promised."""

import os
import subprocess
import sys

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver

from agentref.adapters.langgraph import externalize
from agentref.storage import PostgresCAS

SIZE = 300 * 1024 * 1024
REFS = 30_000  # 100,000 take 13 s, and as many times the memory

STREAM = """
import hashlib, io, random, resource, sys
from agentref.storage import PostgresCAS

SIZE = int(sys.argv[2])

class Chance(io.RawIOBase):
    left, dice = SIZE, random.Random(1)
    def readable(self):
        return True
    def readinto(self, buffer):
        size = min(len(buffer), self.left)
        buffer[:size] = self.dice.randbytes(size)
        self.left -= size
        hashed.update(buffer[:size])
        return size

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

with PostgresCAS(sys.argv[1]) as cas:
    cas.put(bytes(1000))
    before, hashed = peak(), hashlib.blake2b()
    ref = cas.put_stream(Chance())
    again = hashlib.blake2b()
    with cas.open(ref) as file:
        while data := file.read(1 << 20):
            again.update(data)
    assert again.digest() == hashed.digest()
    print(peak() - before)
"""


def test_random_bytes_of_300_mb_come_back(dsn):
    value = os.urandom(SIZE)
    with PostgresCAS(dsn) as cas:
        ref = cas.dump(value)
        assert cas.load(ref) == value
        assert cas.get(cas.put(value)) == value


def test_a_text_of_300_mb_comes_back(dsn):
    value = ("a line much like all others, and \0 in it\n" * (SIZE // 42 + 1))[:SIZE]
    with PostgresCAS(dsn) as cas:
        assert cas.load(cas.dump(value)) == value
        assert cas.stats().stored_bytes < SIZE // 100


def test_a_stream_of_300_mb_takes_little_memory(dsn):
    done = subprocess.run(
        [sys.executable, "-c", STREAM, dsn, str(SIZE)], stdout=subprocess.PIPE, text=True, check=True
    )
    assert int(done.stdout) < 100 * 1024 * 1024


def test_a_checkpoint_may_name_tens_of_thousands_of_values(dsn, monkeypatch):
    monkeypatch.setattr("agentref.runtime.LEASE_SECONDS", 0.001)
    channels = {f"channel {n}": f"value {n}" for n in range(REFS // 2)}
    versions = {channel: f"{n:032}.0123456789" for n, channel in enumerate(channels)}
    writes = [(channel, f"write of {value}") for channel, value in channels.items()]
    with PostgresCAS(dsn) as cas:
        saver = externalize(InMemorySaver(), backend=cas, inline_threshold_bytes=0)
        checkpoint = {**empty_checkpoint(), "channel_values": channels, "channel_versions": versions}
        config = {"configurable": {"thread_id": "thread", "checkpoint_ns": ""}}
        config = saver.put(config, checkpoint, {}, versions)
        saver.put_writes(config, writes, "task")
        assert sum(1 for _ in cas.iter_pins()) == REFS
        assert cas.prune_expired(grace=0).removed == 0
        saved = saver.get_tuple(config)
        assert saved.checkpoint["channel_values"] == channels
        assert [(channel, value) for _, channel, value in saved.pending_writes] == writes
        saver.delete_thread("thread")
        assert list(cas.iter_pins()) == []
        assert cas.prune_expired(grace=0).removed == REFS
