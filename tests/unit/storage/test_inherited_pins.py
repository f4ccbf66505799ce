"""Pins that are inherited without a sync, and what a power cut leaves of them."""

import asyncio
import shutil

import pytest

from agentref.errors import ConfigurationError, InvalidInputError, InvalidRefError
from agentref.storage import CAS, FilesystemCAS
from agentref.storage._index import INDEX
from agentref.storage.memory import MemoryBlobStore

GENERATIONS = 5
LOG = f"{INDEX}-wal"


def owners(cas):
    return [pin.owner for pin in cas.iter_pins()]


def test_an_heir_needs_its_parent_no_more(cas_of_each_kind):
    cas = cas_of_each_kind
    ref, other = cas.dump("kept", ttl=0.01), cas.dump("as well", ttl=0.01)
    cas.pin("parent", [ref, other])
    assert cas.inherit_pins("heir", [ref, ref], parent="parent")
    assert not cas.inherit_pins("stranger", [ref], parent="nobody")
    cas.unpin("parent")
    cas.prune_expired(grace=0)
    assert owners(cas) == ["heir"]
    assert cas.load(ref) == "kept"


def test_pins_for_many_owners(cas_of_each_kind):
    cas = cas_of_each_kind
    ref, other = cas.dump("kept"), cas.dump("as well")
    cas.pin_each({f"owner {number:04}": [ref, other, ref] for number in range(1500)} | {"idle": []})
    assert owners(cas) == [f"owner {number // 2:04}" for number in range(3000)]


def test_only_the_pin_that_is_inherited_goes_without_a_sync(tmp_path, monkeypatch):
    with FilesystemCAS(tmp_path) as cas:
        ref = cas.dump("kept")
        begin, asked = cas._store._database.begin, []

        def noted(connection):
            asked.append(connection.execute("PRAGMA synchronous").fetchone()[0])
            begin(connection)

        monkeypatch.setattr(cas._store._database, "begin", noted)
        cas.pin("parent", [ref], look=False)
        assert cas.inherit_pins("heir", [ref], parent="parent")
        cas.unpin("parent")
        assert asked == [2, 1, 2]


def test_wherever_a_power_cut_ends_the_log_somebody_keeps_the_blob(tmp_path):
    store, after = tmp_path / "store", tmp_path / "after"
    with FilesystemCAS(store) as cas:
        ref = cas.dump("kept")
        cas.pin("0", [ref])
        begin = (store / LOG).stat().st_size
        for number in range(GENERATIONS):
            assert cas.inherit_pins(str(number + 1), [ref], parent=str(number))
            cas.unpin(str(number))
        shutil.copytree(store, after)
    written = (after / LOG).read_bytes()
    # https://www.sqlite.org/fileformat2.html#wal_file_format
    frame = 24 + int.from_bytes(written[8:12], "big")
    seen = []
    for end in range(begin, len(written) + 1, frame):
        cut = tmp_path / "cut"
        shutil.copytree(after, cut)
        with (cut / LOG).open("r+b") as file:
            file.truncate(end)
        (cut / f"{INDEX}-shm").unlink()  # a power cut takes it along
        with FilesystemCAS(cut) as cas:
            seen.append(owners(cas))
            assert cas.load(ref) == "kept"
        shutil.rmtree(cut)
    states = [["0"]]
    for number in range(GENERATIONS):
        states += [[str(number), str(number + 1)], [str(number + 1)]]
    assert [state for at, state in enumerate(seen) if at == 0 or state != seen[at - 1]] == states


@pytest.mark.parametrize("verb", ["pin", "pin_each"])
def test_to_pin_what_was_inherited_makes_it_durable(verb, tmp_path):
    def grown(log, work):
        before = log.stat().st_size
        work()
        return log.stat().st_size > before

    with FilesystemCAS(tmp_path) as cas:
        ref = cas.dump("kept")
        again = {
            "pin": lambda: cas.pin("heir", [ref], look=False),
            "pin_each": lambda: cas.pin_each({"heir": [ref]}),
        }[verb]
        cas.pin("parent", [ref])
        for _ in range(2):
            assert cas.inherit_pins("heir", [ref], parent="parent")
            assert grown(tmp_path / LOG, again)  # a commit that logs something is synced
            assert not grown(tmp_path / LOG, again)


def test_thousands_are_inherited_at_once(tmp_path):
    with FilesystemCAS(tmp_path) as cas:
        refs = [cas.dump(number) for number in range(600)]
        cas.pin("parent", refs)
        assert cas.inherit_pins("heir", refs, parent="parent")
        cas.pin("other", refs[:400])
        assert not cas.inherit_pins("stranger", refs, parent="other")
        assert len(list(cas.iter_pins("heir"))) == 600


def test_the_event_loop_has_twins(cas_of_each_kind):
    cas = cas_of_each_kind
    ref = cas.dump("kept")
    asyncio.run(cas.apin_each({"parent": [ref]}))
    assert asyncio.run(cas.ainherit_pins("heir", [ref], parent="parent"))
    assert owners(cas) == ["heir", "parent"]


@pytest.mark.parametrize("bad", ["", None, "x" * 513, 1])
def test_what_is_no_owner_inherits_nothing(bad, cas_of_each_kind):
    cas = cas_of_each_kind
    ref = cas.dump("kept")
    cas.pin("parent", [ref])
    for heir, parent in ((bad, "parent"), ("heir", bad)):
        with pytest.raises(InvalidInputError):
            cas.inherit_pins(heir, [ref], parent=parent)
    with pytest.raises(InvalidRefError):
        cas.inherit_pins("heir", ["ab" * 32], parent="parent")
    with pytest.raises(InvalidInputError):
        cas.pin_each({bad: [ref]})
    for pins in ([("owner", [ref])], None, {"owner": ref}, {"owner": None}):
        with pytest.raises(InvalidInputError):
            cas.pin_each(pins)
    with pytest.raises(InvalidRefError):
        cas.pin_each({"owner": [ref, "ab" * 32]})
    assert owners(cas) == ["parent"]


def test_a_store_without_pins_says_so():
    class Blobs:
        def __init__(self):
            self._blobs = MemoryBlobStore()

        def __getattr__(self, name):
            if "pin" in name:
                raise AttributeError(name)
            return getattr(self._blobs, name)

    cas = CAS(Blobs())
    ref, encoded = cas.dump("kept"), cas.encode(["not kept"])
    with pytest.raises(ConfigurationError, match="keeps no aliases and no pins"):
        cas.inherit_pins("heir", [ref], parent="parent")
    with pytest.raises(ConfigurationError, match="keeps no aliases and no pins"):
        cas.store(encoded, pins={"owner": encoded.refs})
    assert list(cas.iter_hashes()) == [ref.hash]
