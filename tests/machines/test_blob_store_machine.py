"""The filesystem store does what the memory store does, whatever is done to both."""

import os
import shutil
import sqlite3
import tempfile
import warnings
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentref.refs import Digest
from agentref.storage.filesystem import FilesystemBlobStore
from agentref.storage.memory import MemoryBlobStore
from agentref.storage.protocol import FOREVER

NAMES = [Digest(bytes([n]) * 32) for n in range(12)]
names = st.sampled_from(NAMES)
batches = st.dictionaries(names, st.binary(max_size=128) | st.just(b"x" * 64), max_size=5)
lives = st.just(FOREVER) | st.integers(2_000_000_000, 2_000_000_005).map(float)


class BlobStores(RuleBasedStateMachine):
    """The model and the store see the same calls, in the same order."""

    @initialize()
    def begin(self):
        self.root = tempfile.mkdtemp(prefix="agentref-machine-")
        self.model = MemoryBlobStore()
        self.store = self.open()

    def open(self):
        return FilesystemBlobStore(self.root)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.root)

    @rule(blobs=batches, expires_at=lives)
    def store_blobs(self, blobs, expires_at):
        self.model.store(blobs, expires_at=expires_at)
        self.store.store(blobs, expires_at=expires_at)

    @rule(blobs=batches)
    def replace_blobs(self, blobs):
        self.model.replace(blobs)
        self.store.replace(blobs)

    @rule(chosen=st.lists(names, max_size=5))
    def remove_blobs(self, chosen):
        assert self.store.remove(chosen) == self.model.remove(chosen)

    @rule(chosen=st.lists(names, max_size=5), pivot=names)
    def remove_what_lives_no_longer_than(self, chosen, pivot):
        mine = self.model.stat([pivot])
        if pivot in mine:
            removed = self.model.remove(chosen, expires_by=mine[pivot].expires_at)
            assert self.store.remove(chosen, expires_by=mine[pivot].expires_at) == removed

    @rule(after=st.none() | names, limit=st.integers(1, 15))
    def scan_a_page(self, after, limit):
        mine = self.model.scan(after=after, limit=limit)
        theirs = self.store.scan(after=after, limit=limit)
        assert [info._replace(touched_at=0, place=0) for info in theirs] == [
            info._replace(touched_at=0, place=0) for info in mine
        ]

    @rule()
    def reopen(self):
        self.store.close()
        self.store = self.open()

    @rule(blobs=batches)
    def store_from_a_second_opening(self, blobs):
        other = self.open()
        other.store(blobs)
        other.close()
        self.model.store(blobs)

    @rule(blobs=batches)
    def store_from_a_forked_child(self, blobs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the runner has threads of its own
            child = os.fork()
        if not child:
            status = 1
            try:
                self.store.store(blobs)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        self.model.store(blobs)

    @rule(blobs=batches)
    def store_and_end_without_a_word(self, blobs):
        """What a killed process leaves: nothing of it is in the index."""
        other = self.open()
        other.store(blobs)
        other._journal.packs.close()
        self.model.store(blobs)

    @rule()
    def lose_the_marks(self):
        self.store.close()
        Path(self.root, "marks").unlink()
        self.store = self.open()

    @rule(number=st.integers(0, 9))
    def lose_a_pack(self, number):
        self.store.close()  # whoever has it open goes on with it
        with closing(sqlite3.connect(Path(self.root, "index.sqlite3"))) as index:
            packs = [name for (name,) in index.execute("SELECT name FROM pack ORDER BY id")]
        if packs:
            Path(self.root, "packs", packs[number % len(packs)]).unlink(missing_ok=True)
        self.store = self.open()
        lost = {
            name: data
            for name, data in self.model.fetch(NAMES).items()
            if name not in self.store.stat([name])
        }
        self.model.store(lost, expires_at=0.0)
        self.store.store(lost, expires_at=0.0)

    @rule()
    def sweep(self):
        self.store.sweep()

    @invariant()
    def the_same_is_in_both(self):
        if not hasattr(self, "store"):
            return
        assert self.store.fetch(NAMES) == self.model.fetch(NAMES)
        mine, theirs = self.model.stat(NAMES), self.store.stat(NAMES)
        assert theirs.keys() == mine.keys()
        for name, info in theirs.items():
            assert info.expires_at == mine[name].expires_at
            assert info.stored_size == mine[name].stored_size
        # Touched in one order: what is younger here is not older there.
        order = sorted(mine, key=lambda name: mine[name].touched_at)
        for older, younger in pairwise(order):
            if mine[older].touched_at < mine[younger].touched_at:
                assert theirs[older].touched_at <= theirs[younger].touched_at

    @invariant()
    def every_pack_is_listed_and_what_lives_in_it_is_counted(self):
        if hasattr(self, "store"):
            self.store.scan()  # the index knows everything then
            with closing(sqlite3.connect(Path(self.root, "index.sqlite3"))) as index:
                live = dict(index.execute("SELECT name, live FROM pack"))
                needed = "SELECT name, sum(36 + stored_size) FROM blob JOIN pack ON pack.id = pack_id"
                counted = dict(index.execute(f"{needed} GROUP BY name"))
            sizes = {path.name: path.stat().st_size for path in Path(self.root, "packs").glob("*")}
            assert live == {name: counted.get(name, 0) for name in live}
            assert all(sizes[name] >= size for name, size in counted.items())
            assert sizes.keys() <= live.keys()


TestBlobStores = BlobStores.TestCase
TestBlobStores.settings = settings(max_examples=20, stateful_step_count=20)
